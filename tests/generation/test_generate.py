"""Generation on the state, held against computing whole rows again for every token."""

from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.generation import Sampling, complete, draw, generate
from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.models.decoder import Decoder
from attentune.spec.model import ModelSpec

GREEDY = Sampling(greedy=True)
SAMPLED = Sampling(temperature=3.0, seed=4)
ACCEPTED = [
    "heads=4, mask=causal",
    "heads=4/2, position=rotary, mask=causal",
    "heads=multi_query(4), position=alibi, mask=causal & window(5)",
    "heads=4, position=t5, mask=causal & (window(4) | sink(2)), scores=temperature + soft_cap(20)",
    "heads=4, position=rotary, mask=causal | prefix(3), scores=qk_norm",
    "heads=4, mask=causal, normalizer=softmax_off_by_one, combine=gate",
    "heads=4, mask=causal, normalizer=entmax15",
    "heads=4, mask=causal, similarity=additive",
    "heads=4, mask=causal, head_mix=talking_heads",
    "heads=4, mask=causal, scores=residual_scores",
    "heads=4, position=rotary, mask=causal, selector=top_k_blocks(2, 2)",
    "heads=latent(4, rank=8, rotary=4), position=rotary, mask=causal",
    "heads=4, mask=causal, branches=lstm",
]


def make(text: str, *, context: int = 32, position: str = "none") -> Decoder:
    spec = ModelSpec(
        vocab_size=31,
        width=32,
        depth=2,
        context=context,
        layers=(layer(text),),
        position=position,  # type: ignore[arg-type]
        tie_embeddings=False,  # tied, scaled weights would repeat one token
    )
    model = build(spec, seed=1).double().eval()
    with torch.no_grad():  # far from uniform, so that one wrong score shows in the text
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    model.bind(dtype=torch.float64)
    return model


def by_whole_rows(model: Decoder, prompt: torch.Tensor, tokens: int, sampling: Sampling) -> list[int]:
    known, generator = prompt, torch.Generator().manual_seed(sampling.seed)
    with torch.no_grad():
        for _ in range(tokens):
            known = torch.cat([known, draw(model(known).logits[:, -1], sampling, generator)[:, None]], 1)
    return known[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("text", ACCEPTED)
def test_equals_whole_rows(text: str) -> None:
    model = make(text)
    prompt = torch.tensor([[3, 1, 4, 1, 5]])
    expected = by_whole_rows(model, prompt, 20, SAMPLED)
    assert len(set(expected)) > 4, "a text that repeats itself would prove little"
    assert generate(model, prompt, tokens=20, sampling=SAMPLED)[0].tolist() == expected


def test_memory_equals_whole_rows_while_nothing_is_forgotten() -> None:
    spec = make("heads=4, position=rotary, mask=causal, memory=transformer_xl(64)").spec.replace(depth=1)
    model = build(spec, seed=1).double().eval()
    model.bind(dtype=torch.float64)
    prompt = torch.tensor([[3, 1, 4, 1, 5]])
    expected = by_whole_rows(model, prompt, 10, GREEDY)
    assert generate(model, prompt, tokens=10, sampling=GREEDY)[0].tolist() == expected


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("text", ACCEPTED[:6] + ACCEPTED[9:])
def test_padded_rows_equal_rows_on_their_own(text: str, side: str) -> None:
    model = make(text)
    short, long = [7, 2, 9], [3, 1, 4, 1, 5, 9]
    padding = [0] * 3
    rows = torch.tensor([padding + short if side == "left" else short + padding, long])
    valid = torch.tensor([[False] * 3 + [True] * 3, [True] * 6])
    valid[0] = valid[0] if side == "left" else valid[0].flip(0)
    both = generate(model, rows, tokens=8, sampling=GREEDY, valid=valid)
    for row, alone in zip(both, (short, long), strict=True):
        assert row.tolist() == generate(model, torch.tensor([alone]), tokens=8, sampling=GREEDY)[0].tolist()


def test_seed_decides_the_text() -> None:
    model, prompt = make(ACCEPTED[0]), torch.tensor([[3, 1, 4]])
    texts = [generate(model, prompt, tokens=20, sampling=Sampling(seed=seed))[0].tolist() for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_goes_on_beyond_the_context_from_its_newer_half() -> None:
    model = make(ACCEPTED[0], context=8, position="learned")
    made = generate(model, torch.tensor([[3, 1, 4]]), tokens=30, sampling=GREEDY)[0].tolist()
    known = [3, 1, 4, *made[:6]]  # 9 tokens: one more than the model can look back on
    expected = by_whole_rows(model, torch.tensor([known[-4:]]), 1, GREEDY)
    assert made[6] == expected[0] and len(made) == 30


def test_goes_on_beyond_the_context_from_a_whole_prefix() -> None:
    model = make("heads=4, mask=causal | prefix(6)", context=8)
    made = generate(model, torch.tensor([[3, 1, 4, 1, 5, 9]]), tokens=9, sampling=GREEDY)[0].tolist()
    known = [3, 1, 4, 1, 5, 9, *made[:3]]
    assert made[3] == by_whole_rows(model, torch.tensor([known[-6:]]), 1, GREEDY)[0] and len(made) == 9


def test_a_model_with_memory_takes_no_limit() -> None:
    model = make("heads=4, position=rotary, mask=causal, memory=transformer_xl(8)")
    with pytest.raises(SpecError, match="a model with memory takes no limit, got 4"):
        generate(model, torch.tensor([[3, 1]]), tokens=1, limit=4)


def test_finished_rows_stay_finished() -> None:
    model, prompt = make(ACCEPTED[0]), torch.tensor([[3, 1, 4], [2, 7, 1]])
    free = generate(model, prompt, tokens=12, sampling=GREEDY)
    end = int(free[0, 2])
    made = generate(model, prompt, tokens=12, sampling=GREEDY, end=end)
    first = made[0].tolist()
    assert set(first[first.index(end) :]) == {end}
    stops = [row.index(end) if end in row else 11 for row in free.tolist()]
    assert made.shape[1] == max(stops) + 1


def test_masks_that_show_later_keys_are_refused_with_the_reason() -> None:
    with pytest.raises(SpecError, match="shows later keys"):
        generate(make("heads=4, mask=full"), torch.tensor([[3, 1, 4]]), tokens=2)
    with pytest.raises(SpecError, match="at least 6 tokens in each row, got 3"):
        generate(make("heads=4, mask=causal | prefix(6)"), torch.tensor([[3, 1, 4]]), tokens=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"tokens": 0}, "tokens must be at least 1"), ({"tokens": 1, "limit": 1}, "limit must be at least 2")],
)
def test_impossible_requests_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        generate(make(ACCEPTED[0]), torch.tensor([[3, 1]]), **change)
    with pytest.raises(SpecError, match="at least one token"):
        generate(make(ACCEPTED[0]), torch.zeros(1, 0, dtype=torch.long), tokens=1)


