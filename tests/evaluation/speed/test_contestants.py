"""Every contestant computes the cells that it claims, and a wrong one is found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch

from attentune.evaluation.speed import dense, gate, measurement
from attentune.evaluation.speed.compiled import block_mask, mask_mod, score_mod
from attentune.evaluation.speed.contestant import Contestant, Own, Prepared, own_contestants, picked
from attentune.evaluation.speed.grid import MASKS, SCORES, Case, Cell, Setting
from attentune.evaluation.speed.peers import PEERS, contestants
from attentune.evaluation.speed.problem import Problem, pose
from attentune.kernels import KERNELS
from attentune.shapes import Tensor

SMALL = Setting(heads=2, head_width=4, window=33, peers=tuple(PEERS), kernels=tuple(KERNELS))


@pytest.fixture(autouse=True)
def _one_call_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "SLOW_SECONDS", -1.0)


def said(stage: str, seconds: float) -> None:
    assert stage
    assert seconds > 0


MEETINGS = {("window", "alibi"), ("symmetric", "soft_cap"), ("bigbird", "t5"), ("packed", "alibi")}
"""Of masks and scores, those that are tested each time; the others are slow tests."""
STEPS = {("causal", "none"), ("window", "t5"), ("sinks", "none"), ("packed", "t5"), ("prefix", "none")}
"""The same of decoding."""


def cells() -> Iterator[Any]:
    """Each mask plain, some with every score; a length that much divides, and one that nothing divides."""
    for mask in MASKS:
        yield Cell(mask, "none", 320, "forward+backward")
    for mask, scores in product(("window", "symmetric", "bigbird", "packed"), ("alibi", "soft_cap", "t5")):
        yield _slow_unless((mask, scores) in MEETINGS, Cell(mask, scores, 320, "forward+backward"))
    for mask, scores in product(("causal", "window", "sinks", "packed", "prefix"), ("none", "t5")):
        yield _slow_unless((mask, scores) in STEPS, Cell(mask, scores, 301, "decode"))
    yield Cell("causal", "t5", 301, "forward")
    yield Cell("sinks", "none", 301, "forward+backward")
    yield Cell("window", "none", 301, "statistics")
    yield Cell("packed", "alibi", 301, "statistics")
    yield Cell("symmetric", "none", 320, "forward", "bfloat16")


def _slow_unless(quick: bool, cell: Cell) -> Any:
    return cell if quick else pytest.param(cell, marks=pytest.mark.slow)


@pytest.mark.parametrize("cell", tuple(cells()), ids=str)
def test_whoever_claims_a_cell_computes_it(cell: Cell) -> None:
    case = Case(cell, SMALL)
    able = [one for one in contestants(case) if one.refusal(case) is None and not one.compiles]
    assert len(able) >= 2
    for one in able:
        found = measurement.try_alone(said, case, one.name)
        assert found["error"] <= found["allowed"], (one.name, found)
        assert found["first_seconds"] > 0


@pytest.mark.parametrize("length", [1, 2, 33, 40])
@pytest.mark.parametrize("mask", ["window", "sinks", "symmetric", "packed"])
def test_chunks_at_lengths_with_edges_alone(mask: str, length: int) -> None:
    found = measurement.try_alone(said, Case(Cell(mask, "none", length, "forward+backward"), SMALL), "chunked")
    assert found["error"] <= found["allowed"]


def test_heads_and_rows_are_not_mixed_up_by_chunks() -> None:
    case = Case(Cell("window", "alibi", 301, "forward"), SMALL.replace(batch=3))
    assert measurement.try_alone(said, case, "chunked")["error"] <= gate.ALLOWED[torch.float32]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("pass_", ["forward", "decode"])
def test_flex_is_told_the_same_pairs_and_scores(mask: str, pass_: str) -> None:
    """Its mask and score functions, asked pair by pair without compiling anything."""
    if pass_ == "decode" and mask in ("full", "bigbird", "symmetric"):
        return
    for scores in SCORES:
        problem = pose(Case(Cell(mask, scores, 300, pass_), SMALL))
        q, k = torch.arange(problem.q.shape[2])[:, None], torch.arange(300)
        zero = torch.tensor(0)
        right = dense.seen_pairs(problem)
        if mask != "full":
            seen = mask_mod(problem)(zero, zero, q, k).expand(right.shape)
            assert torch.equal(seen, right)
            blocks = block_mask(problem).to_dense()[0, 0].bool()  # type: ignore[no-untyped-call]
            tiles = right.float()
            tiles = torch.nn.functional.pad(tiles, (0, -tiles.shape[1] % 128, 0, -tiles.shape[0] % 128))
            held = tiles.unflatten(0, (-1, 128)).unflatten(2, (-1, 128)).amax((1, 3)).bool()
            assert torch.equal(blocks, held)
        score, _ = score_mod(problem)
        if scores in ("alibi", "t5"):
            assert score is not None
            bias = score(torch.zeros(()), zero, torch.tensor(1), q, k).expand(right.shape)
            assert torch.allclose(bias[right], dense.additive(problem)[0, 1][right], atol=1e-5)
        elif scores == "soft_cap":
            assert score is not None
            assert float(score(torch.tensor(1e6), zero, zero, q, k)) == pytest.approx(20.0)
        else:
            assert score is None


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler")
@pytest.mark.parametrize("cell", [Cell("sinks", "alibi", 300, "forward"), Cell("window", "t5", 300, "decode")], ids=str)
def test_compiled_flex_computes_the_cell(cell: Cell) -> None:
    found = measurement.try_alone(said, Case(cell, SMALL), "flex")
    assert found["error"] <= found["allowed"]


class Wrong:
    """A contestant that computes something else than it was asked for."""

    name, ours, compiles = "sdpa", False, False

    def __init__(self, change: str) -> None:
        self.change = change

    def refusal(self, case: Case) -> str | None:
        return None

    def needs(self, case: Case) -> float:
        return 0.0

    def prepare(self, problem: Problem) -> Prepared:
        def forward() -> dict[str, Tensor]:
            s = problem.q @ problem.k.transpose(-1, -2) * problem.scale
            hidden = ~dense.seen_pairs(problem)
            if self.change == "a key more":
                hidden[200, 250] = False
            s = s.masked_fill(hidden, float("-inf"))
            v = problem.v.detach() if self.change == "no gradient of v" else problem.v
            output = s.softmax(-1) @ v
            if self.change == "not a number":
                output = output * float("nan")
            return {"output": output}

        return Prepared(forward)


@pytest.mark.parametrize(
    ("change", "tensor"),
    [("nothing", None), ("a key more", "output"), ("no gradient of v", "v"), ("not a number", "output")],
)
def test_the_gate_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch, change: str, tensor: str | None) -> None:
    case = Case(Cell("causal", "none", 260, "forward+backward"), SMALL)
    monkeypatch.setattr(gate, "SAMPLE", 100)  # all rows
    monkeypatch.setitem(PEERS, "sdpa", Wrong(change))
    found = measurement.try_alone(said, case, "sdpa")
    passed = found["error"] <= found["allowed"]
    assert passed == (tensor is None)
    if change in ("a key more", "no gradient of v"):
        assert found["error"] > 100 * found["allowed"]
    if tensor is not None and change != "not a number":
        assert found["tensor"] == tensor


def test_the_sample_holds_the_edges_and_the_truth_is_the_reference_on_all_rows() -> None:
    case = Case(Cell("window", "alibi", 300, "forward+backward"), SMALL)
    rows = gate.sampled(case)
    assert len(rows) == len(set(rows.tolist())) == gate.SAMPLE
    assert {0, 32, 33, 63, 64, 299} <= set(rows.tolist())
    problem = pose(case)
    right = gate.truth(problem)
    whole = Own("reference").prepare(problem).forward()["output"]
    assert torch.allclose(right["output"], whole[:, :, rows].detach().double(), atol=1e-5)
    (gradient,) = torch.autograd.grad(whole, [problem.k], gate.gate_gradient(problem))
    assert torch.allclose(right["k"], gradient.double(), atol=1e-4)


def test_relative_errors_by_hand() -> None:
    right = torch.tensor([[[3.0, 4.0], [0.3, 0.4]]])
    found = right.clone()
    found[0, 1, 0] += 0.05
    assert gate.relative_error(found, right) == pytest.approx(0.05 / 0.5)
    assert gate.relative_error(torch.tensor([1.1, 0.0]), torch.tensor([1.0, 0.0])) == pytest.approx(0.1)
    right, found = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.02], [1.0]]])
    assert gate.relative_error(found, right) == pytest.approx(0.02 / (gate.FLOOR * 0.5**0.5))
    assert gate.relative_error(found, right, 1.0) == pytest.approx(0.02 / 0.5**0.5)
    assert gate.relative_error(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)) == 0
    with pytest.raises(ValueError, match="the shape is"):
        gate.relative_error(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize(
    ("name", "cell", "reason"),
    [
        ("sdpa", Cell("window", "none", 64, "forward"), "its flag says causal or nothing"),
        ("sdpa_mask", Cell("causal", "soft_cap", 64, "forward"), "cannot cap scores"),
        ("sdpa_mask", Cell("causal", "t5", 64, "forward+backward"), "gives a mask no gradient"),
        ("flex", Cell("causal", "none", 64, "forward+backward"), "no backward pass on a CPU"),
        ("chunked", Cell("causal", "none", 64, "forward"), "is for windows and documents"),
        ("longformer", Cell("window", "none", 64, "forward"), "as many keys after the query as before it"),
        ("longformer", Cell("symmetric", "none", 65, "forward"), "must be a multiple of 32"),
        ("local_attention", Cell("packed", "none", 64, "forward"), "has windows alone"),
        ("local_attention", Cell("symmetric", "none", 65, "forward"), "no multiple of 8"),
        ("x_transformers", Cell("causal", "none", 64, "statistics"), "gives the output alone"),
    ],
)
def test_peers_say_what_they_cannot_compute(name: str, cell: Cell, reason: str) -> None:
    assert reason in str(PEERS[name].refusal(Case(cell, SMALL)))


def test_a_missing_package_is_told_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attentune.evaluation.speed.packages.find_spec", lambda name: None)
    for name in ("local_attention", "x_transformers", "longformer"):
        reason = PEERS[name].refusal(Case(Cell("symmetric", "none", 64, "forward"), SMALL))
        assert reason is not None
        assert "pip install 'attentune[bench]'" in reason


def test_dense_matrices_are_predicted() -> None:
    case = Case(Cell("causal", "alibi", 32768, "forward+backward"), SMALL.replace(heads=8))
    gib = 2**30
    assert PEERS["naive"].needs(case) >= 4 * 32 * gib
    assert PEERS["sdpa_mask"].needs(case) == 32 * gib
    assert Own("reference").needs(case) >= 3 * 32 * gib
    assert PEERS["chunked"].needs(case) == PEERS["flex"].needs(case) == 0
    plain = Case(Cell("causal", "none", 32768, "forward"), SMALL)
    assert PEERS["sdpa_mask"].needs(plain) == 4 * gib
    assert Own("sdpa").needs(plain) == PEERS["sdpa"].needs(plain) == PEERS["x_transformers"].needs(plain) == 0


def test_the_pick_is_measured_even_where_no_kernel_is_named() -> None:
    case = Case(Cell("causal", "soft_cap", 64, "forward+backward"), SMALL.replace(kernels=(), peers=()))
    (one,) = own_contestants(case)
    assert one.name == picked(case)
    assert one.refusal(case) is None


def test_every_contestant_is_one() -> None:
    case = Case(Cell("causal", "none", 64, "forward"), SMALL)
    assert all(isinstance(one, Contestant) for one in contestants(case))
    names = [one.name for one in contestants(case)]
    assert len(names) == len(set(names))
    assert {name: one.name for name, one in PEERS.items()} == {name: name for name in PEERS}
