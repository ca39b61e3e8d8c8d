"""Parameter groups and the optimizers of PyTorch, behind one small object.

A parameter says about itself what an optimizer must know: `parameter.weight_decay = False` keeps decay away,
`parameter.role` is `"embedding"`, `"head"` or, where absent, hidden, and `parameter.rate` is its share of the learning
rate, 1 where absent (layer-wise learning rates, arXiv:1801.06146). Weight decay is decoupled (arXiv:1711.05101) for
every optimizer: a step first multiplies the decaying weights by 1 - learning_rate * weight_decay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from attentune.errors import CheckpointError, TrainingError
from attentune.spec.run import OptimizerSpec

_READ = {
    "adamw": {"learning_rate", "weight_decay", "beta1", "beta2", "epsilon"},
    "muon": {"learning_rate", "weight_decay", "beta1", "beta2", "epsilon", "momentum", "adamw_ratio"},
    "adagrad": {"learning_rate", "weight_decay", "epsilon"},
    "adafactor": {"learning_rate", "weight_decay"},
}


def decays(parameter: nn.Parameter) -> bool:
    """Whether weight decay and the L1 and L2 penalties apply: matrices, unless the parameter declines."""
    return parameter.ndim >= 2 and getattr(parameter, "weight_decay", True) is not False


def role(parameter: nn.Parameter) -> str:
    """`"embedding"`, `"head"` or `"hidden"`."""
    return str(getattr(parameter, "role", "hidden"))


def rate(parameter: nn.Parameter) -> float:
    """The share of the learning rate that a parameter has."""
    return float(getattr(parameter, "rate", 1.0))


def decaying_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters that decay, in the model's order, each once."""
    return [p for p in model.parameters() if p.requires_grad and decays(p)]


class Optimizer:
    """One or two torch optimizers stepped as one, each with its own peak learning rate.

    Args:
        parts: (torch optimizer, its peak learning rate).
        decay_first: (parameters, peak learning rate, weight decay) that the torch optimizer would couple to the
            gradient, and that are therefore decayed here.
    """

    def __init__(
        self,
        parts: list[tuple[torch.optim.Optimizer, float]],
        decay_first: list[tuple[list[nn.Parameter], float, float]],
    ) -> None:
        self.parts = parts
        self._decay_first = [(p, peak, decay) for p, peak, decay in decay_first if p and decay > 0]

    def step(self, share: float) -> None:
        """One step at `share` of the peak learning rates."""
        for parameters, peak, decay in self._decay_first:
            with torch.no_grad():
                torch._foreach_mul_(list[Tensor](parameters), 1.0 - share * peak * decay)
        for part, peak in self.parts:
            for group in part.param_groups:
                group["lr"] = peak * share * group.get("rate", 1.0)
            part.step()

    def zero_grad(self) -> None:
        """Frees all gradients."""
        for part, _ in self.parts:
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, `<part>.<parameter>.<name>`, for a checkpoint."""
        return {
            f"{number}.{index}.{name}": value
            for number, (part, _) in enumerate(self.parts)
            for index, entries in part.state_dict()["state"].items()
            for name, value in entries.items()
            if isinstance(value, Tensor)
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what `tensors` gave.

        Raises:
            CheckpointError: a name belongs to no part of this optimizer.
        """
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in self.parts]
        for key, tensor in tensors.items():
            number, index, name = key.split(".")
            if int(number) >= len(states):
                raise CheckpointError(f"optimizer state {key!r} is of another optimizer; start over in a new folder")
            states[int(number)].setdefault(int(index), {})[name] = tensor
        for (part, _), state in zip(self.parts, states, strict=True):
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def build_optimizer(model: nn.Module, spec: OptimizerSpec) -> Optimizer:
    """The optimizer that `spec` describes over the trainable parameters of `model`.

    - `adamw`: torch's fused kernel where the device has one.
    - `muon`: `torch.optim.Muon` (momentum as a running mean, Nesterov, five Newton-Schulz rounds in bfloat16, learning
      rate times sqrt(max(1, rows / columns))) on hidden matrices; AdamW at `learning_rate * adamw_ratio` on the rest.
    - `adagrad`: torch's, with decoupled decay instead of its coupled one.
    - `adafactor`: torch's; the update is relative to each weight's size: min(learning_rate, 1 / sqrt(t)) times
      max(0.001, rms(w)).

    Raises:
        TrainingError: the model has no trainable parameters, or a number that differs from its default is not read by
            the optimizer chosen.
    """
    for name, field in OptimizerSpec.model_fields.items():
        if name != "name" and name not in _READ[spec.name] and getattr(spec, name) != field.default:
            raise TrainingError(f"optimizer.{name}={getattr(spec, name)} is not read by {spec.name}; leave it out")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise TrainingError("the model has no trainable parameters; unfreeze some before training")
    peak, decay = spec.learning_rate, spec.weight_decay
    if spec.name == "adamw":
        return Optimizer([(_adamw(parameters, spec, peak), peak)], [])
    if spec.name == "muon":
        hidden = [p for p in parameters if p.ndim == 2 and role(p) == "hidden" and decays(p)]
        orthogonal = {id(p) for p in hidden}
        rest = [p for p in parameters if id(p) not in orthogonal]
        parts: list[tuple[torch.optim.Optimizer, float]] = []
        if hidden:
            muon = torch.optim.Muon(_by_rate(hidden), lr=peak, weight_decay=decay, momentum=spec.momentum)
            parts.append((muon, peak))
        if rest:
            parts.append((_adamw(rest, spec, peak * spec.adamw_ratio), peak * spec.adamw_ratio))
        return Optimizer(parts, [])
    if spec.name == "adagrad":
        fused = parameters[0].device.type == "cpu"
        adagrad = torch.optim.Adagrad(_by_rate(parameters), lr=peak, eps=spec.epsilon, fused=fused)
        first = [
            (group["params"], peak * group.get("rate", 1.0), decay) for group in _by_rate(filter(decays, parameters))
        ]
        return Optimizer([(adagrad, peak)], first)
    return Optimizer([(torch.optim.Adafactor(_groups(parameters, decay), lr=peak), peak)], [])


def _adamw(parameters: list[nn.Parameter], spec: OptimizerSpec, peak: float) -> torch.optim.AdamW:
    fused = parameters[0].device.type in ("cpu", "cuda")
    groups = _groups(parameters, spec.weight_decay)
    return torch.optim.AdamW(groups, lr=peak, betas=(spec.beta1, spec.beta2), eps=spec.epsilon, fused=fused)


def _groups(parameters: Iterable[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Those with weight decay and those without, leaving out an empty one."""
    parameters = list(parameters)
    return [
        {**group, "weight_decay": decay if decaying else 0.0}
        for decaying in (True, False)
        for group in _by_rate(p for p in parameters if decays(p) is decaying)
    ]


def _by_rate(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """A group for each share of the learning rate, as they come; `rate` stands in it where it is not all."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(rate(parameter), []).append(parameter)
    return [{"params": held, **({} if share == 1.0 else {"rate": share})} for share, held in groups.items()]
