"""The real decoder in the real loop: it resumes exactly, with memory too, and packed documents stay apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attentune.errors import KernelError
from attentune.evaluation.cost import token_latency, training_cost
from attentune.evaluation.language import language_loss
from attentune.layers.attention import Attention
from attentune.layers.chosen import chosen_kernels
from attentune.mechanisms import attention
from attentune.models.build import build
from attentune.models.decoder import Decoder
from attentune.spec.model import LayerSpec, ModelSpec
from attentune.spec.run import DataSpec, OptimizerSpec
from attentune.training import session
from attentune.training.loop import train
from attentune.training.optimizers import build_optimizer
from attentune.training.state import Snapshot, load_latest
from training.standin import small_corpus, small_run

PLAIN = "heads=2, position=rotary, mask=causal"
MEMORY = "heads=2, mask=causal, memory=transformer_xl(8)"


def decoder(text: str, *, dropout: float = 0.1) -> Decoder:
    layers = (LayerSpec(attention=attention(text)),)
    spec = ModelSpec(vocab_size=10, width=16, depth=2, context=16, layers=layers, dropout=dropout)
    return build(spec, seed=0)


class CrashError(Exception):
    """A crash in the middle of training."""


@pytest.mark.parametrize("text", [PLAIN, MEMORY])
def test_a_decoder_resumes_exactly(tmp_path: Path, text: str) -> None:
    model, run = decoder(text), small_run(accumulate=2)
    whole = train(model, small_corpus(), run)

    def crash(step: int, loss: float) -> None:
        if step == 20:
            raise CrashError

    with pytest.raises(CrashError):
        train(decoder(text), small_corpus(), run, folder=tmp_path, on_evaluation=crash)
    other = decoder(text)
    resumed = train(other, small_corpus(), run, folder=tmp_path)
    assert resumed.losses == whole.losses and resumed.final == whole.final
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_resumed_run_keeps_the_kernels_that_it_began_with(tmp_path: Path) -> None:
    def crash(step: int, loss: float) -> None:
        raise CrashError

    model, run = decoder(PLAIN), small_run()
    for part in model.modules():
        if isinstance(part, Attention):
            part.bind(kernel="reference")
    with pytest.raises(CrashError):
        train(model, small_corpus(), run, folder=tmp_path, on_evaluation=crash)
    other = decoder(PLAIN)
    assert "reference" not in {kernel for held in chosen_kernels(other).values() for kernel in held.values()}
    train(other, small_corpus(), run, folder=tmp_path)
    assert {kernel for held in chosen_kernels(other).values() for kernel in held.values()} == {"reference"}


def test_a_run_of_another_device_chooses_kernels_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(decoder(PLAIN), small_corpus(), small_run(), folder=tmp_path)

    def moved(folder: Path) -> Snapshot | None:
        found = load_latest(folder)
        assert found is not None
        told = {name: dict.fromkeys(held, "flex") for name, held in found.progress["kernels"].items()}
        return replace(found, progress={**found.progress, "kernels": told, "device": device})

    monkeypatch.setattr(session, "load_latest", moved)
    device = "cpu"
    with pytest.raises(KernelError, match="FlexAttention has no backward pass on a CPU"):
        train(decoder(PLAIN), small_corpus(), small_run(), folder=tmp_path)
    device, other = "cuda", decoder(PLAIN)
    train(other, small_corpus(), small_run(), folder=tmp_path)
    assert chosen_kernels(other) == chosen_kernels(decoder(PLAIN))


def test_a_decoder_learns_and_its_layers_are_named() -> None:
    result = train(decoder(PLAIN, dropout=0.0), small_corpus(), small_run(steps=60))
    assert np.mean(result.losses[-10:]) < np.mean(result.losses[:5]) - 0.5
    assert {"layers.0", "layers.1", "embedding"} <= set(result.diagnostics[0].norms)


def test_muon_takes_the_hidden_matrices_and_nothing_else() -> None:
    model = decoder(PLAIN)
    parts = build_optimizer(model, OptimizerSpec(name="muon")).parts
    groups = [{id(p) for group in part.param_groups for p in group["params"]} for part, _ in parts]
    hidden = {id(p) for n, p in model.named_parameters() if n.startswith("layers.") and p.ndim == 2}
    assert groups[0] == hidden
    assert id(model.embedding.table) in groups[1] and not groups[0] & groups[1]


def test_isolated_documents_train_and_score_another_model() -> None:
    corpus = small_corpus()
    starts = np.arange(0, 600, 5)
    corpus = replace(
        corpus,
        train=replace(corpus.train, starts=starts),
        validation=replace(corpus.validation, starts=np.arange(0, 90, 5)),
    )
    model = decoder(PLAIN, dropout=0.0)
    apart = language_loss(model, corpus.validation, context=8, isolate_documents=True)
    assert apart != language_loss(model, corpus.validation, context=8)
    result = train(model, corpus, small_run(data=DataSpec(isolate_documents=True)))
    assert result.final is not None and result.final.tokens == 89 - 17  # the first tokens of documents are not scored


def test_costs_of_a_decoder() -> None:
    model = decoder(PLAIN, dropout=0.0).train()
    assert 0 < token_latency(model, tokens=4, repeats=2) < 1
    assert model.training
    cost = training_cost(model, vocab_size=10, batch=2, context=8, repeats=1)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert cost.flops_per_token >= 6 * matrices
