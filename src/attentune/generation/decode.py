"""Texts for sources, or after prompts: by beam search, greedily, or drawn, in batches of like length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from attentune.errors import SpecError
from attentune.generation.beam import Beam, check_beam, limits, search
from attentune.generation.finished import Hypothesis
from attentune.generation.frontier import Frontier, frontier
from attentune.generation.likeliest import likeliest
from attentune.generation.sampling import Sampling, probabilities
from attentune.kernels.layout import Layout
from attentune.models.decoder import Decoder
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.shapes import Bool, Float, Int, Tensor

Model = Decoder | EncoderDecoder


def decode(
    model: Model,
    sources: Sequence[Sequence[int]],
    *,
    by: Beam | Sampling,
    end: int | None,
    start: int | None = None,
    tokens: int | None = None,
    batch: int = 64,
    weigh: bool = False,
) -> list[list[Hypothesis]]:
    """The hypotheses for each source, in the order of the sources, the best of each first.

    Args:
        model: in any mode; it is left in the mode it was in. With an encoder, the sources go into it; without one
            they are prompts that the texts go on from.
        sources: token numbers, at least one each.
        by: `Beam` searches for the likeliest texts; `Sampling` draws one for each source (greedily, where it says so).
        end: the token that ends a text.
        start: the first token of the decoder of an encoder-decoder; a language model takes none.
        tokens: the most tokens that `Sampling` draws; a `Beam` says so itself.
        batch: sources that are decoded together; they are sorted by length, so that little is padding.
        weigh: keep the weights of cross-attention, for `Hypothesis.weights`.

    What a text is depends on its own source alone, and where it is drawn on the seed and the place of its source.

    Raises:
        SpecError: an empty source; a token that the model does not know; arguments that do not go with the model;
            logits that are not numbers; a source or prompt that is longer than the positions that the model knows.
    """
    limit = _check(model, sources, by, start=start, tokens=tokens, batch=batch, weigh=weigh)
    was_training = model.training
    model.eval()
    try:
        found: list[list[Hypothesis]] = [[] for _ in sources]
        order = sorted(range(len(sources)), key=lambda row: -len(sources[row]))
        for begin in range(0, len(order), batch):
            rows = order[begin : begin + batch]
            for row, texts in zip(rows, _decode_batch(model, sources, rows, by, start, end, limit, weigh), strict=True):
                found[row] = [_without_padding(text, len(sources[row])) for text in texts]
    finally:
        model.train(was_training)
    return found


@torch.inference_mode()
def _decode_batch(
    model: Model,
    sources: Sequence[Sequence[int]],
    rows: Sequence[int],
    by: Beam | Sampling,
    start: int | None,
    end: int | None,
    most: int,
    weigh: bool,
) -> list[list[Hypothesis]]:
    device = next(model.parameters()).device
    ids, valid = _padded([sources[row] for row in rows], device)
    lengths = torch.tensor([len(sources[row]) for row in rows], device=device)
    limit = limits(lengths, most, by.max_ratio if isinstance(by, Beam) else None)
    covering = weigh or (isinstance(by, Beam) and by.coverage_penalty > 0)
    if isinstance(model, EncoderDecoder):
        decoder, encoded = model.decoder, model.encode(ids, None if valid is None else Layout.padded(valid))
        first = ids.new_full((len(rows), 1), 0 if start is None else start)
        begun = frontier(decoder, first, None, encoded, weigh=covering)
        room = torch.full_like(limit, decoder.spec.context)
    else:
        decoder, begun = model, frontier(model, ids, valid, None, weigh=covering)
        room = decoder.spec.context - lengths + 1
    if decoder.embedding.places is not None:  # learned positions end at the context
        limit = torch.minimum(limit, room)
        if bool((limit < 1).any()):
            raise SpecError(
                f"a prompt of {int(lengths.max())} tokens is longer than the {decoder.spec.context} positions that the "
                "model knows (its context)"
            )
    if isinstance(by, Beam):
        return search(decoder, begun, by, limit=limit, end=end, valid=valid, weigh=weigh)
    return _draw(decoder, begun, by, limit=limit, end=end, places=rows, of=len(sources), weigh=weigh)


def _draw(
    decoder: Decoder,
    begun: Frontier,
    sampling: Sampling,
    *,
    limit: Int[Tensor, "B"],
    end: int | None,
    places: Sequence[int],
    of: int,
    weigh: bool,
) -> list[list[Hypothesis]]:
    """One text for each row; finished rows leave the batch. The score of a drawn text is its log-probability."""
    device, longest = limit.device, int(limit.max())
    generator = torch.Generator().manual_seed(sampling.seed)
    # One generator for each source, so that it draws the same whatever is decoded beside it.
    seeds = torch.randint(1 << 62, (of,), generator=generator).tolist()
    draws = torch.stack(
        [torch.rand(longest, generator=torch.Generator().manual_seed(seeds[place])) for place in places]
    ).to(device)
    texts: list[list[int]] = [[] for _ in places]
    looked: list[list[Tensor]] = [[] for _ in places]
    logs = [0.0] * len(places)
    made: list[list[Hypothesis]] = [[] for _ in places]
    rows = torch.arange(len(places), device=device)
    seen = begun.start()
    for length in range(1, longest + 1):
        logits = decoder.logits(seen.hidden)[:, 0]
        best, token = (x[:, 0] for x in likeliest(logits, 1))
        gained = best
        if not sampling.greedy:
            token = _pick(logits, sampling, draws[rows, length - 1])
            total = logits.amax(-1).to(best.dtype) - best
            gained = logits.gather(1, token[:, None])[:, 0].to(best.dtype) - total
        goes_on = limit[rows] > length if end is None else (limit[rows] > length) & (token != end)
        for place, (row, number, gain, open_) in enumerate(
            zip(rows.tolist(), token.tolist(), gained.tolist(), goes_on.tolist(), strict=True)
        ):
            logs[row] += gain
            ended = number == end
            if not ended:
                texts[row].append(number)
            if weigh and seen.weights is not None:
                looked[row].append(seen.weights[place, 0].float().cpu())
            if not open_:
                weights = torch.stack(looked[row]) if looked[row] else None
                made[row] = [Hypothesis(tuple(texts[row]), logs[row], logs[row], length, ended, weights)]
        if not bool(goes_on.any()):
            break
        if not bool(goes_on.all()):
            kept = goes_on.nonzero()[:, 0]
            begun.keep(kept)
            rows, token = rows[kept], token[kept]
        seen = begun.step(token[:, None], torch.zeros_like(token)[:, None])
    return made


def _without_padding(text: Hypothesis, length: int) -> Hypothesis:
    """The weights on the tokens of the source itself, which stand first."""
    return text if text.weights is None else replace(text, weights=text.weights[:, :length])


def _pick(logits: Float[Tensor, "B N"], sampling: Sampling, draw: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
    """The token whose share of the line from 0 to 1 holds `draw`."""
    shares = probabilities(logits, sampling).double()
    ends = shares.cumsum(-1)
    token = torch.searchsorted(ends, (draw.double() * ends[:, -1])[:, None], right=True)[:, 0]
    last = shares.shape[1] - 1 - (shares > 0).flip(-1).to(torch.uint8).argmax(-1)  # rounding may go beyond it
    return torch.minimum(token, last)


def _padded(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "B T"], Tensor | None]:
    """Rows filled up on the right, and where they are real; None where all are."""
    longest = max(map(len, texts))
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(list(text), dtype=torch.long)
    if all(len(text) == longest for text in texts):
        return ids.to(device), None
    lengths = torch.tensor([len(text) for text in texts])
    valid: Bool[Tensor, "B T"] = torch.arange(longest) < lengths[:, None]
    return ids.to(device), valid.to(device)


def _check(
    model: Model,
    sources: Sequence[Sequence[int]],
    by: Beam | Sampling,
    *,
    start: int | None,
    tokens: int | None,
    batch: int,
    weigh: bool,
) -> int:
    """The most tokens of a text, once the arguments fit the model and each other."""
    translates = isinstance(model, EncoderDecoder)
    if translates and start is None:
        raise SpecError("an encoder-decoder needs the token that its texts start from: decode(..., start=...)")
    if not translates and start is not None:
        raise SpecError(f"a language model goes on from its prompts: it takes no start, got {start}")
    if batch < 1:
        raise SpecError(f"batch must be at least 1 source, got {batch}")
    spec = model.spec.encoder if isinstance(model, EncoderDecoder) else model.spec
    assert spec is not None
    for place, source in enumerate(sources):
        if len(source) == 0:
            raise SpecError(f"source {place} holds no token: leave empty texts out")
        if (worst := max(source)) >= spec.vocab_size or min(source) < 0:
            known = f"the model knows 0 to {spec.vocab_size - 1}"
            raise SpecError(f"source {place} holds token {worst if worst >= spec.vocab_size else min(source)}: {known}")
    crosses = translates or (isinstance(model, Decoder) and model.has_cross)
    if weigh and not crosses:
        raise SpecError("weigh keeps the weights of cross-attention, which this model has none of")
    if isinstance(by, Beam):
        if tokens is not None:
            raise SpecError(f"a Beam says by itself how long texts may be: write max_length={tokens} there")
        check_beam(by, crosses=crosses)
        return by.max_length
    if tokens is None or tokens < 1:
        raise SpecError(f"Sampling needs the most tokens of a text: decode(..., tokens=256), got {tokens}")
    return tokens
