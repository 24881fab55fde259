"""The sum of the clients' memories, which stays what its terms add up to."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import Vector

from ..run.checkpoint import Arrays, Checkpoint

__all__ = ["MemorySum", "add_weighted"]

_WEAR = 2.0**20
_NAME = "uplink/sum"
_BLOCK = 1 << 16


class MemorySum:
    """sum_i w_i h_i, kept up to date by adding what changes, in float64.

    A term that was large and is small by now, or gone, leaves its rounding behind: a
    client of weight 1e18 takes all others with it when it goes. So the largest term
    since the sum was made is remembered, and once it is 2^20 times the largest of
    today, at which its rounding is still 2^-33 of a term, the sum is made anew.

    Parameters
    ----------
    dim : int
        Length d.

    Attributes
    ----------
    vector : NDArray[np.float64], optional
        The sum, shape (d,); None if it has no terms.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self.vector: NDArray[np.float64] | None = None
        self._peak = 0.0

    def add(
        self, vector: NDArray[np.floating], weight: float, bound: float = 0.0
    ) -> None:
        """Add w v.

        Parameters
        ----------
        vector : NDArray
            v, shape (d,).
        weight : float
            w, which may be negative.
        bound : float
            Of ||w h||, where h is the memory that v belongs to, before and after.
        """
        if self.vector is None:
            self.vector = np.zeros(self._dim, dtype=np.float64)
        add_weighted(self.vector, vector, weight)
        self._peak = max(self._peak, bound)

    def move(self, before: Vector, after: Vector, weight: float, bound: float) -> None:
        """Add w (h' - h), the difference of two float32 vectors in float64.

        Parameters
        ----------
        before, after : NDArray[np.float32]
            h and h', shape (d,).
        weight, bound
            As :meth:`add` has them.
        """
        if self.vector is None:
            self.vector = np.zeros(self._dim, dtype=np.float64)
        for start in range(0, self._dim, _BLOCK):
            block = slice(start, start + _BLOCK)
            change = after[block].astype(np.float64)
            change -= before[block]
            add_weighted(self.vector[block], change, weight)
        self._peak = max(self._peak, bound)

    def is_worn(self, bound: float) -> bool:
        """Whether it has to be made anew, if no term is larger than `bound` by now."""
        return self._peak > _WEAR * bound

    def renew(self, terms: Iterable[tuple[Vector, float]], bound: float) -> None:
        """Make it anew of the memories and their weights, in that order."""
        self.clear()
        for vector, weight in terms:
            self.add(vector, weight, bound)

    def clear(self) -> None:
        """Leave no terms."""
        self.vector, self._peak = None, 0.0

    def save(self, arrays: Arrays) -> float:
        """Return what JSON can hold; add the sum to `arrays`."""
        if self.vector is not None:
            arrays[_NAME] = self.vector
        return self._peak

    def restore(self, peak: float, checkpoint: Checkpoint) -> None:
        """Take over what :meth:`save` gave."""
        self.vector = checkpoint.find(_NAME, (self._dim,), np.float64)
        self._peak = peak


def add_weighted(
    total: NDArray[np.float64], vector: NDArray[np.floating], weight: float
) -> None:
    """Add w v to a sum, in place."""
    if weight == 1.0:
        total += vector
        return
    for start in range(0, total.size, _BLOCK):  # No further vector of float64.
        block = slice(start, start + _BLOCK)
        total[block] += np.multiply(vector[block], weight, dtype=np.float64)
