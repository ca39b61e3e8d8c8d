"""Summaries: ROUGE as published, several references, the first sentences as a baseline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attentune.data.encoding import DataWarning
from attentune.data.records import Record
from attentune.spec.run import DataSpec
from attentune.tasks.summarize import Summarize
from tasks.sequences import DATA

SCITLDR = Path(__file__).parents[2].parent / "shared" / "data" / "scitldr"
ARTICLE = ["The cat sat on the mat.", "It slept.", "Then it ate fish.", "The end."]


def test_rouge_by_hand() -> None:
    pytest.importorskip("rouge_score")
    # 3 of 4 words said stand among the reference's 3, 1 of 3 pairs among its 2, the longest common run has 3 words
    scores = Summarize().measure(["the cat quickly slept"], [["the cat slept"]])
    assert scores.main == "rouge_l"
    assert scores.values["rouge_1"] == pytest.approx(100 * 2 * 3 / (4 + 3))
    assert scores.values["rouge_2"] == pytest.approx(100 * 2 * 1 / (3 + 2))
    assert scores.values["rouge_l"] == pytest.approx(100 * 2 * 3 / (4 + 3))
    assert Summarize().measure(["cats sleeping"], [["cat sleeps"]]).value == pytest.approx(100)  # stems


def test_the_best_of_several_references_counts() -> None:
    pytest.importorskip("rouge_score")
    scores = Summarize().measure(["a b", "c d"], [["x y", "a b"], ["c x"]])
    assert scores.values["rouge_1"] == pytest.approx((100 + 50) / 2)


def test_words_of_any_script() -> None:
    pytest.importorskip("rouge_score")
    unicode, english = (
        Summarize(words=words).measure(["我们去海边"], [["我们去学校"]]).value for words in ("unicode", "english")
    )
    assert unicode == pytest.approx(60) and english == 0.0


def test_summaries_that_english_words_leave_out_are_told_of() -> None:
    def records(text: str) -> list[Record]:
        return [Record({"source": text, "target": text}, f"line {n}") for n in range(3)]

    for text in ("2023年我们去海边看日出。", "Мы едем к морю в 2023."):
        with pytest.warns(DataWarning, match=r"column 'target': most texts are of other letters .*: words=unicode"):
            Summarize().fit(records(text), DATA, context=64)
        Summarize(words="unicode").fit(records(text), DATA, context=64)
    for text in ("Où est passé l'été?", "12 %"):
        Summarize().fit(records(text), DATA, context=64)


def test_the_first_sentences_of_a_list_or_a_text() -> None:
    task = Summarize()
    as_list, as_text = Record({"source": ARTICLE}, "x"), Record({"source": " ".join(ARTICLE)}, "x")
    assert task.lead(as_list, 1) == task.lead(as_text, 1) == "The cat sat on the mat."
    assert task.lead(as_list, 3) == task.lead(as_text, 3) == "The cat sat on the mat. It slept. Then it ate fish."
    assert task.lead(Record({"source": "他来了。我走了。"}, "x"), 1) == "他来了。"
    assert task.guesses([], [as_list]).keys() == {"lead-1", "lead-3"}


def test_sentences_are_joined_and_the_first_reference_is_learnt() -> None:
    records = [Record({"source": ARTICLE, "target": ["cat sat", "cat ate"]}, f"line {place}") for place in range(3)]
    fitted = Summarize().fit(records, DATA, context=64)
    example = fitted.example(records[0])
    assert example.source is not None
    assert fitted.source_tokenizer.decode(example.source).startswith("The cat sat on the mat . It slept .")
    assert fitted.target_tokenizer.decode(example.targets) == "cat sat"
    assert Summarize().references(records[0]) == ["cat sat", "cat ate"]


def test_real_abstracts() -> None:
    pytest.importorskip("rouge_score")
    if not SCITLDR.is_dir():
        pytest.skip(f"{SCITLDR} is absent")
    with (SCITLDR / "dev.jsonl").open(encoding="utf-8") as file:
        records = [Record(json.loads(line), f"dev.jsonl, line {place}") for place, line in enumerate(file, 1)]
    task = Summarize()
    fitted = task.fit(records[:200], DataSpec(tokenizer="bpe", vocab_size=2000), context=1024)
    for record in records[:50]:
        assert fitted.example(record).length <= 1024
    found = fitted.baseline([], records[:60])
    assert 20 < found["lead-1"].values["rouge_1"] < 40 and max(len(task.references(one)) for one in records) > 1
