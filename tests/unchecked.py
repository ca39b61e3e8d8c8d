"""For tests that compile: the compiler cannot look through the run-time checks of shapes, so they run without them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def run_without_shape_checks(file: Path, *, at_least: int, marked: str = "not slow") -> None:
    """Run the tests in `file`; fails with what they printed unless `at_least` so many ran and all passed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--show-capture=no",
        "-m",
        marked,
        str(file),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed.group(1)) >= at_least, done.stdout[-2000:]
