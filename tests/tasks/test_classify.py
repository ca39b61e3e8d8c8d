"""Classification: labels, rows, metrics, what is refused, and that a small model learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attentune.data.encoding import DataWarning
from attentune.data.records import Record, read_records
from attentune.errors import CheckpointError, DataError, SpecError
from attentune.mechanisms import layer
from attentune.models.transformer import Transformer
from attentune.spec.model import ModelSpec
from attentune.tasks._classification import calibration_bins, calibration_error
from attentune.tasks.classify import Classify, FittedClassify
from attentune.tasks.folder import load, save_task_model
from attentune.tasks.registry import known_tasks, read_task
from attentune.tasks.task import Prediction
from attentune.training.losses import cross_entropy
from attentune.training.task import Parts, TaskRun, over_seeds, train_task
from attentune.training.task_source import TaskSource, mean_loss
from tasks.opinions import LOWERED, RUN, opinions

pytest.importorskip("sklearn", reason="metrics of tasks need scikit-learn")


def small(**changes: Any) -> ModelSpec:
    fields = {"vocab_size": 1, "width": 16, "depth": 1, "context": 16, "layers": (layer("heads=2, mask=full"),)}
    return ModelSpec(**{**fields, **changes})


def fitted(records: list[Record], task: Classify | None = None, context: int = 16) -> FittedClassify:
    return (task or Classify()).fit(records, LOWERED, context=context)


def trained(task: Classify, parts: Parts, **changes: Any) -> TaskRun:
    known = task.fit(parts.train, LOWERED, context=RUN.context)
    source = TaskSource(known, parts.train, parts.validation)
    run = RUN.replace(**changes)
    return train_task(known, source, parts, known.complete(small()), run, device=torch.device("cpu"))


def test_a_task_has_a_text_form() -> None:
    assert set(known_tasks()) >= {"classify", "tag"}
    task = read_task('classify(text=review, label="star rating", pooling=attention, several=true)')
    assert task == Classify(text="review", label="star rating", pooling="attention", several=True)
    assert read_task("classify(text=1, label=2)") == Classify(text="1", label="2")
    assert read_task("classify") == Classify()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clasify(text=a)", "unknown task 'clasify'; did you mean 'classify'?"),
        ("classify(tex=a)", "classify.tex is unknown; did you mean 'text'?"),
        ("classify(text=a", "cannot read task"),
        ("classify(review)", "say which option review is"),
        ("classify(text=a, text=b)", "cannot read task|given twice"),
        ("classify(text=label)", "different columns"),
        ("classify(dropout=1)", "less than 1"),
        ("classify(metric=micro_f1)", "for several labels"),
        ("classify(text=open('x'))", "expected a number, a name or text"),
    ],
)
def test_text_forms_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        read_task(text)


@pytest.mark.parametrize("pooling", ["mean", "first", "attention", "max"])
def test_padding_and_neighbours_change_nothing(pooling: Any) -> None:
    records = opinions(6, 1)
    known = fitted(records, Classify(pooling=pooling))
    model = known.build(known.complete(small()), seed=0).eval()
    if model.pooling.query is not None:
        torch.nn.init.normal_(model.pooling.query)
    together = known.batch([known.example(one) for one in records], torch.device("cpu"))
    assert together.layout is not None  # some rows are padded
    whole = model(together.ids, together.layout).logits
    assert whole.shape == (6, 1, 2)
    for place, record in enumerate(records):
        alone = known.batch([known.example(record)], torch.device("cpu"))
        torch.testing.assert_close(whole[place], model(alone.ids, alone.layout).logits[0])


def test_pooling_by_attention_weighs_tokens() -> None:
    known = fitted(opinions(6, 1), Classify(pooling="attention"))
    pooling = known.build(known.complete(small()), seed=0).pooling
    x = torch.randn(2, 3, 16)
    torch.testing.assert_close(pooling(x, None), x.mean(1))  # w begins at zero
    pooling.query.data.copy_(100 * x[0, 1])
    torch.testing.assert_close(pooling(x[:1], None), x[:1, 1])


def test_hidden_words_are_seen_in_training_alone() -> None:
    known = fitted(opinions(6, 1), Classify(word_dropout=0.5, pooling="first"))
    model = known.build(known.complete(small()), seed=0)
    ids = torch.arange(200)[None] % 9 + 5
    assert torch.equal(model.eval().shown(ids), ids)
    shown = model.train().shown(ids)
    hidden = shown != ids
    assert bool((shown[hidden] == known.tokenizer.unknown).all())
    assert 0.2 < float(hidden.float().mean()) < 0.6
    assert not bool(hidden[ids < 7].any())  # special tokens stay


def test_a_pair_is_two_texts_with_a_separator() -> None:
    records = [Record({"a": "one two", "b": "two one", "y": str(n % 2)}, f"line {n}") for n in range(4)]
    known = fitted(records, Classify(text="a", pair="b", label="y"))
    ids = known.example(records[0]).ids.tolist()
    assert ids[2] == known.tokenizer.separator
    assert ids[:2] == ids[:2:-1]
    assert known.task.asked == ("a", "b")


def test_a_small_model_learns_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    parts = Parts(opinions(240, 1), opinions(40, 2), opinions(60, 3))
    run = trained(Classify(word_dropout=0.05), parts)
    assert run.test is not None
    assert run.test.values["accuracy"] > 0.95
    assert [one.step for one in run.curve] == [30, 60, 90]
    assert run.best == max(run.curve, key=lambda one: (one.value, -one.loss))
    known = Classify(word_dropout=0.05).fit(parts.train, LOWERED, context=RUN.context)
    save_task_model(tmp_path / "model", run.model, known.complete(small()), known)
    model = load(tmp_path)  # what holds the folder `model` will do
    assert model.predict(list(parts.test)) == known.predict(run.model, parts.test)
    (answer,) = model.predict(["the film was lovely of the"])
    assert (answer.value, set(answer.fields)) == ("good", {"probability", "probabilities"})
    assert model.predict([{"text": "a dire plot"}])[0].value == "bad"
    assert model.score(parts.test) == run.test
    with pytest.raises(DataError, match=r"predict takes a list.*predict\(\[\.\.\.\]\)"):
        model.predict("the film was lovely")
    with pytest.raises(DataError, match="input 2 has no column 'text'"):
        model.predict([{"text": "a"}, {"txt": "b"}])
    (tmp_path / "model" / "labels.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"labels\.json is missing or damaged"):
        load(tmp_path / "model")


def test_several_labels_are_learned() -> None:
    records = []
    for number in range(200):
        drawn = np.random.default_rng(number)
        held = [name for name in ("red", "blue", "green") if drawn.random() < 0.4]
        words = [*held, *drawn.choice(["a", "the", "of"], 3)]
        records.append(Record({"text": " ".join(words), "label": ",".join(held)}, f"line {number}"))
    task = Classify(several=True, word_dropout=0, metric="micro_f1", class_weights="balanced")
    run = trained(task, Parts(records[:150], records[150:]))
    assert run.validation.values["micro_f1"] > 0.9
    known = task.fit(records, LOWERED, context=16)
    (answer,) = known.predict(run.model, [Record({"text": "red and green"}, "x")])
    assert set(answer.fields["probabilities"]) == {"red", "blue", "green"}
    for cell in ('["red", "blue"]', " red , blue"):
        assert known.task.labels_of(Record({"text": "x", "label": cell}, "x")) == ("red", "blue")
    assert known.task.labels_of(Record({"text": "x", "label": "[red"}, "x")) == ("[red",)
    from_list = Record({"text": "x", "label": ["red", "blue"]}, "x")
    assert known.example(from_list).targets.tolist() == [[1.0, 0.0, 1.0]]


def test_labels_of_a_list_are_those_of_cells() -> None:
    task = Classify(several=True)
    for held in ([True, 1, 2.0, " a ", "", "a"], '[true, 1, 2.0, "a"]', "true,1,2,a"):
        assert task.labels_of(Record({"text": "x", "label": held}, "x")) == ("true", "1", "2", "a")
    assert task.labels_of(Record({"text": "x", "label": 2.0}, "x")) == ("2",)
    for held, what in (([["a"]], "a list"), (["a", None], "null"), ({"a": 1}, "a mapping")):
        with pytest.raises(DataError, match=f"line 3: column 'label' holds {what}, not a label"):
            task.labels_of(Record({"text": "x", "label": held}, "line 3"))


def test_a_label_that_is_wrongly_said_counts_in_micro_f1() -> None:
    """Truth: red, blue, red; said: red and green, green, nothing: 1 right, 2 wrong, 2 missed."""
    truth, said = (["red"], ["blue"], ["red"]), (["red", "green"], ["green"], [])
    records = [Record({"text": "x", "label": ",".join(one)}, f"line {n}") for n, one in enumerate(truth)]
    task = Classify(several=True, metric="micro_f1")
    known = task.fit([*records, Record({"text": "x", "label": "green"}, "line 9")], LOWERED, context=16)
    scores = known.score([Prediction(one) for one in said], records)
    assert scores.values["micro_f1"] == pytest.approx(2 * 1 / (2 * 1 + 2 + 2))
    assert scores.values["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)  # of red and blue, which the records hold


def test_a_class_weighs_as_its_rarity_says() -> None:
    records = [Record({"text": "a b", "label": "often" if n else "rarely"}, f"line {n}") for n in range(4)]
    known = fitted(records, Classify(class_weights="balanced"))
    assert known.weights is not None
    np.testing.assert_allclose(known.weights, [4 / (2 * 3), 4 / 2])
    part = known.batch([known.example(one) for one in records], torch.device("cpu"))
    logits = torch.randn(4, 1, 2)
    each = torch.nn.functional.cross_entropy(logits[:, 0], part.targets[:, 0], reduction="none")
    weights = torch.tensor([2.0, 2 / 3, 2 / 3, 2 / 3])
    torch.testing.assert_close(cross_entropy(logits, part), (each * weights).mean())
    halves = [
        known.batch([known.example(one) for one in records[i : i + 2]], torch.device("cpu"), scored=4) for i in (0, 2)
    ]
    split = sum(cross_entropy(logits[i : i + 2], half) for i, half in zip((0, 2), halves, strict=True))
    torch.testing.assert_close(split, cross_entropy(logits, part))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"text": "a film", "label": "goood"}, "line 9: label 'goood' does not occur.*did you mean 'good'"),
        ({"text": "a film", "label": ""}, "line 9: column 'label' holds an empty text, not a label"),
        ({"text": "a film"}, "line 9 has no column 'label'"),
        ({"text": "  ", "label": "good"}, "line 9: column 'text' holds no text"),
        ({"text": ["a"], "label": "good"}, "line 9: column 'text' holds list"),
    ],
)
def test_what_cannot_be_learned_from_is_named(values: dict[str, Any], says: str) -> None:
    known = fitted(opinions(10, 1))
    with pytest.raises(DataError, match=says):
        known.example(Record(values, "train.csv, line 9"))


@pytest.mark.parametrize(("held", "label"), [(True, "true"), (1, "1"), (1.0, "1"), (0.5, "0.5"), (" good ", "good")])
def test_a_label_of_json_is_that_of_csv(held: Any, label: str) -> None:
    assert Classify().labels_of(Record({"text": "a film", "label": held}, "x.jsonl, line 1")) == (label,)


def test_one_label_is_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="holds 1 labels; at least 2 are needed"):
        fitted([Record({"text": "a", "label": "x"}, "f, line 1")] * 3)


@pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")
def test_long_texts_are_cut_and_counted() -> None:
    records = [Record({"text": "a b " * (10 * (n + 1)), "label": str(n)}, "line") for n in range(2)]
    with pytest.warns(UserWarning, match="1 of 2 training texts are longer than 30 tokens"):
        known = fitted(records, context=30)
    assert known.example(records[1]).length == 30


def test_empty_and_very_long_texts_are_predicted() -> None:
    known = fitted(opinions(10, 1))
    model = known.build(known.complete(small()), seed=0)
    texts = ["", "film " * 5000, "☃ ☃"]
    answers = known.predict(model, [Record({"text": text}, "x") for text in texts])
    assert [one.value in ("good", "bad") for one in answers] == [False, True, True]
    assert answers[0].as_data() == {"prediction": None, "probability": 0.0, "probabilities": {}}
    several = fitted(opinions(10, 1), Classify(several=True))
    model = several.build(several.complete(small()), seed=0)
    assert several.predict(model, [Record({"text": " "}, "x")])[0].value == []


def test_an_unanswered_record_is_wrong_and_does_not_end_the_scoring() -> None:
    records = [Record({"text": "x", "label": label}, f"line {n}") for n, label in enumerate("ab")]
    answers = [Prediction(None, {"probability": 0.0}), Prediction("b", {"probability": 1.0})]
    scores = fitted(records).score(answers, records)
    assert (scores.values["accuracy"], scores.values["calibration_error"]) == (0.5, 0.0)


def test_rare_classes_weigh_in_the_validation_loss_as_in_training() -> None:
    records = opinions(40, 3, share=0.8)
    known = fitted(records, Classify(class_weights="balanced"))
    model = known.build(known.complete(small()), seed=0).eval()
    examples = [known.example(one) for one in records]
    part = known.batch(examples, torch.device("cpu"))
    trained = cross_entropy(model(part.ids, part.layout).logits, part).item()
    assert mean_loss(model, known, examples, tokens=10**6) == pytest.approx(trained, rel=1e-5)


def test_figures_are_those_computed_by_hand() -> None:
    labels = ["a", "a", "a", "b"]
    known = fitted([Record({"text": "x y x y", "label": label}, "line") for label in labels])
    records = [Record({"text": f"text {n}", "label": label}, f"line {n}") for n, label in enumerate(labels)]
    given = [("a", 0.9), ("b", 0.6), ("a", 0.8), ("a", 0.99)]
    scores = known.score([Prediction(label, {"probability": p}) for label, p in given], records)
    assert scores.values["accuracy"] == 0.5
    assert scores.values["macro_f1"] == pytest.approx((2 * 2 / (2 * 2 + 1 + 1) + 0) / 2)
    assert scores.details["confusion"] == [[2, 1], [1, 0]]
    assert [one["where"] for one in scores.details["mistakes"]] == ["line 3", "line 1"]  # the surest first
    baseline = known.baseline(records, records)
    assert baseline["majority"].values["accuracy"] == 0.75
    with pytest.raises(DataError, match="no records to be scored"):
        known.score([], [])


def test_calibration_error_by_hand() -> None:
    confidence, right = np.array([0.99, 0.98, 0.52, 0.53]), np.array([True, False, True, True])
    expected = abs(0.985 - 0.5) / 2 + abs(0.525 - 1.0) / 2
    bins = calibration_bins(confidence, right)
    assert [one["count"] for one in bins] == [2, 2]
    assert calibration_error(bins) == pytest.approx(expected)


def test_figures_over_seeds() -> None:
    known = fitted(opinions(10, 1))
    records = opinions(4, 5)
    right = known.score([Prediction(one["label"]) for one in records], records)
    wrong = known.score([Prediction("bad" if one["label"] == "good" else "good") for one in records], records)
    figure = over_seeds([right, wrong])["accuracy"]
    assert (figure.mean, figure.deviation) == (0.5, pytest.approx(0.5**0.5))
    assert over_seeds([right])["accuracy"].deviation is None


def test_the_trunk_is_any_encoder() -> None:
    known = fitted(opinions(10, 1))
    model = known.build(known.complete(small(position="learned", norm="rms")), seed=0)
    assert isinstance(model.trunk, Transformer)
    assert model.trunk.spec.vocab_size == known.tokenizer.vocab_size


def test_real_files_become_examples(shared_data: Path) -> None:
    records = read_records(shared_data / "sst2" / "dev.tsv", ("1", "2"))
    known = Classify(text="1", label="2").fit(records, LOWERED, context=64)
    assert (len(records), known.labels) == (872, ("0", "1"))
    shared = read_records(shared_data / "stockemotions" / "val_stockemo.csv", ("processed", "emo_label"))
    assert len(fitted(shared, Classify(text="processed", label="emo_label"), context=128).labels) == 12


@pytest.mark.filterwarnings("ignore::attentune.data.encoding.DataWarning")
def test_of_a_pair_the_longer_text_is_cut_first() -> None:
    rows = [("a b c d e f", "x"), ("a b c d e f", "u v w x y z"), ("a", "u v w x y z"), ("a b", "u v")]
    records = [Record({"text": a, "other": b, "label": str(n % 2)}, f"line {n}") for n, (a, b) in enumerate(rows)]
    known = Classify(pair="other").fit(records, LOWERED, context=6)
    kept = [known.tokenizer.tokens(known.example(one).ids) for one in records]
    between = known.tokenizer.tokens(np.array([known.tokenizer.separator]))[0]
    assert kept == [
        ["a", "b", "c", "d", between, "x"],
        ["a", "b", "c", between, "u", "v"],
        ["a", between, "u", "v", "w", "x"],
        ["a", "b", between, "u", "v"],
    ]


def test_one_label_is_too_few_and_baselines_need_words() -> None:
    one = [
        Record({"text": "good", "label": "x"}, "a.csv, line 2"),
        Record({"text": "bad", "label": ""}, "a.csv, line 3"),
    ]
    with pytest.raises(DataError, match=r"a\.csv: column 'label' holds 1 labels; at least 2 are needed"):
        fitted(one, Classify(several=True))
    signs = [Record({"text": "\N{SMILING FACE WITH SUNGLASSES}", "label": str(n % 2)}, f"line {n}") for n in range(4)]
    with pytest.warns(DataWarning, match="hold no words that could be compared: a baseline is left out"):
        assert fitted(signs).baseline(signs, signs).keys() == {"majority"}
