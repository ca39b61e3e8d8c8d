"""Retrieval: the loss in a batch, rankings by hand, the collection that is kept, labelled pairs, and that it learns."""

from __future__ import annotations

import json
import random
import shutil
import sys
import weakref
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attentune.cli import main
from attentune.data.encoding import DataWarning
from attentune.data.records import Record, read_records
from attentune.errors import CheckpointError, DataError, MissingExtraError, SpecError
from attentune.kernels.layout import Layout
from attentune.mechanisms import layer
from attentune.models.checkpoint import WEIGHTS
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec, OptimizerSpec, RunSpec, ScheduleSpec
from attentune.tasks import _ranking, retrieve
from attentune.tasks._matcher import Matcher
from attentune.tasks._ranking import best_cut, bm25, ranked, score_rankings, score_similarities
from attentune.tasks.folder import load, save_task_model
from attentune.tasks.retrieve import COLLECTION, FittedRetrieve, Retrieve
from attentune.tasks.task import Prediction
from attentune.training.losses import cross_entropy
from attentune.training.task import Parts, train_task
from attentune.training.task_source import TaskSource, mean_loss

pytest.importorskip("sklearn", reason="metrics of tasks need scikit-learn")
WORDS = DataSpec(tokenizer="word", vocab_size=300)
THINGS = ["tea", "milk", "rice", "salt", "corn", "fish", "eggs", "soap"]
OTHER_NAMES = ["leaves", "cream", "grain", "crystals", "cobs", "salmon", "shells", "lather"]
CPU = torch.device("cpu")


def faq(count: int, seed: int) -> list[Record]:
    """Questions whose right text has none of their telling words: only training says that tea are leaves."""
    drawn, records = random.Random(seed), []
    for number in range(count):
        thing = number % len(THINGS)
        start = drawn.choice(["where is", "who has", "i look for", "is there any"])
        values = {"question": f"{start} {THINGS[thing]} please", "answer": f"the {OTHER_NAMES[thing]} are on a shelf"}
        records.append(Record(values, f"faq, line {number + 1}"))
    return records


def pairs(count: int, seed: int) -> list[Record]:
    """Two things, alike where the second is the other name of the first."""
    drawn, records = random.Random(seed), []
    for number in range(count):
        thing, other = drawn.randrange(len(THINGS)), drawn.randrange(len(THINGS))
        other = thing if drawn.random() < 0.5 else other
        values = {"question": f"some {THINGS[thing]}", "answer": f"the {OTHER_NAMES[other]}"}
        records.append(Record({**values, "label": str(int(thing == other))}, f"pairs, line {number + 1}"))
    return records


def made(records: list[Record], **options: Any) -> tuple[FittedRetrieve, ModelSpec, Matcher]:
    known = Retrieve(**options).fit(records, WORDS, context=16)
    layers = (layer("heads=2, mask=full, position=rotary"),)
    spec = known.complete(ModelSpec(vocab_size=1, width=32, depth=1, context=8, layers=layers))
    model = known.build(spec, seed=0)
    assert isinstance(model, Matcher)
    return known, spec, model.eval()


def run(steps: int) -> RunSpec:
    return RunSpec(
        data=WORDS,
        context=16,
        batch=8,
        steps=steps,
        evaluate_every=steps // 2,
        optimizer=OptimizerSpec(learning_rate=5e-3),
        schedule=ScheduleSpec(warmup=5),
        diagnose_every=0,
    )


