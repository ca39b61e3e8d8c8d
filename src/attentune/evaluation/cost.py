"""What a model costs: parameters, time, memory and operations. Every number says how it was measured.

Times are medians of repeated runs on the machine as it is; compare only what was measured side by side.
"""

from __future__ import annotations

import copy
import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from attentune.models.decoder import Decoder


@dataclass(frozen=True)
class TrainingCost:
    """The cost of one training step (forward, backward, fused AdamW) on random tokens.

    - `tokens_per_second`: of the median step.
    - `peak_bytes`: the most memory that tensors held at once during the step: weights, gradients, optimizer state,
      activations. On CUDA as its allocator counts it; on the CPU by following every tensor that an operation returns,
      so that it is exact and repeatable, but leaves out the workspace inside a single operation and the libraries.
    - `flops_per_token`: multiplications and additions of matrix products, convolutions and PyTorch's fused attention
      in forward and backward, by `torch.utils.flop_counter`; element-by-element work is not counted.
    """

    tokens_per_second: float
    peak_bytes: int
    flops_per_token: float


def parameter_count(model: nn.Module) -> int:
    """Numbers in all parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def training_cost(
    model: nn.Module, *, vocab_size: int, batch: int, context: int, repeats: int = 5, bf16: bool = False
) -> TrainingCost:
    """Measures `repeats` training steps of a copy of `model`, on its device; `model` itself does not change."""
    device = next(model.parameters()).device
    trained = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-6, fused=device.type in ("cpu", "cuda"))
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(vocab_size, (batch, context + 1), generator=generator).to(device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            output = trained(row[:, :-1])
            loss = F.cross_entropy(output.logits.flatten(0, 1), row[:, 1:].flatten())
            for auxiliary in output.losses.values():
                loss = loss + auxiliary
        loss.backward()
        optimizer.step()

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        step()  # the optimizer makes its state
        seconds = median_seconds(step, repeats=repeats, device=device)
        peak = _peak_bytes(step, trained, optimizer, device)
        with FlopCounterMode(display=False) as counter:
            step()
    tokens = batch * context
    return TrainingCost(
        tokens_per_second=tokens / seconds, peak_bytes=peak, flops_per_token=counter.get_total_flops() / tokens
    )


def training_peak_bytes(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> int:
    """The `peak_bytes` of a training step of a copy of `model`, whose loss on a batch `loss` computes."""
    device = next(model.parameters()).device
    trained = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-6, fused=device.type in ("cpu", "cuda"))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(trained).backward()
        optimizer.step()

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        step()  # the optimizer makes its state
        return _peak_bytes(step, trained, optimizer, device)


def token_latency(model: Decoder, *, prompt: int | None = None, tokens: int = 16, repeats: int = 3) -> float:
    """Seconds to decode one token for one row, after the prompt: the median over `repeats` texts of `tokens` tokens.

    Args:
        model: decodes on its own state, with random tokens; its training mode is restored afterwards.
        prompt: tokens before the first measured one; by default as many as leave room for `tokens` in its context.
        tokens: measured a text.
        repeats: texts.

    Raises:
        SpecError: the attention shows later keys, so that it cannot decode step by step.
    """
    device = next(model.parameters()).device
    before = max(1, model.spec.context - tokens) if prompt is None else prompt
    ids = torch.randint(model.spec.vocab_size, (1, before + tokens), generator=torch.Generator().manual_seed(0))
    ids = ids.to(device)
    times: list[float] = []
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for _ in range(repeats):
                state = model(ids[:, :before], state=model.start(1)).state
                for place in range(before, before + tokens):
                    _wait(device)
                    begun = time.perf_counter()
                    state = model(ids[:, place : place + 1], state=state).state
                    _wait(device)
                    times.append(time.perf_counter() - begun)
    finally:
        model.train(training)
    return statistics.median(times)


def median_seconds(action: Callable[[], Any], *, repeats: int, device: torch.device, warmup: int = 1) -> float:
    """The median time of `action` in seconds over `repeats` runs after `warmup` unmeasured ones."""
    times = []
    for run in range(warmup + repeats):
        _wait(device)
        begun = time.perf_counter()
        action()
        _wait(device)
        if run >= warmup:
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(
    action: Callable[[], Any], model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        action()
        return int(torch.cuda.max_memory_allocated(device))
    optimizer.zero_grad(set_to_none=True)
    with LiveBytes() as live:
        live.add([*model.parameters(), *model.buffers(), *tree_leaves(dict(optimizer.state))])
        action()
    peak: int = live.peak
    return peak


class LiveBytes(TorchDispatchMode):
    """Follows the storages of all tensors that operations return while it is active.

    `peak` is the most bytes that were alive at once; views of one storage count once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self.current = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def add(self, values: Any) -> None:
        """Counts the tensors in `values`, which may be nested, as alive until they are freed."""
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        self.peak = max(self.peak, self.current)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(result)
        return result

    def _follow(self, storage: Any) -> None:
        key = id(storage)
        if key in self._alive:
            return
        size = storage.nbytes()

        def freed(_: weakref.ref[Any]) -> None:
            self.current -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, freed)
        self.current += size
