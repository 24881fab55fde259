"""What every run has: rounds, greetings, checkpoints, step sizes."""

from __future__ import annotations

from .strategy import RunStrategy

__all__ = ["RunStrategy"]
