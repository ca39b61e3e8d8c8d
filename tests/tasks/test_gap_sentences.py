"""Gap sentences: which are left out, what is read in their place, and what is measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attentune.data.records import Record, read_records
from attentune.errors import DataError
from attentune.mechanisms import layer
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec
from attentune.tasks import gap_sentences
from attentune.tasks._sentences import overlap, sentences_of, words_of
from attentune.tasks.answers import Rows
from attentune.tasks.folder import load, save_task_model
from attentune.tasks.gap_sentences import GapSentences, chosen_sentences
from attentune.tasks.registry import read_task
from attentune.training.loop import train
from attentune.training.task_source import TaskSource, mean_loss
from tasks.sequences import RUN

DATA = DataSpec(tokenizer="word", vocab_size=300)
TEXT = "The cat sat on the mat. Rain fell. The cat on the mat saw the rain fall. Nobody spoke."


def texts(count: int, seed: int = 0) -> list[Record]:
    """Two sentences say the same of one animal; the principal one can be told from the rest."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        animal, place = random.choice(["cat", "dog", "cow"]), random.choice(["house", "field", "wood"])
        lines.append(f"A {animal} is here. Here is the {place}. A {animal} is here in the {place}.")
    return [Record({"text": line}, f"animals.txt, line {place + 1}") for place, line in enumerate(lines)]


def test_rouge_1_by_hand_and_as_the_library_has_it() -> None:
    one, other = words_of("the cat sat on the mat"), words_of("The cat, the dog")
    assert overlap(one, other) == pytest.approx(2 * 3 / (6 + 4))  # the, the, cat
    assert overlap(one, words_of("nobody")) == 0.0
    library = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    score = library.RougeScorer(["rouge1"]).score("the cat sat on the mat", "The cat, the dog")["rouge1"]
    assert overlap(one, other) == pytest.approx(score.fmeasure)


def test_the_sentence_that_tells_most_of_the_rest_is_left_out() -> None:
    sentences = tuple(sentences_of(TEXT))
    assert len(sentences) == 4
    told = [overlap(words_of(s), words_of(" ".join(x for x in sentences if x != s))) for s in sentences]
    assert chosen_sentences(sentences, 0.3, "principal") == (int(np.argmax(told)),) == (2,)
    assert chosen_sentences(sentences, 0.5, "principal") == (0, 2)
    assert chosen_sentences(sentences, 0.99, "principal") == (0, 1, 2)  # one must stay
    drawn = {chosen_sentences((*sentences, str(number)), 0.3, "random") for number in range(30)}
    assert len(drawn) > 5
    assert all(len(one) == 2 for one in drawn)


def test_a_mask_stands_where_a_sentence_stood() -> None:
    task = read_task("gap-sentences(share=0.5)")
    assert isinstance(task, GapSentences)
    record = Record({"text": TEXT}, "line 1")
    assert task.source_parts(record) == ["", "Rain fell.", "Nobody spoke."]
    assert task.references(record) == ["The cat sat on the mat. The cat on the mat saw the rain fall."]
    fitted = task.fit([record, Record({"text": "One sentence."}, "line 2")] * 3, DATA, context=40)
    tokenizer = fitted.inner.source_tokenizer
    example = fitted.example(record)
    assert example.source is not None
    assert (example.source == tokenizer.mask).sum() == 2
    assert example.source[0] == tokenizer.mask and example.source[-1] == tokenizer.end
    assert tokenizer.decode(example.targets[:-1]).replace(" .", ".") == task.references(record)[0]
    assert fitted.examples(Record({"text": "One sentence."}, "line 2")) == []
    with pytest.raises(DataError, match="line 2: column 'text' holds fewer than two sentences"):
        fitted.example(Record({"text": "One sentence."}, "line 2"))
    with pytest.raises(DataError, match="no text in the column 'text' has two sentences"):
        task.fit([Record({"text": "One."}, "line 1")], DATA, context=40)


