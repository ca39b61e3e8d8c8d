"""The loop: it learns, accumulates exactly, adds every term, keeps memory, and stops for a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentune.data.corpus import Corpus
from attentune.errors import TrainingError
from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.spec.model import ModelSpec
from attentune.spec.run import ClipSpec, DataSpec, OptimizerSpec, RegularizerSpec, ScheduleSpec
from attentune.training.feed import SegmentStreams, step_feed
from attentune.training.loop import train
from attentune.training.losses import cross_entropy, disagreement
from attentune.training.result import StopTraining
from attentune.training.start import StartWarning, warn_of_drowned_tokens
from attentune.training.state import checkpoints
from training.standin import RememberingModel, TinyLanguageModel, small_corpus, small_run


def test_it_learns_and_says_how_fast() -> None:
    told: list[tuple[int, int]] = []
    result = train(
        TinyLanguageModel(dropout=0.0),
        small_corpus(),
        small_run(steps=150, evaluate_every=50),
        progress=lambda step, steps, loss, speed: told.append((step, steps)),
    )
    assert np.mean(result.losses[-20:]) < np.mean(result.losses[:5]) - 0.7
    assert [e.step for e in result.evaluations] == [50, 100, 150]
    assert result.final is not None and result.final.nats_per_token == result.evaluations[-1].loss
    assert result.final.tokens == 89  # the whole validation text but its first token
    assert result.tokens_per_second > 0 and result.seconds > 0 and result.peak_bytes > 1_000_000
    assert told[0] == (20, 150) and told[-1] == (150, 150)


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_give_the_loss_and_weights_of_the_whole_batch(parts: int) -> None:
    runs = []
    for accumulate in (1, parts):
        model = TinyLanguageModel(dropout=0.0, auxiliary=0.1)
        result = train(model, small_corpus(), small_run(steps=8, accumulate=accumulate))
        runs.append((result.losses, model.head.weight.detach()))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-5)
    torch.testing.assert_close(runs[0][1], runs[1][1], rtol=1e-4, atol=1e-5)


def test_micro_batches_with_unequally_many_scored_targets() -> None:
    corpus = small_corpus()
    starts = np.unique(np.random.default_rng(0).integers(0, 600, 120))
    documents = replace(corpus, train=replace(corpus.train, starts=np.union1d([0], starts)))
    run = small_run(data=DataSpec(isolate_documents=True), steps=1)
    model = TinyLanguageModel(dropout=0.0)
    feed = step_feed(documents.train, run.replace(accumulate=4), has_memory=False, device=torch.device("cpu"))
    shares = [part.share for part in feed(0).parts]
    assert len(set(shares)) > 1 and sum(shares) == pytest.approx(1)
    losses = [train(TinyLanguageModel(dropout=0.0), documents, run.replace(accumulate=n)).losses[0] for n in (1, 4)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert train(model, documents, run).losses
    assert model.layouts[0] is not None and model.layouts[0].kind == "packed"


def first_step_gradients(model: TinyLanguageModel, **changes: Any) -> tuple[float, dict[str, Tensor]]:
    result = train(model, small_corpus(), small_run(steps=1, clip=ClipSpec(name="none"), **changes))
    return result.losses[0], {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_auxiliary_losses_are_trained_but_not_reported() -> None:
    plain_loss, plain = first_step_gradients(TinyLanguageModel(dropout=0.0))
    with_loss, gradients = first_step_gradients(TinyLanguageModel(dropout=0.0, auxiliary=1.0))
    assert with_loss == plain_loss
    assert not torch.allclose(plain["embedding.weight"], gradients["embedding.weight"])


def test_label_smoothing_is_the_formula() -> None:
    run = small_run(steps=1, regularizer=RegularizerSpec(label_smoothing=0.2))
    model = TinyLanguageModel(dropout=0.0)
    part = step_feed(small_corpus().train, run, has_memory=False, device=torch.device("cpu"))(0).parts[0]
    logs = F.log_softmax(model(part.ids).logits.double(), -1).detach()
    expected = -(0.8 * logs.gather(-1, part.targets[..., None])[..., 0] + 0.2 * logs.mean(-1)).mean()
    assert train(model, small_corpus(), run).losses[0] == pytest.approx(expected.item(), rel=1e-5)


def test_consistency_adds_what_two_dropouts_disagree_about() -> None:
    run = small_run(steps=1, regularizer=RegularizerSpec(consistency=2.0))
    model = TinyLanguageModel(dropout=0.3)
    part = step_feed(small_corpus().train, run, has_memory=False, device=torch.device("cpu"))(0).parts[0]
    model.train()
    torch.manual_seed(run.seed)
    first, second = (model(part.ids).logits for _ in range(2))
    both = sum(cross_entropy(one, part) for one in (first, second))
    (0.5 * both + 2.0 * disagreement(first, second, part)).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    found = train(TinyLanguageModel(dropout=0.3), small_corpus(), run)
    assert found.losses[0] == pytest.approx(cross_entropy(first, part).item(), rel=1e-5)
    assert found.gradient_norms[0] == pytest.approx(expected.item(), rel=1e-4)


def test_consistency_with_memory_is_refused() -> None:
    with pytest.raises(TrainingError, match="memory would hold it twice"):
        train(RememberingModel(), small_corpus(), small_run(regularizer=RegularizerSpec(consistency=1.0)))


def test_bf16_where_asked_trains_other_numbers_close_by() -> None:
    full = train(TinyLanguageModel(dropout=0.0), small_corpus(), small_run(steps=5)).losses
    half = train(TinyLanguageModel(dropout=0.0), small_corpus(), small_run(steps=5, precision="bf16")).losses
    assert full != half
    assert full == pytest.approx(half, rel=0.02)


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    model = TinyLanguageModel()
    torch.manual_seed(11)
    train(model, small_corpus(), small_run(steps=2))
    assert torch.equal(torch.rand(1), expected)


def test_stopping_from_the_callback() -> None:
    def stop(step: int, loss: float) -> None:
        if step == 20:
            raise StopTraining

    result = train(TinyLanguageModel(), small_corpus(), small_run(), on_evaluation=stop)
    assert result.stopped and result.final is None
    assert len(result.losses) == 20 and [e.step for e in result.evaluations] == [10, 20]


def test_a_callback_that_draws_random_numbers_changes_nothing() -> None:
    quiet = train(TinyLanguageModel(), small_corpus(), small_run())
    noisy = train(TinyLanguageModel(), small_corpus(), small_run(), on_evaluation=lambda step, loss: torch.rand(5))
    assert quiet.losses == noisy.losses


def test_segments_are_consecutive_and_memory_is_emptied_at_each_pass() -> None:
    tokens = small_corpus().train
    streams = SegmentStreams(tokens, batch=4, context=8, seed=3)  # 150 tokens a stream: 17 segments a pass
    assert [step for step in range(40) if streams.starts(step)] == [0, 17, 34]
    pieces = [streams.at(step) for step in range(17)]
    joined = torch.cat([ids for ids, _ in pieces], 1)
    shift = next(s for s in range(8) if np.array_equal(tokens.ids[s : s + 136], joined[0].numpy()))
    for row in range(4):
        begin = row * 150 + shift
        assert np.array_equal(joined[row].numpy(), tokens.ids[begin : begin + 136])
        assert np.array_equal(torch.cat([t for _, t in pieces], 1)[row].numpy(), tokens.ids[begin + 1 : begin + 137])
    model = RememberingModel()
    train(model, small_corpus(), small_run(steps=40, evaluate_every=100, checkpoint_every=100))
    assert model.fresh_starts == 3 + 2  # three passes; the evaluation reads eight streams, then what is left over


def test_memory_with_isolated_documents_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"isolate_documents cannot be honoured"):
        train(RememberingModel(), small_corpus(), small_run(data=DataSpec(isolate_documents=True)))


class Poisoned(TinyLanguageModel):
    """Its second layer gives nan from the given training step on."""

    def __init__(self, step: int) -> None:
        super().__init__(dropout=0.0)
        self.left = step
        self.blocks[1].register_forward_hook(self._poison)

    def _poison(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        self.left -= self.training and torch.is_grad_enabled()
        return output * float("nan") if self.left <= 0 else None


def test_a_loss_that_is_not_finite_stops_with_step_and_place_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"^step 13: the loss is not finite: the output of \S+ is the first"
    ) as error:
        train(Poisoned(13), small_corpus(), small_run(), folder=tmp_path)
    assert "last good checkpoint" in str(error.value)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10"]


class BadGradient(TinyLanguageModel):
    """Finite forward; the gradient of the square root at zero is not."""

    def forward(self, ids: Tensor, layout: Any = None, *, state: Any = None) -> Any:
        output = super().forward(ids, layout)
        output.logits = output.logits + (self.blocks[0].bias * 0).sum().sqrt()
        return output


def test_a_gradient_that_is_not_finite_is_named() -> None:
    with pytest.raises(TrainingError, match=r"^step 1: the gradient norm is not finite: the gradient of blocks.0.bias"):
        train(BadGradient(), small_corpus(), small_run())


def test_spoilt_weights_are_never_saved(tmp_path: Path) -> None:
    run = small_run(clip=ClipSpec(name="none"), checkpoint_every=1, evaluate_every=100)
    with pytest.raises(TrainingError, match=r"step 1: the weights .* no longer finite"):
        train(BadGradient(), small_corpus(), run, folder=tmp_path)
    assert checkpoints(tmp_path) == []


class Exploding(nn.Module):
    """Linear regression-like logits that a huge learning rate blows up."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TinyLanguageModel(dropout=0.0)

    def forward(self, ids: Tensor, layout: Any = None) -> Any:
        output = self.inner(ids, layout)
        output.losses = {"quartic": self.inner.head.weight.pow(4).sum()}
        return output


