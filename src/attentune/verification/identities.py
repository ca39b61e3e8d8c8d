"""What must equal what: identities of the literature, each beside the mechanism that it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from attentune.kernels import KERNELS, Call, Layout
from attentune.mechanisms import attention
from attentune.shapes import Tensor
from attentune.spec.attention import AttentionSpec
from attentune.spec.positions import Positions
from attentune.spec.slots import Bias, Rotation
from attentune.verification import inputs
from attentune.verification.examples import sizes, summed
from attentune.verification.findings import Finding, same

Identity = Callable[[torch.dtype, int], Iterator[Finding]]
WANTED = frozenset({"output", "weights", "lse"})
BEYOND = inputs.LENGTH + 2  # tokens: more than a row holds


class Side:
    """One side of an identity: an attention with its operands and parameters, the same on both sides."""

    def __init__(self, text: str, dtype: torch.dtype, seed: int, **given: float) -> None:
        self.spec: AttentionSpec = attention(text)
        self.dims = summed(self.spec, sizes(self.spec))
        self.dtype = dtype
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.q, self.k, self.v = (t.to(dtype) for t in inputs.operands(self.dims, inputs.LENGTH, inputs.LENGTH))
            drawn = inputs.slot_parameters(self.spec, self.dims)
        self.params = {
            slot: [
                {
                    name: torch.full_like(t, given[name]).to(dtype) if name in given else t.to(dtype)
                    for name, t in one.items()
                }
                for one in held
            ]
            for slot, held in drawn.items()
        }

    def run(self, layout: Layout | None = None) -> dict[str, Tensor]:
        """Output, weights and log-sum-exp, by the reference."""
        layout = Layout.plain(inputs.LENGTH) if layout is None else layout
        call = Call(self.spec, self.dims, self.params, self.q, self.k, self.v, layout, wanted=WANTED)
        result = KERNELS["reference"].run(call)
        found = {"output": result.output}
        found |= {name: tensor for name, tensor in result.extra.items() if isinstance(tensor, Tensor)}
        return found


def equal(left: str, right: str, **given: float) -> tuple[str, Identity]:
    """Two texts that compute the same, where the learned tensors of `given` hold those numbers."""

    def check(dtype: torch.dtype, seed: int) -> Iterator[Finding]:
        one, other = (Side(text, dtype, seed, **given).run() for text in (left, right))
        yield from same("identity", {"output": one["output"]}, {"output": other["output"]}, dtype)

    said = "".join(f" at {name} = {value:g}" for name, value in given.items())
    return f"{left} == {right}{said}", check


def _one_more_key(dtype: torch.dtype, seed: int) -> Iterator[Finding]:
    side = Side("heads=4/2, mask=causal, normalizer=softmax_off_by_one", dtype, seed)
    found = side.run()["output"]
    plain = Side("heads=4/2, mask=causal", dtype, seed).run()
    weights, lse = plain["weights"], plain["lse"]
    total = torch.logaddexp(lse, torch.zeros_like(lse))  # exp(0) more in the denominator; its value is zero
    right = (weights * (lse - total).exp()[..., None]) @ side.v.repeat_interleave(2, 1)
    yield from same("identity", {"output": found}, {"output": right}, dtype)


def _sink_is_a_gate(dtype: torch.dtype, seed: int) -> Iterator[Finding]:
    side = Side("heads=4/2, mask=causal, normalizer=learned_sink", dtype, seed)
    plain = Side("heads=4/2, mask=causal", dtype, seed).run()
    sink = side.params["normalizer"][0]["sink"][:, None]
    right = plain["output"] * torch.sigmoid(plain["lse"] - sink)[..., None]
    yield from same("identity", side.run(), {"output": right}, dtype)


def _adaptive_weight_mixes_with_the_mean(dtype: torch.dtype, seed: int) -> Iterator[Finding]:
    side = Side("heads=4/2, mask=causal, scores=adaptive_weight", dtype, seed)
    plain = Side("heads=4/2, mask=causal", dtype, seed).run()
    a = side.params["scores"][0]["log_a"].exp()[:, None]
    n = torch.arange(1, inputs.LENGTH + 1, dtype=dtype)  # visible keys
    share = (n * a / (plain["lse"].exp() + n * a))[..., None]
    visible = torch.ones(inputs.LENGTH, inputs.LENGTH, dtype=dtype).tril()
    right = (1 - share) * plain["weights"] + share * visible / n[:, None]
    yield from same("identity", side.run(), {"weights": right}, dtype)


def _linear_bias_needs_the_key_alone(dtype: torch.dtype, seed: int) -> Iterator[Finding]:
    side = Side("heads=4/2, mask=causal, position=alibi", dtype, seed)
    plain = Side("heads=4/2, mask=causal, normalizer=softmax", dtype, seed)
    bias = side.spec.position
    assert isinstance(bias, Bias)
    place = Positions.arange(inputs.LENGTH)
    head = torch.arange(4)[:, None, None]
    first = place.map(lambda tensor: tensor[:, :1])
    slope = -bias.bias({}, side.dims, place.as_queries(), first.as_keys(), head)[:, :, 1:2].to(dtype)  # of distance 1
    k = side.k.repeat_interleave(2, 1)
    s = side.q @ k.mT * side.dims.head_width**-0.5 + slope * torch.arange(inputs.LENGTH, dtype=dtype)
    s = s.masked_fill(torch.ones(inputs.LENGTH, inputs.LENGTH, dtype=torch.bool).triu(1), float("-inf"))
    right = s.softmax(-1) @ plain.v.repeat_interleave(2, 1)
    yield from same("identity", side.run(), {"output": right}, dtype)


def _only_distances_turn(kind: str) -> Identity:
    def check(dtype: torch.dtype, seed: int) -> Iterator[Finding]:
        spec = attention(f"heads=4, mask=causal, position={kind}")
        rotation = spec.position
        assert isinstance(rotation, Rotation)
        side = Side("heads=4, mask=causal", dtype, seed)
        scores = []
        for start in (0, 1000):
            places = Positions.arange(inputs.LENGTH, start=start)
            table = rotation.table(side.dims.head_width, places, dtype)
            scores.append(rotation.rotate(side.q, table) @ rotation.rotate(side.k, table).mT)
        # In float32 an angle near 1000 is known to 1e-4.
        found = [s.to(torch.bfloat16 if dtype is torch.float32 else dtype) for s in scores]
        yield from same("identity", {"q.k": found[1]}, {"q.k": found[0]}, found[0].dtype)

    return check


def _groups_are_repeated(dtype: torch.dtype, seed: int) -> Iterator[Finding]:
    grouped = Side("heads=4/2, mask=causal", dtype, seed)
    several = Side("heads=4, mask=causal", dtype, seed)
    several.q = grouped.q
    several.k, several.v = (t.repeat_interleave(2, 1) for t in (grouped.k, grouped.v))
    yield from same("identity", grouped.run(), several.run(), dtype)


PLAIN = "heads=4/2, mask=causal"
FULL = "heads=4/2"
PAIRS: dict[str, tuple[tuple[str, Identity], ...]] = {
    "window": (equal(f"heads=4/2, mask=window({BEYOND})", PLAIN),),
    "dilated": (equal(f"heads=4/2, mask=dilated({BEYOND}, 1)", PLAIN),),
    "strided": (equal("heads=4/2, mask=strided(1)", PLAIN),),
    "prefix": (equal(f"heads=4/2, mask=prefix({BEYOND})", FULL),),
    "sink": (equal(f"heads=4/2, mask=sink({BEYOND})", FULL),),
    "global_tokens": (equal(f"heads=4/2, mask=global_tokens({BEYOND})", FULL),),
    "tree": (equal("heads=4/2, mask=tree((-1, 0, 1, 2, 3, 4, 5))", PLAIN),),
    "top_k_blocks": (equal(f"{PLAIN}, selector=top_k_blocks(2, {BEYOND})", PLAIN),),
    "multi_query": (equal("heads=multi_query(4), mask=causal", "heads=4/1, mask=causal"),),
    "grouped": (
        ("grouped heads == key/value heads repeated", _groups_are_repeated),
        equal("heads=4/4, mask=causal", "heads=4, mask=causal"),
    ),
    "softmax_off_by_one": (("softmax_off_by_one == softmax with one more key of zeros", _one_more_key),),
    "learned_sink": (
        ("learned_sink == softmax x sigmoid(lse - b)", _sink_is_a_gate),
        equal(f"{PLAIN}, normalizer=learned_sink", f"{PLAIN}, normalizer=softmax_off_by_one", sink=0.0),
    ),
    "adaptive_weight": (
        ("adaptive_weight == (1 - l) softmax + l mean", _adaptive_weight_mixes_with_the_mean),
        equal(f"{PLAIN}, scores=adaptive_weight", PLAIN, log_a=-1000.0),
    ),
    "adaptive_span": (equal(f"{PLAIN}, scores=adaptive_span({BEYOND})", PLAIN, a=1000.0),),
    "alibi": (("-m (i - j) == +m j", _linear_bias_needs_the_key_alone),),
    "scale": (equal(f"{PLAIN}, scores=scale(1.0)", PLAIN),),
    "temperature": (equal(f"{PLAIN}, scores=temperature(value=1.0, learned=false)", PLAIN),),
    "soft_cap": (equal(f"{PLAIN}, scores=soft_cap(1e9)", PLAIN),),
    "entmax": (
        equal(f"{PLAIN}, normalizer=entmax(1.5, learned=false)", f"{PLAIN}, normalizer=entmax15"),
        equal(f"{PLAIN}, normalizer=entmax(2.0, learned=false)", f"{PLAIN}, normalizer=sparsemax"),
    ),
    "top_k": (equal(f"{PLAIN}, normalizer=top_k({BEYOND})", PLAIN),),
    "rotary": (("moving every position by 1000 changes nothing", _only_distances_turn("rotary")),),
    "rotary_linear": (("moving every position by 1000 changes nothing", _only_distances_turn("rotary_linear(2.0)")),),
}
IDENTITIES: dict[str, dict[str, Identity]] = {kind: dict(held) for kind, held in PAIRS.items()}