def test_a_model_learns_to_write_what_is_missing(tmp_path: Path) -> None:
    task, held = GapSentences(), texts(20, 9)
    run = RUN.replace(context=32, batch=30, steps=120, evaluate_every=120)
    fitted = task.fit(texts(60), DATA, context=32)
    spec = ModelSpec(vocab_size=1, width=32, depth=1, layers=(layer("heads=2, position=rotary, mask=causal"),))
    complete = fitted.complete(spec)
    model = fitted.build(complete, seed=0)
    source = TaskSource(fitted, texts(200, 1), held)
    train(model, source, run)
    scores = fitted.score(fitted.predict(model, held), held)
    assert scores.values["rouge_1"] > 90
    assert scores.values["loss"] == pytest.approx(source.curve[-1].loss, rel=1e-3)
    assert scores.values["perplexity"] == pytest.approx(math.exp(scores.values["loss"]))
    assert scores.values["bits_per_character"] >= scores.values["bits_per_byte"] > 0
    assert scores.values["rouge_1"] > fitted.baseline([], held)["first sentence of the rest"].values["rouge_1"]
    save_task_model(tmp_path / "model", model, complete, fitted)
    loaded = load(tmp_path / "model")
    answer = loaded.predict(["A cow is here. Here is the wood. <mask>"])[0]
    assert answer.value == "A cow is here in the wood ."
    assert answer.fields["nats"] is None
    mixed = [*held[:1], Record({"text": "A cow is here."}, "x"), Record({"text": ""}, "x")]
    answers = loaded.predict(mixed)
    names = ["prediction", "score", "ended", "nats", "tokens", "right", "characters", "bytes"]
    assert [list(one.as_data()) for one in [answer, *answers]] == [names] * 4
    assert [one.fields["nats"] is None for one in answers] == [False, True, True]
    assert Rows("csv").text([one.as_data() for one in answers]).count("\n") == 4
    assert fitted.score(answers, mixed).values == fitted.score(answers[:1], mixed[:1]).values
    assert mean_loss(loaded.model, loaded.fitted, source.validation, tokens=500) == pytest.approx(scores.values["loss"])
    torch.testing.assert_close(dict(loaded.model.named_parameters()), dict(model.named_parameters()))


def test_batches_of_losses_are_bounded_by_their_longer_side(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        Record({"text": "The rain fell and fell on all of the wood. " * n + "It fell."}, "x") for n in range(2, 9)
    ]
    fitted = GapSentences().fit(records, DATA, context=200)
    layers = (layer("heads=2, position=rotary, mask=causal"),)
    model = fitted.build(fitted.complete(ModelSpec(vocab_size=1, width=16, depth=1, layers=layers)), seed=0)
    examples = [fitted.example(one) for one in records]
    whole = fitted._tallies(model, examples)
    sizes, batch = [], fitted.inner.batch

    def watched(part: Any, device: torch.device) -> Any:
        sizes.append(len(part) * max(max(len(one.targets), len(one.source)) for one in part))
        return batch(part, device)

    monkeypatch.setattr(gap_sentences, "SCORED_TOKENS", 100)
    monkeypatch.setattr(fitted.inner, "batch", watched)
    for one, alike in zip(fitted._tallies(model, examples), whole, strict=True):
        assert one.nats == pytest.approx(alike.nats, rel=1e-4)
    assert len(sizes) > 1 and max(sizes) <= 100


@pytest.mark.filterwarnings("ignore::attentune.data.encoding.DataWarning")
def test_real_texts_lose_the_sentence_that_tells_most_of_the_rest(shared_data: Path) -> None:
    asked = read_records(shared_data / "squad" / "squad-v1.1-48-articles.json", ("context",))
    found = list({one["context"]: Record({"text": one["context"]}, one.where) for one in asked[:1500]}.values())
    task = GapSentences()
    fitted = task.fit(found, DataSpec(tokenizer="bpe", vocab_size=2000), context=512)
    examples = [(record, one) for record in found for one in fitted.examples(record)]
    assert len(examples) > 0.9 * len(found) > 100
    tokenizer = fitted.inner.source_tokenizer
    for record, example in examples[:50]:
        sentences = tuple(sentences_of(record["text"]))
        chosen = chosen_sentences(sentences, task.share, task.choose)
        assert example.source is not None and 1 <= (example.source == tokenizer.mask).sum() <= len(chosen)
        assert task.references(record) == [" ".join(sentences[n] for n in chosen)]
    first = fitted.baseline([], found[:30])["first sentence of the rest"]
    assert 5 < first.values["rouge_1"] < 40


def test_a_text_that_has_a_mask_is_asked_and_not_learnt_from() -> None:
    asked = Record({"text": "The cat sat here. A <mask> token. The dog sat there."}, "line 1")
    task = GapSentences()
    assert not task.usable(asked) and task.source_parts(asked) == ["The cat sat here. A ", " token. The dog sat there."]
    assert task.fit([asked, *texts(5)], DATA, context=40).examples(asked) == []
