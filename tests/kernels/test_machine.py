from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from attentune.cli import main
from attentune.errors import StorageError
from attentune.kernels import KERNELS, Layout, LayoutKind, Request, calibration, machine, native, plan
from attentune.kernels.kernel import Cost
from attentune.kernels.visible_share import visible_share
from attentune.mechanisms import attention
from kernels.attending import sizes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "profile_path", lambda: tmp_path / "cache" / "machine.json")


def request(text: str, length: int = 64, keys: int | None = None, **changes: object) -> Request:
    spec = attention(text)
    keys = length if keys is None else keys
    if keys != length:
        changes["layout"] = LayoutKind.CACHED
    return Request(spec, sizes(spec, head_width=64), 1, length, keys, **changes)  # type: ignore[arg-type]


def test_a_time_is_overhead_and_the_slower_of_arithmetic_and_memory() -> None:
    made = machine.Machine(1e9, 1e6, {"blocked forward": machine.Speed(0.5, 100.0)})
    assert made.seconds(Cost(200.0, 1e6, "blocked", pieces=3), "forward") == 3 * 0.5 + 2.0
    assert made.seconds(Cost(200.0, 9e6, "blocked"), "forward") == 0.5 + 9.0


def test_a_path_that_was_not_measured_is_as_fast_beside_the_others_as_it_usually_is() -> None:
    usual = machine.CPU.speeds["flex forward"]
    slow = machine.Machine(machine.CPU.matrix_products / 4, 1e12, {})
    cost = Cost(1e9, 0.0, "flex", pieces=1)
    assert slow.seconds(cost, "forward") == pytest.approx(4 * (usual.overhead + 1e9 / usual.operations))


def test_what_is_measured_decides_plans_until_the_file_is_gone() -> None:
    before = plan(request("heads=2, mask=causal"))
    assert before.choice == "sdpa"
    assert "built-in rates" in before.explain()
    speeds = {name: machine.Speed(1.0, 1e9) for name in machine.CPU.speeds}
    speeds["reference forward"] = machine.Speed(1e-6, 1e12)
    path = machine.store(machine.Machine(1e11, 1e10, speeds, measured=True))
    after = plan(request("heads=2, mask=causal"))
    assert after.choice == "reference"
    assert "this machine's measured rates" in after.explain()
    assert json.loads(path.read_text())["machine"]["torch"] == torch.__version__
    assert before.choice == "sdpa"
    assert list(path.parent.iterdir()) == [path]
    path.write_text("{}")
    machine._stored.cache_clear()
    assert plan(request("heads=2, mask=causal")).choice == "sdpa"


@pytest.mark.parametrize("text", ["", "[]", '{"speeds": 3}', '{"matrix_products": 0, "memory": 1, "speeds": {}}'])
def test_a_damaged_file_is_as_good_as_none(text: str) -> None:
    path = machine.profile_path()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    machine._stored.cache_clear()
    assert machine.machine("cpu") is machine.CPU


def test_a_folder_that_cannot_be_written_is_one_clear_error() -> None:
    machine.profile_path().parent.write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="cannot write the machine's profile"):
        machine.store(machine.CPU)


def test_the_file_is_of_this_machine_its_threads_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    one = machine.profile_path()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    two = machine.profile_path()
    assert one.name != two.name
    assert one.parent == two.parent == Path("/somewhere/attentune")


def test_calibration_by_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "BUDGET", 0.0)
    monkeypatch.setattr(calibration, "LARGE", 320)
    monkeypatch.setattr(calibration, "CACHE", 256)
    monkeypatch.setattr(calibration, "least", lambda work, budget: work() is None or 1e-3)
    assert main(["plan", "--calibrate", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["machine"]) == {"cpu", "threads", "torch", "attentune"}
    paths = {"sdpa", "sdpa_masked", "query_tiles", "reference"} | ({"blocked"} if native.available() is None else set())
    short = {f"{path}_short {phase}" for path in paths for phase in ("forward", "backward")}
    assert set(told["speeds"]) == {f"{path} {phase}" for path in paths for phase in machine.PHASES} | short
    assert all(one["operations"] > 0 and one["overhead"] > 0 for one in told["speeds"].values())
    assert machine.machine("cpu").measured


def test_a_busy_machine_is_told_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([1e-3, *([2e-3] * 1000)])
    monkeypatch.setattr(calibration, "least", lambda work, budget: next(took))
    assert main(["plan", "--calibrate"]) == 0
    assert "took up to 2.0 times as long" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "length", "share"),
    [
        ("heads=1", 640, 1.0),
        ("heads=1, mask=causal", 6400, 0.505),
        ("heads=1, mask=causal & window(65)", 6400, 2 / 100),
        ("heads=1, mask=causal & window(1)", 128, 0.5),
    ],
)
def test_the_share_of_tiles_that_are_visible(text: str, length: int, share: float) -> None:
    assert visible_share(request(text, length)) == pytest.approx(share, rel=0.06)


def test_one_query_over_a_cache_sees_what_its_place_sees() -> None:
    assert visible_share(request("heads=1, mask=causal", 1, 6400)) == 1.0
    assert visible_share(request("heads=1, mask=causal & window(64)", 1, 6400)) == 0.01


def test_windows_are_planned_for_tiles_and_short_causal_rows_for_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: None)
    assert plan(request("heads=8, mask=causal & window(256)", 8192)).choice == "blocked"
    assert plan(request("heads=8, mask=causal & window(256)", 8192, needs_grad=True)).choice == "blocked"
    assert plan(request("heads=8, mask=causal, position=alibi", 2048, needs_grad=True)).choice == "blocked"
    assert plan(request("heads=8, mask=causal", 64)).choice == "sdpa"
    times = [plan(request("heads=8, mask=causal & window(256)", n)).seconds["blocked"] for n in (8192, 16384)]
    assert times[1] < 2.2 * times[0]


@pytest.mark.parametrize("layout", [LayoutKind.PADDED, LayoutKind.CROSS])
@pytest.mark.parametrize("needs_grad", [False, True])
def test_many_short_rows_are_planned_apart(
    layout: LayoutKind, needs_grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "available", lambda: None)
    spec = attention("heads=8")
    made = [
        Request(spec, sizes(spec, head_width=32), rows, length, length, layout, needs_grad=needs_grad)
        for rows, length in ((64, 14), (64, 65), (2, 14))
    ]
    short, long, few = map(plan, made)
    assert [request.short_rows for request in made] == [True, False, False]
    assert short.choice == "blocked"
    assert {cost.path.endswith("_short") for cost in short.costs.values()} == {True}
    assert short.costs["blocked"].pieces == 64 * 8
    assert {cost.path.endswith("_short") for cost in (*long.costs.values(), *few.costs.values())} == {False}


def test_a_row_of_one_document_is_what_the_share_is_of() -> None:
    assert KERNELS["blocked"].supports(request("heads=2", 8)) == ()
    reasons = KERNELS["blocked"].supports(request("heads=2", 8, wanted=frozenset({"output", "weights"})))
    assert [reason.part for reason in reasons] == ["wanted=weights"]
    assert Layout.plain(3).kind is LayoutKind.PLAIN