@torch.no_grad()
def test_the_loss_of_a_batch_by_hand() -> None:
    known, _, model = made(faq(24, 1), temperature=0.5)
    examples = [known.example(one) for one in faq(8, 2)[:3]]
    part = known.batch(examples, CPU)
    asked = [model.embed(torch.from_numpy(one.ids)[None].long())[0][0] for one in examples]
    answers = [model.embed(torch.from_numpy(one.source)[None].long())[0][0] for one in examples]
    for vector in (*asked, *answers):
        assert float(vector.norm()) == pytest.approx(1.0, abs=1e-5)
    cosines = torch.stack([torch.stack([q @ a for a in answers]) for q in asked]) / 0.5
    towards = sum(-cosines[row].log_softmax(0)[row] for row in range(3))
    back = sum(-cosines[:, row].log_softmax(0)[row] for row in range(3))
    loss = cross_entropy(model(part.ids, part.layout, **part.inputs).logits, part)
    assert float(loss) == pytest.approx(float(towards + back) / 6, abs=1e-5)
    assert mean_loss(model, known, examples, tokens=1000) == pytest.approx(float(loss), abs=1e-5)


def test_the_same_answer_of_another_row_is_no_wrong_one() -> None:
    known, _, model = made(faq(24, 1))
    records = faq(16, 2)
    part = known.batch([known.example(one) for one in (records[0], records[1], records[8])], CPU)  # 0 and 8 are alike
    logits = model(part.ids, part.layout, **part.inputs).logits
    assert (logits < -1e3).nonzero().tolist() == [[0, 0, 2], [0, 2, 0], [1, 0, 2], [1, 2, 0]]
    assert part.targets.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_padding_changes_no_vector() -> None:
    _, _, model = made(faq(24, 1))
    short, long = torch.tensor([[8, 9]]), torch.tensor([[8, 9, 10, 11, 12]])
    both = torch.tensor([[8, 9, 0, 0, 0], [8, 9, 10, 11, 12]])
    valid = torch.tensor([[True, True, False, False, False], [True] * 5])
    vectors, _ = model.embed(both, Layout.padded(valid))
    torch.testing.assert_close(vectors[:1], model.embed(short)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors[1:], model.embed(long)[0], atol=1e-5, rtol=0)


def test_rare_tokens_weigh_more() -> None:
    records = faq(24, 1)
    known, _, model = made(records)
    please, tea = (int(known.tokenizer.encode(word)[0]) for word in ("please", "tea"))
    texts = [one[column] for one in records for column in ("question", "answer")]
    rows = known.tokenizer.encode_batch(texts)
    share = 24 / sum(map(len, rows))
    assert float(model.weights[please]) == pytest.approx(1e-3 / (1e-3 + share), rel=1e-4)
    assert float(model.weights[tea]) > 4 * float(model.weights[please])
    assert set(made(records, weighting="even")[2].weights.tolist()) == {1.0}


def test_rankings_by_hand() -> None:
    texts = ["a", "b", "c", "d"]
    rows = np.array([[0.1, 0.9, 0.5, 0.5], [0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 0.0, 0.0]])
    records = [Record({"question": "?"}, f"line {n}") for n in range(3)]
    found = [ranked(row, texts, 2) for row in rows]
    assert [one["text"] for one in found[0].fields["found"]] == ["b", "c"]  # of equal ones the first
    assert found[0].as_data() == {
        "prediction": "b", "score": 0.9, "found": [{"text": "b", "score": 0.9}, {"text": "c", "score": 0.5}]
    }  # fmt: skip
    scores = score_rankings(found, [{3}, {1, 2}, ()], records, texts=texts, asked=["x", "y", "z"])
    assert scores.values == pytest.approx(
        {"mrr": (1 / 3 + 1 / 2 + 0) / 3, "recall_at_1": 0.0, "recall_at_5": 2 / 3, "recall_at_10": 2 / 3}
    )
    assert "of 1 questions the right text is not among them" in scores.text
    assert [(one["rank"], one["expected"]) for one in scores.details["mistakes"]] == [(3, "d"), (2, "b")]
    with pytest.raises(DataError, match="no records"):
        score_rankings([], [], [], texts=texts, asked=[])


