"""The mechanism that CONTRIBUTING.md shows is real: it is written out, tested and verified."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys
from attentune.mechanisms import load_plugin, registry
import pytest
load_plugin(sys.argv[1], registry)
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[2]]))
"""


@pytest.fixture
def shown() -> dict[str, str]:
    """The files of the diff, by name."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    diff = re.search(r"```diff\n(.*?)```", text, re.DOTALL)
    assert diff is not None
    files: dict[str, str] = {}
    for part in diff[1].split("--- /dev/null\n")[1:]:
        head, hunk, *lines = part.splitlines()
        assert hunk == f"@@ -0,0 +1,{len(lines)} @@"  # so that `git apply` takes it
        assert all(line.startswith("+") for line in lines)
        files[head.removeprefix("+++ b/")] = "\n".join(line[1:] for line in lines) + "\n"
    return files


def test_the_mechanism_of_the_guide_passes_its_own_test(shown: dict[str, str], tmp_path: Path) -> None:
    assert list(shown) == ["src/attentune/mechanisms/kerple.py", "tests/mechanisms/test_kerple.py"]
    assert not any((ROOT / name).exists() for name in shown)
    for name, text in shown.items():
        (tmp_path / Path(name).name).write_text(text, encoding="utf-8")
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]))
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "kerple.py"), str(tmp_path / "test_kerple.py")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout


def test_it_is_verified_as_a_plugin(shown: dict[str, str], tmp_path: Path) -> None:
    plugin = tmp_path / "kerple.py"
    plugin.write_text(shown["src/attentune/mechanisms/kerple.py"], encoding="utf-8")
    command = [sys.executable, "-m", "attentune", "verify", "--mechanism", "kerple", "--plugin", str(plugin)]
    ran = subprocess.run(
        [*command, "--quick", "--dtype", "float64"], capture_output=True, text=True, cwd=tmp_path, timeout=240
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"kerple +reference +[1-9]", ran.stdout)
    assert " 0 fail" in ran.stdout
