"""Training over a long context: what a window of attention costs, and what it saves, in one run.

4 layers, width 512, 8 heads, byte vocabulary of 256, context 4,096, batch 1, float32, AdamW. Three models of the same
shape take turns on the same batches: a window of 256, full causal attention, and attention removed. The last projects
queries, keys, values and the output as the others do, but adds each token's query, key and value instead of attending:
every matrix product outside of attention stays, forward and backward, so that its speed is what a model of this shape
could have at best.

    python benchmarks/training_context.py [--rounds 5] [--steps 1] [--context 4096] [--kernel auto] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional as F

from attentune.kernels import Call, LayoutKind, Result
from attentune.layers.attention import BUCKETS, Attention
from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.models.decoder import Decoder
from attentune.spec.model import ModelSpec
from attentune.spec.run import OptimizerSpec
from attentune.training.optimizers import build_optimizer

VOCABULARY, WIDTH, DEPTH, HEADS, WINDOW = 256, 512, 4, 8, 256
ENOUGH_OF_NONE, ENOUGH_OF_CAUSAL = 0.80, 1.2  # tokens a second of the window, as a share of the others'


class Contender(NamedTuple):
    step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    kernels: str


def contender(mask: str, *, context: int, kernel: str, attends: bool = True) -> Contender:
    spec = ModelSpec(
        vocab_size=VOCABULARY,
        width=WIDTH,
        depth=DEPTH,
        context=context,
        layers=(layer(f"heads={HEADS}, position=rotary, mask={mask}"),),
    )
    model = build(spec, seed=0)
    model.train()
    chosen = bind(model, context=context, kernel=kernel) if attends else remove_attention(model)
    optimizer = build_optimizer(model, OptimizerSpec(learning_rate=1e-3))

    def step(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids).logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step(1.0)
        return loss.detach()

    return Contender(step, chosen)


def attentions(model: Decoder) -> list[Attention]:
    return [module for module in model.modules() if isinstance(module, Attention)]


def bind(model: Decoder, *, context: int, kernel: str) -> str:
    """The kernel that trains this context."""
    model.bind(kernel=kernel)
    bucket = sum(context > longest for longest in BUCKETS)
    return ", ".join(
        dict.fromkeys(module.plans[LayoutKind.PLAIN, True, False, bucket].choice for module in attentions(model))
    )


def remove_attention(model: Decoder) -> str:
    def run(call: Call) -> Result:
        return Result(call.q + call.k + call.v)

    for module in attentions(model):
        module._run = run
    return "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="training steps of each model in a round")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--kernel", default="auto", help="of the models that attend")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    context, kernel = arguments.context, arguments.kernel
    contenders = {
        "window": contender(f"causal & window({WINDOW})", context=context, kernel=kernel),
        "causal": contender("causal", context=context, kernel=kernel),
        "attention removed": contender("causal", context=context, kernel=kernel, attends=False),
    }
    data = torch.randint(VOCABULARY, (8, arguments.batch, context + 1))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(arguments.rounds + 1):
        for name, one in contenders.items():
            begun = time.perf_counter()
            for step in range(arguments.steps):
                rows = data[(number * arguments.steps + step) % len(data)]
                one.step(rows[:, :-1], rows[:, 1:])
            if number:  # the first warms up
                seconds[name].append((time.perf_counter() - begun) / arguments.steps)
    tokens = arguments.batch * context
    rates = {name: (tokens / statistics.median(taken), tokens / min(taken)) for name, taken in seconds.items()}
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}: {DEPTH} layers, width "
        f"{WIDTH}, context {context}, batch {arguments.batch}, {arguments.rounds} interleaved rounds"
    )
    print("| model | kernel | tokens/s (median) | tokens/s (best) | ms a step |\n|---|---|---|---|---|")
    for name, (median, best) in rates.items():
        print(f"| {name} | {contenders[name].kernels} | {median:,.0f} | {best:,.0f} | {1e3 * tokens / median:.0f} |")
    for other, enough in (("attention removed", ENOUGH_OF_NONE), ("causal", ENOUGH_OF_CAUSAL)):
        ratios = [rates["window"][which] / rates[other][which] for which in (0, 1)]
        print(f"window: {ratios[0]:.2f}x the tokens/s of {other} (best rounds {ratios[1]:.2f}x; target {enough:.2f}x)")
    if arguments.json:
        figures = {name: {"median": median, "best": best} for name, (median, best) in rates.items()}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
