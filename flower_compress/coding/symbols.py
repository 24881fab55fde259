"""The integers that a code turns into bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Integers", "Symbols", "symbol_dtype"]

Integers = NDArray[np.signedinteger[Any]]


def symbol_dtype(low: int, high: int) -> np.dtype[np.signedinteger[Any]]:
    """Return the smallest signed integer dtype that holds [low, high]."""
    largest = max(abs(low), abs(high))
    if largest <= 127:
        return np.dtype(np.int8)
    return np.dtype(np.int16 if largest <= 32767 else np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Symbols:
    """An integer vector of length `dim` with entries in [low, high].

    Held densely, or by its nonzero entries, whichever the compressor has.

    Parameters
    ----------
    dim : int
        Length d of the vector.
    low, high : int
        Bounds of the alphabet, known to both ends; low <= 0 <= high.
    entries : NDArray, integer
        Shape (d,) if `positions` is None, else shape (k,), none of them zero.
    positions : NDArray[np.int64], optional
        Shape (k,), strictly ascending.
    """

    dim: int
    low: int
    high: int
    entries: Integers
    positions: NDArray[np.int64] | None = None

    def dense(self) -> Integers:
        """Return all entries, shape (d,)."""
        if self.positions is None:
            return self.entries
        vector = np.zeros(self.dim, dtype=self.entries.dtype)
        vector[self.positions] = self.entries
        return vector

    def sparse(self) -> tuple[NDArray[np.int64], Integers]:
        """Return the positions and the values of the nonzero entries."""
        if self.positions is not None:
            return self.positions, self.entries
        positions = np.flatnonzero(self.entries)
        return positions, self.entries[positions]

    @property
    def num_nonzero(self) -> int:
        """Number of nonzero entries."""
        if self.positions is not None:
            return self.positions.size
        return int(np.count_nonzero(self.entries))
