"""Masks as pictures: block characters for a terminal, PNG or SVG for a page."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attentune.cli.words import UsageError
from attentune.errors import SpecError, StorageError
from attentune.mechanisms import registry
from attentune.mechanisms.predicate import registered
from attentune.shapes import Int, Tensor
from attentune.spec.masks import Mask
from attentune.spec.text import format_value, parse_slot, split
from attentune.spec.tiles import TileState, visible_tiles

EXAMPLES = {
    "block_window": ("block_window(3, 4)",),
    "dilated": ("dilated(5, 3)", "dilated(5, 3, symmetric=true)"),
    "global_tokens": ("window(5, symmetric=true) | global_tokens(2)", "causal & (window(4) | global_tokens(2))"),
    "prefix": ("causal | prefix(8)",),
    "random_blocks": ("random_blocks(2, block=4)", "random_blocks(2, block=4, length=32)"),
    "sink": ("causal & (window(6) | sink(2))",),
    "strided": ("strided(6)",),
    "strided_fixed": ("strided_fixed(6, summary=2)",),
    "tree": ("tree((-1, 0, 0, 1, 1, 2, 2, 3, 3), start=8)",),
    "window": ("window(6)", "window(7, symmetric=true)"),
}
SUFFIXES = (".png", ".svg")
CELLS = {TileState.HIDDEN: "· ", TileState.PARTLY: "▒▒", TileState.WHOLLY: "██"}
LABEL = 6  # columns of a row's label
SHARP = 512  # positions up to which a picture shows every pair
OUTLINED = 64  # tiles a side up to which their outlines can be told apart


@dataclass(frozen=True)
class Drawing:
    """A mask over `length` queries and as many keys, and the tiles of `tile` queries x `tile` keys it is cut into."""

    mask: Mask
    length: int
    tile: int

    def states(self, side: int) -> Int[Tensor, "T T"]:
        """The state of each square of `side` x `side` pairs."""
        return visible_tiles(self.mask, self.length, self.length, tile=(side, side))

    @property
    def later(self) -> str:
        """Which later keys a query sees, in words."""
        ahead = self.mask.lookahead
        if ahead is None:
            return "may show later keys: whole rows only, no decoding step by step"
        return f"shows the first {ahead} keys to everyone, no other later key" if ahead else "shows no later key"

    @property
    def counts(self) -> str:
        """How many tiles are in which state, in words."""
        count = Counter(self.states(self.tile).flatten().tolist())
        wholly, partly, hidden = (count[state] for state in (TileState.WHOLLY, TileState.PARTLY, TileState.HIDDEN))
        return f"tiles of {self.tile} x {self.tile}: {wholly} wholly visible, {partly} partly, {hidden} hidden"


def drawings(text: str, length: int, tile: int) -> tuple[list[Drawing], list[str]]:
    """What `--draw TEXT` shows: one mask, or an example or two of every mask where the text is `all`.

    Beside it the kinds of masks of which `all` knows no example. Raises `SpecError` where the text is no mask.
    """
    if text.strip() != "all":
        return [Drawing(read(text), length, tile)], []
    texts: list[str] = []
    without: list[str] = []
    for kind in sorted(set(registry.kinds("mask")) - {"and", "or", "not"}):
        if kind == "predicate":
            examples = tuple(f"predicate({name!r})" for name in sorted(registered()))
        else:
            examples = EXAMPLES.get(kind) or _example(kind)
        texts += examples
        without += [] if examples else [kind]
    return [Drawing(read(one), length, tile) for one in texts], without


def read(text: str) -> Mask:
    """A mask from its text form."""
    mask = parse_slot("mask", split(f"mask={text}", ("mask",))["mask"], registry)
    if not isinstance(mask, Mask):
        raise SpecError(f"expected a mask such as causal & window(8), got {text!r}")
    return mask


def _example(kind: str) -> tuple[str, ...]:
    """A mask of which only its fields are known, drawn with every number that it requires at 3."""
    fields = registry.find("mask", kind).model_fields.values()
    required = [field for field in fields if field.is_required()]
    if any(field.annotation is not int for field in required):
        return ()
    text = f"{kind}({', '.join('3' for _ in required)})"
    try:
        Drawing(read(text), 1, 1).states(1)
    except SpecError:
        return ()
    return (text,)


def as_data(drawing: Drawing) -> dict[str, Any]:
    """The drawing as plain data: the state of each tile, row by row."""
    names = {int(state): state.name.lower() for state in CELLS}
    return {
        "mask": format_value(drawing.mask),
        "length": drawing.length,
        "lookahead": drawing.mask.lookahead,
        "tile": drawing.tile,
        "tiles": [[names[state] for state in row] for row in drawing.states(drawing.tile).tolist()],
    }


def as_text(drawing: Drawing) -> str:
    """The drawing in block characters, a line a query (or a few), as wide as the terminal lets it be."""
    room = max((shutil.get_terminal_size().columns - LABEL) // 2, 8)
    side = -(-drawing.length // room)
    ruler = [" "] * (LABEL + 2 * -(-drawing.length // side))
    for start in range(0, drawing.length, 8 * side):
        place = LABEL + 2 * (start // side)
        ruler[place : place + len(str(start))] = str(start)
    rows = [
        f"{row * side if row % 4 == 0 else '':>{LABEL - 1}} " + "".join(CELLS[TileState(state)] for state in states)
        for row, states in enumerate(drawing.states(side).tolist())
    ]
    legend = "██ visible  · hidden"
    if side > 1:
        legend = f"██ visible  ▒▒ in part  · hidden; a cell is {side} queries x {side} keys"
    lines = [
        f"mask={format_value(drawing.mask)}",
        f"  {drawing.later}",
        "",
        "".join(ruler).rstrip() + "  key",
        *(row.rstrip() for row in rows),
        f"{'query':>{LABEL - 1}}",
        f"  {legend}",
        f"  {drawing.counts}",
    ]
    return "\n".join(lines) + "\n"


def check_out(path: Path) -> None:
    """Raise `UsageError` where a picture cannot have this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {path}: a picture ends in {' or '.join(SUFFIXES)}")


