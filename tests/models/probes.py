"""The difficult cases that decided the interfaces: each must be carried through everything a model goes through."""

from __future__ import annotations

PROBES: dict[str, tuple[str, dict[str, object]]] = {
    "talking heads": ("heads=4, position=rotary, mask=causal, head_mix=talking_heads", {}),
    "top-k blocks": ("heads=4/2, position=rotary, mask=causal, selector=top_k_blocks(2, 2)", {}),
    "Transformer-XL memory": ("heads=2, position=alibi, mask=causal, memory=transformer_xl(32)", {}),
    "residual scores": ("heads=2, mask=causal, scores=residual_scores", {"position": "sinusoidal"}),
    "entmax": ("heads=2, position=rotary, mask=causal, normalizer=entmax15", {}),
    "latent heads": ("heads=latent(2, 6, rotary=4), position=rotary, mask=causal", {}),
    "T5 bias shared by layers": (
        "heads=2, position=t5(buckets=8, max_distance=16), mask=causal",
        {"share": ("position",)},
    ),
    "parallel LSTM branch": ("heads=2, mask=window(4), branches=lstm", {}),
    "LSTM without attention": ("branches=lstm", {}),
    "cross-attention": ("heads=2, position=rotary, mask=causal, cross=attention(heads=2)", {}),
    "additive similarity": ("heads=2, similarity=additive, mask=causal", {"position": "learned"}),
}
