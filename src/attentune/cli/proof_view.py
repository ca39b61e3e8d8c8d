"""What a verification found, as a table and as plain data."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

from attentune.verification.proof import Row

COLUMNS = 110
NAMED = re.compile(r"\b([a-z_]+)=([^\s,;:]+)")  # position=alibi
KERNEL_REASON = re.compile(r"[a-z_]+(?:=\w+)?: ")
OWNER = re.compile(r"^[A-Z]\w+: ")  # the class whose rule it is


@dataclass
class _Rule:
    """What one rule refused."""

    cases: int = 0
    kernels: dict[str, None] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)


def as_data(rows: Sequence[Row], *, plugin: Path | None = None) -> dict[str, Any]:
    """The counts, and every case with its reason or its worst number."""
    counts = Counter(row.status for row in rows)
    cases = [{**row.as_data(), "command": _again(row, plugin)} for row in rows]
    return {"pass": counts["pass"], "refused": counts["refused"], "fail": counts["fail"], "cases": cases}


def as_text(rows: Sequence[Row], *, plugin: Path | None = None, refusals: bool = False) -> str:
    """A line for each mechanism and kernel, then why cases were refused, then every failure with its command.

    Refusals are counted by their reason; with `refusals` each is told with the mechanisms and layouts it is of.
    """
    lines = [f"{'mechanism':<24}{'kernel':<12}{'pass':>6}{'refused':>9}{'FAIL':>6}   {'worst':>5} of what is allowed"]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.mechanism or "attention", row.kernel or "-"), []).append(row)
    for (mechanism, kernel), held in groups.items():
        counts = Counter(row.status for row in held)
        worst = max((row.worst.severity for row in held if row.worst is not None), default=None)
        shown = "" if worst is None else f"{worst:>8.0%}" if worst < 1000 else "    huge"
        lines.append(
            f"{mechanism:<24}{kernel:<12}{counts['pass']:>6}{counts['refused']:>9}{counts['fail'] or '':>6}{shown}"
        )
    lines += _refusals(rows) if refusals else _reasons(rows)
    lines += _failures(rows, plugin)
    counts = Counter(row.status for row in rows)
    checks, seconds = sum(row.checks for row in rows), sum(row.seconds for row in rows)
    total = f"{counts['pass']} pass, {counts['refused']} refused, {counts['fail']} fail"
    lines += ["", f"{total}: {checks:,} numbers compared, {seconds:.0f} s, seed {rows[0].seed}"]
    return "\n".join(lines) + "\n"


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Every rule once: how many cases it refused, of which kernels, and the names that its cases differ in."""
    rules: dict[str, _Rule] = {}
    for row in rows:
        if row.status == "refused":
            for reason in _single(row.reason):
                rule = rules.setdefault(NAMED.sub(r"\1", reason), _Rule())
                rule.cases += 1
                rule.kernels[row.kernel or "any"] = None
                rule.names.update(dict.fromkeys(name for _, name in NAMED.findall(reason)))
    lines = ["", "refused cases by reason; a case may have several (--refusals names every case)"] if rules else []
    for text, rule in sorted(rules.items(), key=lambda item: -item[1].cases):
        said = f"{', '.join(rule.kernels)}: {text}" + (f" ({', '.join(rule.names)})" if rule.names else "")
        lines.append(fill(said, COLUMNS, initial_indent=f"{rule.cases:>7}  ", subsequent_indent=" " * 13))
    return lines


def _single(reason: str) -> list[str]:
    """The reasons of a kernel one by one; what a value says of itself is one reason."""
    parts = reason.split("; ")
    return parts if all(KERNEL_REASON.match(part) for part in parts) else [OWNER.sub("", reason)]


def _refusals(rows: Sequence[Row]) -> list[str]:
    """Every reason once, with what it was said of."""
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.status == "refused":
            of = f"{row.mechanism or row.attention} ({row.layout or row.kernel})"
            reasons.setdefault(f"{row.kernel or 'spec'}: {row.reason}", {})[of] = None
    lines = ["", "refused, and why"] if reasons else []
    for reason, named in reasons.items():
        lines.append(fill(reason, COLUMNS, initial_indent="  ", subsequent_indent="      "))
        lines.append(
            fill(", ".join(_several(named)), COLUMNS, initial_indent="      of ", subsequent_indent="         ")
        )
    return lines


def _several(of: dict[str, None]) -> list[str]:
    """Layouts of one mechanism together."""
    layouts: dict[str, list[str]] = {}
    for one in of:
        name, _, layout = one.rpartition(" (")
        layouts.setdefault(name, []).append(layout.rstrip(")"))
    return [f"{name} ({', '.join(held)})" for name, held in layouts.items()]


def _failures(rows: Sequence[Row], plugin: Path | None) -> list[str]:
    lines: list[str] = []
    for row in rows:
        if row.status == "fail" and row.worst is not None:
            lines += [
                "",
                f"FAIL  {row.attention}",
                f"      {row.kernel}, {row.dtype}, {row.layout}, {row.sizes}, seed {row.seed}",
                f"      {row.worst}",
                f"      {_again(row, plugin)}",
            ]
    return lines


def _again(row: Row, plugin: Path | None) -> str:
    return row.command if plugin is None else f"{row.command} --plugin {shlex.quote(str(plugin))}"
