"""Step sizes that change with the round, as MCM's theorems have them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["SCHEDULES", "Schedule"]

SCHEDULES: Final = ("constant", "inverse-sqrt", "strongly-convex")
"""Names of the schedules."""


@dataclass(frozen=True)
class Schedule:
    """The step size of round k, from 1.

    ===================  ========================================================
    ``constant``         gamma
    ``inverse-sqrt``     gamma / sqrt(k); with gamma = 1/L that of figure S1
    ``strongly-convex``  min(gamma, 2 / (mu k + 1/gamma)), that of theorem 1 for
                         iteration k - 1; at most gamma, which the theorem asks
                         for too and its formula alone does not keep
    ===================  ========================================================

    Source: Philippenko & Dieuleveut (NeurIPS 2021).

    Parameters
    ----------
    name : str
        One of :data:`SCHEDULES`.
    step_size : float
        gamma.
    strong_convexity : float
        mu, of ``strongly-convex`` alone.
    """

    name: str
    step_size: float
    strong_convexity: float = 0.0

    def __call__(self, server_round: int) -> float:
        """Return the step size of that round."""
        gamma = self.step_size
        if self.name == "inverse-sqrt":
            return gamma / math.sqrt(server_round)
        if self.name == "strongly-convex":
            return min(gamma, 2.0 / (self.strong_convexity * server_round + 1 / gamma))
        return gamma
