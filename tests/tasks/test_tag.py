"""Tagging: legal sequences alone, pieces of words, windows, figures of entities, and that a small model learns."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attentune.data.batches import IGNORED
from attentune.data.encoding import DataWarning
from attentune.data.records import Record, read_records
from attentune.errors import DataError
from attentune.mechanisms import layer
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec, OptimizerSpec, RunSpec, ScheduleSpec
from attentune.tasks._spans import Entity, KnownPhrases, as_tags, best_sequence, entities, may_follow, transitions
from attentune.tasks.folder import load, save_task_model
from attentune.tasks.tag import FittedTag, Tag
from attentune.tasks.task import Prediction
from attentune.training.task import Parts, train_task
from attentune.training.task_source import TaskSource

pytest.importorskip("seqeval", reason="metrics of tasks need seqeval")
TAGS = ("B-city", "B-name", "I-city", "I-name", "O")
PIECES = DataSpec(tokenizer="bpe", vocab_size=300)


def sentences(count: int, seed: int) -> list[Record]:
    """Names follow `Mr`, cities of two words follow `in`."""
    drawn, records = random.Random(seed), []
    for number in range(count):
        tokens, tags = [], []
        for _ in range(drawn.randint(1, 3)):
            filler = drawn.choices(["we", "saw", "many", "things", "here"], k=drawn.randint(1, 3))
            tokens += filler
            tags += ["O"] * len(filler)
            if drawn.random() < 0.5:
                tokens += ["Mr", drawn.choice(["Bell", "Cook", "Diaz"])]
                tags += ["O", "B-name"]
            else:
                tokens += ["in", "New", drawn.choice(["York", "Delhi"])]
                tags += ["O", "B-city", "I-city"]
        records.append(Record({"tokens": tokens, "tags": tags}, f"s, line {number}"))
    return records


def small(**changes: Any) -> ModelSpec:
    layers = (layer("heads=2, mask=full, position=rotary"),)
    return ModelSpec(**{"vocab_size": 1, "width": 32, "depth": 1, "context": 64, "layers": layers, **changes})


def fitted(records: list[Record], context: int = 64) -> FittedTag:
    return Tag().fit(records, PIECES, context=context)


def legal(tags: tuple[str, ...]) -> bool:
    """The rule of IOB2 in words: an inner tag comes after a tag of the same kind."""
    for before, tag in zip(("O", *tags[:-1]), tags, strict=True):
        if tag[0] == "I" and (before == "O" or before[2:] != tag[2:]):
            return False
    return True


@pytest.mark.parametrize("seed", range(20))
def test_the_best_legal_sequence_is_found_as_by_trying_all(seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(5, len(TAGS)))
    chosen = best_sequence(scores, *transitions(TAGS))
    tags = tuple(TAGS[number] for number in chosen)
    assert legal(tags)
    everything = [row for row in itertools.product(range(len(TAGS)), repeat=5) if legal(tuple(TAGS[n] for n in row))]
    totals = [sum(scores[place, number] for place, number in enumerate(row)) for row in everything]
    assert tuple(chosen) == everything[int(np.argmax(totals))]
    assert best_sequence(scores[:0], *transitions(TAGS)) == []


def test_no_sequence_that_iob2_forbids_is_printed() -> None:
    known = fitted(sentences(20, 1))
    model = known.build(known.complete(small()), seed=3)
    with torch.no_grad():
        model.output.weight.mul_(50)  # of an untrained model the tags are anything
    answers = known.predict(model, sentences(50, 2))
    written = {tag for one in answers for tag in one.value}
    assert {"I-city"} <= written
    for one in answers:
        assert legal(tuple(one.value))
        assert as_tags(entities(one.value), len(one.value)) == one.value


def test_rules_and_entities() -> None:
    assert not may_follow(None, "I-city")
    assert may_follow("B-city", "I-city") and may_follow("I-city", "I-city")
    assert not may_follow("B-name", "I-city") and not may_follow("O", "I-city")
    tags = ["B-city", "I-city", "B-city", "O", "B-name"]
    assert entities(tags) == [Entity("city", 0, 2), Entity("city", 2, 3), Entity("name", 4, 5)]


def test_what_begins_may_go_on_though_training_never_shows_it() -> None:
    assert fitted(sentences(20, 1)).tags == ("B-city", "B-name", "I-city", "I-name", "O")


def test_the_first_piece_of_a_word_carries_its_tag() -> None:
    known = fitted(sentences(20, 1))
    record = Record({"tokens": ["saw", "Xyzzy", "New"], "tags": ["O", "B-name", "B-city"]}, "x")
    example = known.example(record)
    ids, starts = known.pieces(["saw", "Xyzzy", "New"])
    assert len(ids) > 3
    assert example.ids.tolist() == ids.tolist()
    assert [known.tags[number] for number in example.targets[starts]] == ["O", "B-name", "B-city"]
    assert int((example.targets != IGNORED).sum()) == 3


def test_long_sentences_are_tagged_to_their_end() -> None:
    known = fitted(sentences(20, 1), context=64)
    known.context = 9
    words = ["we", "saw", "Xyzzyxyzzyxyzzyxyzzy", "in", "New", "York"] * 5
    windows = known._windows(words)
    assert all(len(ids) <= 9 for ids, _ in windows)
    assert sum(len(starts) for _, starts in windows) == len(words)
    model = known.build(known.complete(small()), seed=0)
    answers = known.predict(model, [Record({"tokens": words}, "a"), Record({"tokens": []}, "b")])
    assert [len(one.value) for one in answers] == [30, 0]


def test_a_small_model_learns_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    parts = Parts(sentences(150, 1), sentences(20, 2), sentences(40, 3))
    known = fitted(list(parts.train))
    spec = known.complete(small())
    run = RunSpec(
        data=PIECES,
        context=64,
        batch=4,
        steps=80,
        evaluate_every=40,
        optimizer=OptimizerSpec(learning_rate=5e-3),
        schedule=ScheduleSpec(warmup=10),
        diagnose_every=0,
    )
    source = TaskSource(known, parts.train, parts.validation)
    done = train_task(known, source, parts, spec, run, device=torch.device("cpu"))
    assert done.test is not None
    assert done.test.values["f1"] > 0.95
    save_task_model(tmp_path / "model", done.model, spec, known)
    model = load(tmp_path / "model")
    assert model.predict(list(parts.test)) == known.predict(done.model, parts.test)
    (answer,) = model.predict([{"tokens": "we saw Mr Cook in New Delhi"}])
    assert answer.value == ["O", "O", "O", "B-name", "O", "B-city", "I-city"]
    assert [one["tokens"] for one in answer.fields["entities"]] == [["Cook"], ["New", "Delhi"]]


def test_figures_are_those_of_whole_entities() -> None:
    known = fitted(sentences(20, 1))
    truth = ["B-city", "I-city", "O", "B-name"]
    record = Record({"tokens": list("abcd"), "tags": truth}, "line 1")
    scores = known.score([Prediction(["B-city", "O", "O", "B-name"])], [record])
    assert (scores.values["precision"], scores.values["recall"]) == (0.5, 0.5)  # half a city is none
    assert scores.values["accuracy"] == 0.75
    (mistake,) = scores.details["mistakes"]
    assert (mistake["expected"], mistake["predicted"]) == (["city: a b", "name: d"], ["city: a", "name: d"])
    nothing = Record({"tokens": ["a"], "tags": ["O"]}, "line 1")
    assert known.score([Prediction(["O"])], [nothing]).value == 0.0


def test_known_phrases_are_named() -> None:
    train = [(["in", "New", "York"], ["O", "B-city", "I-city"]), (["New", "things"], ["O", "O"])]
    train += [(["Cook"], ["B-name"]), (["Cook"], ["O"]), (["Cook"], ["O"])]
    phrases = KnownPhrases(train)
    assert phrases.tags(["New", "York", "New", "Cook"]) == ["B-city", "I-city", "O", "O"]  # Cook is mostly no name
    records = sentences(30, 1)
    baseline = fitted(records).baseline(records, sentences(10, 4))
    assert baseline["names seen in training"].values["f1"] > 0.9


def test_tags_of_single_words_have_an_accuracy() -> None:
    records = [Record({"tokens": ["a", "dog"], "tags": ["DET", "NOUN"]}, f"line {n}") for n in range(4)]
    known = fitted(records)
    assert not known.spans
    scores = known.score([Prediction(["DET", "DET"])], records[:1])
    assert (scores.main, scores.value) == ("accuracy", 0.5)
    assert known.baseline(records, records)["each word's commonest tag"].value == 1.0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "line 7: 2 tokens but 1 tags"),
        ({"tokens": ["a"], "tags": ["B-cty"]}, "line 7: tag 'B-cty' does not occur.*did you mean 'B-city'"),
        ({"tokens": [], "tags": []}, "line 7: column 'tokens' holds no tokens"),
        ({"tokens": 3, "tags": []}, "line 7: column 'tokens' holds no list"),
        ({"tokens": ["a"], "tags": 3}, "line 7: column 'tags' holds 3, not a list of tags"),
        ({"tokens": ["a"], "tags": True}, "line 7: column 'tags' holds True, not a list of tags"),
        ({"tokens": ["a"], "tags": None}, "line 7: 1 tokens but 0 tags"),
        ({"tags": []}, "line 7 has no column 'tokens'"),
    ],
)
def test_what_cannot_be_learned_from_is_named(values: dict[str, Any], says: str) -> None:
    known = fitted(sentences(20, 1))
    with pytest.raises(DataError, match=says):
        known.example(Record(values, "x.conll, line 7"))


@pytest.mark.parametrize(("tags", "odd"), [(["B-name", "O", "NN", "B-city"], "NN"), (["o", "B-name"], "o")])
def test_tags_of_another_form_are_named_where_entities_are_counted(tags: list[str], odd: str) -> None:
    known = fitted(sentences(20, 1))
    record = Record({"tokens": ["a"] * len(tags), "tags": tags}, "x.jsonl, line 7")
    with pytest.raises(DataError, match=f"x.jsonl, line 7: tag '{odd}' is neither O nor, as in training, B-"):
        known.score([Prediction(["O"] * len(tags))], [record])


@pytest.mark.filterwarnings("ignore::attentune.data.encoding.DataWarning")
def test_real_sentences_become_examples(shared_data: Path) -> None:
    records = read_records(shared_data / "wnut17" / "emerging.dev.conll", ("tokens", "tags"))
    known = Tag().fit(records, DataSpec(tokenizer="bpe", vocab_size=1000), context=64)
    assert len(known.tags) == 13
    assert known.spans
    lengths = [known.example(one).length for one in records]
    assert (len(lengths), max(lengths)) == (1009, 64)


def test_tags_that_only_look_like_entities_are_told_of() -> None:
    records = [Record({"tokens": ["a", "b", "c"], "tags": ["O", "B-name", "ORG"]}, "line 1")]
    with pytest.warns(DataWarning, match="tags such as 'ORG' are none of entities"):
        assert not Tag().fit(records, PIECES, context=16).spans


@pytest.mark.parametrize(
    "tags",
    [
        ["I-PER", "I-PER", "O", "I-LOC", "B-LOC"],  # IOB1
        ["B-PER", "E-PER", "O", "S-LOC", "S-LOC"],  # BIOES
        ["B-PER", "L-PER", "O", "U-LOC", "U-LOC"],  # BILOU
    ],
)
def test_tags_of_tables_are_read_in_every_scheme(tags: list[str]) -> None:
    record = Record({"tokens": list("abcde"), "tags": tags}, "a.jsonl, line 1")
    known = fitted([record])
    assert known.spans and set(known.tags) == {"O", "B-PER", "I-PER", "B-LOC", "I-LOC"}
    right = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]
    assert [known.tags[number] for number in known.example(record).targets if number != IGNORED] == right
    assert known.score([Prediction(right)], [record]).value == 1.0
    assert known.score([Prediction(["O"] * 5)], [record]).value == 0.0
    assert known.baseline([record], [record])["names seen in training"].value == 1.0


def test_tags_that_break_every_rule_are_counted_and_tokens_are_needed() -> None:
    broken = Record({"tokens": list("abcd"), "tags": ["I-PER", "O", "B-PER", "I-LOC"]}, "line 1")
    with pytest.warns(DataWarning, match="1 tags break the rules of IOB1: what goes on with nothing begins an entity"):
        known = fitted([broken])
    with pytest.raises(DataError, match="line 2: neither this nor any other record has a token"):
        known.score([Prediction([])], [Record({"tokens": [], "tags": []}, "line 2")])