def test_a_long_ranking_keeps_its_best_places() -> None:
    scores = np.random.default_rng(0).normal(size=5000)
    scores[[7, 9]] = 9.0
    found = ranked(scores, [str(n) for n in range(5000)], 3)
    assert found.order.tolist() == np.argsort(-scores, kind="stable")[:1000].tolist()
    assert found.value == "7"
    for even in (np.zeros(5000), np.random.default_rng(1).integers(2, size=5000).astype(float)):
        order = ranked(even, [str(n) for n in range(5000)], 3).order
        assert order.tolist() == np.argsort(-even, kind="stable")[:1000].tolist()


def test_a_question_with_several_right_answers_is_one_question() -> None:
    pairs = [("when", "now"), ("when ", "soon"), ("where", "here"), ("who", "me")]
    records = [Record({"question": q, "answer": a}, f"line {n}") for n, (q, a) in enumerate(pairs)]
    known = Retrieve().fit(records, WORDS, context=16)
    batch = known.batch([known.example(one) for one in records], torch.device("cpu"))
    assert batch.inputs["same"].nonzero().tolist() == [[0, 1], [1, 0]]
    best = {"when": [1, 0, 2, 3], "where": [2, 0, 1, 3], "who": [3, 2, 1, 0]}
    rows = [ranked(-np.argsort(best[q.strip()]).astype(float), known.texts, 2) for q, _ in pairs]
    found = known.score(rows, records)
    assert found.values["mrr"] == found.values["recall_at_1"] == 1.0
    assert found.text.startswith("3 questions, 4 texts to find")


def test_baselines_need_words() -> None:
    records = [Record({"question": "?!", "answer": "…" * n}, f"line {n}") for n in range(1, 5)]
    with pytest.warns(DataWarning, match="hold no words that could be compared: a baseline is left out"):
        assert Retrieve().fit(records, WORDS, context=16).baseline(records, records) == {}


def test_similarities_by_hand() -> None:
    records = [Record({}, "x")] * 4
    said = [Prediction(value) for value in (0.9, 0.6, 0.55, 0.1)]
    found = score_similarities(said, [1.0, 0.0, 1.0, 0.0], records, graded=False)
    assert found.values == pytest.approx({"accuracy": 0.75, "auc": 0.75, "average_precision": (1 + 2 / 3) / 2})
    assert "auc" not in score_similarities(said, [1.0] * 4, records, graded=False).values
    graded = score_similarities(said, [1.0, 0.7, 0.8, 0.0], records, graded=True)
    assert graded.main == "spearman"
    assert graded.value == pytest.approx(1 - 6 * (0 + 1 + 1 + 0) / (4 * 15))
    assert score_similarities(said, [0.5] * 4, records, graded=True).value == 0.0


def test_a_small_model_learns_what_no_word_tells_and_keeps_its_index(tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="the baseline needs bm25s")
    parts = Parts(faq(96, 1), faq(24, 2), faq(40, 3))
    known, spec, _ = made(list(parts.train))
    source = TaskSource(known, parts.train, parts.validation)
    done = train_task(known, source, parts, spec, run(60), device=CPU)
    assert done.test is not None
    for words in known.baseline(parts.train, parts.test).values():
        assert words.value < 0.5
    assert done.test.value > 0.9
    save_task_model(tmp_path / "model", done.model, spec, known)
    model = load(tmp_path / "model")
    assert isinstance(model.model, Matcher)
    assert model.model.index.shape == (8, 32)
    torch.testing.assert_close(model.model.index.norm(dim=1), torch.ones(8), atol=1e-5, rtol=0)  # filled, and not zeros
    assert sorted(json.loads((tmp_path / "model" / COLLECTION).read_text())["texts"]) == sorted(
        {one["answer"] for one in parts.train}
    )
    answers = model.predict([one["question"] for one in parts.test])
    assert answers == known.predict(done.model, parts.test)
    assert answers[0].fields["found"][0]["text"] == answers[0].value == "the leaves are on a shelf"
    assert len(answers[0].fields["found"]) == 8
    (tmp_path / "model" / COLLECTION).write_text("{}")
    with pytest.raises(CheckpointError, match=r"collection\.json is missing or damaged"):
        load(tmp_path / "model")
    assert (tmp_path / "model" / WEIGHTS).exists()


