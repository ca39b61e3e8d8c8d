"""The configurations of tasks on the data that they are for, a few steps each; and memory on a long file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attentune.cli import main
from tasks.opinions import opinions, write

pytest.importorskip("sklearn", reason="metrics of tasks need scikit-learn")
pytest.importorskip("seqeval", reason="metrics of tasks need seqeval")
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = {
    "sst2": ("train.tsv", "dev.tsv", "test.tsv", (6920, 872, 1821), 2),
    "banking77": ("train.csv", None, "test.csv", (9003, 1000, 3080), 77),
    "stockemotions": ("train_stockemo.csv", "val_stockemo.csv", "test_stockemo.csv", (8000, 1000, 1000), 2),
    "chnsenticorp": ("train.tsv", "dev.tsv", "test.tsv", None, 2),
    "wnut17": ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated", (3394, 1009, 1287), None),
}
TINY = [
    *("--steps", "2", "--context", "24", "--evaluate-every", "2", "--model.width", "16"),
    *("--model.feed-forward.hidden", "16", "--no-baselines", "--json"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")
@pytest.mark.parametrize("name", list(FILES))
def test_a_configuration_trains_on_its_data(
    capsys: pytest.CaptureFixture[str], shared_data: Path, tmp_path: Path, name: str
) -> None:
    train, validation, test, counts, labels = FILES[name]
    folder, config = shared_data / name, tmp_path / "short.toml"
    text = (CONFIGS / f"{name}.toml").read_text(encoding="utf-8")
    config.write_text("\n".join(line for line in text.splitlines() if not line.startswith("epochs")), encoding="utf-8")
    line = ["train", "--config", str(config), "--data", str(folder / train), "--test-path", str(folder / test)]
    line += [] if validation is None else ["--validation-path", str(folder / validation)]
    assert main([*line, *TINY, "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    records = result["records"]
    found = tuple(records[part] for part in ("train", "validation", "test"))
    if counts is not None:
        assert found == counts
    else:
        assert records["duplicates"]["test"] >= 326  # which are left out of the training records
        assert found[0] < 9600 - 300
    assert len(result.get("labels", [])) == (labels or 0)
    assert result["padding"] < 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")
def test_reading_first_and_learning_intents_then(
    capsys: pytest.CaptureFixture[str], shared_data: Path, tmp_path: Path
) -> None:
    data = ["--data", str(shared_data / "banking77" / "train.csv"), *TINY]
    for name, more in (("banking77_pretrain", []), ("banking77", ["--from", str(tmp_path / "banking77_pretrain")])):
        config = tmp_path / f"{name}.toml"
        lines = (CONFIGS / f"{name}.toml").read_text(encoding="utf-8").splitlines()
        config.write_text("\n".join(line for line in lines if not line.startswith("epochs")), encoding="utf-8")
        assert main(["train", "--config", str(config), *data, *more, "--out", str(tmp_path / name)]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["records"]["train"] == 9003
    assert set(result["validation"]) >= {"accuracy", "macro_f1"}


@pytest.mark.slow
def test_memory_of_a_prediction_does_not_grow_with_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = write(tmp_path / "train.csv", opinions(200, 1))
    line = ["train", "--task", "classify()", "--data", str(data), "--data.tokenizer", "word", "--steps", "2"]
    assert main([*line, "--model.width", "16", "--model.depth", "1", "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    peaks = {}
    for count in (4_000, 80_000):
        file = write(tmp_path / "long.csv", opinions(500, 2) * (count // 500))
        script = (
            "import resource, sys; from attentune.cli import main; assert main(sys.argv[1:]) == 0; "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = ["predict", str(tmp_path / "out"), "--input", str(file), "--output", str(tmp_path / f"{count}.jsonl")]
        done = subprocess.run(
            [sys.executable, "-c", script, *command],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[count] = int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)
        with (tmp_path / f"{count}.jsonl").open() as written:
            assert sum(1 for _ in written) == count
    assert peaks[80_000] - peaks[4_000] < 24e6
