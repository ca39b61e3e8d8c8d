"""`--from` at the terminal: our own folders, of a task or of language, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from attentune.cli import main
from tasks.opinions import FILL, WORDS, opinions, write

pytest.importorskip("sklearn", reason="metrics of tasks need scikit-learn")
pytestmark = pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")  # small texts repeat themselves
SMALL = ["--context", "16", "--batch", "8", "--steps", "4", "--schedule.warmup", "1"]
SIZES = ["--model.width", "16", "--model.depth", "2", "--model.layers", "heads=2,mask=full"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write(folder / "train.csv", opinions(60, 1))
    lines = [record["text"] for record in opinions(150, 5)]
    (folder / "texts.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def read(files: Path) -> Path:
    """A model that was pre-trained on the texts."""
    out = files / "read"
    line = ["train", "--task", "mlm", "--data", str(files / "texts.txt"), "--data.tokenizer", "word"]
    assert main([*line, *SMALL, *SIZES, "--no-baselines", "--out", str(out)]) == 0
    return out


def classify(files: Path, out: Path, *more: str) -> list[str]:
    line = ["train", "--task", "classify()", "--data", str(files / "train.csv"), "--no-baselines", *SMALL]
    return [*line, "--out", str(out), *more]


def weights(out: Path) -> dict[str, Any]:
    return load_file(out / "model" / "model.safetensors")


def same(one: dict[str, Any], other: dict[str, Any], part: str) -> bool:
    names = [name for name in one if name.startswith(part)]
    assert names
    return all(one[name].equal(other[name]) for name in names)


def test_a_classifier_starts_from_pre_trained_layers_with_their_tokenizer(
    capsys: pytest.CaptureFixture[str], files: Path, read: Path, tmp_path: Path
) -> None:
    capsys.readouterr()
    assert main(classify(files, tmp_path, "--from", str(read), "--freeze", "embedding, layers 0")) == 0
    said = capsys.readouterr().out
    assert "a model of the task mlm, and its tokenizer, embedding, layers 0 frozen" in said
    assert "from: " in (tmp_path / "report.md").read_text()
    before, after = weights(read), weights(tmp_path)
    for part in ("trunk.embedding.", "trunk.layers.0."):
        assert same(before, after, part)
    assert not same(before, after, "trunk.layers.1.")
    vocabularies = [json.loads((out / "model" / "tokenizer.json").read_text())["model"] for out in (read, tmp_path)]
    assert vocabularies[0] == vocabularies[1]


def test_adapters_leave_a_plain_model(
    capsys: pytest.CaptureFixture[str], files: Path, read: Path, tmp_path: Path
) -> None:
    line = classify(files, tmp_path, "--from", str(read), "--start.adapters.rank", "2")
    assert main([*line, "--optimizer.learning-rate", "1e-2"]) == 0
    before, after = weights(read), weights(tmp_path)
    assert main([*line, "--optimizer.learning-rate", "1e-2"]) == 0  # goes on from its last checkpoint, which has them
    assert all(tensor.equal(after[name]) for name, tensor in weights(tmp_path).items())
    changed = {name for name in after if name in before and not after[name].equal(before[name])}
    assert changed == {f"trunk.layers.{n}.attention.heads.0.{name}" for n in (0, 1) for name in ("qkv", "out")}
    assert not any("parametrizations" in name for name in after)
    capsys.readouterr()
    question = tmp_path / "question.jsonl"
    question.write_text('{"text": "the film was great"}\n')
    assert main(["predict", str(tmp_path), "--input", str(question), "--output", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"] in ("good", "bad")


def test_a_task_goes_on_from_its_own_model_head_and_all(files: Path, read: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(classify(files, first, "--from", str(read))) == 0
    rate = ["--optimizer.learning-rate", "1e-9", "--optimizer.weight-decay", "0"]
    assert main(classify(files, second, "--from", str(first), *rate)) == 0
    for name, tensor in weights(second).items():
        assert (tensor - weights(first)[name]).abs().max() < 1e-6


def test_a_run_from_a_folder_goes_on_only_from_the_same_weights(
    capsys: pytest.CaptureFixture[str], files: Path, read: Path, tmp_path: Path
) -> None:
    assert main(classify(files, tmp_path / "run", "--from", str(read))) == 0
    again = classify(files, tmp_path / "run", "--from", str(read))
    assert main(again) == 0
    for more in (["--start.layer-decay", "0.9"], ["--freeze", "embedding"]):
        capsys.readouterr()
        assert main([*again, *more]) == 2
        assert "was trained with start" in capsys.readouterr().err


def test_language_models_are_a_task_go_on_and_are_started_from(
    capsys: pytest.CaptureFixture[str], files: Path, tmp_path: Path
) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    text = ["--data", str(files / "texts.txt"), "--data.tokenizer", "char", *SMALL]
    assert main(["train", "--task", "lm", *text, *SIZES[:4], "--out", str(first)]) == 0
    assert main(["train", "--task", "lm", *text, "--from", str(first), "--out", str(second)]) == 0
    assert "a language model, and its tokenizer" in capsys.readouterr().out
    assert weights(first).keys() == weights(second).keys()
    assert main(["generate", str(second), "--prompt", "the ", "--tokens", "4"]) == 0
    assert main(classify(files, third, "--from", str(second))) == 0
    held, had = weights(third)["trunk.embedding.table"], weights(second)["embedding.table"]
    assert len(held) == len(had) + 7  # the special tokens of tasks
    capsys.readouterr()
    column = ["train", "--task", "lm(text=text)", "--data", str(files / "train.csv"), *text[2:], *SIZES[:4]]
    assert main([*column, "--out", str(tmp_path / "column"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"]["tokens"] > 100


def test_a_translator_takes_an_encoder_and_a_classifier_that_of_a_translator(
    files: Path, read: Path, tmp_path: Path
) -> None:
    pytest.importorskip("sacrebleu", reason="metrics of translations need sacrebleu")
    pairs = tmp_path / "pairs.tsv"
    words = [*FILL, *WORDS["good"]]
    pairs.write_text("a\tb\n" + "".join(f"{x} {y}\t{y} {x}\n" for x in words for y in words[:4]), encoding="utf-8")
    line = ["train", "--task", "translate(source=a, target=b, beam=1)", "--data", str(pairs), "--no-baselines", *SMALL]
    first, second = tmp_path / "first", tmp_path / "second"
    slow = ["--optimizer.learning-rate", "1e-9", "--optimizer.weight-decay", "0"]
    assert main([*line, "--from", str(read), "--model.depth", "1", *slow, "--out", str(first)]) == 0
    made, had = weights(first), weights(read)
    for name, tensor in had.items():
        theirs = made[name.replace("trunk.", "encoder.", 1)]
        assert (tensor - theirs).abs().max() < 1e-6
    assert "decoder.layers.0.cross.heads.0.kv" in made and "decoder.layers.1.cross.heads.0.kv" not in made
    assert main(classify(files, second, "--from", str(first), *slow)) == 0
    for name, tensor in weights(second).items():
        if name.startswith("trunk."):
            assert (tensor - made[name.replace("trunk.", "encoder.", 1)]).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--from", "READ", "--model.width", "32"], "model.width=32, but the model in READ/model has 16; leave it out"),
        (["--from", "READ", "--model.width", "128"], "model.width=128, but the model in READ/model has 16; leave"),
        (["--from", "nowhere"], "no model at nowhere: there is no such folder"),
        (["--freeze", "embedding"], "are for a model that is there: name it with --from"),
        (["--from", "READ", "--freeze", "layer 1"], "freeze names embedding, norm, layers, layers 0-3"),
        (["--from", "READ", "--freeze", "layers 2-3"], "freeze='layers 2-3' names nothing of this model"),
        (["--from", "READ", "--freeze", "norm", "--start.adapters.rank", "2"], "leave freeze out"),
        (["--from", "READ", "--start.adapters.alpha", "2"], "alpha and where do nothing without a rank"),
        (["--from", "READ", "--data.tokenizer-from", "other"], "leave data.tokenizer_from out"),
        (["--from", "READ", "--start.part", "encoder"], "holds no encoder and decoder to choose from"),
    ],
)
def test_what_cannot_be_started_from_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], files: Path, read: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    capsys.readouterr()
    more = [word.replace("READ", str(read)) for word in more]
    assert main(classify(files, tmp_path, *more)) == 2
    said = capsys.readouterr().err.strip()
    assert message.replace("READ", str(read)) in said
    assert len(said.splitlines()) == 1


def test_a_language_model_does_not_go_on_from_a_task(
    capsys: pytest.CaptureFixture[str], files: Path, read: Path, tmp_path: Path
) -> None:
    capsys.readouterr()
    line = ["train", "--data", str(files / "texts.txt"), *SMALL, "--from", str(read), "--out", str(tmp_path)]
    assert main(line) == 2
    assert "holds a model of the task mlm: a language model goes on from a language model" in capsys.readouterr().err


def test_settings_of_a_file(files: Path, read: Path, tmp_path: Path) -> None:
    config = tmp_path / "start.toml"
    config.write_text(
        f'task = "classify()"\n[start]\npath = "{read}"\nlayer_decay = 0.5\n[start.adapters]\nrank = 2\nalpha = 4\n'
    )
    line = ["train", "--config", str(config), "--data", str(files / "train.csv"), "--no-baselines", *SMALL]
    assert main([*line, "--out", str(tmp_path / "out")]) == 0
    kept = json.loads((tmp_path / "out" / "model" / "config.json").read_text())["run"]["start"]
    assert kept["adapters"] == {"rank": 2, "alpha": 4.0, "where": "attention"}
    assert kept["layer_decay"] == 0.5
