"""Random legal attentions and models, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import Tensor

from attentune.errors import SpecError
from attentune.mechanisms import function, predicate, registry
from attentune.spec.attention import AttentionSpec
from attentune.spec.masks import Mask
from attentune.spec.model import FeedForwardSpec, LayerSpec, ModelSpec


def make(slot: str, kind: str, **fields: object) -> object:
    return registry.find(slot, kind)(**fields)  # type: ignore[call-arg]


@predicate.register("squares (a test)")
def squares(query: Tensor, key: Tensor) -> Tensor:
    return (query * query + 3 * key) % 5 < 2


@function.register("nearness (a test)")
def nearness(q: Tensor, k: Tensor) -> Tensor:
    return -(q - k).abs().sum(-1)


small = st.integers(1, 9)
positive = st.floats(1e-6, 1e6, allow_nan=False)
trees = st.lists(st.integers(0, 10**6), min_size=1, max_size=12).map(
    lambda draws: tuple(draw % (node + 1) - 1 for node, draw in enumerate(draws))
)
heads = st.one_of(
    st.builds(lambda n: make("heads", "multi_head", heads=n), st.sampled_from([1, 2, 4])),
    st.builds(lambda n: make("heads", "multi_query", heads=n), st.sampled_from([1, 2, 4])),
    st.builds(
        lambda n, g: make("heads", "grouped", heads=n * g, groups=g), st.sampled_from([1, 2]), st.sampled_from([1, 2])
    ),
    st.builds(lambda n, r: make("heads", "latent", heads=n, rank=r, rotary=4), st.sampled_from([1, 2]), small),
    st.builds(
        lambda n, r, asked, k, v: make(
            "heads", "latent", heads=n, rank=r, rotary=4, query_rank=asked, key_width=k, value_width=v
        ),
        st.sampled_from([1, 2]),
        small,
        st.none() | small,
        st.none() | small,
        st.none() | small,
    ),
    st.builds(lambda w: make("heads", "single", head_width=w), st.sampled_from([None, 8])),
    st.just(make("heads", "single", projected=False)),
)
plain_masks = st.one_of(
    st.sampled_from([make("mask", "causal"), make("mask", "full")]),
    st.builds(lambda n: make("mask", "window", window=n), small),
    st.builds(lambda n: make("mask", "window", window=2 * n - 1, symmetric=True), small),
    st.builds(lambda n, d: make("mask", "dilated", window=n, dilation=d), small, small),
    st.builds(lambda n, d: make("mask", "dilated", window=2 * n - 1, dilation=d, symmetric=True), small, small),
    st.builds(lambda n, b: make("mask", "block_window", window=2 * n - 1, block=b), st.integers(1, 3), small),
    st.builds(lambda n: make("mask", "strided", stride=n), small),
    st.builds(lambda n, c: make("mask", "strided_fixed", stride=n + c, summary=n), small, st.integers(0, 5)),
    st.builds(lambda n: make("mask", "sink", keys=n), small),
    st.builds(lambda n: make("mask", "prefix", length=n), st.none() | small),
    st.builds(lambda n: make("mask", "global_tokens", count=n), small),
    st.builds(
        lambda places: make("mask", "global_tokens", positions=tuple(places)),
        st.lists(st.integers(0, 25), min_size=1, max_size=3),
    ),
    st.builds(
        lambda n, block, seed, length: make("mask", "random_blocks", count=n, block=block, seed=seed, length=length),
        st.integers(1, 4),
        st.integers(1, 6),
        st.integers(0, 10**6),
        st.none() | st.integers(1, 40),
    ),
    st.builds(lambda parents, start: make("mask", "tree", parents=parents, start=start), trees, st.integers(0, 6)),
    st.just(make("mask", "predicate", name="squares (a test)")),
)
masks: st.SearchStrategy[Mask] = st.recursive(  # type: ignore[assignment]
    plain_masks,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
    ),
    max_leaves=6,
)
similarities = st.one_of(
    st.builds(lambda scale: make("similarity", "scaled_dot", scale=scale), st.none() | positive),
    st.sampled_from([make("similarity", kind) for kind in ("additive", "dot", "bilinear")]),
    st.builds(lambda t, b: make("similarity", "cosine", tau=t, learned=b), positive, st.booleans()),
    st.builds(lambda s, b: make("similarity", "gaussian", sigma=s, learned=b), st.none() | positive, st.booleans()),
    st.just(make("similarity", "function", name="nearness (a test)")),
)
rotary_fields = st.fixed_dictionaries(
    {
        "base": st.floats(1.5, 1e6),
        "fraction": st.sampled_from([0.5, 1.0]),
        "pairs": st.sampled_from(["halves", "neighbours"]),
    }
)
stretch = st.fixed_dictionaries({"factor": st.floats(1, 100), "context": st.integers(1, 10**5)})
positions = st.one_of(
    st.none(),
    st.just(make("position", "alibi")),
    st.builds(lambda fields: make("position", "rotary", **fields), rotary_fields),
    st.builds(
        lambda f, fields: make("position", "rotary_linear", factor=f, **fields), st.floats(1, 100), rotary_fields
    ),
    st.builds(
        lambda s, fields: make("position", "rotary_ntk", **{**fields, **s, "fraction": 1.0}), stretch, rotary_fields
    ),
    st.builds(
        lambda s, fields, slow, more, cut, m: make(
            "position", "rotary_yarn", **fields, **s, beta_fast=slow + more, beta_slow=slow, truncate=cut, **m
        ),
        stretch,
        rotary_fields,
        st.floats(0.1, 10),
        st.floats(0.1, 10),
        st.booleans(),
        st.sampled_from([{}, {"attention_factor": 0.7}, {"mscale": 1.0, "mscale_all_dim": 0.5}]),
    ),
    st.builds(
        lambda s, fields, low, more: make("position", "rotary_llama3", **fields, **s, low=low, high=low + more),
        stretch,
        rotary_fields,
        st.floats(0.1, 10),
        st.floats(0.1, 10),
    ),
    st.builds(lambda n, b: make("position", "shaw", distance=n, on_values=b), small, st.booleans()),
    st.just(make("position", "transformer_xl_relative")),
    st.builds(
        lambda n, b: make("position", "t5", buckets=8 * n, max_distance=64 * n, bidirectional=b), small, st.booleans()
    ),
)
scores = st.lists(
    st.one_of(
        st.just(make("scores", "qk_norm")),
        st.just(make("scores", "residual_scores")),
        st.builds(lambda c: make("scores", "soft_cap", cap=c), positive),
        st.builds(lambda v, b: make("scores", "temperature", value=v, learned=b), positive, st.booleans()),
    ),
    max_size=3,
).map(tuple)
normalizers = st.sampled_from([make("normalizer", kind) for kind in ("softmax", "softmax_off_by_one", "entmax15")])
mixes = st.sampled_from([None, make("head_mix", "talking_heads")])
selectors = st.none() | st.builds(lambda b, t: make("selector", "top_k_blocks", block=b, top=t), small, small)
combines = st.sampled_from([(), (make("combine", "gate"),), (make("combine", "gate", per="element"),)])
memories = st.none() | st.builds(lambda n: make("memory", "transformer_xl", length=n), small)


@st.composite
def attentions(draw: st.DrawFn) -> AttentionSpec:
    """An attention that breaks no rule; where a draw breaks one, its rarer slots are left out."""
    fields = {
        "heads": draw(heads),
        "similarity": draw(similarities),
        "position": draw(positions),
        "mask": draw(masks),
        "scores": draw(scores),
        "normalizer": draw(normalizers),
        "head_mix": draw(mixes),
        "selector": draw(selectors),
        "combine": draw(combines),
        "memory": draw(memories),
    }
    for dropped in ((), ("memory", "selector"), ("scores", "position"), ("scores", "position", "memory", "selector")):
        kept = {name: held for name, held in fields.items() if name not in dropped}
        try:
            return AttentionSpec(**kept)
        except SpecError:
            continue
    raise AssertionError("heads, similarity, mask, normalizer, head_mix and combine always go together")


@st.composite
def models(draw: st.DrawFn) -> ModelSpec:
    """A model of one or two different layers."""
    branches = draw(st.sampled_from([(), (make("branches", "lstm"),)]))
    cross = draw(st.sampled_from([None, AttentionSpec(heads=make("heads", "multi_head", heads=2), **NEUTRAL)]))
    several = tuple(
        LayerSpec(attention=one.replace(memory=None, scores=()), branches=branches, cross=cross)
        for one in draw(st.lists(attentions(), min_size=1, max_size=2))
    )
    plain, gated = ["gelu", "gelu_tanh", "relu", "relu2", "silu", "none"], ["swiglu", "geglu", "geglu_tanh"]
    network = draw(st.sampled_from(plain + gated))
    return ModelSpec(
        vocab_size=draw(small),
        width=16,
        depth=draw(st.integers(2, 5)),
        layers=several,
        feed_forward=FeedForwardSpec(name=network, hidden=draw(st.none() | small)),
        norm=draw(st.sampled_from(["layer", "rms", "batch"])),
        dropout=draw(st.floats(0, 0.99)),
        norm_epsilon=draw(st.none() | st.floats(1e-12, 0.5)),
        embedding_norm=draw(st.booleans()),
        head_transform=draw(st.booleans()) and network != "none",
        head_bias=draw(st.booleans()),
        logit_factor=draw(st.none() | positive),
        logit_soft_cap=draw(st.none() | positive),
        tie_embeddings=draw(st.booleans()),
    )


NEUTRAL = {
    "similarity": make("similarity", "scaled_dot"),
    "mask": make("mask", "full"),
    "normalizer": make("normalizer", "softmax"),
}
