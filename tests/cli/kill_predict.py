"""Runs `attentune` with `sys.argv[2:]` and dies by SIGKILL when block number `sys.argv[1]` is half on the disk."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from attentune.cli import main
from attentune.tasks.answers import AnswerFile

left = int(sys.argv[1])
whole = AnswerFile.append


def dying(self: AnswerFile, rows: Sequence[Mapping[str, Any]]) -> None:
    global left
    left -= 1
    if left == 0:
        data = self.rows.text(rows).encode()
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        os.fsync(self._file.fileno())
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, rows)


AnswerFile.append = dying  # type: ignore[method-assign]
sys.exit(main(sys.argv[2:]))
