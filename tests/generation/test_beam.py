"""Beam search: against greedy decoding, against every text there is, and against what others compute."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch

from attentune.errors import SpecError
from attentune.generation import Beam, Hypothesis, Sampling, decode, probabilities
from attentune.generation.likeliest import likeliest
from attentune.kernels import Layout
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.models.published import marian
from generation.test_generate import ACCEPTED, make
from models.published.comparing import ours_whole, published, rows, state_of
from models.seq2seq import PAIRS, encoder_decoder

SOURCES = [[5, 4, 3], [9, 8, 7, 6, 5, 4], [2, 3], [11, 3, 16, 2, 8]]
START, END = 1, 0
GREEDY = Sampling(greedy=True)


def lesson(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sources of 1 to 6 tokens, where they are real, and the same backwards between start and end."""
    lengths = torch.randint(1, 7, (16,), generator=generator)
    source = torch.randint(2, 17, (16, 6), generator=generator)
    target = torch.full((16, 8), START)
    for row, length in enumerate(lengths.tolist()):
        target[row, 1 : length + 1] = source[row, :length].flip(0)
        target[row, length + 1 :] = END
    return source, torch.arange(6) < lengths[:, None], target


@cache
def taught(name: str) -> EncoderDecoder:
    """A model that has begun to learn to turn its source around, so that texts end, at different lengths."""
    model, generator = encoder_decoder(name).train(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        source, real, target = lesson(generator)
        logits = model(target[:, :-1], source=source, source_layout=Layout.padded(real)).logits
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten()).backward()
        optimizer.step()
    return model.eval()


def sharp(name: str = "plain") -> EncoderDecoder:
    """A copy of it, to be broken."""
    return deepcopy(taught(name))


@torch.no_grad()
def log_probability(model: EncoderDecoder, source: list[int], text: tuple[int, ...]) -> float:
    """log p of the whole text, by whole rows; `text` holds its end, where it has one."""
    ids = torch.tensor([[START, *text]])
    logs = model(ids[:, :-1], source=torch.tensor([source])).logits.log_softmax(-1)
    return float(logs.gather(2, ids[:, 1:, None]).sum())


def whole(hypothesis: Hypothesis) -> tuple[int, ...]:
    return (*hypothesis.tokens, END) if hypothesis.ended else hypothesis.tokens


def texts(found: list[list[Hypothesis]]) -> list[list[tuple[int, ...]]]:
    return [[whole(one) for one in several] for several in found]


@pytest.mark.parametrize("name", PAIRS)
def test_a_width_of_1_is_greedy(name: str) -> None:
    model = sharp(name)
    beam = decode(model, SOURCES, by=Beam(width=1, max_length=12), start=START, end=END)
    greedy = decode(model, SOURCES, by=GREEDY, start=START, end=END, tokens=12)
    assert texts(beam) == texts(greedy)
    for source, (one,), (same,) in zip(SOURCES, beam, greedy, strict=True):
        text = whole(one)
        with torch.no_grad():  # each token is the likeliest after those before it
            logits = model(torch.tensor([[START, *text[:-1]]]), source=torch.tensor([source])).logits
        assert text == tuple(logits[0].argmax(-1).tolist())
        assert (len(text) == 12 or text[-1] == END) and END not in text[:-1]
        assert one.log_probability == pytest.approx(same.log_probability, abs=1e-9)
        assert one.log_probability == pytest.approx(log_probability(model, source, whole(one)), abs=1e-9)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.3])
