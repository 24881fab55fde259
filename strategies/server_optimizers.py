"""What the server does with the estimated gradient."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flower_compress.compressors import Vector
from flower_compress.errors import ConfigurationError

__all__ = ["GradientDescent", "OptimizerState", "ServerOptimizer", "StepSize"]

OptimizerState = dict[str, Vector]
"""Vectors that an optimizer keeps, by name."""

StepSize = float | Callable[[int], float]
"""gamma, or a function of the round (from 1) that gives it."""


class ServerOptimizer(ABC):
    """A pure step from the estimate g of the gradient to the model's update.

    A client that returns weights contributes w - w_local, a multiple of a gradient;
    so step size 1 is federated averaging.
    """

    def init(self, dim: int) -> OptimizerState:
        """Return the state before the first round."""
        return {}

    @abstractmethod
    def step(
        self, state: OptimizerState, gradient: Vector, server_round: int
    ) -> tuple[OptimizerState, Vector]:
        """Return the next state and the update u, to be added to the model."""


@dataclass(frozen=True)
class GradientDescent(ServerOptimizer):
    """u = -gamma g.

    Parameters
    ----------
    step_size : float or Callable[[int], float]
        gamma, or a function of the round (from 1) that gives it.
    """

    step_size: StepSize = 1.0

    def __post_init__(self) -> None:
        if not callable(self.step_size):
            check_step_size(self.step_size)

    def step(
        self, state: OptimizerState, gradient: Vector, server_round: int
    ) -> tuple[OptimizerState, Vector]:
        """Return -gamma g in float32."""
        size = self.step_size
        gamma = check_step_size(size(server_round)) if callable(size) else size
        return state, np.float32(-gamma) * gradient


def check_step_size(step_size: float) -> float:
    """Return `step_size` if it is a positive number, else raise."""
    if not (step_size > 0 and math.isfinite(step_size)):
        raise ConfigurationError(f"step_size must be positive, got {step_size}")
    return step_size
