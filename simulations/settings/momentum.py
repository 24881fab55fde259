"""Momentum at the server, as the paper's experiment on CIFAR-10 has it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flower_compress.compressors import Vector
from flower_compress.strategies import ServerOptimizer

from .schedule import Schedule

__all__ = ["HeavyBall"]


@dataclass(frozen=True)
class HeavyBall(ServerOptimizer):
    """m_t = beta m_{t-1} + g_t,  u = -gamma_t m_t.

    Polyak's, in the form that torch has; Philippenko & Dieuleveut (NeurIPS 2021), table
    S2, give m = 0.9 for CIFAR-10.

    Parameters
    ----------
    schedule : Schedule
        gamma_t.
    momentum : float
        beta, in [0, 1).
    """

    schedule: Schedule
    momentum: float

    def init(self, dim: int) -> dict[str, Vector]:
        """Return m = 0."""
        return {"momentum": np.zeros(dim, np.float32)}

    def step(
        self, state: dict[str, Vector], gradient: Vector, server_round: int
    ) -> tuple[dict[str, Vector], Vector]:
        """Return m after `gradient`, and u, in float32."""
        m: Vector = np.float32(self.momentum) * state["momentum"] + gradient
        gamma = self.schedule(server_round)
        return {"momentum": m}, np.float32(-gamma) * m
