"""Tasks from the terminal: training to a report, going on after a kill, predicting files, and what is refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import attentune
from attentune.cli import main
from attentune.cli.train import Options
from attentune.tasks.answers import AnswerFile, Rows
from attentune.tasks.registry import known_tasks, read_task, typed
from tasks.opinions import opinions, write

pytest.importorskip("sklearn", reason="metrics of tasks need scikit-learn")
HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs"
SMALL = [
    *("--task", "classify(word_dropout=0.1)", "--data.tokenizer", "word", "--context", "16", "--batch", "8"),
    *("--epochs", "3", "--model.width", "16", "--model.depth", "1", "--model.layers", "heads=2,mask=full"),
    *("--optimizer.learning-rate", "5e-3", "--schedule.warmup", "5", "--average", "2"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opinions")
    for name, count, seed in (("train", 200, 1), ("validation", 40, 2), ("test", 60, 3)):
        write(folder / f"{name}.csv", opinions(count, seed))
    return folder


def command(files: Path, out: Path, *more: str) -> list[str]:
    parts = ["--data", str(files / "train.csv"), "--validation-path", str(files / "validation.csv")]
    return ["train", *SMALL, *parts, "--test-path", str(files / "test.csv"), "--out", str(out), *more]


@pytest.fixture(scope="module")
def trained(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    assert main(command(files, out)) == 0
    return out


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def killed(script: str, after: int, *arguments: str) -> int:
    paths = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(HERE / script), str(after), *arguments]
    return subprocess.run(line, env=environment, check=False, capture_output=True).returncode


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """What of a result does not tell times or places."""
    seeds = [
        {name: value for name, value in seed.items() if name not in ("seconds", "tokens_per_second", "peak_bytes")}
        for seed in result["seeds"]
    ]
    return {**result, "seeds": seeds, "out": None, "model": None}


def test_training_leaves_a_model_and_a_report(trained: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    assert result["test"]["accuracy"]["mean"] > 0.9
    assert result["baselines"]["majority"]["accuracy"] < 0.7
    assert result["records"] == {
        "duplicates": {}, "train": 200, "validation": 40, "test": 60, "dropped": False
    }  # fmt: skip
    assert 0 <= result["padding"] < 0.1
    curve = result["curve"]["0"]
    each = result["seeds"][0]["steps"] // 3
    assert [point["step"] for point in curve] == [each, 2 * each, 3 * each]  # --epochs 3, measured after each
    best = max(curve, key=lambda point: (point["value"], -point["loss"]))
    assert result["seeds"][0]["best_step"] == best["step"]
    assert result["seeds"][0]["validation"] == best["scores"]
    report = (trained / "report.md").read_text()
    for words in ("| model, test |", "| majority, test |", "TF-IDF", "precision", "![confusion.png](confusion.png)"):
        assert words in report
    for name in ("curve.png", "confusion.png"):
        assert (trained / name).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (trained / "model").iterdir()} == {
        "config.json", "labels.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip


def test_killed_and_resumed_ends_with_the_same_model(trained: Path, files: Path, tmp_path: Path) -> None:
    steps = json.loads((trained / "result.json").read_text())["seeds"][0]["steps"]
    out = tmp_path / "killed"
    assert killed("kill_train.py", 2 * steps // 3 + 2, *command(files, out)) == -signal.SIGKILL
    assert not (out / "model").exists()
    assert main(command(files, out)) == 0
    ours, whole = (json.loads((folder / "result.json").read_text()) for folder in (out, trained))
    assert comparable(ours) == comparable(whole)
    assert (out / "model" / "model.safetensors").read_bytes() == (trained / "model" / "model.safetensors").read_bytes()


def test_columns_by_number_are_those_of_the_training(
    capsys: pytest.CaptureFixture[str], files: Path, tmp_path: Path
) -> None:
    """A model that knows its columns by number must not answer for whatever stands there in another file."""
    plain = tmp_path / "plain.csv"
    plain.write_text((files / "train.csv").read_text().partition("\n")[2])
    quick = ["--epochs", "1", "--model.width", "16", "--model.depth", "1", "--data.tokenizer", "word", "--no-baselines"]
    line = ["train", "--task", "classify(text=1, label=2)", *quick, "--out", str(tmp_path / "run")]
    assert main([*line, "--data", str(files / "train.csv")]) == 2  # its header would be a record
    assert "looks like one (text, label)" in capsys.readouterr().err
    assert main([*line, "--data", str(plain), "--test-path", str(files / "test.csv")]) == 2
    assert "looks like one (text, label)" in capsys.readouterr().err
    assert main([*line, "--data", str(plain)]) == 0
    stock = tmp_path / "stock.csv"
    stock.write_text("id,date,text\n7,2020-01-01,a lovely film\n")
    output = tmp_path / "answers.csv"
    predict = ["predict", str(tmp_path / "run"), "--output", str(output)]
    capsys.readouterr()
    for more in ([], ["--header", "yes"], ["--header", "no"]):
        assert main([*predict, "--input", str(stock), *more]) == 2
        assert "has 3 columns (id, date, text), and the model was trained on files of 2" in capsys.readouterr().err
    assert main([*predict, "--input", str(files / "test.csv")]) == 2
    assert "say which it is with --header yes or no" in capsys.readouterr().err
    assert main([*predict, "--input", str(files / "test.csv"), "--header", "yes"]) == 0
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert len(rows) == 60 and list(rows[0]) == ["text", "label", "prediction", "probability", "probabilities"]
    alone = tmp_path / "alone.csv"  # without the answers
    alone.write_text("a lovely film\na dire plot\n")
    assert main([*predict, "--input", str(alone), "--restart"]) == 0
    assert len(list(csv.DictReader(output.read_text().splitlines()))) == 2
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(stock)]) == 2
    assert "has 3 columns" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_of_something_else_is_left_alone(
    capsys: pytest.CaptureFixture[str], files: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.md").write_text("my own\n")
    assert main(command(files, tmp_path)) == 2
    assert f"{tmp_path / 'report.md'} is of no training that was begun there" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_several_seeds_have_a_spread(capsys: pytest.CaptureFixture[str], files: Path, tmp_path: Path) -> None:
    short = command(files, tmp_path, "--seeds", "2", "--epochs", "1")
    short = [word for place, word in enumerate(short) if short[place - 1 : place + 1] != ["--epochs", "3"]]
    short.remove("--epochs")
    result = run(capsys, *short)
    figure = result["test"]["accuracy"]
    assert len(figure["each"]) == 2
    assert figure["mean"] == pytest.approx(sum(figure["each"]) / 2)
    assert {path.name for path in tmp_path.glob("seed-*")} == {"seed-0", "seed-1"}
    best = max(result["seeds"], key=lambda seed: (seed["validation"]["accuracy"], -seed["loss"]))
    kept = json.loads((tmp_path / "model" / "config.json").read_text())
    assert kept["run"]["seed"] == best["seed"]
    assert kept["score"] == best["test"]
    page = (tmp_path / "report.md").read_text()
    assert f"those of seed {best['seed']}, which did best on the validation records" in page
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| seed ")]
    assert [row[0] for row in rows] == [f"| seed {n}, {part}" for part in ("validation", "test") for n in (0, 1)]
    assert rows[2][1] == f"{result['test']['accuracy']['each'][0]:.4f}"


@pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")
def test_a_validation_part_is_drawn_and_duplicates_are_dropped(
    capsys: pytest.CaptureFixture[str], files: Path, tmp_path: Path
) -> None:
    both = write(tmp_path / "both.csv", [*opinions(60, 1), *opinions(60, 3)[:20]])
    line = [*SMALL, "--data", str(both), "--test-path", str(files / "test.csv"), "--no-baselines", "--json"]
    assert main(["train", *line, "--drop-duplicates", "--out", str(tmp_path / "out")]) == 0
    caught = capsys.readouterr()
    result = json.loads(caught.out)
    assert result["records"]["duplicates"]["test"] >= 15
    assert "also stand in training" not in caught.err  # they are left out, and counted
    assert result["records"]["train"] + result["records"]["validation"] <= 65
    assert result["baselines"] == {}


def test_evaluate_finds_what_training_found(
    capsys: pytest.CaptureFixture[str], trained: Path, files: Path, tmp_path: Path
) -> None:
    told = json.loads((trained / "result.json").read_text())["test"]
    found = run(capsys, "evaluate", str(trained), "--data", str(files / "test.csv"), "--out", str(tmp_path))
    assert {name: one["mean"] for name, one in found["records"].items()} == {n: one["mean"] for n, one in told.items()}
    assert found["count"] == 60
    assert (tmp_path / "report.md").exists() and (tmp_path / "confusion.png").exists()
    assert main(["evaluate", str(trained), "--data", str(files / "test.csv")]) == 0
    assert "precision" in capsys.readouterr().out


def test_an_evaluation_writes_over_evaluations_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, trained: Path, files: Path, tmp_path: Path
) -> None:
    line = ["evaluate", str(trained), "--data", str(files / "test.csv"), "--out"]
    before = {name: (trained / name).read_bytes() for name in ("report.md", "result.json")}
    for strange in ("checkpoints", "model", "seed-3", "study.db", "report.md"):
        (tmp_path / strange / strange).mkdir(parents=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "result.json").write_text("{}")
    out = tmp_path / "of-itself"
    assert main([*line, str(out)]) == 0
    assert main([*line, str(out)]) == 0
    capsys.readouterr()
    monkeypatch.setattr("attentune.cli.task_measuring.load", None)  # refused before anything is predicted
    names = ("checkpoints", "model", "seed-3", "study.db", "report.md", "foreign")
    for folder in (trained, *(tmp_path / name for name in names)):
        assert main([*line, str(folder)]) == 2
        assert "is of no evaluation; name another folder with --out" in capsys.readouterr().err
    assert before == {name: (trained / name).read_bytes() for name in before}


def test_predictions_are_those_of_python(
    capsys: pytest.CaptureFixture[str], trained: Path, files: Path, tmp_path: Path
) -> None:
    model = attentune.load(trained / "model")
    records = opinions(60, 3)
    answers = model.predict([record["text"] for record in records])
    output = tmp_path / "answers.jsonl"
    told = run(capsys, "predict", str(trained), "--input", str(files / "test.csv"), "--output", str(output))
    assert told["records"] == 60
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["text"], row["prediction"]) for row in rows] == [
        (record["text"], answer.value) for record, answer in zip(records, answers, strict=True)
    ]
    assert [row["probability"] for row in rows] == pytest.approx([a.fields["probability"] for a in answers], abs=1e-5)
    table = tmp_path / "answers.csv"
    assert main(["predict", str(trained), "--input", str(files / "test.csv"), "--output", str(table), "--bare"]) == 0
    read = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["prediction"] for row in read] == [row["prediction"] for row in rows]
    assert json.loads(read[0]["probabilities"]) == pytest.approx(rows[0]["probabilities"], abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "answers.jsonl"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_a_killed_prediction_goes_on_where_its_last_block_ends(
    capsys: pytest.CaptureFixture[str], trained: Path, files: Path, tmp_path: Path, name: str
) -> None:
    line = ["predict", str(trained), "--input", str(files / "test.csv"), "--block", "7"]
    assert main([*line, "--output", str(tmp_path / f"whole-{name}")]) == 0
    capsys.readouterr()
    output = tmp_path / name
    assert killed("kill_predict.py", 4, *line, "--output", str(output)) == -signal.SIGKILL
    assert not output.exists()
    partial = tmp_path / f"{name}.partial"
    state = json.loads((tmp_path / f"{name}.partial.json").read_text())
    assert state["records"] == 21
    assert partial.stat().st_size > state["bytes"]  # half a block stands behind
    assert main([*line, "--output", str(output), "--format", "jsonl" if name.endswith("csv") else "csv"]) == 2
    assert "was begun with another format" in capsys.readouterr().err
    told = run(capsys, *line, "--output", str(output))
    assert (told["records"], told["resumed_at"]) == (60, 21)
    assert output.read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    assert not partial.exists()
    assert not (tmp_path / f"{name}.partial.json").exists()


@pytest.mark.parametrize("packed", [False, True])
def test_a_prediction_of_parallel_lines_does_not_go_on_with_others(
    capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path, packed: bool
) -> None:
    side = tmp_path / ("p.text.gz" if packed else "p.text")

    def hold(seed: int) -> None:
        lines = "".join(f"{record['text']}\n" for record in opinions(6, seed)).encode()
        side.write_bytes(gzip.compress(lines) if packed else lines)

    whole = AnswerFile.append

    def stopped(file: AnswerFile, rows: Any) -> None:
        if file.records:
            raise KeyboardInterrupt
        whole(file, rows)

    hold(1)
    output = tmp_path / "out.jsonl"
    line = ["predict", str(trained), "--input", str(tmp_path / "p"), "--output", str(output), "--block", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnswerFile, "append", stopped)
        assert main(line) != 0
    hold(22)
    assert main(line) == 2
    assert f"{output}.partial was begun with another input" in capsys.readouterr().err
    assert run(capsys, *line, "--restart")["records"] == 6


def test_a_prediction_never_overwrites_its_input(
    capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    table, side = write(tmp_path / "in.csv", opinions(3, 1)), tmp_path / "p.text"
    side.write_text("a fine film\n")
    (tmp_path / "soft.csv").symlink_to(table)
    (tmp_path / "hard.csv").hardlink_to(table)
    (tmp_path / "a.csv.partial").hardlink_to(table)
    (tmp_path / "b.csv.partial.json").hardlink_to(side)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for source, output in [
        *(("in.csv", name) for name in ("in.csv", "soft.csv", "hard.csv", "../" + tmp_path.name + "/in.csv", "a.csv")),
        ("soft.csv", "in.csv"),
        ("p.text", "b.csv"),
        ("p", "p.text"),
    ]:
        line = ["predict", str(trained), "--input", str(tmp_path / source), "--output", str(tmp_path / output)]
        assert main([*line, "--restart"]) == 2
        (told,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("attentune: error: ")]
        assert f"--output {tmp_path / output}" in told and "would overwrite the input" in told
    with table.open() as standing:  # as `< in.csv` gives it
        ours = os.dup(0)
        os.dup2(standing.fileno(), 0)
        try:
            line = ["predict", str(trained), "--input", "-", "--input-format", "csv", "--output", str(table)]
            assert main([*line, "--restart"]) == 2
        finally:
            os.dup2(ours, 0)
            os.close(ours)
    assert "would overwrite the input" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_prediction_replaces_a_file_only_where_it_is_told_to(
    capsys: pytest.CaptureFixture[str], trained: Path, files: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.csv"
    notes.write_text("my own\n")
    line = ["predict", str(trained), "--input", str(files / "test.csv")]
    assert main([*line, "--output", str(notes)]) == 2
    assert f"{notes} exists already; name another output, or replace it (--restart)" in capsys.readouterr().err
    assert notes.read_text() == "my own\n"
    assert main([*line, "--output", str(tmp_path / "out.xlsx")]) == 2
    assert "predictions are JSON lines (.jsonl) or CSV (.csv)" in capsys.readouterr().err
    empty = tmp_path / "empty.csv"
    empty.write_text("text\n")
    assert main(["predict", str(trained), "--input", str(empty), "--output", str(tmp_path / "out.csv")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.csv", "notes.csv"]
    assert run(capsys, *line, "--output", str(notes), "--restart")["records"] == 60
    assert notes.read_text().startswith("text,")


def test_a_prediction_replaces_no_pipe_and_follows_links(
    capsys: pytest.CaptureFixture[str], trained: Path, files: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    line = ["predict", str(trained), "--input", str(files / "test.csv"), "--output"]
    assert main([*line, str(tmp_path / "pipe"), "--restart"]) == 2
    assert "is a device or a pipe, not a file; name a file, or - for the standard output" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "there").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "there" / "out.csv")
    assert main([*line, str(tmp_path / "link.csv")]) == 0
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "there" / "out.csv").read_text().startswith("text,")
    (tmp_path / "a.csv.partial").write_text("begun")
    assert main(["predict", str(trained), "--input", "-", "--output", str(tmp_path / "a.csv")]) == 2
    assert "was begun, and what was piped in cannot go on" in capsys.readouterr().err
    assert (tmp_path / "a.csv.partial").read_text() == "begun"


def test_any_cell_comes_back_from_a_table() -> None:
    rows = [{"text": text, "n": n} for n, text in enumerate(["a\rb", "a\nb", 'a"b', "a,b", "", " a\r\n"])]
    text = Rows("csv").text(rows)
    assert [row["text"] for row in csv.DictReader(io.StringIO(text, newline=""))] == [row["text"] for row in rows]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the copy of the pipe
def test_a_pipe_is_predicted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, trained: Path
) -> None:
    lines = "".join(json.dumps({"text": record["text"]}) + "\n" for record in opinions(5, 9))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert main(["predict", str(trained), "--input", "-", "--output", "-", "--bare"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prediction"] for row in rows] == [record["label"] for record in opinions(5, 9)]


@pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--task", "clasify()", "--data", "TRAIN"], "unknown task 'clasify'; did you mean 'classify'?"),
        (["train", "--task", "classify(text=txt)", "--data", "TRAIN"], "has no column 'txt'; did you mean 'text'?"),
        (["train", "--task", "classify()"], "name their file with --data"),
        (["train", "--task", "classify()", "--data", "absent.csv"], "absent.csv"),
        (["train", "--task", "classify()", "--data", "TRAIN", "--data.column", "x"], "data.column is for language"),
        (
            ["train", "--task", "classify()", "--data", "TRAIN", "--evaluate-tokens", "9"],
            "--evaluate-tokens is for lang",
        ),
        (
            ["train", "--task", "classify()", "--data", "TRAIN", "--validation-path", "ODD", "--data.validation", ".3"],
            "data.validation=0.3 would be drawn from the training records, but those to validate by are of ODD; say",
        ),
        (
            [
                *("optimize", "--task", "classify()", "--data", "TRAIN", "--validation-path", "ODD"),
                *("--data.validation", ".3", "--out", "STUDY"),
            ],
            "data.validation=0.3 would be drawn from the training records",
        ),
        (["train", "--epochs", "3"], "--epochs needs a --task"),
        (["train", "--data.tokenizer", "word"], "are for tasks"),
        (["train", "--task", "classify()", "--data", "TRAIN", "--model.encoder.depth", "2"], "no second stack"),
        (["train", "--task", "classify()", "--data", "TRAIN", "--test-path", "ODD"], "ODD, line 2: label 'excellent'"),
        (["predict", "absent", "--input", "TRAIN", "--output", "OUT"], "no model at absent"),
        (["predict", "MODEL", "--input", "absent.csv", "--output", "OUT"], "absent.csv"),
        (["predict", "MODEL", "--input", "OTHER", "--output", "OUT"], "has no column 'text'"),
        (["predict", "MODEL", "--input", "ODD", "--output", "OUT"], "has a column 'prediction', as the prediction has"),
        (["predict", "MODEL", "--input", "TRAIN", "--output", "FOLDER"], "it is a folder; name a file"),
        (["predict", "MODEL", "--output", "OUT"], "--input"),
        (["evaluate", "MODEL"], "name the file of records with --data"),
        (["evaluate", "MODEL", "--data", "TRAIN", "--stride", "3"], "--stride is for language models"),
        (["evaluate", "MODEL", "--data", "ODD"], "label 'excellent' does not occur"),
        (["generate", "MODEL"], "holds a model of the task 'classify'"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, trained: Path, files: Path, arguments: list[str], says: str
) -> None:
    odd, other = tmp_path / "odd.csv", tmp_path / "other.csv"
    odd.write_text("text,label,prediction\na film,excellent,x\n")
    other.write_text("label,words\ngood,a film\n")
    places = {
        "TRAIN": files / "train.csv",
        "MODEL": trained,
        "OUT": tmp_path / "answers.jsonl",
        "FOLDER": tmp_path,
        "STUDY": tmp_path / "study",
        "ODD": odd,
        "OTHER": other,
    }
    line = [str(places.get(argument, argument)) for argument in arguments]
    if line[0] == "train":
        line += ["--out", str(tmp_path / "out"), "--context", "16"]
    assert main(line) == 2
    caught = capsys.readouterr()
    errors = [one for one in caught.err.splitlines() if one.startswith("attentune: error: ")]
    assert len(errors) == 1 and "Traceback" not in caught.err
    assert says.replace("ODD", str(odd)) in errors[0]


def test_the_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    found = {task["name"]: task for task in run(capsys, "tasks")}
    assert set(found) == {*map(typed, known_tasks()), "lm"}
    assert "length_penalty, less where" in found["translate"]["summary"]
    assert found["classify"]["options"]["pooling"]["choices"] == ["mean", "first", "attention", "max"]
    assert main(["tasks"]) == 0
    assert "\n    pooling = 'mean'  one of mean, first" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sst2", "banking77", "banking77_pretrain", "stockemotions", "chnsenticorp", "wnut17"])
def test_configurations_hold_a_task(name: str) -> None:
    options = Options(**tomllib.loads((CONFIGS / f"{name}.toml").read_text(encoding="utf-8")))
    assert options.task is not None
    assert read_task(options.task).kind in ("classify", "tag", "mlm")
