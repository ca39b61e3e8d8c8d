"""`attentune mechanisms`: what the slots of an attention may hold, read from the mechanisms themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from attentune.cli.console import print_json
from attentune.cli.parsing import CommandOptions
from attentune.errors import SpecError, near

EXAMPLES = """
    attentune mechanisms
    attentune mechanisms rotary alibi
    attentune mechanisms --slot mask --json
"""


class Options(CommandOptions):
    """List the mechanisms that an attention can be made of, with formula, paper, slot, stage and parameters."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()  # those to show; all where none is named
    slot: str | None = None  # only this slot, such as position or mask
    plugin: Path | None = None  # Python file that adds mechanisms; it is run, so only name files you trust


def run(options: Options) -> int:
    """Print the mechanisms that were asked for."""
    from attentune.cli.catalogue import as_text, describe
    from attentune.mechanisms import load_plugin, registry

    if options.plugin is not None:
        load_plugin(options.plugin, registry)
    found = list(registry)
    if options.slot is not None:
        registry.kinds(options.slot)
        found = [value for value in found if value.slot == options.slot]
    names = {name.replace("-", "_") for name in options.names}
    known = {value.model_fields["kind"].default for value in found}
    for name in sorted(names - known):
        raise SpecError(f"unknown mechanism {name!r}; {near(name, known)}")
    described = [describe(value) for value in found if not names or value.model_fields["kind"].default in names]
    if options.json_:
        print_json(described)
    else:
        sys.stdout.write("\n".join(as_text(entry) for entry in described))
    return 0
