"""Masked language modelling: which tokens are hidden, when they are drawn anew, and what is measured."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attentune.data.batches import IGNORED
from attentune.data.encoding import DataWarning
from attentune.data.records import Record, read_records
from attentune.data.subwords import SubwordTokenizer
from attentune.errors import DataError, SpecError
from attentune.mechanisms import layer
from attentune.spec.model import ModelSpec
from attentune.spec.run import ClipSpec, DataSpec, OptimizerSpec, RunSpec, ScheduleSpec
from attentune.tasks._masking import masked
from attentune.tasks.answers import Rows
from attentune.tasks.folder import load, save_task_model
from attentune.tasks.gap_sentences import GapSentences
from attentune.tasks.mlm import LEAST, FittedMlm, Mlm
from attentune.tasks.reading import read
from attentune.tasks.registry import read_task
from attentune.tasks.task import Example
from attentune.training.loop import train
from attentune.training.task_source import TaskSource

DATA = DataSpec(tokenizer="word", vocab_size=300)
RUN = RunSpec(
    context=12,
    batch=16,
    steps=120,
    optimizer=OptimizerSpec(learning_rate=1e-2, weight_decay=0.0),
    schedule=ScheduleSpec(warmup=5),
    clip=ClipSpec(limit=1.0),
    evaluate_every=120,
    checkpoint_every=120,
    diagnose_every=0,
)
PLACES = np.arange(20)


def texts(count: int, seed: int = 0) -> list[Record]:
    """Each word is followed by its partner: whoever sees one of them knows the other."""
    random = np.random.default_rng(seed)
    pairs = [("sun", "moon"), ("salt", "pepper"), ("cat", "dog"), ("bread", "butter"), ("hot", "cold")]
    lines = [" ".join(word for n in random.integers(5, size=4) for word in pairs[n]) for _ in range(count)]
    return [Record({"text": line}, f"pairs.txt, line {place + 1}") for place, line in enumerate(lines)]


def small(context: int = 12) -> ModelSpec:
    return ModelSpec(vocab_size=1, width=24, depth=1, context=context, layers=(layer("heads=2, position=rotary"),))


def fitted(task: Mlm | None = None, data: DataSpec = DATA, context: int = 12) -> FittedMlm:
    return (task or Mlm()).fit(texts(40), data, context=context)


def test_15_percent_are_chosen_and_of_these_80_10_10() -> None:
    ids, seen = np.full(10_000, 7), np.arange(100, 200)
    shown, targets = masked(
        ids, np.random.default_rng(1), share=0.15, mask=4, free=np.ones(10_000, dtype=bool), drawn_from=seen
    )
    chosen = targets != IGNORED
    assert chosen.sum() == 1500
    assert (targets[chosen] == 7).all() and (shown[~chosen] == 7).all()
    shares = [(shown[chosen] == token).mean() for token in (4, 7)] + [(shown[chosen] >= 100).mean()]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)


def test_words_are_hidden_whole_and_special_tokens_never() -> None:
    words = np.array([0, 0, 1, 1, 1, 2, 3, 3, 4, 4] * 2) + np.repeat([0, 5], 10)
    free = PLACES > 1
    for seed in range(20):
        _, targets = masked(
            PLACES, np.random.default_rng(seed), share=0.3, mask=99, free=free, drawn_from=PLACES, words=words
        )
        chosen = targets != IGNORED
        assert 0 < chosen.sum() <= round(0.3 * 18)
        assert not chosen[~free].any()
        for word in np.unique(words[chosen]):
            assert chosen[(words == word) & free].all()
    _, targets = masked(
        PLACES, np.random.default_rng(0), share=0.1, mask=9, free=free, drawn_from=PLACES, words=np.zeros(20, dtype=int)
    )
    assert (targets != IGNORED).sum() == 2  # one word longer than the share: its beginning


@pytest.mark.parametrize("pieces", ["bpe", "byte", "char", "word"])
def test_words_begin_where_the_text_has_them_begin(pieces: str) -> None:
    tokenizer = SubwordTokenizer.train(["Ein Hund, der läuft.", "我们去"] * 3, 400, pieces=pieces)  # type: ignore[arg-type]
    ids = tokenizer.encode("Ein Hund, der läuft.")
    numbers = tokenizer.pieces.words(ids)
    found = ["".join(tokenizer.tokens(ids[numbers == word])).strip() for word in np.unique(numbers)]
    if pieces == "byte":  # ä is two tokens, shown as signs of half characters
        found = [tokenizer.decode(ids[numbers == word]).strip() for word in np.unique(numbers)]
    assert [word for word in found if word] == ["Ein", "Hund", ",", "der", "läuft", "."]
    assert int(tokenizer.pieces.byte_lengths[ids].sum()) >= len("EinHund,derläuft.".encode())


def test_tokens_are_drawn_anew_in_each_pass_and_the_same_for_the_same_seed() -> None:
    known = fitted()
    source = TaskSource(known, texts(40), texts(10, 1))
    feed = source.feed(RUN, has_memory=False, device=torch.device("cpu"))
    each = source.buckets(RUN).per_pass

    def passed(number: int) -> list[list[int]]:
        return [feed(number * each + step).parts[0].ids.tolist() for step in range(each)]

    assert passed(0) == passed(0) != passed(1)
    again = TaskSource(fitted(), texts(40), texts(10, 1))
    assert source.fingerprint == again.fingerprint
    assert [one.ids.tolist() for one in source.validation] == [one.ids.tolist() for one in again.validation]
    first = source.train[0]
    drawn = known.redrawn(first, np.random.default_rng(5))
    assert np.where(drawn.targets == IGNORED, drawn.ids, drawn.targets).tolist() == (
        np.where(first.targets == IGNORED, first.ids, first.targets).tolist()
    )


def test_a_model_learns_to_restore_and_tells_how_well(tmp_path: Path) -> None:
    known, held = fitted(), texts(40, 7)
    source = TaskSource(known, texts(400, 3), held)
    model = known.build(known.complete(small()), seed=0)
    train(model, source, RUN)
    scores = known.score(known.predict(model, held), held)
    simple = known.baseline(texts(400, 3), held)["token frequencies"]
    assert scores.values["accuracy"] > 0.9 > 0.5 > simple.values["accuracy"]
    assert scores.values["loss"] == pytest.approx(source.curve[-1].loss, rel=1e-4)  # the same tokens in both
    assert scores.values["perplexity"] == pytest.approx(math.exp(scores.values["loss"]))
    assert simple.values["perplexity"] == pytest.approx(10, rel=0.15)  # ten words, about equally often
    save_task_model(tmp_path / "model", model, known.complete(small()), known)
    loaded = load(tmp_path / "model")
    answer = loaded.predict(["salt pepper hot <mask> sun moon"])[0]
    assert answer.value == "salt pepper hot cold sun moon"
    assert answer.fields["fills"][0][0]["token"] == "cold"
    assert loaded.score(held).values == pytest.approx(scores.values)


def test_all_predictions_have_the_same_fields_whether_masks_are_asked_for_or_not() -> None:
    known = fitted()
    model = known.build(known.complete(small()), seed=0)
    held = [Record({"text": text}, "x") for text in ("sun <mask>", "salt pepper hot cold", "", "sun")]
    answers = known.predict(model, held)
    names = ["prediction", "nats", "tokens", "right", "characters", "bytes", "fills"]
    assert [list(one.as_data()) for one in answers] == [names] * 4
    assert [one.fields["fills"] is None for one in answers] == [False, True, True, True]
    assert [one.fields["nats"] is None for one in answers] == [True, False, False, False]
    rows = list(csv.DictReader(Rows("csv").text([one.as_data() for one in answers]).splitlines()))
    assert rows[0]["nats"] == rows[1]["fills"] == "" and len(json.loads(rows[0]["fills"])) == 1
    assert known.score(answers, held).values == known.score(answers[1:2], held[1:2]).values


def test_long_texts_are_read_in_parts_and_empty_ones_not_at_all() -> None:
    known = fitted(context=5)
    long = Record({"text": " ".join(["sun moon"] * 6)}, "line 1")
    assert [len(one.ids) for one in known.examples(long)] == [5, 5, 2]
    assert known.examples(Record({"text": "  "}, "line 2")) == []
    assert known.examples(Record({"text": "sun"}, "line 3")) == []
    with pytest.raises(DataError, match="line 2: column 'text' holds too little text"):
        known.example(Record({"text": "  "}, "line 2"))
    with pytest.raises(DataError, match="the records to measure by hold nothing"):
        TaskSource(known, texts(3), [Record({"text": ""}, "line 4")])


@pytest.mark.parametrize(("tokenizer", "text"), [("char", "我们去海边看日出吧。"), ("bpe", "moonpeppersunbutterdog")])
def test_a_text_of_several_parts_comes_back_whole(tokenizer: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record({"text": text}, "x")
    known = Mlm().fit([*texts(40), *[record] * 5], DataSpec(tokenizer=tokenizer, vocab_size=300), context=64)
    model = known.build(known.complete(small(64)), seed=0)

    def knowing(model: Any, examples: list[Example]) -> list[torch.Tensor]:
        targets = [torch.from_numpy(one.targets[one.targets != IGNORED]) for one in examples]
        return [torch.nn.functional.one_hot(each, known.tokenizer.vocab_size).float() for each in targets]

    monkeypatch.setattr(known, "_logits", knowing)
    length = len(known.tokenizer.encode(text))
    for context in range(3, length + 1):
        known.context = context
        lengths = [one.length for one in known.examples(record)]
        assert (sum(lengths), len(lengths)) == (length, -(-length // context))
        assert min(lengths) >= LEAST and max(lengths) <= context
        assert known.predict(model, [record])[0].value == text


def test_masks_behind_a_context_are_filled_and_texts_of_unknown_words_have_nothing_to_restore() -> None:
    for whole_word in (False, True):
        known = fitted(Mlm(whole_word=whole_word), context=5)
        model = known.build(known.complete(small(5)), seed=0)
        long = "sun moon salt pepper cat <mask> hot cold bread butter <mask> <mask>"
        asked = [
            Record({"text": text}, "x") for text in (long, "zzz yyy xxx", "sun <mask>", " ".join(["sun moon"] * 9))
        ]
        found = known.predict(model, asked)
        assert [len(one.fields["fills"] or []) for one in found] == [3, 0, 1, 0]
        assert found[0].value.split()[:5] == long.split()[:5] and found[0].value.split()[-4:] == [
            "hot",
            "cold",
            "bread",
            "butter",
        ]
        assert known.examples(asked[1]) == [] and known.predict(model, asked[1:2])[0].fields["tokens"] == 0


def test_options_are_checked() -> None:
    assert read_task("mlm(text=review, whole_word=true)") == Mlm(text="review", whole_word=True)
    with pytest.raises(SpecError, match="share"):
        Mlm(share=1.5)


def test_blank_lines_of_a_file_are_left_out_and_short_texts_counted(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("One. Two.\n\nOnly one.\n   \nThree. Four.\n", encoding="utf-8")
    assert [record["text"] for record in read(Mlm(), str(file), DATA)] == ["One. Two.", "Only one.", "Three. Four."]
    with pytest.warns(DataWarning, match="1 of 3 records are too short for the task: left out"):
        found = read(GapSentences(), str(file), DATA)
    assert [record.where.rpartition(" ")[2] for record in found] == ["1", "5"]
    file.write_text("\n\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no record"):
        read(Mlm(), str(file), DATA)


def test_real_reviews_are_hidden_in_whole_words_and_begun_to_be_learnt(shared_data: Path) -> None:
    reviews = [
        Record({"text": one["1"]}, one.where) for one in read_records(shared_data / "sst2" / "dev.tsv", ("1", "2"))
    ]
    known = Mlm(whole_word=True).fit(reviews, DataSpec(tokenizer="bpe", vocab_size=2000, lowercase=True), context=64)
    tokenizer = known.tokenizer
    hidden = scored = 0
    for number, example in enumerate(one for record in reviews for one in known.examples(record)):
        shown = known.redrawn(example, np.random.default_rng(number))
        chosen = shown.targets != IGNORED
        words = tokenizer.pieces.words(np.where(chosen, shown.targets, shown.ids))
        whole = [chosen[words == word].all() for word in np.unique(words[chosen])]
        assert all(whole) or len(whole) == 1  # a word longer than the share: its beginning
        hidden, scored = hidden + int(chosen.sum()), scored + len(chosen)
    assert 0.13 < hidden / scored < 0.17
    source = TaskSource(known, reviews[:800], reviews[800:])
    run = RUN.replace(context=64, batch=8, steps=40, evaluate_every=40)
    result = train(known.build(known.complete(small(64)), seed=0), source, run)
    assert result.losses[0] > 7.4 and result.evaluations[-1].loss < 6.9
