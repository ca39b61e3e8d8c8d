"""What the figures of a table say together: means over cells, overhead, growth of memory, picks that were not best."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

from attentune.evaluation.speed.results import CellResult, Entry, Results

LOCAL = ("window", "sinks", "symmetric", "packed")


def findings(results: Results) -> tuple[str, ...]:
    """One line each; nothing where the cells that a line needs were not measured."""
    cells = results.cells
    return (
        *_means(cells),
        *_overheads(cells),
        *_growth(cells),
        *_statistics(cells),
        *_picks(cells),
        *results.remarks,
    )


def _means(cells: Sequence[CellResult]) -> Iterator[str]:
    """Over the windowed, packed and biased cells of one length, pass and dtype."""
    groups: dict[tuple[int, str, str], list[float]] = {}
    for one in cells:
        if (one.cell.mask in LOCAL or one.cell.scores != "none") and one.speedup is not None:
            groups.setdefault((one.cell.length, one.cell.pass_, one.cell.dtype), []).append(one.speedup)
    for (length, pass_, dtype), speedups in groups.items():
        if len(speedups) > 1:
            mean = statistics.geometric_mean(speedups)
            yield (
                f"{length} tokens, {pass_}, {dtype}: {mean:.2f}x the best peer, the geometric mean of "
                f"{len(speedups)} windowed, packed and biased cells (from {min(speedups):.2f}x to {max(speedups):.2f}x)"
            )


def _overheads(cells: Sequence[CellResult]) -> Iterator[str]:
    """Where the pick is the peer's own kernel, all that can differ is what we do around it."""
    for one in cells:
        ours, peer = one.picked, one.best_peer
        if ours is None or peer is None or (ours.name, peer.name) not in OWN_KERNEL:
            continue
        extra = 1e6 * (ours.median - peer.median)
        yield f"{one.cell}: {ours.name} runs the kernel of {peer.name}: {one.speedup:.2f}x, {extra:+.0f} µs a call"


OWN_KERNEL = {("attentune sdpa", "sdpa"), ("attentune sdpa", "sdpa_mask"), ("attentune flex", "flex")}


def _growth(cells: Sequence[CellResult]) -> Iterator[str]:
    """Peak memory of the pick, from each length to twice that length."""
    at = {one.cell: one for one in cells}
    for one in cells:
        twice = at.get(replace(one.cell, length=2 * one.cell.length))
        ours, later = one.picked, None if twice is None else twice.picked
        if ours is None or later is None or not ours.peak_bytes or later.peak_bytes is None:
            continue
        growth = later.peak_bytes / ours.peak_bytes
        same = "" if ours.name == later.name else f" ({ours.name}, then {later.name})"
        yield f"{one.cell}: {growth:.2f}x the peak memory at twice the length{same}"


def _statistics(cells: Sequence[CellResult]) -> Iterator[str]:
    """What column mass and entropy cost; the rate of matrix products makes two cells comparable."""
    at = {one.cell: one for one in cells}
    for one in cells:
        plain = at.get(replace(one.cell, pass_="forward"))
        if one.cell.pass_ != "statistics" or plain is None:
            continue
        shares = [_share(cell) for cell in (plain, one)]
        if None not in shares:
            cost = (shares[0] or 0.0) / (shares[1] or 1.0)
            yield f"{one.cell}: {cost:.2f}x the time of the output alone"


def _share(one: CellResult) -> float | None:
    return None if one.picked is None else one.useful_share(one.picked)


def _picks(cells: Sequence[CellResult]) -> Iterator[str]:
    """Every pick that is not within 10 % of the best of our kernels, and how many are."""
    judged = [one for one in cells if one.best_own is not None]
    good = [one for one in judged if one.pick_is_good]
    if judged:
        yield f"auto: {len(good)} of {len(judged)} picks are within 10 % of the best kernel measured"
    for one in judged:
        if one not in good:
            best = one.best_own
            assert best is not None
            yield f"{one.cell}: auto picks {one.pick}, {_slower(one.picked, best)}"


def _slower(ours: Entry | None, best: Entry) -> str:
    if ours is None:
        return f"which has no figure; {best.name} takes {1e3 * best.median:.3g} ms"
    return f"{ours.median / best.median:.2f}x the time of {best.name}"