def test_training_mode_is_left_as_it_was() -> None:
    model = make(ACCEPTED[0]).train()
    generate(model, torch.tensor([[3]]), tokens=1)
    assert model.training


class Letters:
    """31 letters; nothing ends a text."""

    end_of_text: int | None = None

    def encode(self, text: str) -> list[int]:
        return [0 if letter == "\n" else ord(letter) - 96 for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join("\n" if i == 0 else chr(96 + i) for i in ids)


def test_complete_hands_out_the_text_piece_by_piece() -> None:
    pieces: list[str] = []
    model = make(ACCEPTED[0])
    text = complete(model, Letters(), "abc", tokens=15, sampling=GREEDY, on_text=pieces.append)
    assert "".join(pieces) == text and len(pieces) == 15
    ids = generate(model, torch.tensor([[1, 2, 3]]), tokens=15, sampling=GREEDY)[0].tolist()
    assert text == Letters().decode(ids)


def test_complete_starts_from_nothing() -> None:
    model = make(ACCEPTED[0])
    assert complete(model, Letters(), "", tokens=5, sampling=GREEDY) == complete(
        model, Letters(), "\n", tokens=5, sampling=GREEDY
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_limit_counts_real_tokens_and_not_padding(side: str) -> None:
    model, row = make(ACCEPTED[0]), [3, 1, 4, 1]
    alone = generate(model, torch.tensor([row]), tokens=1, sampling=GREEDY, limit=6)
    padding, real = torch.zeros(9, dtype=torch.long), torch.tensor(row)
    parts = (padding, real) if side == "left" else (real, padding)
    valid = torch.cat(parts) > 0
    both = torch.stack([torch.cat(parts), torch.full((13,), 5)])
    seen = torch.stack([valid, torch.ones(13, dtype=torch.bool)])
    found = generate(model, both, tokens=1, sampling=GREEDY, valid=seen, limit=6)
    assert found[0].tolist() == alone[0].tolist()