@pytest.mark.parametrize("normalization", ["gnmt", "length"])
def test_a_beam_as_wide_as_all_texts_finds_the_best_of_all(penalty: float, normalization: str) -> None:
    model, longest, vocabulary = sharp("shared table"), 3, 17
    with torch.no_grad():  # a vocabulary of 5, of which the end is one
        model.decoder.embedding.table[5:] = 0
        model.decoder.head_bias = torch.nn.Parameter(torch.full((vocabulary,), -1e4, dtype=torch.float64))
        model.decoder.head_bias[:5] = 0
    beam = Beam(width=300, alternatives=85, length_penalty=penalty, normalization=normalization, max_length=longest)
    found = decode(model, [[4, 2, 3]], by=beam, start=START, end=END)[0]
    every: dict[tuple[int, ...], float] = {}
    for text in product(range(5), repeat=longest):
        cut = text[: text.index(END) + 1] if END in text else text
        if cut not in every:
            base = (5 + len(cut)) / 6 if normalization == "gnmt" else len(cut)
            every[cut] = log_probability(model, [4, 2, 3], cut) / base**penalty
    best = sorted(every.items(), key=lambda one: -one[1])
    assert [whole(one) for one in found] == [text for text, _ in best]
    assert [one.score for one in found] == pytest.approx([score for _, score in best], abs=1e-9)
    assert len(found) == 85


def test_the_score_is_what_the_penalties_say() -> None:
    model = sharp()
    beam = Beam(width=4, alternatives=4, length_penalty=0.7, coverage_penalty=0.3, max_length=9)
    for source, found in zip(SOURCES, decode(model, SOURCES, by=beam, start=START, end=END, weigh=True), strict=True):
        assert len(found) == 4
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        for one in found:
            assert one.length == len(whole(one)) <= 9 and one.ended == (one.length > len(one.tokens))
            assert one.log_probability == pytest.approx(log_probability(model, source, whole(one)), abs=1e-9)
            ids = torch.tensor([[START, *whole(one)[:-1]]])
            with torch.no_grad():
                wanted = frozenset({"output", "cross.weights"})
                given = model(ids, source=torch.tensor([source]), wanted=wanted).attention[-1]["cross.weights"]
            assert one.weights is not None
            assert torch.allclose(one.weights, given[0].mean(0).float(), atol=1e-6)
            covered = given[0].mean(0).sum(0).clamp(max=1).log().sum()
            expected = one.log_probability / ((5 + one.length) / 6) ** 0.7 + 0.3 * float(covered)
            assert one.score == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
@pytest.mark.parametrize(
    "by",
    [Beam(width=3, alternatives=2, max_length=10, max_ratio=2.5, coverage_penalty=0.2), Sampling(seed=3), GREEDY],
    ids=["beam", "drawn", "greedy"],
)
def test_what_else_is_in_the_batch_changes_nothing(batch: int, by: Beam | Sampling) -> None:
    model = sharp()
    several = [source[: 1 + place % 4] for place, source in enumerate(SOURCES * 2)] + SOURCES
    most = None if isinstance(by, Beam) else 10
    found = decode(model, several, by=by, start=START, end=END, tokens=most, batch=batch)
    alone = decode(model, several, by=by, start=START, end=END, tokens=most, batch=len(several))
    assert texts(found) == texts(alone)
    lengths = {len(one[0].tokens) for one in found}
    assert len(lengths) > 2, "texts of one length would prove little"
    if isinstance(by, Beam):
        for source, one in zip(several, found, strict=True):
            assert max(x.length for x in one) <= -(-5 * len(source) // 2)


@pytest.mark.parametrize("text", ACCEPTED[:2] + ACCEPTED[9:])
def test_prompts_of_a_language_model_go_on(text: str) -> None:
    model = make(text)
    prompts = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3]]
    greedy = decode(model, prompts, by=Beam(width=1, max_length=8), end=None)
    for prompt, (one,) in zip(prompts, greedy, strict=True):
        known = torch.tensor([prompt])
        with torch.no_grad():
            for _ in range(8):
                known = torch.cat([known, model(known).logits[:, -1].argmax(-1)[:, None]], 1)
        assert one.tokens == tuple(known[0, len(prompt) :].tolist()) and not one.ended
    wide = decode(model, prompts, by=Beam(width=6, max_length=8, length_penalty=0.0), end=None)
    gains = [a[0].log_probability - b[0].log_probability for a, b in zip(wide, greedy, strict=True)]
    assert min(gains) > -1e-9 and max(gains) > 0
    alone = [
        decode(model, [prompt], by=Beam(width=6, max_length=8, length_penalty=0.0), end=None) for prompt in prompts
    ]
    assert texts(wide) == [texts(one)[0] for one in alone]


