"""Translation: learnt from records, decoded, scored by sacreBLEU, kept in a folder."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attentune.data.batches import IGNORED
from attentune.data.encoding import DataWarning
from attentune.data.records import Record
from attentune.errors import CheckpointError, DataError, SpecError
from attentune.generation import Beam, Sampling
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.spec.run import DataSpec
from attentune.tasks._translations import score_translations, split_words
from attentune.tasks.task import Prediction
from attentune.tasks.transduce import Transduce
from attentune.tasks.translate import Translate
from attentune.training.loop import train
from attentune.training.task_source import TaskSource
from tasks.sequences import DATA, RUN, numbers, small, translator

MULTI30K = Path(__file__).parents[2].parent / "shared" / "data" / "multi30k"


def said(texts: list[str]) -> list[Record]:
    return [Record({"de": text}, f"input {place}") for place, text in enumerate(texts)]


def test_no_text_is_longer_than_twice_the_longest_of_training() -> None:
    records = numbers(50)
    for context in (12, 200):
        fitted = Translate(source="de", target="en").fit(records, DATA, context=context)
        longest = max(len(ids) for ids in fitted.target_tokenizer.encode_batch([one["en"] for one in records])) + 1
        assert fitted.decoding.max_length == min(context, 2 * longest)


def test_it_learns_a_language_and_says_texts_it_never_saw() -> None:
    pytest.importorskip("sacrebleu")
    fitted, model = translator()
    held = numbers(40, seed=1)
    scores = fitted.score(fitted.predict(model, held), held)
    assert scores.main == "bleu" and scores.value > 90 and scores.values["chrf"] > 90
    assert scores.signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scores.signatures["chrf"].startswith("nrefs:1|case:mixed")


def test_an_example_is_shifted_by_one_and_ends() -> None:
    fitted = Translate(source="de", target="en").fit(numbers(50), DATA, context=12)
    example = fitted.example(Record({"de": "eins zwei", "en": "one two"}, "x"))
    tokenizer = fitted.target_tokenizer
    assert tokenizer.decode(example.targets[:-1]) == "one two" and example.targets[-1] == tokenizer.end
    assert example.ids.tolist() == [tokenizer.begin, *example.targets[:-1]]
    assert example.source is not None and example.source.tolist()[-1] == tokenizer.end
    assert fitted.source_tokenizer.decode(example.source) == "eins zwei"


def test_a_batch_is_padded_only_where_it_must_be_and_padding_changes_nothing() -> None:
    fitted, model = translator()
    short, long = (
        fitted.example(Record({"de": de, "en": en}, "x"))
        for de, en in (("eins", "one"), ("zwei drei vier", "two three four"))
    )
    alone = fitted.batch([short], torch.device("cpu"))
    assert alone.layout is None and alone.inputs["source_layout"] is None and alone.share == 1.0
    both = fitted.batch([short, long], torch.device("cpu"), scored=12)
    assert both.share == 0.5 and both.targets[0].tolist()[2:] == [IGNORED, IGNORED]
    with torch.no_grad():
        one = model(alone.ids, alone.layout, **alone.inputs).logits
        two = model(both.ids, both.layout, **both.inputs).logits
    torch.testing.assert_close(two[:1, :2], one, rtol=1e-4, atol=1e-5)


def test_a_prediction_depends_on_its_own_text_alone_and_keeps_its_place() -> None:
    fitted, model = translator()
    texts = ["eins zwei drei", "vier", "", "zwei zwei", "   ", "drei eins vier zwei"]
    together = fitted.predict(model, said(texts))
    apart = [fitted.predict(model, said([text]))[0].value for text in texts]
    assert [one.value for one in together] == apart
    assert together[2].value == together[4].value == "" and together[1].value == "four"
    assert together[1].as_data().keys() == {"prediction", "score", "ended"} and together[1].fields["ended"] is True
    assert fitted.predict(model, []) == []


@pytest.mark.filterwarnings("error")
def test_unknown_characters_and_very_long_texts_are_answered() -> None:
    fitted, model = translator()
    assert isinstance(fitted.predict(model, said(["🙂 Ω \ud800 \x00"]))[0].value, str)
    with pytest.warns(DataWarning, match=r"1 of 2 sources are longer than 11 tokens and are cut there"):
        answers = fitted.predict(model, said(["eins " * 5000, "eins"]))
    assert answers[1].value == "one"


def test_decoding_can_be_chosen() -> None:
    fitted, model = translator()
    asked = said(["eins zwei", "drei"])
    assert fitted.decoding == Beam(width=5, length_penalty=1.0, max_length=fitted.longest)
    several = fitted.predict(model, asked, decoding=Beam(width=3, alternatives=3, max_length=fitted.longest))
    assert several[0].value == "one two" and len(several[0].fields["alternatives"]) == 2
    blank = fitted.predict(model, said([""]), decoding=Beam(width=3, alternatives=3, max_length=fitted.longest))
    assert blank[0].as_data() == {"prediction": "", "score": 0.0, "ended": True, "alternatives": []}
    drawn = fitted.predict(model, asked, decoding=Sampling(greedy=True))
    assert [one.value for one in drawn] == ["one two", "three"]


def test_what_looked_at_what() -> None:
    fitted, model = translator()
    source, target, weights = fitted.attention(model, said(["zwei drei"])[0])
    assert source == ["zwei", "drei", "</s>"] and target == ["two", "three", "</s>"]
    assert weights.shape == (3, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3))


@pytest.mark.parametrize("shared", [True, False])
def test_a_folder_gives_the_same_task(shared: bool, tmp_path: Path) -> None:
    task = Translate(source="de", target="en", shared_vocabulary=shared, beam=2)
    fitted = task.fit(numbers(50), DataSpec(tokenizer="bpe", vocab_size=300), context=32)
    fitted.save(tmp_path)
    options = task.model_dump(mode="json", exclude={"kind"})
    again = Translate.load(options, tmp_path)
    assert again.task == task and again.context == 32
    assert again.longest == fitted.longest == fitted.decoding.max_length
    record = numbers(1, seed=5)[0]
    one, two = fitted.example(record), again.example(record)
    assert one.ids.tolist() == two.ids.tolist() and one.targets.tolist() == two.targets.tolist()
    assert one.source is not None and two.source is not None and one.source.tolist() == two.source.tolist()
    (tmp_path / "sequences.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"sequences.json is missing or damaged"):
        Translate.load(options, tmp_path)


def test_the_spec_is_completed_by_the_data() -> None:
    shared = Translate(source="de", target="en").fit(numbers(50), DATA, context=12)
    spec = shared.complete(small())
    assert spec.encoder is not None and spec.share == ("embedding",) and spec.context == spec.encoder.context == 12
    assert spec.vocab_size == spec.encoder.vocab_size == shared.target_tokenizer.vocab_size
    assert str(spec.layers[0]) == "heads=2, position=rotary, mask=causal, cross=attention(heads=2)"
    assert str(spec.encoder.layers[0]) == "heads=2, position=rotary"
    model = shared.build(spec, seed=0)
    assert model.encoder.embedding.table is model.decoder.embedding.table

    apart = Translate(source="de", target="en", shared_vocabulary=False)
    fitted = apart.fit([Record({"de": "a a b b c c", "en": "x x"}, "x")], DATA, context=12)
    own = fitted.complete(small("heads=2, cross=attention(heads=4)", encoder=small("heads=4", width=16)))
    assert own.encoder is not None and (own.encoder.vocab_size, own.vocab_size) == (10, 8) and own.share == ()
    assert str(own.layers[0].cross) == "heads=4" and own.encoder.width == 16
    with pytest.raises(SpecError, match="share=embedding needs one vocabulary"):
        fitted.complete(own.replace(vocab_size=10, encoder=small(), share=("embedding",)))
    with pytest.raises(SpecError, match="do not say how they look at the encoder"):
        shared.complete(small("branches=lstm"))


def test_records_that_cannot_be_learnt_name_their_line() -> None:
    fitted = Translate(source="de", target="en").fit(numbers(50), DATA, context=12)
    with pytest.raises(DataError, match=r"a.tsv, line 3: column 'en' holds no text; leave such rows out"):
        fitted.example(Record({"de": "eins", "en": " "}, "a.tsv, line 3"))
    with pytest.raises(DataError, match=r"a.tsv, line 4: column 'de' holds no text; leave such rows out"):
        fitted.example(Record({"de": None, "en": "one"}, "a.tsv, line 4"))
    with pytest.raises(DataError, match=r"a.tsv, line 5 has no column 'de'; there are 'text'"):
        fitted.predict(translator()[1], [Record({"text": "eins"}, "a.tsv, line 5")])
    with pytest.raises(DataError, match=r"a.tsv, line 6: column 'de' holds dict, where text is needed"):
        fitted.example(Record({"de": {}, "en": "one"}, "a.tsv, line 6"))
    with pytest.raises(SpecError, match="source and target are different columns"):
        Translate(source="de", target="de")


def test_what_is_too_long_is_counted_and_cut_without_an_end() -> None:
    records = [*numbers(30, most=3), Record({"de": "eins " * 20, "en": "one " * 30}, "x")]
    with pytest.warns(DataWarning) as told:
        fitted = Translate(source="de", target="en").fit(records, DATA, context=8)
    assert [str(one.message).split(" are longer")[0] for one in told] == [
        "1 of 31 training sources",
        "1 of 31 training targets",
    ]
    example = fitted.example(records[-1])
    assert len(example.ids) == len(example.targets) == 8 and fitted.target_tokenizer.end not in example.targets
    assert example.source is not None and len(example.source) == 8 and example.source[-1] == fitted.source_tokenizer.end


def test_bleu_by_hand_and_with_several_references() -> None:
    pytest.importorskip("sacrebleu")
    # 4 of 5 words, 2 of 4 pairs, 1 of 3 triples; no run of four: smoothed to 1 / (2 x 2); as long as the reference
    expected = 100 * (4 / 5 * 2 / 4 * 1 / 3 * 1 / 4) ** 0.25
    scores = score_translations(["a b c X e"], [["a b c d e"]], tokenize="13a", lowercase=False)
    assert scores.values["bleu"] == pytest.approx(expected, abs=1e-6) and scores.values["length_ratio"] == 1.0
    assert scores.values["tokenised_bleu"] == 0.0  # not smoothed
    several = score_translations(
        ["a b c d", "e f g h"], [["x", "a b c d"], ["e f g h"]], tokenize="13a", lowercase=False
    )
    assert several.values["bleu"] == pytest.approx(100) and "nrefs:var" in several.signatures["bleu"]
    upper = [score_translations(["A B C D"], [["a b c d"]], tokenize="13a", lowercase=x).value for x in (False, True)]
    assert upper[0] < 20 and upper[1] == pytest.approx(100)
    chinese = score_translations(["我们去海边"], [["我们去海边。"]], tokenize="zh", lowercase=False)
    assert "tokenised_bleu" not in chinese.values
    assert chinese.value > 50 and "tok:zh" in chinese.signatures["bleu"]


@pytest.mark.parametrize("task", [Translate, Transduce])
def test_words_that_nothing_parts_are_told_of(task: Any) -> None:
    texts = ["2023年我们去海边看日出。", "海を見に行った。", "ok"]
    records = [Record({"source": "the sea", "target": text}, f"line {n}") for n, text in enumerate(texts)]
    with pytest.warns(DataWarning, match=r"column 'target': most texts are Chinese or Japanese.*say tokenize=zh, or"):
        task().fit(records, DATA, context=64)
    task(tokenize="zh").fit(records, DATA, context=64)
    task(source="target", target="source").fit(records, DATA, context=64)


def test_words_and_marks_apart() -> None:
    assert split_words("A man's T-shirt, don't!") == "a man 's t - shirt , do n't !"


def test_baselines_copy_the_source_or_the_nearest_text() -> None:
    pytest.importorskip("sacrebleu")
    pytest.importorskip("sklearn")
    fitted, _ = translator()
    train_records = [
        Record({"de": "eins zwei", "en": "one two three four"}, "x"),
        Record({"de": "vier", "en": "no"}, "y"),
    ]
    asked = [Record({"de": "eins zwei drei", "en": "one two three four"}, "z")]
    found = fitted.baseline(train_records, asked)
    assert found.keys() == {"source copied", "nearest training source"}
    assert found["nearest training source"].value == pytest.approx(100) and found["source copied"].value < 20


def test_scores_need_records() -> None:
    fitted, _ = translator()
    with pytest.raises(DataError, match="no records to be scored"):
        fitted.score([], [])
    held = [Record({"de": "eins"}, "a.tsv, line 2")]
    with pytest.raises(DataError, match=r"a.tsv, line 2 has no column 'en'"):
        fitted.score([Prediction("x")], held)


def pairs(part: str, count: int) -> list[Record]:
    if not MULTI30K.is_dir():
        pytest.skip(f"{MULTI30K} is absent")
    sides = []
    for side in ("de", "en"):
        with gzip.open(MULTI30K / f"{part}.{side}.gz", "rt", encoding="utf-8") as file:
            sides.append([line.rstrip("\n") for line, _ in zip(file, range(count), strict=False)])
    return [
        Record({"de": de, "en": en}, f"{part}, line {place}")
        for place, (de, en) in enumerate(zip(*sides, strict=True), 1)
    ]


def test_real_sentences_come_back_and_are_begun_to_be_learnt() -> None:
    records, held = pairs("train", 1500), pairs("val", 60)
    task = Translate(source="de", target="en", lowercase=True)
    fitted = task.fit(records, DataSpec(tokenizer="bpe", vocab_size=1500, lowercase=True), context=64)
    for record in held[:20]:
        example = fitted.example(record)
        assert fitted.target_tokenizer.decode(example.targets) == " ".join(record["en"].lower().split())
        assert example.source is not None and fitted.source_tokenizer.unknown not in example.source
    source = TaskSource(fitted, records, held)
    run = RUN.replace(context=64, batch=16, steps=25, evaluate_every=25)
    assert source.buckets(run).waste < 0.1
    model = fitted.build(fitted.complete(small()), seed=0)
    assert isinstance(model, EncoderDecoder)
    result = train(model, source, run)
    assert result.losses[0] > np.log(1000) and result.evaluations[-1].loss < 6.3
