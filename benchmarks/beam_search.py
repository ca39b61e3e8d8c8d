"""Batch beam search and greedy decoding: Attentune against `MarianMTModel.generate` on the same weights, in one run.

A translator as of multi30k (3 + 3 layers, width 256, 8 heads, networks of 512, vocabulary 8,000) with random weights is
mapped from `transformers` into ours. Sources of 8 to 30 tokens are decoded in float32 or bfloat16, with the same
penalty and the same rule for stopping; what both find is compared. Rounds are interleaved; medians, the best, and
ratios are reported.

With random weights no text may end: each of the 40 steps computes all rows. A trained translator ends its texts, and
what is done leaves our batch, not theirs: `--translator` names the model folder of one in Marian's shape (that of
configs/multi30k.toml with `--model.norm-placement post --model.bias --model.head-bias` and the attention of 2017), and
`--data` records with its sources, which both decode in the same batches of like length.

    python benchmarks/beam_search.py [--rounds 5] [--threads 1] [--batch 64] [--dtype bfloat16] [--json FILE]
    python benchmarks/beam_search.py --translator runs/marian/model --data multi30k/test_2016_flickr
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import attentune
from attentune.generation import Beam, Sampling, decode
from attentune.mechanisms import layer
from attentune.models.build import build_encoder_decoder
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.models.published import marian
from attentune.spec.model import FeedForwardSpec, ModelSpec
from attentune.spec.run import DataSpec
from attentune.tasks._sequences import FittedSequences
from attentune.tasks.folder import TaskModel
from attentune.tasks.reading import read

VOCABULARY, LONGEST = 8000, 40
Texts = list[list[int]]
Run = Callable[[], Texts]


@dataclass(frozen=True)
class Rivals:
    """The same translator twice, its special tokens, and what to translate, batch by batch."""

    theirs: Any
    ours: EncoderDecoder
    start: int
    end: int
    pad: int
    batches: list[Texts]


def marian_like(ours: ModelSpec, *, start: int, end: int, pad: int) -> Any:
    """A `MarianMTModel` of the shape of `ours`, with random weights."""
    config = transformers.MarianConfig(
        vocab_size=ours.vocab_size, decoder_vocab_size=ours.vocab_size, d_model=ours.width, encoder_layers=ours.depth,
        decoder_layers=ours.depth, encoder_attention_heads=8, decoder_attention_heads=8,
        encoder_ffn_dim=ours.feed_forward.hidden_width(ours.width),
        decoder_ffn_dim=ours.feed_forward.hidden_width(ours.width), max_position_embeddings=max(64, ours.context),
        activation_function="relu", scale_embedding=True, pad_token_id=pad, eos_token_id=end,
        decoder_start_token_id=start, forced_eos_token_id=None, dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.MarianMTModel(config).eval()
    theirs.generation_config.forced_eos_token_id = None
    return theirs


def tensors(theirs: Any) -> dict[str, Tensor]:
    return {**dict(theirs.named_buffers()), **theirs.state_dict()}


def random_rivals(batch: int) -> Rivals:
    """The logit of the end is so low that no text ends."""
    start, end = 0, 1
    around: dict[str, Any] = {"vocab_size": VOCABULARY, "width": 256, "depth": 3, "context": 64}
    shape = ModelSpec(layers=(layer("heads=8"),), feed_forward=FeedForwardSpec(name="relu", hidden=512), **around)
    theirs = marian_like(shape, start=start, end=end, pad=start)
    theirs.final_logits_bias[0, end] = -1e4
    spec = marian.model_spec(theirs.config.to_dict())
    mapped = marian.weights(tensors(theirs), spec)
    ours = build_encoder_decoder(spec, seed=0).eval()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(mapped[name])
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(8, 31, (batch,), generator=generator).tolist()
    texts = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    return Rivals(theirs, ours, start, end, start, [texts])


def trained_rivals(folder: str, data: str, batch: int) -> Rivals:
    """The translator in `folder`, and its weights in `transformers`."""
    loaded = attentune.load(folder)
    assert isinstance(loaded, TaskModel)
    fitted, ours = loaded.fitted, loaded.model
    assert isinstance(fitted, FittedSequences) and isinstance(ours, EncoderDecoder)
    tokenizer = fitted.target_tokenizer
    theirs = marian_like(ours.spec, start=tokenizer.begin, end=tokenizer.end, pad=tokenizer.pad)
    # The reader of Marian's weights moves and joins tensors: counted elements show where each comes from.
    held = {name: tensor for name, tensor in tensors(theirs).items() if "embed_positions" not in name}
    counted, first = {}, 0
    for name, tensor in held.items():
        if theirs.state_dict().get(name) is not None or name == "final_logits_bias":
            counted[name] = torch.arange(first, first + tensor.numel(), dtype=torch.float64).view(tensor.shape)
            first += tensor.numel()
    for alias in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"):
        counted[alias] = counted["model.shared.weight"]
    mapped = marian.weights(counted, marian.model_spec(theirs.config.to_dict()))
    flat = torch.zeros(first)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            flat[mapped[name].long().flatten()] = parameter.flatten()
        for name, tensor in held.items():
            tensor.copy_(flat[counted[name].long().flatten()].view(tensor.shape))
    records = read(fitted.task, data, DataSpec())
    ids = sorted(([*whole.tolist(), tokenizer.end] for whole in fitted.whole_sources(records)), key=len)
    batches = [ids[begin : begin + batch] for begin in range(0, len(ids), batch)]
    return Rivals(theirs, ours, tokenizer.begin, tokenizer.end, tokenizer.pad, batches)


def their_run(rivals: Rivals, width: int) -> Run:
    how: dict[str, Any] = {"num_beams": width, "max_new_tokens": LONGEST, "do_sample": False}
    if width > 1:
        how |= {"length_penalty": 1.0, "early_stopping": "never"}  # our rule: no open hypothesis can win any more

    def run() -> Texts:
        found = []
        for texts in rivals.batches:
            longest = max(map(len, texts))
            ids = torch.tensor([text + [rivals.pad] * (longest - len(text)) for text in texts])
            real = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
            with torch.inference_mode():
                made = rivals.theirs.generate(input_ids=ids, attention_mask=real, **how)
            rows = [row[1:] for row in made.tolist()]
            found += [row[: row.index(rivals.end)] if rivals.end in row else row for row in rows]
        return found

    return run


def our_run(rivals: Rivals, width: int) -> Run:
    beam = Beam(width=width, normalization="length", length_penalty=1.0, max_length=LONGEST)
    by: Beam | Sampling = Sampling(greedy=True) if width == 1 else beam

    def run() -> Texts:
        tokens = LONGEST if width == 1 else None
        found = []
        for texts in rivals.batches:
            made = decode(
                rivals.ours, texts, by=by, start=rivals.start, end=rivals.end, tokens=tokens, batch=len(texts)
            )
            found += [list(text[0].tokens) for text in made]
        return found

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64, help="sources that are decoded together")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of both models' weights")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--translator", help="model folder of a trained translator in Marian's shape")
    parser.add_argument("--data", help="records whose sources are translated")
    arguments = parser.parse_args()
    if (arguments.translator is None) != (arguments.data is None):
        parser.error("--translator and --data go together")
    torch.set_num_threads(arguments.threads)
    if arguments.translator:
        rivals = trained_rivals(arguments.translator, arguments.data, arguments.batch)
    else:
        rivals = random_rivals(arguments.batch)
    for model in (rivals.theirs, rivals.ours):
        model.to(getattr(torch, arguments.dtype))
    sources = sum(map(len, rivals.batches))
    machine = f"batches of {arguments.batch}, {arguments.dtype}, {arguments.threads} threads, {platform.machine()}"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {machine}, "
          f"{arguments.rounds} interleaved rounds, {sources} sources")  # fmt: skip
    print("| decoding | transformers s | attentune s | ratio of medians | of the best | tokens | equal texts |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for width in (5, 1):
        runs = {"transformers": their_run(rivals, width), "attentune": our_run(rivals, width)}
        found = {name: run() for name, run in runs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                begun = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - begun)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        ratio = medians["transformers"] / medians["attentune"]
        best = min(seconds["transformers"]) / min(seconds["attentune"])
        equal = sum(a == b for a, b in zip(*found.values(), strict=True))
        count = sum(map(len, found["attentune"]))
        how = "greedy" if width == 1 else f"beam {width}"
        print(f"| {how} | {medians['transformers']:.2f} | {medians['attentune']:.2f} | {ratio:.2f} | "
              f"{best:.2f} | {count} | {equal} of {sources} |", flush=True)  # fmt: skip
        rows.append({"width": width, "seconds": seconds, "ratio": ratio, "best": best,
                     "equal": equal, "tokens": count})  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
