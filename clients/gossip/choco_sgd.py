"""CHOCO-SGD at a node: a gradient step.

Source: Koloskova, Stich & Jaggi, "Decentralized stochastic optimization and gossip
algorithms with compressed communication" (ICML 2019), algorithm 2, in the order of
MALCOM-PSGD: compress first, then average with the new estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from flower_compress.compressors import Vector

from .node_algorithm import LocalProblem, NodeAlgorithm

__all__ = ["ChocoSGD"]


@dataclass(frozen=True)
class ChocoSGD(NodeAlgorithm):
    """z = x - eta g(x)."""

    name: ClassVar[str] = "choco"

    def step(
        self,
        phase: str,
        vectors: Mapping[str, Vector],
        problem: LocalProblem,
        step_size: float,
    ) -> dict[str, Vector]:
        """Return z; see :meth:`NodeAlgorithm.step`."""
        return {**vectors, "model": problem.descend(vectors["model"], step_size)}
