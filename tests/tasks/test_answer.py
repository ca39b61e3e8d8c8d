"""Answers in texts: windows, marks, the best span, figures as the official script, thresholds, and that it learns."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attentune.cli import main
from attentune.data.encoding import DataWarning
from attentune.data.records import Record, read_records
from attentune.data.splits import split
from attentune.errors import DataError, SpecError
from attentune.mechanisms import layer
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec, OptimizerSpec, RunSpec, ScheduleSpec
from attentune.tasks._answer_scores import best_of, best_threshold, exact, f1, normalised
from attentune.tasks._answer_words import Frequencies, _nearness, marks_of, sentence_ends, words_of
from attentune.tasks._reader import Reader, best_spans
from attentune.tasks._word_overlap import sliding_window
from attentune.tasks.answer import Answer, FittedAnswer
from attentune.tasks.answers import Rows
from attentune.tasks.folder import load, save_task_model
from attentune.tasks.reading import drawn_apart
from attentune.tasks.registry import read_task
from attentune.tasks.task import Prediction
from attentune.training.task import Parts, train_task
from attentune.training.task_source import TaskSource
from tasks.questions import questions, write

PIECES = DataSpec(tokenizer="bpe", vocab_size=400)
SMALL = Answer(longest_question=16, longest_answer=8, overlap=8, dropout=0.0, word_dropout=0.0)


def fitted(records: list[Record], context: int = 96, task: Answer = SMALL) -> FittedAnswer:
    return task.fit(records, PIECES, context=context)


def small(known: FittedAnswer, width: int = 32) -> ModelSpec:
    layers = (layer("heads=2, mask=full, position=rotary"),)
    return known.complete(ModelSpec(vocab_size=1, width=width, depth=2, context=8, layers=layers))


def record(context: str, question: str, *answers: str, **more: Any) -> Record:
    held = [{"text": text, "start": context.index(text)} for text in answers]
    return Record({"context": context, "question": question, "answers": held, **more}, "q.json, question 7")


@pytest.mark.parametrize(
    ("said", "right", "same", "overlap"),
    [
        ("The  Cat!", "cat", 1, 1),
        ("a big cat", "the big dog", 0, 0.5),  # `big` of two words each
        ("New York City", "York", 0, 0.5),  # precision 1/3, recall 1
        ("", "", 1, 1),
        ("the", "an", 1, 1),  # both are nothing
        ("", "cat", 0, 0),
        ("cat cat", "cat", 0, 2 / 3),
    ],
)
def test_figures_by_hand(said: str, right: str, same: float, overlap: float) -> None:
    assert (exact(said, right), f1(said, right)) == (same, pytest.approx(overlap))


def test_the_most_like_of_the_right_answers_counts() -> None:
    assert normalised("An  U.S. Army's  theater") == "us armys theater"
    assert best_of(f1, "Oslo", ["in Oslo", "Oslo"]) == 1
    assert best_of(exact, "Oslo", []) == 0 and best_of(exact, "", []) == 1
    assert best_of(exact, "", ["Oslo", "the"]) == 0  # `the` is nothing, and so no answer of its own


def test_scores_of_both_sorts_of_questions() -> None:
    records = [record("Bell lives in Oslo.", "Where?", "Oslo"), record("Bell.", "Where?", impossible=True)]
    known = fitted([*questions(20, 1, unanswered=0.5)])
    found = known.score([Prediction("Oslo, Bell", {"score": 0.9}), Prediction("", {"score": 0.1})], records)
    assert found.main == "f1"
    assert found.values == pytest.approx(
        {
            "exact": 50.0,
            "f1": 100 * (2 / 3 + 1) / 2,
            "answerable_exact": 0.0,
            "answerable_f1": 200 / 3,
            "unanswerable": 100.0,
        }
    )
    wrong = known.score([Prediction("Bell", {"score": 0.9}), Prediction("", {"score": 0.1})], records)
    assert [one["expected"] for one in wrong.details["mistakes"]] == [["Oslo"]]
    assert "where" in found.text
    with pytest.raises(DataError, match="no records"):
        known.score([], [])


def test_the_threshold_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        margins = np.round(random.normal(size=12), 1)  # some are equal
        answered, silent = random.random(12), (random.random(12) < 0.5).astype(float)

        def mean(cut: float, margins: Any = margins, answered: Any = answered, silent: Any = silent) -> float:
            return float(np.where(margins > cut, answered, silent).mean())

        everything = [mean(cut) for cut in (*(margins - 0.01), margins.max())]
        assert mean(best_threshold(margins, answered, silent)) == pytest.approx(max(everything))


def test_the_best_span_is_found_as_by_trying_all() -> None:
    logits = torch.randn(6, 2, 11)
    inside = torch.rand(6, 11) < 0.7
    inside[:, 4] = True
    found = best_spans(logits, inside, longest=3)
    for row in range(6):
        every = {
            (first, last): float(logits[row, 0, first] + logits[row, 1, last])
            for first, last in itertools.product(range(11), repeat=2)
            if first <= last < first + 3 and inside[row, first] and inside[row, last]
        }
        best = max(every, key=lambda pair: every[pair])
        assert (int(found.first[row]), int(found.last[row])) == best
        assert float(found.margin[row]) == pytest.approx(every[best] - float(logits[row, :, 0].sum()), abs=1e-5)
        likely = logits[row].log_softmax(-1)
        assert float(found.log_probability[row]) == pytest.approx(
            float(likely[0, best[0]] + likely[1, best[1]]), abs=1e-5
        )


def test_marks_tell_what_of_the_question_stands_where() -> None:
    frequencies = Frequencies(100, {"the": 90, "of": 80, "king": 3})
    context = "The king came. Of the rest nothing."
    places = np.array([(word.start, word.end) for word in words_of(context)])
    marks = marks_of(context, "Who is the KING of?", places, frequencies)
    # log(1 + 100/91) + log(1 + 100/4) = 4.0 in the first sentence; log(1 + 100/81) + log(1 + 100/91) = 1.5 in the next
    assert marks.tolist() == [1 + 9 + 1, 1 + 9 + 2, 1 + 9, 1 + 3 + 1, 1 + 3 + 1, 1 + 3, 1 + 3]
    assert marks_of(context, "?", places, frequencies).tolist() == [1] * 7
    assert sentence_ends("One. Two!  Three") == [5, 11, 16]
    assert [word.form for word in words_of("Ab 天地 c-d")] == ["ab", "天", "地", "c", "d"]


def test_the_words_of_many_sentences_are_gone_through_once() -> None:
    class Counted(list[Any]):
        times = 0

        def __iter__(self) -> Any:
            self.times += 1
            return super().__iter__()

    context = "the king. " * 5 + "the king of. " + "nothing. " * 5
    frequencies = Frequencies(100, {"the": 90, "of": 80, "king": 3})
    held = Counted(word for word in words_of(context) if word.form != "nothing")
    classes = _nearness(held, sentence_ends(context), len(context) + 1, frequencies)
    assert held.times == 2
    assert classes.tolist() == [2] * 50 + [3] * 13 + [0] * 46


@pytest.mark.parametrize("text", ["Der Ärger: naïve Köln…  天地 🙂 e\u0301te\u0301 x\r\n\t y", "A\ud800b c"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_places_are_those_of_the_text_as_it_was(text: str, lowercase: bool) -> None:
    known = Answer().fit(questions(20, 1), PIECES.replace(lowercase=lowercase), context=128)
    ids, places = known.tokenizer.encode_with_places([text])[0]
    assert ids.tolist() == known.tokenizer.encode(text).tolist()
    covered = {place for start, end in places for place in range(start, end)}
    assert covered >= {place for place, letter in enumerate(text) if not letter.isspace()}
    for place, (start, end) in enumerate(places):
        held = known.tokenizer.tokens(ids[place : place + 1])[0].strip()
        piece = text[start:end].encode("utf-8", "replace").decode()
        if held.isascii() and held.isalpha() and piece.isascii():
            assert held == (piece.lower() if lowercase else piece)


def test_windows_cover_a_long_context_and_overlap() -> None:
    with pytest.warns(DataWarning, match="40 of 40 training contexts are longer than the model's"):
        known = fitted(questions(40, 1, longer=12), context=48)
    (asked,) = questions(1, 5, longer=30)
    windows = list(known.windows(asked))
    assert len(windows) > 3
    assert all(len(window.ids) <= 48 for window in windows)
    ids, _ = known.tokenizer.encode_with_places([asked["context"]])[0]
    before = len(windows[0].ids) - int((windows[0].marks > 0).sum())
    joined = list(windows[0].ids[before:])
    for window in windows[1:]:
        assert joined[-8:] == list(window.ids[before : before + 8])
        joined += list(window.ids[before + 8 :])
    assert joined == ids.tolist()
    examples = known.examples(asked)
    assert len(examples) == len(windows)
    span = known.task.spans_of(asked)[0]
    held = [example for example in examples if example.targets.any()]
    assert held  # and the others have no answer
    for window, example in zip(windows, examples, strict=True):
        if example.targets.any():
            first, last = example.targets
            start, end = window.places[first, 0], window.places[last, 1]
            assert asked["context"][start:end] == span.text
    assert known.example(asked).targets.tolist() == held[0].targets.tolist()


def test_rows_are_question_and_context_apart() -> None:
    known = fitted(questions(20, 1))
    (asked,) = questions(1, 5)
    (window,) = known.windows(asked)
    ids = window.ids.tolist()
    between = ids.index(known.tokenizer.separator)
    assert ids[0] == known.tokenizer.classifier
    assert known.tokenizer.decode(ids[1:between]) == asked["question"]
    assert known.tokenizer.decode(ids[between + 1 :]) == asked["context"]
    assert (window.marks[: between + 1] == 0).all() and (window.marks[between + 1 :] > 0).all()


@torch.no_grad()
def test_marks_are_read_and_questions_hold_no_answer() -> None:
    known = fitted(questions(20, 1))
    model = known.build(small(known), seed=0).eval()
    part = known.batch([known.example(one) for one in questions(3, 5)], torch.device("cpu"))
    marks = part.inputs["marks"]
    logits = model(part.ids, part.layout, marks=marks).logits
    assert logits.shape == (3, 2, marks.shape[1])
    counts = (marks > 0) | (torch.arange(marks.shape[1]) == 0)
    assert ((logits > -1e4) == counts[:, None]).all()
    other = model(part.ids, part.layout, marks=marks.clamp(max=1)).logits
    assert not torch.allclose(logits[:, :, 0], other[:, :, 0], atol=1e-4)


def trained(parts: Parts, known: FittedAnswer, steps: int = 160) -> Any:
    run = RunSpec(
        data=PIECES,
        context=known.context,
        batch=6,
        steps=steps,
        evaluate_every=steps // 2,
        optimizer=OptimizerSpec(learning_rate=5e-3),
        schedule=ScheduleSpec(warmup=10),
        diagnose_every=0,
    )
    source = TaskSource(known, parts.train, parts.validation)
    return train_task(known, source, parts, small(known), run, device=torch.device("cpu"))


def test_a_small_model_learns_more_than_words_tell_and_comes_back(tmp_path: Path) -> None:
    parts = Parts(questions(250, 1), questions(30, 2), questions(50, 3))
    known = fitted(list(parts.train))
    done = trained(parts, known)
    assert done.test is not None
    words = known.baseline(parts.train, parts.test)["sliding window of words"]
    assert done.test.values["f1"] > words.values["f1"] + 15
    assert float(done.model.threshold) == 0.0  # every question has an answer
    save_task_model(tmp_path / "model", done.model, small(known), known)
    model = load(tmp_path / "model")
    answers = model.predict(list(parts.test))
    assert answers == known.predict(done.model, parts.test)
    for one, answer in zip(parts.test, answers, strict=True):
        assert one["context"][answer.fields["start"] : answer.fields["end"]] == answer.value
        assert 0 < answer.fields["score"] <= 1


def test_what_is_not_answered_is_told_by_a_threshold(tmp_path: Path) -> None:
    parts = Parts(questions(250, 1, unanswered=0.4), questions(40, 2, unanswered=0.4), questions(60, 3, unanswered=0.4))
    known = fitted(list(parts.train))
    assert known.unanswerable
    done = trained(parts, known)
    assert done.test is not None
    words = known.baseline(parts.train, parts.test)
    assert done.test.values["f1"] > max(one.values["f1"] for one in words.values()) + 10
    assert words["never an answer"].values["unanswerable"] == 100
    save_task_model(tmp_path / "model", done.model, small(known), known)
    model = load(tmp_path / "model")
    assert isinstance(model.model, Reader) and isinstance(done.model, Reader)
    assert float(model.model.threshold) == float(done.model.threshold) != 0.0
    for answer in model.predict(list(parts.test)):
        assert (answer.value == "") == (answer.fields["margin"] <= 0) == (answer.fields["start"] is None)
    model.model.threshold.fill_(float("inf"))
    assert {answer.value for answer in model.predict(list(parts.test))} == {""}


def test_an_empty_context_has_no_answer() -> None:
    known = fitted(questions(20, 1))
    model = known.build(small(known), seed=0)
    given = [Record({"question": "Where?", "context": text}, "x") for text in ("", " \n", "Bell.")]
    answers = known.predict(model, given)
    assert [answer.fields["start"] is None for answer in answers] == [True, True, False]
    assert answers[0].as_data() == {"prediction": "", "score": 0.0, "start": None, "end": None}


@pytest.mark.parametrize("question", ["", " \n", None])
def test_a_question_without_text_is_answered_without_a_guess(question: str | None) -> None:
    known = fitted(questions(20, 1))
    model = known.build(small(known), seed=0)
    (blank, asked) = known.predict(
        model, [Record({"question": text, "context": "Bell."}, "x") for text in (question, "Where?")]
    )
    assert blank.as_data() == {"prediction": "", "score": 0.0, "start": None, "end": None}
    assert asked.fields["start"] is not None


def test_all_answers_have_the_same_fields() -> None:
    known = fitted(questions(20, 1, unanswered=0.5))
    model = known.build(small(known), seed=0)
    assert isinstance(model, Reader)
    given = [Record({"question": "Where?", "context": text}, "x") for text in ("Bell lives in Oslo.", "")]
    for threshold in (-1e9, 1e9):
        model.threshold.fill_(threshold)
        found, nothing = (answer.as_data() for answer in known.predict(model, given))
        assert list(found) == list(nothing) == ["prediction", "score", "start", "end", "margin"]
        assert nothing["margin"] is None and (found["margin"] > 0) == (threshold < 0)
        assert Rows("csv").text([nothing, found]).startswith("prediction,score,start,end,margin\n,0.0,,,\n")


def test_words_that_both_have_guess_an_answer() -> None:
    context = "Many people came. The capital of the north is Oslo, they say. Rome is another town."
    frequencies = Frequencies(100, dict.fromkeys(("the", "of", "is", "they", "many", "a"), 50))
    start, end = sliding_window(context, "What is the capital of the north?", frequencies)
    assert context[start:end] == "Oslo"
    assert sliding_window("?!", "What?", frequencies) == (0, 0)
    assert sliding_window("What?", "What?", frequencies) == (0, 4)  # no candidate: the first word


def test_tables_may_hold_answers_as_the_published_ones_do() -> None:
    context, task = "Bell lives in Oslo.", Answer()
    held = {"text": ["Oslo", " in Oslo"], "answer_start": [14, 10]}
    one = Record({"context": context, "question": "Where?", "answers": held}, "t.jsonl, line 1")
    assert [(span.text, span.start) for span in task.spans_of(one)] == [("Oslo", 14), ("in Oslo", 11)]
    nothing = Record({"context": context, "question": "Who?", "answers": {"text": [], "answer_start": []}}, "x")
    assert task.spans_of(nothing) == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"answers": [{"text": "Rome", "start": 0}]}, "question 7: the answer 'Rome' does not stand at 0"),
        ({"answers": [{"text": "Oslo", "start": -1}]}, "does not stand at -1"),
        ({"answers": [{"text": "Oslo"}]}, "whose text is text and whose start is null"),
        ({"answers": "Oslo"}, "column 'answers' holds text, not answers"),
        ({"answers": []}, "question 7: column 'answers' holds no answer, and `impossible` is not true"),
        ({"context": "", "answers": [], "impossible": True}, "question 7: column 'context' holds no text"),
        ({"question": " "}, "question 7: column 'question' holds no text"),
        ({"question": None}, "question 7: column 'question' holds no text"),
    ],
)
def test_what_cannot_be_learned_from_is_named(values: dict[str, Any], says: str) -> None:
    known = fitted(questions(20, 1))
    whole = {
        "context": "Bell lives in Oslo.",
        "question": "Where?",
        "answers": [{"text": "Oslo", "start": 14}],
        "impossible": False,
    }
    with pytest.raises(DataError, match=says):
        known.example(Record({**whole, **values}, "q.json, question 7"))


def test_options_and_data_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="questions: no question has an answer in column 'answers'"):
        fitted(questions(10, 1, unanswered=1.0))
    with pytest.raises(DataError, match=r"context=26 leaves no room.*must be more than 26"):
        fitted(questions(10, 1), context=26)
    with pytest.raises(SpecError, match="different columns"):
        Answer(question="context")
    assert read_task("answer(article=none)").drawn_whole == ()


def test_without_articles_the_questions_of_a_text_stay_together() -> None:
    plain = [
        Record({name: value for name, value in one.values.items() if name != "title"}, one.where)
        for one in questions(40, 1)
    ]
    kept, drawn = drawn_apart(Answer(), plain, 0.2)
    assert len(kept) + len(drawn) == 40 and drawn
    assert not {one["context"] for one in kept} & {one["context"] for one in drawn}
    with pytest.raises(DataError, match="title"):
        drawn_apart(Answer(article="title"), plain, 0.2)
    for title in ("", "the only one"):
        alike = [Record({**one.values, "title": title}, one.where) for one in questions(40, 1)]
        kept, drawn = drawn_apart(Answer(), alike, 0.2)
        assert len(kept) + len(drawn) == 40 and drawn
        assert not {one["context"] for one in kept} & {one["context"] for one in drawn}
        with pytest.raises(DataError, match="1 groups leaves one part empty"):
            drawn_apart(Answer(article="title"), alike, 0.2)
    same = [Record({**one.values, "context": "Bell."}, one.where) for one in alike]
    with pytest.raises(DataError, match="1 groups leaves one part empty"):
        drawn_apart(Answer(), same, 0.2)


@pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")
def test_from_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    train, test = (
        write(tmp_path / f"{name}.json", questions(count, seed, unanswered=0.3))
        for name, count, seed in (("train", 120, 1), ("test", 20, 2))
    )
    broken = json.loads(test.read_text())
    broken["data"][0]["paragraphs"][0]["qas"][0] |= {
        "answers": [{"text": "Bell", "answer_start": 999}], "is_impossible": False
    }  # fmt: skip
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    task = "answer(longest_question=16, overlap=8)"
    line = ["train", "--task", task, "--data", str(train), "--test-path", str(test), "--data.validation", "0.3"]
    line += ["--data.tokenizer", "bpe", "--data.vocab-size", "400", "--context", "96", "--steps", "6", "--json"]
    line += ["--model.width", "16", "--model.depth", "1", "--model.layers", "heads=2,mask=full"]
    assert main([*line, "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["baselines"]) == {"sliding window of words", "never an answer"}
    assert {"exact", "f1", "unanswerable"} <= result["test"].keys()
    assert main(["evaluate", str(tmp_path / "out"), "--data", str(test), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["records"]["f1"]["mean"] == result["test"]["f1"]["mean"]
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"question": "Where does Bell live?", "context": "Bell lives in Oslo."}) + "\n")
    output = tmp_path / "said.jsonl"
    assert main(["predict", str(tmp_path / "out"), "--input", str(asked), "--output", str(output)]) == 0
    (row,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert row["prediction"] in "Bell lives in Oslo."
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "out"), "--data", str(tmp_path / "broken.json"), "--json"]) == 0
    caught = capsys.readouterr()
    assert "answers that do not stand at their start in the context are left out, of 1 questions" in caught.err
    assert json.loads(caught.out)["count"] == 19
    asked.write_text(json.dumps({"question": "Where?"}) + "\n")
    assert (
        main(["predict", str(tmp_path / "out"), "--input", str(asked), "--output", str(tmp_path / "other.jsonl")]) == 2
    )
    assert "has no column 'context'" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::attentune.data.encoding.DataWarning")
def test_real_questions_become_examples(shared_data: Path) -> None:
    records = read_records(shared_data / "squad" / "squad-v1.1-48-articles.json", ("question", "context", "answers"))
    kept, drawn = split(records, 0.1, group=Answer().drawn_whole[0])
    assert not {one["title"] for one in kept} & {one["title"] for one in drawn}
    some = drawn[:200]
    known = Answer().fit(some, DataSpec(tokenizer="bpe", vocab_size=1000, lowercase=True), context=256)
    right = exact_places = 0
    for one in some:
        windows, examples = list(known.windows(one)), known.examples(one)
        for window, example in zip(windows, examples, strict=True):
            if example.targets.any():
                first, last = example.targets
                said = one["context"][window.places[first, 0] : window.places[last, 1]]
                right += 1
                exact_places += normalised(said) == normalised(one["answers"][0]["text"])
    assert right >= 200
    assert exact_places / right > 0.97  # answers that end within a token are few
    words = known.baseline(some, some)["sliding window of words"]
    assert 10 < words.values["f1"] < 40
