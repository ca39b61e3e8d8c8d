"""Attentune: state an attention, plan it, prove it, tune it, ship it.

The names below are loaded when they are first used, so that `import attentune` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attentune.data.corpus import load_corpus
    from attentune.data.tokenizers import load_tokenizer
    from attentune.errors import AttentuneError
    from attentune.evaluation.language import evaluate_language
    from attentune.generation import Beam, Hypothesis, Sampling, complete, decode, generate
    from attentune.kernels import Layout, plan
    from attentune.mechanisms import attention, layer, load_plugin
    from attentune.models.build import build
    from attentune.models.checkpoint import load_model, save_model
    from attentune.search.space import StudySpec
    from attentune.search.study import optimize
    from attentune.spec.attention import AttentionSpec
    from attentune.spec.model import LayerSpec, ModelSpec
    from attentune.spec.run import DataSpec, RunSpec
    from attentune.tasks.folder import load
    from attentune.training.loop import train

__version__ = "0.1.0"

_HOMES = {
    "AttentionSpec": "spec.attention",
    "AttentuneError": "errors",
    "Beam": "generation",
    "DataSpec": "spec.run",
    "Hypothesis": "generation",
    "LayerSpec": "spec.model",
    "Layout": "kernels",
    "ModelSpec": "spec.model",
    "RunSpec": "spec.run",
    "Sampling": "generation",
    "StudySpec": "search.space",
    "attention": "mechanisms",
    "build": "models.build",
    "complete": "generation",
    "decode": "generation",
    "evaluate_language": "evaluation.language",
    "generate": "generation",
    "layer": "mechanisms",
    "load": "tasks.folder",
    "load_corpus": "data.corpus",
    "load_model": "models.checkpoint",
    "load_plugin": "mechanisms",
    "load_tokenizer": "data.tokenizers",
    "optimize": "search.study",
    "plan": "kernels",
    "save_model": "models.checkpoint",
    "train": "training.loop",
}

__all__ = [
    "AttentionSpec",
    "AttentuneError",
    "Beam",
    "DataSpec",
    "Hypothesis",
    "LayerSpec",
    "Layout",
    "ModelSpec",
    "RunSpec",
    "Sampling",
    "StudySpec",
    "attention",
    "build",
    "complete",
    "decode",
    "evaluate_language",
    "generate",
    "layer",
    "load",
    "load_corpus",
    "load_model",
    "load_plugin",
    "load_tokenizer",
    "optimize",
    "plan",
    "save_model",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attentune' has no attribute {name!r}")
    return getattr(import_module(f"attentune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
