"""Step sizes that are a number or change with the round."""

from __future__ import annotations

import math
from collections.abc import Callable

from flower_compress.errors import ConfigurationError

__all__ = ["StepSize", "check_step_size", "step_size_of"]

StepSize = float | Callable[[int], float]
"""gamma, or a function of the round (from 1) that gives it."""


def step_size_of(step_size: StepSize, server_round: int) -> float:
    """Return the step size of that round."""
    if callable(step_size):
        return check_step_size(step_size(server_round))
    return step_size


def check_step_size(step_size: float) -> float:
    """Return `step_size` if it is a positive number, else raise."""
    if not (step_size > 0 and math.isfinite(step_size)):
        raise ConfigurationError(f"step_size must be positive, got {step_size}")
    return step_size
