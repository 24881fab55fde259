"""MALCOM-PSGD at a node: a gradient step, then the soft threshold.

Source: MALCOM-PSGD, "Multi-Agent Learning via Compressed updates for Proximal
Stochastic Gradient Descent", algorithm 1, lines 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from flower_compress.compressors import Vector

from .node_algorithm import LocalProblem, NodeAlgorithm, soft_threshold

__all__ = ["MalcomPSGD"]


@dataclass(frozen=True)
class MalcomPSGD(NodeAlgorithm):
    """z = prox(x - eta g(x)), the proximal operator of eta mu ||.||_1.

    Parameters
    ----------
    l1 : float
        mu.
    """

    l1: float = 0.0

    name: ClassVar[str] = "malcom"

    def step(
        self,
        phase: str,
        vectors: Mapping[str, Vector],
        problem: LocalProblem,
        step_size: float,
    ) -> dict[str, Vector]:
        """Return z; see :meth:`NodeAlgorithm.step`."""
        half = problem.descend(vectors["model"], step_size)
        return {**vectors, "model": soft_threshold(half, step_size * self.l1)}
