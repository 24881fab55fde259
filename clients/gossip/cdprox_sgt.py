"""CDProxSGT at a node: a gradient tracker, and proximal steps along it.

Source: Yan et al., "Compressed decentralized proximal stochastic gradient method for
nonconvex composite problems with heterogeneous data" (ICML 2023), algorithm 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flower_compress.compressors import Vector

from .node_algorithm import LocalProblem, NodeAlgorithm, soft_threshold

__all__ = ["CDProxSGT"]


@dataclass(frozen=True)
class CDProxSGT(NodeAlgorithm):
    """Two exchanges a round, first of the tracker v, then of the model x.

        v = v + g(x) - g_before        (before the first exchange)
        z = prox(x - eta v)            (before the second one)

    Both are averaged after their exchange, each with estimates of its own. In the
    first round v and g_before are zero.

    Parameters
    ----------
    l1 : float
        mu, of the proximal operator of eta mu ||.||_1.
    """

    l1: float = 0.0

    name: ClassVar[str] = "cdprox-sgt"
    phases: ClassVar[tuple[str, ...]] = ("tracker", "model")

    def step(
        self,
        phase: str,
        vectors: Mapping[str, Vector],
        problem: LocalProblem,
        step_size: float,
    ) -> dict[str, Vector]:
        """Return v + g - g_before, or z; see :meth:`NodeAlgorithm.step`."""
        x = vectors["model"]
        if phase == "tracker":
            gradient = problem.gradient(x)
            zeros = np.zeros_like(x)
            tracker = vectors.get("tracker", zeros) + gradient
            tracker -= vectors.get("gradient", zeros)
            return {**vectors, "tracker": tracker, "gradient": gradient}
        half = x - np.float32(step_size) * vectors["tracker"]
        return {**vectors, "model": soft_threshold(half, step_size * self.l1)}
