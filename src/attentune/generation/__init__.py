"""Text from a trained model."""

from attentune.generation.beam import Beam
from attentune.generation.decode import decode
from attentune.generation.finished import Hypothesis
from attentune.generation.generate import complete, generate
from attentune.generation.sampling import Sampling, draw, probabilities

__all__ = ["Beam", "Hypothesis", "Sampling", "complete", "decode", "draw", "generate", "probabilities"]