def test_the_collection_holds_the_answers_of_all_parts_once() -> None:
    known, _, _ = made(faq(8, 1)[:5])
    more = [
        Record({"question": "?", "answer": "the  lather are on\na shelf"}, "x"),
        Record({"question": "?", "answer": "the lather are on a shelf"}, "x"),
    ]
    known.widen(more)
    assert len(known.texts) == 6
    assert known.example(more[0]).targets.tolist() == known.example(more[1]).targets.tolist()
    elsewhere = Record({"question": "?", "answer": "nowhere"}, "x")
    assert known.example(elsewhere).targets[0] == -1


def test_labelled_pairs_are_learned(tmp_path: Path) -> None:
    parts = Parts(pairs(200, 1), pairs(40, 2), pairs(60, 3))
    known, spec, _ = made(list(parts.train), label="label", weighting="even", dropout=0.0)
    source = TaskSource(known, parts.train, parts.validation)
    done = train_task(known, source, parts, spec, run(100), device=CPU)
    assert done.test is not None
    words = known.baseline(parts.train, parts.test)
    assert done.test.value > max(one.value for one in words.values()) + 0.1
    assert done.test.values["auc"] > 0.9
    save_task_model(tmp_path / "model", done.model, spec, known)
    model = load(tmp_path / "model")
    (answer,) = model.predict([{"question": "some tea", "answer": "the leaves"}])
    assert 0.5 < answer.value <= 1 and -1 <= answer.fields["cosine"] <= 1
    with pytest.raises(DataError, match="has no column 'answer'"):
        model.predict([{"question": "some tea"}])


@torch.no_grad()
def test_grades_are_shares_of_the_highest() -> None:
    records = [Record({"question": f"a {n}", "answer": f"b {n}", "label": n % 6}, f"x, line {n}") for n in range(12)]
    known, _, model = made(records, label="label", highest=5)
    assert known.graded
    assert known.example(records[4]).targets.tolist() == pytest.approx([0.8])
    part = known.batch([known.example(one) for one in records], CPU)
    logits = model(part.ids, part.layout, **part.inputs).logits
    expected = -(part.targets * logits.sigmoid().log() + (1 - part.targets) * (1 - logits.sigmoid()).log()).mean()
    assert float(cross_entropy(logits, part)) == pytest.approx(float(expected), abs=1e-5)
    answers = known.predict(model, records)
    assert all(0 <= one.value <= 5 for one in answers)
    found = known.baseline(records, records)
    assert found["usual label"].values["spearman"] == 0.0


def test_bm25_by_hand() -> None:
    pytest.importorskip("bm25s", reason="the baseline needs bm25s")
    (scores, nothing) = bm25(["red tea", "green tea tea", "milk"], ["Tea!", "unknown"])
    weight, mean = log(1 + (3 - 2 + 0.5) / (2 + 0.5)), 6 / 3
    expected = [weight * n / (n + 1.5 * (1 - 0.75 + 0.75 * size / mean)) for n, size in ((1, 2), (2, 3))]
    assert scores.tolist() == pytest.approx([*expected, 0.0], rel=1e-4)
    assert nothing.tolist() == [0, 0, 0]


