"""`attentune mechanisms`: what the slots of an attention may hold, read from the mechanisms themselves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field

from attentune.cli.console import print_json
from attentune.cli.parsing import CommandOptions
from attentune.cli.words import UsageError
from attentune.errors import SpecError, near

EXAMPLES = """
    attentune mechanisms
    attentune mechanisms rotary alibi
    attentune mechanisms --slot mask --json
    attentune mechanisms --draw "causal & (window(8) | sink(2))"
    attentune mechanisms --draw all --out masks.png
    attentune mechanisms --schema study > study.schema.json
"""

Count = Annotated[int, Field(ge=1)]
LENGTH, TILE = 32, 8  # of a picture, where nothing else is asked for
LONGEST = 4096  # queries of a picture: a cell on a screen is then some 50 x 50 pairs
TILES = 512  # a side, in JSON
Length = Annotated[int, Field(ge=1, le=LONGEST)]
Described = Literal["attention", "model", "run", "study"]
Schema = Annotated[Described | None, tyro.conf.arg(name="schema"), Field(alias="schema")]


class Options(CommandOptions):
    """List what an attention, and the model around it, can be made of: formula, paper, slot, stage and parameters.

    With --draw, show what a mask lets each query see.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()  # those to show; all where none is named
    slot: str | None = None  # only this slot, such as position or mask
    schema_: Schema = None  # print this JSON schema instead, for editors: of an attention, or of a file of settings
    draw: str | None = None  # draw this mask instead, such as "causal & window(8)"; `all` draws an example of each
    length: Length | None = None  # queries and keys of the drawing, at most 4096; 32 where none is given
    tile: Count | None = None  # side of the tiles that the drawing counts and outlines; 8 where none is given
    out: Path | None = None  # write the drawing to this PNG or SVG file
    plugin: Path | None = None  # Python file that adds mechanisms; it is run, so only name files you trust


def run(options: Options) -> int:
    """Print the mechanisms that were asked for."""
    from attentune.cli.catalogue import as_text, describe, of_the_model
    from attentune.mechanisms import load_plugin, registry

    if options.plugin is not None:
        load_plugin(options.plugin, registry)
    if options.draw is not None:
        _draw(options, options.draw)
        return 0
    for name in ("length", "tile", "out"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} belongs to a drawing: say which mask with --draw")
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
    model = of_the_model() if options.slot is None else []
    known = {value.model_fields["kind"].default for value in found} | {entry["kind"] for entry in model}
    for name in sorted(names - known):
        raise SpecError(f"unknown mechanism {name!r}; {near(name, known)}")
    described = [describe(value) for value in found if not names or value.model_fields["kind"].default in names]
    described += [entry for entry in model if not names or entry["kind"] in names]
    if options.json_:
        print_json(described)
    else:
        sys.stdout.write("\n".join(as_text(entry) for entry in described))
    return 0


def _draw(options: Options, text: str) -> None:
    """Print, or write, what the mask `text` shows."""
    from attentune.cli.drawing import as_data, as_text, check_out, drawings, save

    if options.names or options.slot is not None or options.schema_ is not None:
        raise UsageError("--draw shows a mask and nothing else; leave out names, --slot and --schema")
    if options.out is not None:
        check_out(options.out)
    length, tile = options.length or LENGTH, options.tile or TILE
    if options.json_ and length > TILES * tile:
        least = -(-length // TILES)
        raise UsageError(f"--json holds every tile, {TILES} x {TILES} at most: give a --tile of at least {least}")
    found, without = drawings(text, length, tile)
    if without:
        print(f"no example of {', '.join(without)}: draw it with options of your own", file=sys.stderr)
    if options.out is not None:
        save(found, options.out)
    if options.json_:
        print_json([as_data(one) for one in found])
    elif options.out is not None:
        print(f"wrote {options.out}")
    else:
        sys.stdout.write("\n".join(as_text(one) for one in found))


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
