"""Stand-in until the compiled core is here: it says that there is none."""

from __future__ import annotations

from typing import Any

from attentune.kernels.kernel import Reason


def available() -> Reason | None:
    """Why the core cannot be used on this machine; None where it can."""
    return Reason("native", "the compiled core is not part of this build")


def forward(*operands: Any, **options: Any) -> Any:
    """Never called where the core is not available."""
    raise NotImplementedError
