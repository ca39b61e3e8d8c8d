"""Every mechanism, one file each: the frozen value, its formula, its paper, its plain mathematics.

A mechanism is discovered by its file name, which is the name that users type. Files that begin with
an underscore hold what several mechanisms share.
"""

from __future__ import annotations

from attentune.mechanisms._discovery import discover, load_plugin
from attentune.spec import codec
from attentune.spec.attention import AttentionSpec
from attentune.spec.model import LayerSpec

registry = discover(__path__, __name__)

__all__ = ["attention", "layer", "load_plugin", "registry"]


def attention(text: str) -> AttentionSpec:
    """An attention from its text form, such as `heads=8/2, position=rotary, mask=causal & window(256)`."""
    return codec.parse_attention(text, registry)


def layer(text: str) -> LayerSpec:
    """A layer from its text form: an attention that may also say `branches=lstm` and `cross=attention(...)`."""
    return codec.parse_layer(text, registry)
