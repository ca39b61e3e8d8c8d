"""Peak memory of `attentune predict` over files of growing length: it must not grow with them.

    python benchmarks/predict_memory.py [--lines 10000 100000 1000000] [--format csv]

A tiny classifier is made (its answers do not matter, so it is not trained), a file of short reviews of each length is
written, and `attentune predict` runs over it in a process of its own, whose peak resident memory the system counts.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attentune.data.records import Record
from attentune.mechanisms import layer
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec
from attentune.tasks.classify import Classify
from attentune.tasks.folder import save_task_model

WORDS = [
    "the",
    "a",
    "film",
    "story",
    "plot",
    "actor",
    "was",
    "is",
    "very",
    "quite",
    "so",
    "good",
    "bad",
    "dull",
    "fine",
    "long",
    "short",
    "new",
    "old",
    "great",
    "poor",
]
GROWTH = 1.1  # what counts as growing: more than a tenth from the shortest file to the longest


def review(drawn: random.Random) -> str:
    return " ".join(drawn.choices(WORDS, k=drawn.randint(3, 12)))


def write_model(folder: Path) -> Path:
    drawn = random.Random(0)
    records = [Record({"text": review(drawn), "label": str(number % 2)}, f"line {number}") for number in range(200)]
    fitted = Classify().fit(records, DataSpec(tokenizer="word", vocab_size=300), context=16)
    spec = fitted.complete(ModelSpec(vocab_size=1, width=16, depth=1, layers=(layer("heads=2, mask=full"),)))
    return save_task_model(folder, fitted.build(spec, seed=0), spec, fitted)


def write_reviews(path: Path, lines: int) -> None:
    drawn = random.Random(lines)
    with path.open("w", encoding="utf-8") as file:
        if path.suffix == ".csv":
            file.write("number,text\n")
        for number in range(lines):
            text = review(drawn)
            file.write(f"{number},{text}\n" if path.suffix == ".csv" else f'{{"number": {number}, "text": "{text}"}}\n')


def peak_of(model: Path, source: Path, answers: Path) -> tuple[int, float]:
    """Peak resident bytes of the process, and seconds."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "attentune", "predict", str(model), "--input", str(source)]
    process = subprocess.Popen([*command, "--output", str(answers), "--restart"], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"predict ended with status {status}")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * unit, time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--format", choices=("jsonl", "csv"), default="jsonl")
    given = parser.parse_args()
    peaks = []
    print(f"{'lines':>10} {'file':>9} {'peak memory':>12} {'time':>9}")
    with tempfile.TemporaryDirectory() as place:
        model = write_model(Path(place) / "model")
        for lines in given.lines:
            source, answers = Path(place) / f"in.{given.format}", Path(place) / f"out.{given.format}"
            write_reviews(source, lines)
            peak, seconds = peak_of(model, source, answers)
            peaks.append(peak)
            size = source.stat().st_size / 1e6
            print(f"{lines:>10,} {size:>6.1f} MB {peak / 2**20:>8.0f} MiB {seconds:>7.1f} s", flush=True)
    grown = max(peaks) / peaks[0]
    print(f"the most is {grown:.3f} times that of the shortest file: {'grows' if grown > GROWTH else 'does not grow'}")
    return int(grown > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
