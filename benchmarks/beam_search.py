"""Batch beam search and greedy decoding: Attentune against `MarianMTModel.generate` on the same weights, in one run.

A translator as of multi30k (3 + 3 layers, width 256, 8 heads, networks of 512, vocabulary 8,000) with random weights is
mapped from `transformers` into ours. 64 sources of 8 to 30 tokens are decoded in float32, with the same penalty and the
same rule for stopping; what both find is compared. Rounds are interleaved; medians, the best, and ratios are reported.

No text may end: each of the 40 steps computes all rows. Sources that are done early would leave our batch, not theirs.

    python benchmarks/beam_search.py [--rounds 5] [--threads 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from attentune.generation import Beam, Sampling, decode
from attentune.models.build import build_encoder_decoder
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.models.published import marian

VOCABULARY, SOURCES, LONGEST, END, START = 8000, 64, 40, 1, 0
Texts = list[list[int]]
Run = Callable[[], Texts]


def theirs_and_ours() -> tuple[Any, EncoderDecoder]:
    """The same translator twice; the logit of the end is so low that no text ends."""
    config = transformers.MarianConfig(
        vocab_size=VOCABULARY, decoder_vocab_size=VOCABULARY, d_model=256, encoder_layers=3, decoder_layers=3,
        encoder_attention_heads=8, decoder_attention_heads=8, encoder_ffn_dim=512, decoder_ffn_dim=512,
        max_position_embeddings=64, activation_function="relu", scale_embedding=True, pad_token_id=START,
        eos_token_id=END, decoder_start_token_id=START, forced_eos_token_id=None, dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.MarianMTModel(config).eval()
    theirs.generation_config.forced_eos_token_id = None
    theirs.final_logits_bias[0, END] = -1e4
    spec = marian.model_spec(config.to_dict())
    mapped = marian.weights({**dict(theirs.named_buffers()), **theirs.state_dict()}, spec)
    ours = build_encoder_decoder(spec, seed=0).eval()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(mapped[name])
    return theirs, ours


def sources() -> Texts:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(8, 31, (SOURCES,), generator=generator).tolist()
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def their_run(model: Any, texts: Texts, width: int) -> Run:
    longest = max(map(len, texts))
    ids = torch.tensor([text + [START] * (longest - len(text)) for text in texts])
    real = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    how: dict[str, Any] = {"num_beams": width, "max_new_tokens": LONGEST, "do_sample": False}
    if width > 1:
        how |= {"length_penalty": 1.0, "early_stopping": "never"}  # our rule: no open hypothesis can win any more

    def run() -> Texts:
        with torch.inference_mode():
            made = model.generate(input_ids=ids, attention_mask=real, **how)
        rows = [row[1:] for row in made.tolist()]
        return [row[: row.index(END)] if END in row else row for row in rows]

    return run


def our_run(model: EncoderDecoder, texts: Texts, width: int) -> Run:
    beam = Beam(width=width, normalization="length", length_penalty=1.0, max_length=LONGEST)
    by: Beam | Sampling = Sampling(greedy=True) if width == 1 else beam

    def run() -> Texts:
        tokens = LONGEST if width == 1 else None
        made = decode(model, texts, by=by, start=START, end=END, tokens=tokens)
        return [list(found[0].tokens) for found in made]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts = sources()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {arguments.threads} threads, "
          f"{platform.machine()}, {arguments.rounds} interleaved rounds, {SOURCES} sources")  # fmt: skip
    print("| decoding | transformers s | attentune s | ratio of medians | of the best | tokens | equal texts |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    theirs, ours = theirs_and_ours()
    for width in (5, 1):
        runs = {"transformers": their_run(theirs, texts, width), "attentune": our_run(ours, texts, width)}
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
              f"{best:.2f} | {count} | {equal} of {SOURCES} |", flush=True)  # fmt: skip
        rows.append({"width": width, "seconds": seconds, "ratio": ratio, "best": best,
                     "equal": equal, "tokens": count})  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