def test_learned_positions_end_where_the_context_does() -> None:
    model = make(ACCEPTED[0], position="learned", context=8)
    found = decode(model, [[3, 1, 4], [2] * 8], by=Beam(max_length=50), end=None)
    assert [one[0].length for one in found] == [6, 1]
    with pytest.raises(SpecError, match="a prompt of 9 tokens is longer than the 8 positions"):
        decode(model, [[2] * 9], by=Beam(), end=None)


def test_draws_follow_the_shares() -> None:
    model = sharp()
    drawn = decode(model, [SOURCES[0]] * 2000, by=Sampling(top_k=4, seed=1), start=START, end=END, tokens=1, batch=500)
    with torch.no_grad():
        logits = model(torch.tensor([[START]]), source=torch.tensor([SOURCES[0]])).logits[:, -1]
    shares = probabilities(logits, Sampling(top_k=4))[0]
    found = torch.bincount(torch.tensor([whole(one)[0] for (one,) in drawn]), minlength=17) / 2000
    assert (found[shares == 0] == 0).all()
    assert torch.allclose(found, shares.float(), atol=0.04)
    again = decode(model, SOURCES, by=Sampling(seed=1), start=START, end=END, tokens=5)
    other = decode(model, SOURCES, by=Sampling(seed=2), start=START, end=END, tokens=5)
    assert texts(again) == texts(decode(model, SOURCES, by=Sampling(seed=1), start=START, end=END, tokens=5))
    assert texts(again) != texts(other)


def test_logits_that_are_not_numbers_are_a_clear_error() -> None:
    model = sharp()
    with torch.no_grad():
        model.decoder.embedding.table[3, 0] = float("nan")
    for by, most in ((Beam(), None), (GREEDY, 5), (Sampling(), 5)):
        with pytest.raises(SpecError, match="logits are not numbers"):
            decode(model, SOURCES, by=by, start=START, end=END, tokens=most)


def test_the_mode_of_the_model_is_left_as_it_was() -> None:
    model = sharp().train()
    decode(model, SOURCES, by=Beam(max_length=2), start=START, end=END)
    assert model.training and model.encoder.training


@pytest.mark.parametrize(("changes", "message"), [
    ({"sources": [[1], []]}, "source 1 holds no token"),
    ({"sources": [[1], [17]]}, "source 1 holds token 17: the model knows 0 to 16"),
    ({"sources": [[1], [-1]]}, "source 1 holds token -1"),
    ({"start": None}, "needs the token that its texts start from"),
    ({"batch": 0}, "batch must be at least 1"),
    ({"tokens": 7}, "write max_length=7 there"),
    ({"by": GREEDY}, "Sampling needs the most tokens of a text"),
])  # fmt: skip
def test_impossible_requests_are_refused(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"sources": SOURCES, "by": Beam(), "start": START, "end": END, **changes}
    with pytest.raises(SpecError, match=message):
        decode(sharp(), given.pop("sources"), **given)


def test_a_language_model_refuses_what_needs_a_source() -> None:
    model = make(ACCEPTED[0])
    with pytest.raises(SpecError, match="takes no start, got 1"):
        decode(model, [[1]], by=Beam(), start=1, end=None)
    with pytest.raises(SpecError, match=r"coverage_penalty=0\.2 needs cross-attention"):
        decode(model, [[1]], by=Beam(coverage_penalty=0.2), end=None)
    with pytest.raises(SpecError, match="weigh keeps the weights of cross-attention"):
        decode(model, [[1]], by=Beam(), end=None, weigh=True)


