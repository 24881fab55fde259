"""The integers that a code turns into bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Integers", "Symbols", "host_array", "nonzero_mask", "symbol_dtype"]

Integers = NDArray[np.signedinteger[Any]]


@lru_cache(maxsize=256)
def symbol_dtype(low: int, high: int) -> np.dtype[np.signedinteger[Any]]:
    """Return the smallest signed integer dtype that holds [low, high]."""
    largest = max(abs(low), abs(high))
    if largest <= 127:
        return np.dtype(np.int8)
    return np.dtype(np.int16 if largest <= 32767 else np.int32)


def nonzero_mask(entries: Integers) -> NDArray[np.bool_]:
    """Return which entries are not 0; bytes are not copied."""
    # A view as bool is read several times faster; every byte but 0 is true.
    return entries.view(np.bool_) if entries.itemsize == 1 else entries != 0


def host_array(x: Any) -> NDArray[Any]:
    """Return a NumPy array, or a torch tensor as one."""
    if isinstance(x, np.ndarray):
        return x
    array: NDArray[Any] = x.detach().cpu().numpy()
    return array


@dataclass(frozen=True, eq=False, init=False)
class Symbols:
    """An integer vector of length `dim` with entries in [low, high].

    Held densely, or by its nonzero entries, whichever the compressor has. Of a torch
    tensor, `entries` and `positions` are tensors on its device: :meth:`numpy` brings
    them to the host, where the codes work.

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

    def __init__(
        self,
        dim: int,
        low: int,
        high: int,
        entries: Integers,
        positions: NDArray[np.int64] | None = None,
    ) -> None:
        # The one that a frozen class is given takes three times as long.
        self.__dict__.update(
            dim=dim, low=low, high=high, entries=entries, positions=positions
        )

    def numpy(self) -> Symbols:
        """Return the symbols as NumPy arrays, without a copy if they are on the CPU."""
        if isinstance(self.entries, np.ndarray):
            return self
        positions = None if self.positions is None else host_array(self.positions)
        return Symbols(
            self.dim, self.low, self.high, host_array(self.entries), positions
        )

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
        # Kept by hand: a cached_property of Python 3.11 takes a lock.
        found: tuple[NDArray[np.int64], Integers] | None = self.__dict__.get("_sparse")
        if found is None:
            positions = nonzero_mask(self.entries).nonzero()[0]
            found = self.__dict__["_sparse"] = positions, self.entries[positions]
        return found

    @property
    def num_nonzero(self) -> int:
        """Number of nonzero entries."""
        if self.positions is not None:
            return len(self.positions)
        return int(np.count_nonzero(nonzero_mask(self.entries)))
