"""Lengths of vectors that are not kept: a linear sketch of 64 numbers each.

Source: Charikar, Chen & Farach-Colton, "Finding frequent items in data streams" (2002);
that its length is that of the vector: Weinberger et al., "Feature hashing for large
scale multitask learning" (ICML 2009).
"""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import Vector

__all__ = ["SLACK", "Sketch", "Sketched", "length"]

Sketched = NDArray[np.float64]
"""S x, shape (64,)."""

_ROWS = 64
_BLOCK = 1 << 16
SLACK = 1.5
"""||S x|| exceeds 1.5 ||x|| once in some 10^8 vectors: sqrt(chi2_64 / 64)."""


class Sketch:
    """S x for vectors x of one length, linear in x.

    Entry j is added to one of 64 sums, which one and with which sign is drawn at
    random, so that E||S x||^2 = ||x||^2, with a standard deviation of at most
    sqrt(2 / 64) ||x||^2. Since S is linear, the sketch of a memory moves with that of
    each step: its length is known, and the memory need not be kept. The draws are a
    secret of the server: who knows them could hide a vector from them.

    Parameters
    ----------
    dim : int
        Length d.
    key : int, optional
        64 bits that fix the draws; new ones by default.
    """

    def __init__(self, dim: int, key: int | None = None) -> None:
        self.key = secrets.randbits(64) if key is None else key
        self._dim = dim
        self._places: NDArray[np.uint8] | None = None

    def of(self, vector: Vector) -> Sketched:
        """Return S x of a vector, shape (d,)."""
        if self._places is None:
            self._places = self._draw()
        sums = np.zeros(2 * _ROWS, dtype=np.float64)
        for start in range(0, self._dim, _BLOCK):
            places = self._places[start : start + _BLOCK]
            part = vector[start : start + _BLOCK]
            sums += np.bincount(places, weights=part, minlength=2 * _ROWS)
        difference: Sketched = sums[:_ROWS] - sums[_ROWS:]
        return difference

    def _draw(self) -> NDArray[np.uint8]:
        """Return for each entry its sum, and 64 more where it is taken away."""
        # Raw bits are the same in every version of NumPy, other draws are not.
        raw = np.random.Philox(key=self.key).random_raw(-(-self._dim // 8))
        places: NDArray[np.uint8] = raw.astype("<u8").view(np.uint8)[: self._dim].copy()
        places &= np.uint8(2 * _ROWS - 1)
        return places


def length(sketched: Sketched) -> float:
    """Return ||S x||, which is about ||x||."""
    return float(np.sqrt(np.square(sketched).sum()))
