"""Where an attention stands in a model, and what may be tried there.

A *place* is a slot of an attention: `position` of the self-attention of the only stack, or of the decoder where there
are two; `encoder.position` and `cross.normalizer` of the other two attentions of an encoder-decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from attentune.errors import near
from attentune.spec.slots import SLOTS

Stack = Literal["encoder", "decoder", "encoder-decoder"]

ADDED: Final = ("none", "sinusoidal", "learned")  # positions that are added to the embeddings
ADAPTIVITY: Final = ("scores", "normalizer", "head_mix", "combine", "similarity", "heads")
LONG_RANGE: Final = ("position", "mask", "selector", "branches", "memory")
SITES: Final = ("", "encoder.", "cross.")
NOT_ACROSS: Final = ("branches", "memory")  # a layer's own, beside its self-attention
PLACES: Final = tuple(
    f"{site}{slot}" for site in SITES for slot in SLOTS if not (site == "cross." and slot in NOT_ACROSS)
)


def slot_of(place: str) -> str:
    """`position` of `encoder.position`."""
    return place.rpartition(".")[2]


def site_of(place: str) -> str:
    """`encoder.` of `encoder.position`; empty for the first, or only, self-attention."""
    return place.removesuffix(slot_of(place))


def in_order(chosen: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Candidates in the order in which the stages try them: slot by slot, each at all of its sites."""
    places = (f"{site}{slot}" for slot in (*ADAPTIVITY, *LONG_RANGE) for site in SITES)
    return {place: chosen[place] for place in places if chosen.get(place)}


def flattened(candidates: Any) -> Any:
    """`{"encoder": {"position": [...]}}` as `{"encoder.position": [...]}`; anything else as it is."""
    if not isinstance(candidates, Mapping):
        return candidates
    found: dict[str, Any] = {}
    for name, held in candidates.items():
        if isinstance(held, Mapping):
            found |= {f"{name}.{slot}": texts for slot, texts in held.items()}
        else:
            found[name] = held
    return found


def check_places(candidates: Mapping[str, object]) -> None:
    """Raises ValueError with near names where one is no place."""
    for place in candidates:
        if place not in PLACES:
            raise ValueError(f"candidates.{place} is no slot; {near(place, PLACES)}")


def default_candidates(context: int, stack: Stack = "decoder") -> dict[str, tuple[str, ...]]:
    """What a model of this stack and context may well gain from, at most six a place.

    Any other mechanism is named by the user; `configs/algebra.toml` names them all.
    """
    return {"decoder": _of_text, "encoder": _of_encoder, "encoder-decoder": _of_both}[stack](context)


def _of_text(context: int) -> dict[str, tuple[str, ...]]:
    half, quarter = max(2, context // 2), max(2, context // 4)
    block = max(2, context // 8)
    return {
        "scores": ("qk_norm", "residual_scores", "temperature", "soft_cap(30.0)", "adaptive_weight"),
        "normalizer": ("softmax_off_by_one", "learned_sink", "entmax15"),
        "head_mix": ("talking_heads",),
        "combine": ("gate", "gate(per=element)", "value_residual", "differential"),
        "heads": ("grouped",),
        "position": ("learned", "rotary", "alibi", "t5", f"shaw({quarter})", "transformer_xl_relative"),
        "mask": (
            f"causal & window({half})",
            f"causal & window({quarter}); causal",
            f"causal & (window({quarter}) | sink(2))",
        ),
        "selector": (f"top_k_blocks({block}, 4)",),
        "branches": ("lstm", "short_conv", "gated_delta", "layer_norm"),
        "memory": (f"transformer_xl({context})",),
    }


def _of_encoder(context: int) -> dict[str, tuple[str, ...]]:
    """Every token sees every other one: windows have two sides, and biases tell before from after."""
    quarter = max(2, context // 4)
    return {
        "scores": ("qk_norm", "temperature", "soft_cap(30.0)"),
        "normalizer": ("softmax_off_by_one", "entmax15"),
        "head_mix": ("talking_heads",),
        "combine": ("gate", "gate(per=element)", "differential"),
        "position": ("learned", "rotary", "alibi", "t5(bidirectional=true)"),
        "mask": (f"window({2 * (quarter // 2) + 1}, symmetric=true)",),
        "branches": ("lstm", "short_conv", "layer_norm"),
    }


def _of_both(context: int) -> dict[str, tuple[str, ...]]:
    """Self-attention on either side, and what looks from one to the other, which knows no order."""
    quarter = max(2, context // 4)
    return {
        "scores": ("qk_norm",),
        "encoder.scores": ("qk_norm",),
        "cross.scores": ("qk_norm", "temperature"),
        "normalizer": ("softmax_off_by_one",),
        "encoder.normalizer": ("softmax_off_by_one",),
        "cross.normalizer": ("softmax_off_by_one", "entmax15"),
        "combine": ("gate",),
        "encoder.combine": ("gate",),
        "cross.combine": ("gate",),
        "position": ("rotary", "alibi", "t5"),
        "encoder.position": ("rotary", "alibi", "t5(bidirectional=true)"),
        "encoder.mask": (f"window({2 * (quarter // 2) + 1}, symmetric=true)",),
        "branches": ("lstm",),
        "encoder.branches": ("lstm", "short_conv"),
    }