def save(found: Sequence[Drawing], path: Path) -> None:
    """All drawings on one page. Raises `StorageError` where the file cannot be written."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    across = min(len(found), 4)
    down = -(-len(found) // across)
    figure = Figure(figsize=(4.2 * across, 4.2 * down + 0.6), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten().tolist()
    for drawing, axis in zip(found, axes, strict=False):
        _paint(drawing, axis)
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    shown = [Patch(color=VISIBLE, label="visible")]
    if any(drawing.length > SHARP for drawing in found):
        shown.append(Patch(color=IN_PART, label="in part"))
    shown.append(Patch(facecolor=HIDDEN, edgecolor="0.6", label="hidden"))
    size = found[0].tile
    outline = Line2D([], [], color=OUTLINE, linewidth=1.2, label=f"{size} x {size} tile that is partly visible")
    figure.legend(
        handles=[*shown, outline], loc="outside lower center", ncols=2 if across == 1 else 4, frameon=False, fontsize=8
    )
    try:
        with rc_context({"svg.fonttype": "none"}):  # text that can be read and searched
            figure.savefig(path, dpi=150)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from None


VISIBLE, IN_PART, HIDDEN, OUTLINE = "#1f4e79", "#8fb1d3", "#f4f4f2", "#e07b00"


def _paint(drawing: Drawing, axis: Any) -> None:
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    length, tile = drawing.length, drawing.tile
    side = -(-length // SHARP)
    states = drawing.states(side)
    edge = len(states) * side - 0.5
    colours = ListedColormap([HIDDEN, IN_PART, VISIBLE])
    axis.imshow(states.numpy(), cmap=colours, vmin=0, vmax=2, extent=(-0.5, edge, edge, -0.5), interpolation="nearest")
    if len(range(0, length, tile)) <= OUTLINED:
        cuts = [start - 0.5 for start in range(tile, length, tile)]
        lines = [((cut, -0.5), (cut, length - 0.5)) for cut in cuts] + [
            ((-0.5, cut), (length - 0.5, cut)) for cut in cuts
        ]
        axis.add_collection(LineCollection(lines, colors="0.75", linewidths=0.4))
        partly = (drawing.states(tile) == TileState.PARTLY).nonzero().tolist()
        inset = 0.03 * tile  # so that neighbours keep an outline each
        squares = [
            Rectangle(
                (k * tile - 0.5 + inset, q * tile - 0.5 + inset),
                min(tile, length - k * tile) - 2 * inset,
                min(tile, length - q * tile) - 2 * inset,
            )
            for q, k in partly
        ]
        axis.add_collection(PatchCollection(squares, facecolor="none", edgecolor=OUTLINE, linewidth=1.2))
    axis.set_xlim(-0.5, length - 0.5)
    axis.set_ylim(length - 0.5, -0.5)
    axis.set_title(format_value(drawing.mask), fontsize=8, wrap=True)
    axis.set_xlabel("key", fontsize=8)
    axis.set_ylabel("query", fontsize=8)
    axis.tick_params(labelsize=7)
