"""`attentune mechanisms`: what the slots of an attention may hold, read from the mechanisms themselves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field

from attentune.cli.console import print_json
from attentune.cli.parsing import CommandOptions
from attentune.errors import SpecError, near

EXAMPLES = """
    attentune mechanisms
    attentune mechanisms rotary alibi
    attentune mechanisms --slot mask --json
    attentune mechanisms --schema study > study.schema.json
"""

Described = Literal["attention", "model", "run", "study"]
Schema = Annotated[Described | None, tyro.conf.arg(name="schema"), Field(alias="schema")]


class Options(CommandOptions):
    """List the mechanisms that an attention can be made of, with formula, paper, slot, stage and parameters."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()  # those to show; all where none is named
    slot: str | None = None  # only this slot, such as position or mask
    schema_: Schema = None  # print this JSON schema instead, for editors: of an attention, or of a file of settings
    plugin: Path | None = None  # Python file that adds mechanisms; it is run, so only name files you trust


def run(options: Options) -> int:
    """Print the mechanisms that were asked for."""
    from attentune.cli.catalogue import as_text, describe
    from attentune.mechanisms import load_plugin, registry

    if options.plugin is not None:
        load_plugin(options.plugin, registry)
    if options.schema_ is not None:
        if options.names or options.slot is not None:
            raise SpecError("--schema holds every mechanism; leave out names and --slot")
        print_json(schema_of(options.schema_))
        return 0
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


def schema_of(what: Described) -> dict[str, Any]:
    """JSON schema (2020-12) of an attention, a model, or the `--config` file of `train` (run) or `optimize` (study)."""
    from attentune.cli.optimize import Options as StudyOptions
    from attentune.cli.train import Options as RunOptions
    from attentune.mechanisms import registry
    from attentune.spec.attention import AttentionSpec
    from attentune.spec.codec import json_schema
    from attentune.spec.model import ModelSpec
    from attentune.spec.value import Frozen

    values: dict[str, type[Frozen]] = {
        "attention": AttentionSpec,
        "model": ModelSpec,
        "run": RunOptions,
        "study": StudyOptions,
    }
    schema = json_schema(values[what], registry)
    for name in ("config", "json_"):  # said on the command line only
        schema.get("properties", {}).pop(name, None)
    return {**schema, "title": what}
