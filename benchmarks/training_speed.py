"""Training speed of nanoGPT's small decoder: Attentune against two peers of the same shape, in one run.

4 layers, width 128, 4 heads, context 64, batch 12, vocabulary 65, float32. Each contender trains on the
same batches with AdamW and clipping by norm; rounds are interleaved, and medians and minima reported.

    python benchmarks/training_speed.py [--rounds 9] [--steps 60] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.spec.model import ModelSpec
from attentune.spec.run import ClipSpec, OptimizerSpec
from attentune.training.clipping import Clipper
from attentune.training.optimizers import build_optimizer

VOCABULARY, WIDTH, DEPTH, HEADS, CONTEXT, BATCH = 65, 128, 4, 4, 64, 12
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TorchDecoder(nn.Module):
    """A decoder from `nn.TransformerEncoderLayer`, as PyTorch's tutorials build it."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        one = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(one, DEPTH, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.layers(x, mask=self.mask, is_causal=True))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=DEPTH, n_head=HEADS,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def peer(model: nn.Module, logits: Callable[[nn.Module, torch.Tensor], torch.Tensor], *, fused: bool) -> Step:
    """The training step that a careful user of the peer would write."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=fused)
    model.train()

    def step(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(logits(model, ids).flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def ours(attention: str, *, compile: bool, position: str = "learned", bias: bool = False) -> Step:
    spec = ModelSpec(
        vocab_size=VOCABULARY,
        width=WIDTH,
        depth=DEPTH,
        context=CONTEXT,
        layers=(layer(attention),),
        position=position,
        bias=bias,
    )
    model = build(spec, seed=0)
    optimizer = build_optimizer(model, OptimizerSpec(learning_rate=1e-3))
    clip = Clipper(model, ClipSpec())
    forward = torch.compile(model) if compile else model
    model.train()

    def step(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(ids).logits.flatten(0, 1), targets.flatten())
        loss.backward()
        clip()
        optimizer.step(1.0)
        return loss.detach()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=60, help="training steps of each contender in a round")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    attention = f"heads={HEADS}, mask=causal"
    contenders: dict[str, Step] = {
        "attentune": ours(attention, compile=False),
        "attentune, biases": ours(attention, compile=False, bias=True),
        "attentune, compiled": ours(attention, compile=True),
        "nn.TransformerEncoderLayer": peer(TorchDecoder(), lambda m, ids: m(ids), fused=False),
        "nn.TransformerEncoderLayer, fused AdamW": peer(TorchDecoder(), lambda m, ids: m(ids), fused=True),
        "transformers GPT-2": peer(gpt2(), lambda m, ids: m(ids).logits, fused=False),
        "transformers GPT-2, fused AdamW": peer(gpt2(), lambda m, ids: m(ids).logits, fused=True),
        "nn.TransformerEncoderLayer, fused, compiled": peer(
            torch.compile(TorchDecoder()), lambda m, ids: m(ids), fused=True
        ),
    }
    data = torch.randint(VOCABULARY, (64, BATCH, CONTEXT + 1))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(arguments.rounds + 1):
        for name, step in contenders.items():
            begun = time.perf_counter()
            for number in range(arguments.steps):
                rows = data[number % len(data)]
                step(rows[:, :-1], rows[:, 1:])
            if round_:  # the first warms up and compiles
                seconds[name].append((time.perf_counter() - begun) / arguments.steps)
    tokens = BATCH * CONTEXT
    rates = {name: (tokens / statistics.median(s), tokens / min(s)) for name, s in seconds.items()}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, "
          f"{arguments.rounds} interleaved rounds of {arguments.steps} steps")  # fmt: skip
    print("| contender | tokens/s (median) | tokens/s (best) | ms a step |\n|---|---|---|---|")
    for name, (median, best) in rates.items():
        print(f"| {name} | {median:,.0f} | {best:,.0f} | {1000 * tokens / median:.2f} |")
    peers = {name: rate[0] for name, rate in rates.items() if not name.startswith("attentune")}
    eager = {name: rate for name, rate in peers.items() if "compiled" not in name}
    fastest = max(eager, key=lambda name: eager[name])
    for own in ("attentune", "attentune, biases", "attentune, compiled"):
        print(f"{own}: {rates[own][0] / eager[fastest]:.2f}x the fastest eager peer ({fastest})")
    fastest = max(peers, key=lambda name: peers[name])
    ratio = rates["attentune, compiled"][0] / peers[fastest]
    print(f"attentune, compiled: {ratio:.2f}x the fastest peer of all ({fastest})")
    if arguments.json:
        arguments.json.write_text(json.dumps(rates, indent=1))


if __name__ == "__main__":
    main()
