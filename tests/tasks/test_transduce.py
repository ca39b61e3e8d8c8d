"""Any text to any other: a control prefix decides what is said of the same source."""

from __future__ import annotations

from pathlib import Path

import pytest

from attentune.data.records import Record, read_records
from attentune.errors import SpecError
from attentune.spec.run import DataSpec
from attentune.tasks.transduce import Transduce
from attentune.training.loop import train
from attentune.training.task_source import TaskSource
from tasks.sequences import DATA, RUN, numbers, small, taught


def controlled(count: int, *, seed: int = 0) -> list[Record]:
    """Single numbers, repeated as they are or in English."""
    made = []
    for place, one in enumerate(numbers(count, seed=seed, most=1)):
        for how, side in (("repeat", "de"), ("translate", "en")):
            made.append(Record({"how": how, "de": one["de"], "said": one[side]}, f"line {place}"))
    return made


def test_the_prefix_decides_what_is_said() -> None:
    task = Transduce(source="de", target="said", control="how")
    assert task.asked == ("how", "de") and task.columns == ("how", "de", "said")
    fitted, model = taught(task, controlled(200), RUN.replace(steps=500, batch=10))
    asked = [Record({"how": how, "de": "drei"}, "x") for how in ("repeat", "translate")]
    assert [one.value for one in fitted.predict(model, asked)] == ["drei", "three"]


def test_prefix_and_source_are_kept_apart() -> None:
    fitted = Transduce(source="de", target="said", control="how").fit(controlled(20), DATA, context=12)
    tokenizer = fitted.source_tokenizer
    (ids,) = fitted.whole_sources([Record({"how": "repeat", "de": "eins"}, "x")])
    assert ids.tolist() == [
        *tokenizer.encode("repeat").tolist(),
        tokenizer.separator,
        *tokenizer.encode("eins").tolist(),
    ]


def test_without_a_prefix_it_is_a_translation() -> None:
    plain = Transduce(source="de", target="en")
    fitted = plain.fit(numbers(20), DATA, context=12)
    assert plain.asked == ("de",) and fitted.source_tokenizer.separator not in fitted.whole_sources(numbers(1))[0]


def test_baselines_look_at_the_prefix_too() -> None:
    pytest.importorskip("sklearn")
    task = Transduce(source="de", target="en", control="how")
    train = [
        Record({"how": how, "de": "eins zwei", "en": text}, "x") for how, text in (("loudly", "A B"), ("softly", "a b"))
    ]
    asked = [Record({"how": "softly", "de": "eins zwei"}, "y")]
    assert task.guesses(train, asked) == {"source copied": ["eins zwei"], "nearest training source": ["a b"]}


def test_the_prefix_is_a_column_of_its_own() -> None:
    with pytest.raises(SpecError, match="are different columns"):
        Transduce(source="de", target="en", control="de")


def test_real_posts_about_an_emotion_are_begun_to_be_learnt(shared_data: Path) -> None:
    task = Transduce(control="emo_label", source="ticker", target="processed")
    records = read_records(shared_data / "stockemotions" / "val_stockemo.csv", task.columns)
    fitted = task.fit(records, DataSpec(tokenizer="bpe", vocab_size=1500, lowercase=True), context=128)
    tokenizer = fitted.source_tokenizer
    for record, ids in zip(records[:20], fitted.whole_sources(records[:20]), strict=True):
        place = ids.tolist().index(tokenizer.separator)
        assert tokenizer.decode(ids[:place]) == record["emo_label"]
        assert tokenizer.decode(ids[place + 1 :]) == record["ticker"].lower()
        assert fitted.target_tokenizer.decode(fitted.example(record).targets) == " ".join(
            record["processed"].lower().split()
        )
    source = TaskSource(fitted, records[:800], records[800:860])
    run = RUN.replace(context=128, batch=16, steps=20, evaluate_every=20)
    result = train(fitted.build(fitted.complete(small()), seed=0), source, run)
    assert result.losses[0] > 7 and result.evaluations[-1].loss < 6.7
