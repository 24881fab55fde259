"""Step sizes that are a number or change with the round."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from flower_compress.errors import ConfigurationError, shown

__all__ = ["StepSize", "check_step_size", "step_size_of"]

StepSize = float | Callable[[int], float]
"""gamma, or a function of the round (from 1) that gives it; 0 for no step."""


def step_size_of(step_size: StepSize, server_round: int) -> float:
    """Return the step size of that round; a function may give 0, for no step.

    Raises
    ------
    ConfigurationError
        If a function gives a negative number, NaN, or no number.
    """
    if not callable(step_size):
        return step_size
    value = step_size(server_round)
    if not _is_number(value) or not (value >= 0 and math.isfinite(value)):
        raise ConfigurationError(
            "step_size must give a number >= 0 for every round, got "
            f"{shown(value)} for round {server_round}"
        )
    return float(value)


def check_step_size(step_size: StepSize) -> None:
    """Raise ConfigurationError unless it is a positive number, or a function."""
    if callable(step_size):
        return
    if not _is_number(step_size) or not (step_size > 0 and math.isfinite(step_size)):
        raise ConfigurationError(
            "step_size must be positive, or a function of the round that gives such "
            f"numbers, got {shown(step_size)}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number))
