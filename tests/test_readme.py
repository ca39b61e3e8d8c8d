"""The README's Python runs as it stands, in both languages, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import attentune
from attentune.cli import COMMANDS
from attentune.mechanisms import layer
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec
from attentune.tasks.classify import Classify
from attentune.tasks.folder import save_task_model
from tasks.opinions import opinions

ROOT = Path(__file__).parent.parent
READMES = ["README.md", "README.zh.md"]


def python_of(name: str, block: int = 0) -> str:
    blocks: list[str] = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    return blocks[block]


@pytest.mark.parametrize("name", READMES)
def test_python_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = python_of(name).replace("steps=100", "steps=8")
    assert "steps=8" in code
    names: dict[str, object] = {}
    exec(compile(code, name, "exec"), names)
    assert len(capsys.readouterr().out.splitlines()[0].split()) >= 3
    loss = names["result"].final.nats_per_token  # type: ignore[attr-defined]
    assert 2 < loss < 5


@pytest.mark.parametrize("name", READMES)
def test_python_of_tasks_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = Classify().fit(opinions(20, 1), DataSpec(tokenizer="word"), context=16)
    spec = known.complete(ModelSpec(vocab_size=1, width=8, depth=1, layers=(layer("heads=2, mask=full"),)))
    save_task_model(tmp_path / "runs" / "sst2" / "model", known.build(spec, seed=0), spec, known)
    monkeypatch.chdir(tmp_path)
    exec(compile(python_of(name, 1), name, "exec"), {"at": attentune})
    answers = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 2 and all(label in ("good", "bad") and 0 < float(p) < 1 for label, p in answers)


@pytest.mark.parametrize("block", [0, 1])
def test_both_languages_show_the_same_code(block: int) -> None:
    codes = [re.sub(r"#.*|print\(f.*", "", python_of(name, block)) for name in READMES]
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
