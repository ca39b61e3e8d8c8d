"""`attentune mechanisms` prints what the mechanisms' own files say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import pytest
from pydantic import Field

from attentune.cli import main
from attentune.cli.catalogue import describe, type_name
from attentune.mechanisms import registry
from attentune.search.space import StudySpec
from attentune.spec.model import ModelSpec
from attentune.spec.run import RunSpec
from attentune.spec.value import Frozen

PLUGIN = '''"""Every n-th key (a test).

    visible(i, j) = (i - j) mod step = 0
"""

from typing import Literal

from attentune.spec.masks import Mask


class Every(Mask):
    """A comb."""

    kind: Literal["every_for_test"] = "every_for_test"
    step: int = 2

    def visible(self, query, key):
        return (query.position - key.position) % self.step == 0

    @property
    def lookahead(self):
        return None
'''


def test_a_mechanism_is_described_by_its_file() -> None:
    entry = describe(registry.find("mask", "window"))
    assert entry["kind"] == "window"
    assert (entry["slot"], entry["stage"]) == ("mask", "visible")
    assert entry["title"] == "Attention to near keys"
    assert entry["paper"] == "Longformer, arXiv:2004.05150"
    assert entry["formula"].startswith("visible(i, j) = 0 <= i - j < window  ")
    assert entry["options"] == [
        {"name": "window", "type": "int", "required": True, "default": None},
        {"name": "symmetric", "type": "bool", "required": False, "default": False},
    ]
    assert entry["learns"] == {}


def test_what_cannot_be_chosen_is_no_option() -> None:
    entry = describe(registry.find("heads", "single"))
    assert [option["name"] for option in entry["options"]] == ["head_width", "projected"]
    assert entry["learns"] == {"qkv": [3 * 512, 512], "out": [512, 512]}


def test_learned_tensors_have_their_shapes() -> None:
    assert describe(registry.find("position", "t5"))["learns"] == {"table": [32, 8]}
    assert describe(registry.find("heads", "multi_query"))["learns"] == {"qkv": [512 + 2 * 64, 512], "out": [512, 512]}
    assert describe(registry.find("heads", "latent"))["learns"] is None  # rank has no default


@pytest.mark.parametrize(
    "value", list(registry), ids=lambda value: f"{value.slot}={value.model_fields['kind'].default}"
)
def test_every_mechanism_says_what_it_is(value: type) -> None:
    entry = describe(value)
    assert entry["title"]
    assert entry["summary"]
    assert entry["formula"]


def test_types_are_those_that_users_write() -> None:
    assert type_name(Optional[Annotated[float, Field(gt=0)]]) == "float | none"  # noqa: UP045 - both spellings occur
    assert type_name(Annotated[int, Field(ge=1)] | None) == "int | none"
    assert type_name(Literal["head", "element"]) == "'head' | 'element'"
    assert type_name(tuple[Annotated[int, Field(ge=0)], ...]) == "tuple of int"


def test_the_list_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mechanisms", "rotary", "window"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("position=rotary\n  Rotary positions. ")
    assert "\n  paper    RoFormer, arXiv:2104.09864\n  stage    operands\n  options  base: float = 10000.0, " in shown
    assert "\n\nmask=window\n" in shown
    assert "\n  options  window: int (required), symmetric: bool = False\n  learns   nothing\n" in shown


def test_the_list_as_json_and_by_slot(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mechanisms", "--slot", "position", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {"rotary", "alibi", "t5"} <= {entry["kind"] for entry in entries}
    assert {entry["slot"] for entry in entries} == {"position"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rotry"], "unknown mechanism 'rotry'; did you mean 'rotary'"),
        (["rotary", "--slot", "mask"], "unknown mechanism 'rotary'; "),
        (["--slot", "masc"], "unknown slot 'masc'; did you mean 'mask'? known: "),
        (["--plugin", "absent.py"], "plugin 'absent.py' is not a Python file"),
    ],
)
def test_what_does_not_exist_is_named(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(["mechanisms", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"attentune: error: {says}")


def test_a_plugin_is_listed_with_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_kinds", {slot: registry.kinds(slot) for slot in registry._kinds})
    plugin = tmp_path / "comb.py"
    plugin.write_text(PLUGIN)
    assert main(["mechanisms", "--plugin", str(plugin), "every_for_test"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(
        "mask=every_for_test\n  Every n-th key (a test). A comb.\n\n      visible(i, j) = (i - j) mod"
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"import math\nmath.sqrt('x')\n", ", line 2: TypeError: must be real number, not str"),
        (b"def f():\n    raise ValueError('a\\nb')\n\n\nf()\n", ", line 2: ValueError: a"),
        (b"import json\n\njson.loads('{')\n", ", line 3: JSONDecodeError: Expecting property name"),
        (b"def f(:\n", ", line 1: SyntaxError: "),
        (b"x = '\xff'\n", ", line 1: SyntaxError: (unicode error) 'utf-8' codec can't decode"),
        (b"import absent_for_test\n", ", line 1: ModuleNotFoundError: No module named 'absent_for_test'"),
        (b"raise SystemExit(0)\n", ", line 1: SystemExit: 0"),
        (b"assert 1 > 2\n", ", line 1: AssertionError\n"),
        (
            b"",
            " defines no mechanism (a class that fills one slot and is not abstract) and registers no function by name",
        ),
    ],
)
def test_a_plugin_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, says: str
) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_bytes(content)
    assert main(["mechanisms", "--plugin", str(plugin)]) == 2
    caught = capsys.readouterr()
    assert caught.err.startswith(f"attentune: error: plugin '{plugin}'{says}")
    assert (caught.err.count("\n"), caught.out) == (1, "")
    assert "attentune_plugin_broken" not in sys.modules


def references(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"].removeprefix("#/$defs/")} if "$ref" in value else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(
    ("what", "value"), [("study", StudySpec), ("run", RunSpec), ("model", ModelSpec), ("attention", None)]
)
def test_editors_get_a_schema(capsys: pytest.CaptureFixture[str], what: str, value: type[Frozen] | None) -> None:
    assert main(["mechanisms", "--schema", what]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["title"] == what
    assert references(schema) <= set(schema["$defs"])
    assert "position.rotary" in schema["$defs"]
    if value is not None:
        assert set(value.model_fields) <= set(schema["properties"])
        assert not {"config", "json", "json_"} & set(schema["properties"])
        assert schema["additionalProperties"] is False


def test_a_schema_is_of_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mechanisms", "rotary", "--schema", "run"]) == 2
    assert "leave out names" in capsys.readouterr().err


def test_what_belongs_to_the_model_is_listed_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mechanisms", "--json", "sinusoidal", "halting"]) == 0
    sinusoidal, halting = json.loads(capsys.readouterr().out)
    assert (sinusoidal["slot"], sinusoidal["paper"]) == ("model.position", "arXiv:1706.03762")
    assert "10000^(2i / E)" in sinusoidal["formula"]
    assert [option["name"] for option in halting["options"]] == ["weight", "epsilon", "bias"]
    assert main(["mechanisms"]) == 0
    listed = capsys.readouterr().out
    assert "model.position=learned" in listed
    assert "p_l = sigmoid(w . h_l + b)" in listed
