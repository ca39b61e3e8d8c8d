"""`attentune verify`: what passes, what is refused with a reason, and that mistakes are found."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attentune.cli import main
from attentune.errors import SpecError
from attentune.kernels import KERNELS, Call, Layout, LayoutKind, Result
from attentune.layers.state import KeyValueCache
from attentune.mechanisms import attention, registry
from attentune.mechanisms.lstm import LSTM
from attentune.spec.positions import Positions
from attentune.spec.slots import Mixer
from attentune.verification.examples import examples, layers
from attentune.verification.findings import Finding, against_reference
from attentune.verification.proof import verify
from attentune.verification.suite import Selection

FAST = ("--dtype", "float64", "--layout", "plain", "cached")


def found(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert main(["verify", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_mechanism_passes_and_its_refusals_have_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    proof = found(capsys, "--mechanism", "entmax15", "--dtype", "float32", "--layout", "plain", "padded")
    assert (proof["pass"], proof["fail"]) == (4, 0)
    passed = [case for case in proof["cases"] if case["status"] == "pass"]
    assert all(case["checks"] > 10 and case["worst"]["error"] <= case["worst"]["allowed"] for case in passed)
    refused = {case["kernel"]: case["reason"] for case in proof["cases"] if case["status"] == "refused"}
    assert "normalizer=entmax15" in refused["sdpa"]
    assert set(refused) == set(KERNELS) - {"reference", "blocked"}


def test_the_table_tells_of_every_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--attention", "heads=2, mask=causal", *FAST]) == 0
    shown = capsys.readouterr().out
    assert all(f"attention               {kernel}" in shown for kernel in KERNELS)
    assert "2  flex: dtype: the kernel computes in float32 (float64)" in shown
    assert "2  flex: gradients: FlexAttention has no backward pass" in shown
    assert "0 fail" in shown


def test_a_kernel_that_loses_the_mask_fails_with_a_command_that_shows_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = type(KERNELS["sdpa"]).run

    def wrong(self: Any, call: Call) -> Result:
        return right(self, replace(call, spec=call.spec.replace(mask=attention("heads=1").mask)))

    monkeypatch.setattr(type(KERNELS["sdpa"]), "run", wrong)
    arguments = ["--attention", "heads=4/2, mask=causal", "--kernel", "sdpa", *FAST, "--seed", "3"]
    proof = found(capsys, *arguments, code=1)
    broken = [case for case in proof["cases"] if case["status"] == "fail"]
    assert {case["layout"] for case in broken} == {"plain", "cached"}
    assert broken[0]["worst"]["error"] > broken[0]["worst"]["allowed"]
    assert main(["verify", *arguments]) == 1
    assert f"FAIL  {broken[0]['attention']}" in capsys.readouterr().out
    again = shlex.split(broken[0]["command"])
    assert found(capsys, *again[2:], code=1)["fail"] == 1
    monkeypatch.undo()
    assert found(capsys, *again[2:])["pass"] == 1


def test_a_wrong_gradient_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = type(KERNELS["sdpa"]).run

    def wrong(self: Any, call: Call) -> Result:
        given = right(self, call)
        return Result(given.output + (call.v - call.v.detach()).sum() * 1e-3)

    monkeypatch.setattr(type(KERNELS["sdpa"]), "run", wrong)
    selection = Selection(attentions=("heads=2, mask=causal",), kernels=("sdpa",), layouts=("plain",))
    rows = verify(replace(selection, dtypes=(torch.float32,)))
    assert [row.status for row in rows] == ["fail"]
    assert rows[0].worst is not None
    assert rows[0].worst.tensor != "output"


def test_a_cache_that_shows_unfilled_slots_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(self: KeyValueCache, entries: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kept = append(self, entries)
        return {name: torch.cat([tensor[:, :, 1:], tensor[:, :, :1]], 2) for name, tensor in kept.items()}

    append = KeyValueCache.append
    monkeypatch.setattr(KeyValueCache, "append", leaking)
    rows = verify(
        Selection(attentions=("heads=2, mask=causal",), kernels=("reference",), layouts=("cached",), quick=True)
    )
    assert {row.status for row in rows} == {"fail"}


def test_a_mixer_that_hears_padding_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LSTM.mix

    def deaf_to_padding(
        self: LSTM, params: Any, x: Any, state: Any, valid: Any, starts: Any, form: str = "auto"
    ) -> Any:
        return right(self, params, x, state, None, starts, form)

    monkeypatch.setattr(LSTM, "mix", deaf_to_padding)
    rows = verify(Selection(attentions=("branches=lstm",), layouts=("padded", "plain"), quick=True))
    assert {(row.layout, row.status) for row in rows} == {("padded", "fail"), ("plain", "pass")}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--mechanism", "windw"], "unknown mechanism 'windw'; did you mean 'window'"),
        (["--kernel", "spda"], "unknown kernel 'spda'; did you mean 'sdpa'"),
        (["--attention", "heads=2, mask=causl"], "mask=causl is unknown; did you mean 'causal'"),
        (["--mechanism", "window", "--attention", "heads=2"], "give --mechanism NAMES or --attention TEXTS, not both"),
        (["--mechanism", "window", "--kernel", "chunked"], "no case is left"),
        (["--dtype", "int8"], "--dtype"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(["verify", *arguments]) == 2
    caught = capsys.readouterr().err
    assert says in caught
    assert caught.count("\n") == 1


MINE = """
from typing import Literal, final
from attentune.spec.slots import ElementwiseScore

