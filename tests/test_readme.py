"""The README's Python runs as it stands, in both languages, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attentune.cli import COMMANDS

ROOT = Path(__file__).parent.parent
READMES = ["README.md", "README.zh.md"]


def python_of(name: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


@pytest.mark.parametrize("name", READMES)
def test_python_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = python_of(name).replace("steps=100", "steps=8")
    assert "steps=8" in code
    names: dict[str, object] = {}
    exec(compile(code, name, "exec"), names)
    assert len(capsys.readouterr().out.splitlines()[0].split()) >= 3
    loss = names["result"].final.nats_per_token  # type: ignore[attr-defined]
    assert 2 < loss < 5


def test_both_languages_show_the_same_code() -> None:
    codes = [re.sub(r"#.*|print\(f.*", "", python_of(name)) for name in READMES]
    assert codes[0] == codes[1]


@pytest.mark.parametrize("name", READMES)
def test_commands_files_and_links_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert set(re.findall(r"^attentune (\w+)", text, re.MULTILINE)) <= set(COMMANDS)
    for target in re.findall(r"\]\(((?!https://)[^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
