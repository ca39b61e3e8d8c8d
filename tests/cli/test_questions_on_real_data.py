"""The configurations of questions on the data that they are for, a few steps each."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from attentune.cli import main
from attentune.cli.train import Options
from attentune.tasks.registry import read_task

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = {
    "squad": ("squad/squad-v1.1-48-articles.json", "answer", {"sliding window of words"}, "f1"),
    "covid_faq": ("covid_faq/faq_covidbert.csv", "retrieve", {"BM25", "TF-IDF"}, "mrr"),
    "covid_similar": ("covid_faq/eval_question_similarity_en.csv", "retrieve", {"TF-IDF", "usual label"}, "accuracy"),
}


@pytest.mark.parametrize("name", list(FILES))
def test_configurations_hold_a_task(name: str) -> None:
    options = Options(**tomllib.loads((CONFIGS / f"{name}.toml").read_text(encoding="utf-8")))
    assert options.task is not None
    assert read_task(options.task).kind == FILES[name][1]


@pytest.mark.slow
@pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")
@pytest.mark.parametrize("name", list(FILES))
def test_a_configuration_trains_on_its_data(
    capsys: pytest.CaptureFixture[str], shared_data: Path, tmp_path: Path, name: str
) -> None:
    pytest.importorskip("sklearn", reason="metrics of tasks need scikit-learn")
    pytest.importorskip("bm25s", reason="the baseline of a search needs bm25s")
    file, _, baselines, main_figure = FILES[name]
    config = tmp_path / "short.toml"
    text = (CONFIGS / f"{name}.toml").read_text(encoding="utf-8")
    config.write_text("\n".join(line for line in text.splitlines() if not line.startswith("epochs")), encoding="utf-8")
    line = ["train", "--config", str(config), "--data", str(shared_data / file), "--steps", "2", "--json"]
    line += ["--model.width", "16", "--model.feed-forward.hidden", "16", "--evaluate-every", "2"]
    assert main([*line, "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["baselines"]) == baselines
    assert main_figure in result["validation"]
    assert result["padding"] < (0.25 if name == "covid_faq" else 0.1)  # whose 149 rows are of every length
    if name == "squad":
        assert result["records"]["train"] + result["records"]["validation"] == 10_570