@final
class Wrong(ElementwiseScore):
    kind: Literal["wrong_score"] = "wrong_score"
    factor: float

    def modify(self, params, s, query, key, head):
        return s + s.detach().flip(-1)  # sees hidden scores
"""


def test_a_mechanism_of_the_user_is_verified_without_a_word_about_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_kinds", {slot: dict(kinds) for slot, kinds in registry._kinds.items()})
    (tmp_path / "mine.py").write_text(MINE)
    arguments = ["--plugin", str(tmp_path / "mine.py"), "--mechanism", "wrong_score", *FAST]
    proof = found(capsys, *arguments, code=1)
    plain = next(case for case in proof["cases"] if case["kernel"] == "reference" and case["layout"] == "plain")
    assert plain["status"] == "fail"
    assert "future" in plain["worst"]["check"]
    assert plain["command"].endswith(f"--plugin {tmp_path / 'mine.py'}")


def test_every_mechanism_has_examples_that_some_layer_holds() -> None:
    for mechanism in registry:
        values = examples(mechanism)
        assert values
        for value in values:
            assert any(value in _values(layer) for layer in layers(value))


def _values(layer: Any) -> list[Any]:
    own = [] if layer.attention is None else [value for _, _, value in layer.attention.values()]
    masks = [part for value in own for part in getattr(value, "masks", ())]
    return [*own, *masks, *layer.branches]


def test_examples_show_every_choice() -> None:
    assert {value.per for value in examples(registry.find("combine", "gate"))} == {"head", "element"}  # type: ignore[attr-defined]
    assert {value.bidirectional for value in examples(registry.find("position", "t5"))} == {False, True}  # type: ignore[attr-defined]


def test_a_field_without_an_example_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unguessable(Mixer):
        kind: str = "unguessable"
        path: bytes

    with pytest.raises(SpecError, match=r"no example was found .*: give its field path one, with Field\(examples="):
        examples(Unguessable)


def test_the_allowance_is_that_of_the_design() -> None:
    exact, plain = {"output": torch.ones(1).double()}, {"output": torch.ones(1).double() + 1e-6}
    (finding,) = against_reference("exact", {"output": exact["output"] + 2e-6}, plain, exact, torch.float32)
    assert finding.allowed == pytest.approx(2e-6 + 4 * torch.finfo(torch.float32).eps)
    assert not finding.broken
    assert Finding("", "", float("nan"), 1.0).broken


def test_prefixes_of_rows_go_on_into_a_cache() -> None:
    """One row of positions stood for all rows, though each row had a prefix of its own."""
    layout = Layout.plain(4).with_prefix(torch.tensor([1, 3]))
    assert layout.query.index.shape == layout.query.position.shape == (2, 4)
    assert layout.kind is LayoutKind.PADDED
    picked = layout.query.map(lambda tensor: tensor.index_select(0, torch.tensor([1, 1])))
    assert isinstance(picked, Positions) and picked.prefix is not None
    assert picked.prefix[:, 0].tolist() == [3, 3]
