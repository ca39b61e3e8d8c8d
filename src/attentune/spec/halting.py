"""When tokens stop: adaptive depth by a learned confidence.

After layer l a token in the state h_l is done with confidence p_l, and halts after the first layer N at which the sum
of its confidences reaches 1 - epsilon, or after the last layer. What goes on to the logits is the mean of its states:

    p_l = sigmoid(w . h_l + b)
    y = p_1 h_1 + ... + p_{N-1} h_{N-1} + R h_N,    R = 1 - p_1 - ... - p_{N-1}
    loss += weight * mean over tokens of (N + R)

Adaptive computation time (arXiv:1603.08983), from token to token as in A-ViT (arXiv:2112.07658); w and b are shared by
all layers. A halted token is not computed in deeper layers, and nobody attends to it there. Whether it halts depends
on its own state alone, so that a causal model stays causal.

AdaFormer (AAAI 2024) halts tokens by a confidence beside sparse attention, for image super-resolution; no
language-model method of that name was found. Here it stands for halting together with a window or a selector.
"""

from __future__ import annotations

from typing import Annotated, final

from pydantic import Field

from attentune.spec.value import Frozen


@final
class HaltingSpec(Frozen):
    """How soon tokens may halt, and what it costs them to go on."""

    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01  # of the cost N + R in the training loss
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.01  # a token halts when its confidences sum to 1 - epsilon
    bias: Annotated[float, Field(allow_inf_nan=False)] = -3.0  # b at the start, w begins at 0: every p is sigmoid(bias)
