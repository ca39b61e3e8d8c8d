"""From a text to a model folder, and on to its score and its continuations: the commands one after the other."""

from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from attentune.cli import main
from attentune.cli.parsing import parse
from attentune.cli.train import FeedForwardOptions, HaltingOptions, ModelOptions, NgramOptions, Options
from attentune.cli.training import model_spec
from attentune.data.tokenizers import train_tokenizer
from attentune.errors import SpecError
from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.models.checkpoint import save_model
from attentune.spec.halting import HaltingSpec
from attentune.spec.model import FeedForwardSpec, ModelSpec
from attentune.spec.ngrams import NgramSpec
from attentune.spec.run import RunSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs.\n" * 12
SMALL = "--context 16 --batch 4 --steps 6 --evaluate-every 3 --checkpoint-every 3 --diagnose-every 3 --model.width 16"
LAYERS = ("--model.depth", "1", "--model.layers", "heads=2, position=alibi, mask=causal")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def train(capsys: pytest.CaptureFixture[str], text: Path, out: Path, *more: str) -> Any:
    return run(capsys, "train", "--data.path", str(text), "--out", str(out), *SMALL.split(), *LAYERS, *more)


def test_the_options_of_a_model_are_the_fields_of_its_spec() -> None:
    pairs = (
        (ModelOptions, ModelSpec),
        (FeedForwardOptions, FeedForwardSpec),
        (HaltingOptions, HaltingSpec),
        (NgramOptions, NgramSpec),
    )
    for options, spec in pairs:
        decided = {"vocab_size", "context"} if spec is ModelSpec else set()
        assert set(options.model_fields) == set(spec.model_fields) - decided
        for name, field in options.model_fields.items():
            if name not in (
                "layers",
                "feed_forward",
                "halting",
                "weight",
                "ngrams",
                "longest",
                "encoder",
            ):  # left out: none
                assert field.default == spec.model_fields[name].default, name


def test_options_become_the_spec_they_say() -> None:
    options = ModelOptions(
        width=48,
        depth=4,
        layers=("heads=4, mask=causal & window(8)", "heads=4, mask=causal"),
        feed_forward=FeedForwardOptions(name="swiglu"),
        norm="rms",
        dropout=0.25,
    )
    spec = model_spec(options, vocab_size=65, context=32)
    assert (spec.width, spec.vocab_size, spec.context, spec.norm, spec.dropout) == (48, 65, 32, "rms", 0.25)
    assert [str(layer.attention) for layer in spec.layers] == list(options.layers)
    assert spec.feed_forward == FeedForwardSpec(name="swiglu")


def test_pieces_have_vectors_where_their_length_is_given() -> None:
    whole = ModelOptions(layers=("heads=4, mask=full",))
    assert model_spec(whole, vocab_size=65, context=32).ngrams is None
    options = whole.replace(ngrams=NgramOptions(longest=3, dropout=0.5))
    assert model_spec(options, vocab_size=65, context=32).ngrams == NgramSpec(longest=3, dropout=0.5)
    beside = ModelOptions(ngrams=NgramOptions(longest=2))
    both = model_spec(beside, vocab_size=65, context=32, stack="encoder-decoder")
    assert both.ngrams is None and both.encoder is not None and both.encoder.ngrams == NgramSpec()
    with pytest.raises(ValueError, match="do nothing without longest"):
        NgramOptions(dropout=0.5)


def test_tokens_halt_where_their_cost_is_given() -> None:
    assert model_spec(ModelOptions(), vocab_size=65, context=32).halting is None
    options = ModelOptions(halting=HaltingOptions(weight=0.02, bias=-2.0))
    assert model_spec(options, vocab_size=65, context=32).halting == HaltingSpec(weight=0.02, bias=-2.0)
    with pytest.raises(SpecError, match="epsilon and bias do nothing without a weight"):
        HaltingOptions(bias=-2.0)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(SpecError, match="heads must divide the width, got heads=5, width=128"):
        model_spec(ModelOptions(layers=("heads=5",)), vocab_size=65, context=32)


def test_the_small_decoder_of_the_configuration_is_what_it_says() -> None:
    options = Options(**tomllib.loads((CONFIGS / "shakespeare.toml").read_text()))
    spec = model_spec(options.model, vocab_size=65, context=options.context)
    assert (spec.depth, spec.width, spec.context, spec.dropout) == (4, 128, 64, 0.0)
    assert (options.batch, options.steps, options.data.validation) == (12, 2000, 0.1)
    assert [layer.attention.heads.heads for layer in spec.layers] == [4]


@pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")
def test_train_then_evaluate_then_generate(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    trained = train(capsys, text, tmp_path / "run")
    assert trained["steps"] == 6
    assert [evaluation["step"] for evaluation in trained["evaluations"]] == [3, 6]
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == trained
    model = trained["model"]

    score = run(capsys, "evaluate", model, "--data", str(text), "--validation", "0.1")
    assert score["nats_per_token"] == pytest.approx(trained["score"]["nats_per_token"], rel=1e-6)
    assert score["tokens"] == trained["score"]["tokens"]
    costs = run(capsys, "evaluate", model, "--data", str(text), "--limit", "50", "--cost")["cost"]
    assert costs["device"] == "cpu"
    assert all(costs[name] > 0 for name in ("latency_ms", "tokens_per_second", "peak_bytes", "flops_per_token"))
    assert main(["evaluate", model, "--data", str(text), "--limit", "50"]) == 0
    assert f"{text}: " in capsys.readouterr().out

    written = run(capsys, "generate", model, "--prompt", "the ", "--tokens", "9", "--samples", "2", "--seed", "4")
    assert [len(sample) for sample in written["samples"]] == [9, 9]
    assert (
        run(capsys, "generate", model, "--prompt", "the ", "--tokens", "9", "--samples", "2", "--seed", "4") == written
    )
    assert main(["generate", model, "--prompt", "the ", "--tokens", "9", "--greedy"]) == 0
    assert capsys.readouterr().out.startswith("the ")

    left_behind = str(tmp_path / "run")  # what train wrote to: the model in it is meant
    assert run(capsys, "generate", left_behind, "--prompt", "the ", "--tokens", "9")["model"] == model
    assert run(capsys, "evaluate", left_behind, "--data", str(text), "--limit", "50")["model"] == model
    assert run(capsys, "plan", "--model", left_behind) == run(capsys, "plan", "--model", model)

    for arguments, says in (
        (("--prompt", "the É"), "character 'É' (U+00C9) at position 4 is not among the"),
        (("--prompt", "the ", "--top-p", "2"), "--top-p: input should be less than or equal to 1"),
    ):
        assert main(["generate", model, *arguments]) == 2
        caught = capsys.readouterr()
        assert says in caught.err
        assert caught.out == ""
    skipped = run(capsys, "generate", model, "--prompt", "thÉe ", "--unknown", "skip", "--tokens", "9", "--seed", "4")
    assert (skipped["prompt"], skipped["samples"]) == ("the ", written["samples"][:1])
    assert main(["generate", model, "--prompt", "thÉe ", "--unknown", "skip", "--tokens", "9"]) == 0
    caught = capsys.readouterr()
    assert (
        caught.err == "attentune: warning: left out 1 of 5 characters of the prompt that the tokenizer does not know\n"
    )
    assert caught.out.startswith("the ")

    (plan,) = run(capsys, "plan", "--model", model, "--length", "16")
    assert plan["attention"] == "heads=2, position=alibi, mask=causal"
    assert (plan["queries"], plan["dtype"]) == (16, "float32")


def test_layers_that_halting_spared_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    halting = ("--model.depth", "2", "--model.halting.weight", "0.1", "--model.halting.bias", "9.0")
    out = tmp_path / "run"
    command = ("train", "--data.path", str(text), "--out", str(out), *SMALL.split(), *LAYERS[2:], *halting)
    assert main([*command]) == 0
    shown = capsys.readouterr().out
    assert "1.00 of 2 layers a token; the others were not computed" in shown
    advice = next(line for line in shown.splitlines() if line.startswith("continue"))
    assert main(shlex.split(advice)[2:]) == 0
    assert capsys.readouterr().out.startswith(shlex.split(advice)[-1])
    result = json.loads((out / "result.json").read_text())
    assert result["score"]["layers_per_token"] == 1.0  # so sure from the start that one layer is enough for every token
    assert main(["evaluate", result["model"], "--data", str(text), "--limit", "50"]) == 0
    assert "; 1.00 of 2 layers a token" in capsys.readouterr().out


def test_the_same_command_goes_on_and_restart_starts_over(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path
) -> None:
    through = train(capsys, text, tmp_path / "through")
    again = train(capsys, text, tmp_path / "through")
    assert again["score"] == through["score"]
    assert (
        main(["train", "--data.path", str(text), "--out", str(tmp_path / "through"), *SMALL.split(), "--seed", "9"])
        == 2
    )
    assert "attentune: error: " in capsys.readouterr().err
    other = train(capsys, text, tmp_path / "through", "--seed", "9", "--restart")
    assert other["score"] != through["score"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--data.path", "absent.txt", "--out", "OUT"], "absent.txt"),
        (["train", "--data.path", "TEXT", "--context", "4000", "--out", "OUT"], "one row of context 4000 needs 4001"),
        (["train", "--data.path", "TEXT", "--model.layers", "heads=7", "--out", "OUT"], "heads must divide the width"),
        (
            ["train", "--data.path", "TEXT", "--model.layers", "heads=4, mask=causl", "--out", "OUT"],
            "did you mean 'causal'?",
        ),
        (["train", "--data.path", "TEXT", "--steps", "2", "--out", "TEXT"], "text.txt"),
        (
            ["train", "--data.path", "TEXT", "--model.halting.weight", "0.1", "--compile", "--out", "OUT"],
            "compile=true does not go with a model that halts tokens",
        ),
        (["evaluate", "absent", "--data", "TEXT"], "absent"),
        (["generate", "absent"], "absent"),
        (["plan", "--model", "absent"], "absent"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path, arguments: list[str], says: str
) -> None:
    places = {"TEXT": str(text), "OUT": str(tmp_path / "out")}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    caught = capsys.readouterr().err
    assert caught.startswith("attentune: error: ")
    assert says in caught
    assert caught.count("\n") == 1


def test_what_cannot_write_is_not_said_to_continue(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path
) -> None:
    whole = ("--model.depth", "1", "--model.layers", "heads=2, mask=full")
    command = ("train", "--data.path", str(text), "--out", str(tmp_path / "run"), *SMALL.split(), *whole)
    assert main([*command]) == 0
    shown = capsys.readouterr().out
    assert f"model       {tmp_path / 'run' / 'model'}" in shown
    assert "continue" not in shown


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "left"


def save(folder: Path, attention: str, text: str = "abc\n") -> None:
    tokenizer = train_tokenizer("char", [text])
    layers = (layer(attention),)
    spec = ModelSpec(vocab_size=tokenizer.vocab_size, width=16, depth=1, context=12, layers=layers)
    save_model(folder, build(spec, seed=0), tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("attention", "arguments", "says"),
    [
        ("heads=2, mask=window(5, symmetric=true)", ["--prompt", "ab"], "shows later keys, so this model cannot write"),
        (
            "heads=2, mask=causal, position=rotary_ntk(2.0, 6)",
            ["--prompt", "abc"],
            "can write 4 tokens after this prompt: use --tokens 4",
        ),
        ("heads=2, mask=causal | prefix(3)", ["--prompt", "ab"], "the prompt must hold at least 3 tokens"),
    ],
)
def test_what_a_model_cannot_write_is_said_before_anything_else(
    capsys: pytest.CaptureFixture[str], folder: Path, attention: str, arguments: list[str], says: str
) -> None:
    save(folder, attention)
    assert main(["generate", str(folder), *arguments]) == 2
    caught = capsys.readouterr()
    assert says in caught.err
    assert caught.out == ""


def test_a_rotation_by_length_writes_as_much_as_is_promised(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    save(folder, "heads=2, mask=causal, position=rotary_ntk(2.0, 6)")
    for prompt, tokens in (("abc", 4), ("abcabc", 1), ("abcabca", 1)):
        assert main(["generate", str(folder), "--prompt", prompt, "--tokens", str(tokens)]) == 0
        assert len(capsys.readouterr().out) == len(prompt) + tokens + 1
        assert main(["generate", str(folder), "--prompt", prompt, "--tokens", str(tokens + 1)]) == 2
        assert f"use --tokens {tokens}" in capsys.readouterr().err


def test_without_a_prompt_a_model_begins_a_line(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    save(folder, "heads=2, mask=causal")
    assert len(run(capsys, "generate", str(folder), "--tokens", "5")["samples"][0]) == 5
    save(folder, "heads=2, mask=causal", text="abc")
    assert main(["generate", str(folder), "--tokens", "5"]) == 2
    assert "give it a --prompt" in capsys.readouterr().err


def test_folders_that_hold_no_model_or_two_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert main(["generate", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no model yet: `attentune train` has not ended there" in capsys.readouterr().err
    for name in ("best", "model"):
        save(tmp_path / name, "heads=2, mask=causal")
    assert main(["generate", str(tmp_path)]) == 2
    assert f"two models; name one of them: {tmp_path / 'model'} or {tmp_path / 'best'}" in capsys.readouterr().err
    assert run(capsys, "generate", str(tmp_path / "best"), "--tokens", "3")["model"] == str(tmp_path / "best")


def test_the_options_hold_every_setting_of_a_run() -> None:
    assert set(RunSpec.model_fields) < set(Options.model_fields)


def test_what_is_said_is_kept_though_it_is_the_default() -> None:
    said = ["--model.layers", "heads=4, position=rotary, mask=causal", "--model.dropout=0.0", "--no-baselines"]
    told = parse(Options, said, command="train", examples="")
    assert told.model.model_fields_set == {"layers", "dropout"}
    assert told.model_fields_set == {"model", "baselines"}
    sizes = {"vocab_size": 9, "context": 8}
    (own,) = {str(one.mask) for one in model_spec(told.model, **sizes, stack="encoder").attentions}
    assert "causal" in own
    (unsaid,) = {str(one.mask) for one in model_spec(ModelOptions(), **sizes, stack="encoder").attentions}
    assert "causal" not in unsaid


def test_a_column_may_be_named_with_the_task(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("review\nshort\n")
    for column, says in (("review", "one row of context 64 needs 65"), ("body", "no column 'body'")):
        line = ["optimize", "--task", f"lm(text={column})", "--data", str(table), "--out", str(tmp_path / "out")]
        assert main(line) == 2
        told = capsys.readouterr().err
        assert "unknown task" not in told and says in told
