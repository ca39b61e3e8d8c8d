"""Attentune: state an attention, plan it, prove it, tune it, ship it."""

from __future__ import annotations

__version__ = "0.1.0"