def test_a_learning_rate_that_is_too_high_is_the_likely_cause() -> None:
    run = small_run(
        optimizer=OptimizerSpec(name="adagrad", learning_rate=1e12, weight_decay=0.0),
        schedule=ScheduleSpec(name="constant", warmup=10),
        clip=ClipSpec(limit=1e30),
    )
    with pytest.raises(TrainingError, match=r"step \d+: .* not finite.*learning rate"):
        train(Exploding(), small_corpus(), run)


def test_too_little_text_for_streams() -> None:
    corpus: Corpus = small_corpus(train=50)
    with pytest.raises(TrainingError, match=r"50 training tokens are too few for 4 streams"):
        train(RememberingModel(), corpus, small_run())


def test_compiling_happens_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    train(TinyLanguageModel(), small_corpus(), small_run(steps=1))
    assert compiled == []
    model = TinyLanguageModel()
    train(model, small_corpus(), small_run(steps=1, compile=True))
    assert compiled == [model]


def test_embeddings_that_sinusoids_drown_are_warned_of() -> None:
    sizes = {"vocab_size": 20, "width": 32, "depth": 1, "layers": (layer("heads=2, mask=causal"),)}
    for changes in ({"position": "none"}, {"position": "sinusoidal", "scale_embeddings": True}):
        warn_of_drowned_tokens(build(ModelSpec(**sizes, **changes), seed=0))
    with pytest.warns(StartWarning, match=r"position=sinusoidal adds .* size 0\.02.*set scale_embeddings=true"):
        warn_of_drowned_tokens(build(ModelSpec(**sizes, position="sinusoidal"), seed=0))
