from __future__ import annotations

from pathlib import Path

import pytest

from attentune.errors import SpecError
from attentune.mechanisms import _discovery, load_plugin, registry
from attentune.spec.registry import Registry

PLUGIN = """
from typing import ClassVar, Literal, final
from attentune.spec.slots import Normalizer

@final
class Hard(Normalizer):
    kind: Literal["hard"] = "hard"
    online: ClassVar[bool] = False

    def weights(self, params, s, visible):
        return (s == s.amax(-1, keepdim=True)).to(s.dtype)
"""


def test_every_mechanism_has_a_file_of_its_name_and_a_test_with_numbers() -> None:
    here = Path(__file__).parent
    kinds = {value.model_fields["kind"].default for value in registry}
    files = {path.stem for path in Path(_discovery.__file__).parent.glob("[a-z]*.py")}
    assert kinds == files
    assert not [kind for kind in kinds if not (here / f"test_{kind}.py").is_file()]


def test_a_plugin_joins_the_registry_and_its_names_must_be_new(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    own = Registry()
    (value,) = load_plugin(file, own)
    assert own.find("normalizer", "hard") is value
    with pytest.raises(SpecError, match="normalizer=hard is taken by"):
        load_plugin(file, own)


def test_what_is_no_plugin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is not a Python file"):
        load_plugin(tmp_path / "absent.py", Registry())
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(SpecError, match="defines no mechanism"):
        load_plugin(tmp_path / "empty.py", Registry())
