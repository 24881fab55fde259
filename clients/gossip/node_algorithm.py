"""What the nodes of a decentralized run do between two exchanges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from flower_compress.compressors import Vector

__all__ = ["LocalProblem", "NodeAlgorithm", "soft_threshold"]


class LocalProblem(Protocol):
    """A node's F_i, as its train function computes it; asked once a step."""

    def gradient(self, x: Vector) -> Vector:
        """Return a stochastic gradient at x, shape (d,).

        Raises
        ------
        ConfigurationError
            If the train function returns weights.
        """

    def descend(self, x: Vector, step_size: float) -> Vector:
        """Return x - eta g, or where the train function returns weights, those."""


@dataclass(frozen=True)
class NodeAlgorithm(ABC):
    """One algorithm's step at a node; its parameters come with the contract."""

    name: ClassVar[str]
    phases: ClassVar[tuple[str, ...]] = ("model",)
    """Names of the vectors that are exchanged in a round, in order; the last is the
    model."""

    @abstractmethod
    def step(
        self,
        phase: str,
        vectors: Mapping[str, Vector],
        problem: LocalProblem,
        step_size: float,
    ) -> dict[str, Vector]:
        """Return the vectors after the step that comes before a phase's exchange.

        Parameters
        ----------
        phase : str
            The vector that is exchanged next.
        vectors : Mapping[str, NDArray[np.float32]]
            The node's vectors, each of shape (d,); ``"model"`` among them.
        problem : LocalProblem
            The node's F_i.
        step_size : float
            eta.
        """


def soft_threshold(x: Vector, threshold: float) -> Vector:
    """Return max(|x| - t, 0) sign(x), the proximal operator of t ||.||_1.

    Source: MALCOM-PSGD, eq. (5), with its slip mended: x is the same on both sides.
    """
    if threshold == 0.0:
        return x
    t = np.float32(threshold)
    # x - clip(x, -t, t): x - t above t, x + t below -t, 0 between.
    shrunk: Vector = x - np.clip(x, -t, t)
    return shrunk