def test_baselines_never_hold_all_questions_against_all_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bm25s", reason="the baseline needs bm25s")
    records = [Record({"question": f"who has {n}", "answer": f"{n} and {n % 5}"}, f"line {n}") for n in range(40)]
    known = Retrieve().fit(records, WORDS, context=16)
    whole = known.baseline(records, records)
    tables: dict[int, Any] = {}
    most = 0

    def watched(row: np.ndarray[Any, Any], texts: list[str], top: int) -> Prediction:
        nonlocal most
        table = row if row.base is None else row.base
        tables[id(table)] = weakref.ref(table)
        del table
        most = max(most, sum(held.size for one in tables.values() if (held := one()) is not None))
        return ranked(row, texts, top)

    monkeypatch.setattr(retrieve, "ranked", watched)
    monkeypatch.setattr(_ranking, "QUESTIONS", 3)
    found = known.baseline(records, records)
    assert most <= 2 * 3 * 40
    assert {name: one.values for name, one in found.items()} == {name: one.values for name, one in whole.items()}


def test_the_cut_is_the_first_of_the_best() -> None:
    drawn = np.random.default_rng(4)
    for count in (1, 2, 7, 60):
        values, alike = drawn.integers(9, size=count) / 8, drawn.random(count) < 0.5
        cuts = np.unique(values)
        assert best_cut(values, alike) == cuts[int(np.argmax([((values >= cut) == alike).mean() for cut in cuts]))]
    assert best_cut(np.array([0.2, 0.4, 0.6, 0.8]), np.array([False, True, False, True])) == 0.4


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    known, _, _ = made(faq(8, 1))
    with pytest.raises(MissingExtraError, match=r"needs bm25s: pip install 'attentune\[tasks\]'"):
        known.baseline(faq(8, 1), faq(8, 2))


def test_a_record_without_text_is_answered_with_nothing() -> None:
    known, _, model = made(faq(24, 1))
    known.settle(model, [])
    given = [Record({"question": text}, "x") for text in ("", "where is tea", " \n")]
    answers = known.predict(model, given)
    assert [answer.value is None for answer in answers] == [True, False, True]
    assert answers[0].as_data() == {"prediction": None, "score": None, "found": []}
    assert known.predict(model, given[:1]) == answers[:1]
    with pytest.raises(DataError, match="line 3: column 'question' holds no text"):
        known.score(answers[:1], [Record({"question": "", "answer": known.texts[0]}, "line 3")])
    known, _, model = made(pairs(24, 1), label="label")
    (answer,) = known.predict(model, [Record({"question": "tea", "answer": ""}, "x")])
    assert answer.as_data() == {"prediction": None, "cosine": None}


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        ({"answer": ""}, {}, "line 7: column 'answer' holds no text"),
        ({"question": None}, {}, "line 7: column 'question' holds no text"),
        ({"answer": ["a"]}, {}, "column 'answer' holds list, where text is needed"),
        ({"label": "2"}, {"label": "label"}, "column 'label' holds '2', not a number from 0 to highest=1"),
        ({"label": ""}, {"label": "label"}, "column 'label' holds '', not a number"),
        ({"label": "nan"}, {"label": "label"}, "column 'label' holds 'nan', not a number"),
        ({}, {"label": "same"}, "has no column 'same'"),
    ],
)
def test_what_cannot_be_learned_from_is_named(values: dict[str, Any], options: dict[str, Any], says: str) -> None:
    usual = {**options, "label": "label"} if options else {}
    known, _, _ = made(pairs(20, 1), **usual)
    known.task = Retrieve(**options)
    whole = {"question": "some tea", "answer": "the leaves", "label": "1", **values}
    with pytest.raises(DataError, match=says):
        known.example(Record(whole, "x.csv, line 7"))


def test_options_and_data_that_do_not_fit_are_refused() -> None:
    one = [Record({"question": f"a {n}", "answer": "the same", "label": "1"}, f"x.csv, line {n}") for n in range(4)]
    with pytest.raises(DataError, match=r"x\.csv: column 'answer' holds one text"):
        made(one)
    with pytest.raises(DataError, match=r"x\.csv: column 'label' holds the same label everywhere"):
        made(one, label="label")
    with pytest.raises(SpecError, match="different columns"):
        Retrieve(answer="question")
    with pytest.raises(SpecError, match="highest is for labels"):
        Retrieve(highest=5)


@pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")
def test_from_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="the baseline needs bm25s")
    files = {}
    for name, records in (("train", faq(48, 1)), ("test", faq(16, 2))):
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(dict(one.values)) + "\n" for one in records))
    line = ["train", "--task", "retrieve(top=3)", "--data", str(files["train"]), "--test-path", str(files["test"])]
    line += ["--data.tokenizer", "word", "--context", "16", "--steps", "4", "--model.width", "16", "--json"]
    line += ["--model.depth", "1", "--model.layers", "heads=2,mask=full", "--data.validation", "0.3"]
    assert main([*line, "--out", str(tmp_path / "out"), "--drop-duplicates"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["baselines"]) == {"BM25", "TF-IDF"}
    assert main(["evaluate", str(tmp_path / "out"), "--data", str(files["test"]), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["records"]["mrr"]["mean"] == result["test"]["mrr"]["mean"]
    asked, output = tmp_path / "asked.csv", tmp_path / "found.jsonl"
    asked.write_text("question\nwhere is tea\n")
    assert main(["predict", str(tmp_path / "out"), "--input", str(asked), "--output", str(output)]) == 0
    (row,) = [json.loads(text) for text in output.read_text().splitlines()]
    assert len(row["found"]) == 3 and row["found"][0]["text"] == row["prediction"]
    asked.write_text("query\nwhere is tea\n")
    capsys.readouterr()
    assert (
        main(["predict", str(tmp_path / "out"), "--input", str(asked), "--output", str(tmp_path / "other.jsonl")]) == 2
    )
    assert "has no column 'question'" in capsys.readouterr().err


@pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")
def test_a_training_goes_on_with_its_own_collection_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    more = [{"question": "who has tea", "answer": f"the leaves are on shelf {number}"} for number in range(3)]
    parts = {"train": [dict(one.values) for one in faq(48, 1)], "test": more[:1], "other": more[1:2], "longer": more}
    files = {name: tmp_path / f"{name}.jsonl" for name in parts}
    for name, rows in parts.items():
        files[name].write_text("".join(json.dumps(one) + "\n" for one in rows))
    line = ["train", "--task", "retrieve()", "--data", str(files["train"]), "--data.validation", "0.3", "--json"]
    line += ["--data.tokenizer", "word", "--context", "16", "--model.width", "16", "--model.depth", "1"]
    line += ["--model.layers", "heads=2,mask=full", "--steps", "4", "--checkpoint-every", "2"]

    line += ["--no-baselines", "--out", str(tmp_path / "out")]
    assert main([*line, "--test-path", str(files["test"])]) == 0
    weights = tmp_path / "out" / "model" / WEIGHTS
    whole = weights.read_bytes()
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "checkpoint-4")
    assert main([*line, "--test-path", str(files["test"])]) == 0
    assert weights.read_bytes() == whole  # also where it went on from step 2
    capsys.readouterr()
    for name in ("other", "longer"):
        assert main([*line, "--test-path", str(files[name])]) == 2
        assert "was trained with other data, or with other options of the task" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::attentune.data.encoding.DataWarning")
def test_real_questions_find_their_answers_by_words(shared_data: Path) -> None:
    pytest.importorskip("bm25s", reason="the baseline needs bm25s")
    records = read_records(shared_data / "covid_faq" / "faq_covidbert.csv", ("question", "answer"))
    known = Retrieve().fit(records, DataSpec(tokenizer="word", lowercase=True), context=64)
    assert (len(records), len(known.texts)) == (213, 210)
    words = known.baseline(records, records)
    assert words["BM25"].value > 0.45
    alike = read_records(shared_data / "covid_faq" / "eval_question_similarity_en.csv")
    pair = Retrieve(question="question_1", answer="question_2", label="similar")
    found = pair.fit(alike, DataSpec(tokenizer="word", lowercase=True), context=64).baseline(alike, alike)
    assert found["usual label"].value == 0.5 < found["TF-IDF"].value
