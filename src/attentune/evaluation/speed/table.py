"""The results as Markdown: ratios first, then every figure, then what has none and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from attentune.evaluation.speed.findings import findings
from attentune.evaluation.speed.grid import PASSES
from attentune.evaluation.speed.results import CellResult, Entry, Results

MIB = 2**20
NONE = "–"
LEGEND = (
    "`x` is the time of the best peer over ours (above 1 we are faster), in brackets that of the fastest rounds; "
    "useful: operations of visible pairs a second, as a share of a matrix product measured between the rounds; "
    "MiB: peak memory beyond the operands."
)
NAMED_CELLS = 3  # of a reason that holds in more cells, their number is told


def as_markdown(results: Results, *, full: bool = True) -> str:
    """The whole table; without `full` the ratios and the findings alone."""
    setting = results.setting
    threads = "1 thread" if setting.threads == 1 else f"{setting.threads} threads"
    shape = f"batch {setting.batch}, {setting.heads} heads of {setting.head_width}, window {setting.window}"
    rounds = f"medians of {setting.rounds} interleaved rounds, fewer where a call takes long"
    lines = [f"{results.machine}", "", f"{threads}, {shape}; {rounds}. {LEGEND}"]
    for pass_ in PASSES:
        chosen = [one for one in results.cells if one.cell.pass_ == pass_]
        if chosen:
            lines += ["", f"### {pass_}", "", *_ratios(chosen)]
    if found := findings(results):
        lines += ["", "### Findings", "", *(f"- {line}" for line in found)]
    if full:
        lines += ["", "### Every figure", "", *_figures(results.cells)]
        if missing := list(_missing(results.cells)):
            lines += ["", "### Without figures", "", *missing]
    return "\n".join(lines) + "\n"


def _ratios(cells: Sequence[CellResult]) -> Iterator[str]:
    columns = ("mask", "scores", "tokens", "dtype", "auto picks", "x", "ms", "useful", "MiB", "best peer", "ms", "MiB")
    yield from _head(columns)
    for one in sorted(cells, key=lambda one: one.cell.length):
        ours, peer, cell = one.picked, one.best_peer, one.cell
        ratio = NONE
        if one.speedup is not None and one.speedup_of_least is not None:
            ratio = f"**{one.speedup:.2f}** ({one.speedup_of_least:.2f})"
        yield _row(
            cell.mask,
            cell.scores,
            f"{cell.length:,}",
            cell.dtype,
            one.pick.removeprefix("attentune "),
            ratio,
            _milliseconds(ours),
            _share(one, ours),
            _mib(ours),
            NONE if peer is None else peer.name,
            _milliseconds(peer),
            _mib(peer),
        )


def _figures(cells: Sequence[CellResult]) -> Iterator[str]:
    columns = ("cell", "contestant", "median ms", "least ms", "x the pick", "useful", "MiB", "error", "compiling, s")
    yield from _head(columns)
    for one in cells:
        ours = one.picked
        for entry in sorted((entry for entry in one.entries if entry.measured), key=lambda entry: entry.median):
            times = NONE if ours is None else f"{entry.median / ours.median:.2f}"
            name = f"**{entry.name}**" if entry.name == one.pick else entry.name
            yield _row(
                f"{one.cell}",
                f"{name} ({entry.note})" if entry.note else name,
                _milliseconds(entry),
                f"{1e3 * entry.least:.4g}",
                times,
                _share(one, entry),
                _mib(entry),
                NONE if entry.error is None else f"{entry.error:.1e}",
                NONE if entry.compile_seconds is None else f"{entry.compile_seconds:.1f}",
            )


def _missing(cells: Sequence[CellResult]) -> Iterator[str]:
    """Every reason once, with the cells it holds in."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in cells:
        for entry in one.entries:
            if not entry.measured:
                reasons.setdefault((entry.name, f"{entry.status}: {entry.note}"), []).append(f"{one.cell}")
    for (name, reason), held in sorted(reasons.items()):
        where = ", ".join(held) if len(held) <= NAMED_CELLS else f"{len(held)} cells"
        yield f"- {name}: {reason} ({where})"


def _head(columns: Sequence[str]) -> Iterator[str]:
    yield _row(*columns)
    yield "|" + "---|" * len(columns)


def _row(*values: str) -> str:
    return f"| {' | '.join(_plain(values))} |"


def _plain(values: Iterable[str]) -> Iterator[str]:
    return (value.replace("|", "\\|") for value in values)


def _milliseconds(entry: Entry | None) -> str:
    return NONE if entry is None else f"{1e3 * entry.median:.4g}"


def _share(one: CellResult, entry: Entry | None) -> str:
    share = None if entry is None else one.useful_share(entry)
    return NONE if share is None else f"{share:.1%}"


def _mib(entry: Entry | None) -> str:
    return NONE if entry is None or entry.peak_bytes is None else f"{entry.peak_bytes / MIB:,.1f}"
