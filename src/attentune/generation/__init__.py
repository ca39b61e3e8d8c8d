"""Text from a trained decoder."""

from attentune.generation.generate import complete, generate
from attentune.generation.sampling import Sampling, draw, probabilities

__all__ = ["Sampling", "complete", "draw", "generate", "probabilities"]