@pytest.mark.parametrize("bad", [
    {"width": 0}, {"length_penalty": -0.1}, {"coverage_penalty": -1.0}, {"max_length": 0}, {"max_ratio": 0.0},
    {"alternatives": 6}, {"normalization": "none"},
])  # fmt: skip
def test_impossible_beams_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(bad))):
        Beam(**bad)


@pytest.mark.parametrize("vocabulary", [7, 300, 2048, 2100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_likeliest_are_those_of_log_softmax(vocabulary: int, dtype: torch.dtype) -> None:
    logits = (30 * torch.randn(70, vocabulary)).to(dtype)
    logits[3, : vocabulary // 2] = float("-inf")
    logs, found = likeliest(logits, 6)
    exact = logits.to(torch.promote_types(dtype, torch.float32)).log_softmax(-1)
    expected = exact.topk(min(6, vocabulary), -1).values
    assert torch.allclose(logs, expected, atol=1e-4 if dtype is not torch.float64 else 1e-12)
    assert torch.allclose(exact.gather(1, found), expected)
    assert all(len(set(row)) == len(row) for row in found.tolist())


def teach(model: Any, steps: int) -> None:
    """As `taught`, with 0 at the start and 1 at the end."""
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for _ in range(steps):
        source, real, target = lesson(generator)
        target = torch.where(target < 2, 1 - target, target)
        logits = model(input_ids=source, attention_mask=real.long(), decoder_input_ids=target[:, :-1]).logits
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten()).backward()
        optimizer.step()


MARIAN: dict[str, Any] = {
    "vocab_size": 61, "decoder_vocab_size": 61, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3,
    "encoder_attention_heads": 4, "decoder_attention_heads": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 48,
    "max_position_embeddings": 32, "pad_token_id": 0, "eos_token_id": 1, "forced_eos_token_id": None,
    "decoder_start_token_id": 0, "init_std": 0.2, "scale_embedding": True,
}  # fmt: skip


@cache
def translators(steps: int) -> tuple[Any, EncoderDecoder]:
    """A model of theirs, and ours with its weights."""
    import transformers

    config = transformers.MarianConfig(**MARIAN)
    theirs = published(transformers.MarianMTModel, config)
    theirs.generation_config.forced_eos_token_id = None
    teach(theirs, steps)
    spec = marian.model_spec(config.to_dict())
    return theirs, ours_whole(spec, marian.weights(state_of(theirs), spec))


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("width", "alternatives"), [(2, 1), (5, 1), (4, 4)])
@pytest.mark.parametrize("steps", [0, 200])  # of teaching: a random model never ends its texts, a taught one does
def test_finds_what_transformers_finds(width: int, alternatives: int, penalty: float, steps: int) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    theirs, model = translators(steps)
    source, real = rows(61, 6, 9), torch.arange(9) < torch.tensor([[9], [4], [7], [2], [9], [5]])
    made = theirs.generate(
        input_ids=source.masked_fill(~real, 0), attention_mask=real.long(), num_beams=width, max_new_tokens=12,
        num_return_sequences=alternatives, length_penalty=penalty, do_sample=False, early_stopping="never",
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    expected = [tuple(row[: row.index(1)] if 1 in row else row) for row in made.sequences[:, 1:].tolist()]
    beam = Beam(width=width, alternatives=alternatives, normalization="length", length_penalty=penalty, max_length=12)
    texts = [row[there].tolist() for row, there in zip(source, real, strict=True)]
    found = [one for several in decode(model, texts, by=beam, start=0, end=1) for one in several]
    assert [one.tokens for one in found] == expected
    assert [one.score for one in found] == pytest.approx(made.sequences_scores.tolist(), abs=1e-4)
    assert steps == 0 or len({one.length for one in found}) > 2
