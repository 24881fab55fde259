"""Sums and extremes of the rows of a NumPy table, block by block.

Sums are in float64. All functions return arrays of one number a row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from .numpy_blocks import BLOCK, blocks, of_rows
from .ops import Array

__all__ = [
    "add_magnitudes",
    "add_squares",
    "extremes",
    "moments",
    "row_sums",
    "squares",
    "tails",
]


def squares(table: Array) -> Array:
    """Return the sum of squares of each row."""
    fast = _compiled_sums(table)
    if fast is not None:
        return fast.squares(table, BLOCK)
    return row_sums(table, add_squares)


def _compiled_sums(table: Array) -> Any:
    fast = compiled("sums", table.size) if table.flags.c_contiguous else None
    return fast if fast is not None and fast.adds_as_numpy() else None


def row_sums(table: Array, add: Callable[[Array], Array]) -> Array:
    """Return what `add` makes of the rows, by blocks of a long table."""
    rows, width = table.shape
    if rows * width <= BLOCK:
        return add(table)
    total = np.zeros(rows, dtype=np.float64)
    for r, c in blocks(rows, width):
        total[r] += add(table[r, c])
    return total


def add_squares(block: Array) -> Array:
    """Return the sum of squares of each row of one block."""
    wide = block.astype(np.float64)
    return np.einsum("ij,ij->i", wide, wide)


def add_magnitudes(block: Array) -> Array:
    """Return the sum of magnitudes of each row of one block."""
    return np.add.reduce(np.abs(block), axis=1, dtype=np.float64)


def extremes(block: Array) -> tuple[Array, Array]:
    """Return the least and the greatest entry of each row of contiguous rows."""
    # Twice as fast as `reduce` along an axis.
    flat, starts = block.reshape(-1), _row_starts(*block.shape)
    return np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)


@lru_cache(maxsize=64)
def _row_starts(rows: int, width: int) -> NDArray[np.int64]:
    return np.arange(rows, dtype=np.int64) * width


def moments(table: Array) -> tuple[Array, Array, Array]:
    """Return extremes and sums of squares of a long table, which NumPy reads once."""
    low, high = table[:, 0].copy(), table[:, 0].copy()
    fast = _compiled_sums(table)
    sums = np.zeros(low.size) if fast is None else fast.squares(table, BLOCK)
    for r, c in blocks(*table.shape):
        block = table[r, c]
        least, greatest = extremes(block)
        np.minimum(low[r], least, out=low[r])
        np.maximum(high[r], greatest, out=high[r])
        if fast is None:
            sums[r] += add_squares(block)
    return low, high, sums


def tails(table: Array, bounds: Array) -> tuple[Array, Array]:
    """Return how many |x| are at least the row's bound, and their sum.

    `bounds` is a column, or a float.
    """
    if table.size <= BLOCK:
        return _block_tails(table, bounds)
    counts, sums = np.zeros((2, table.shape[0]), dtype=np.float64)
    for r, c in blocks(*table.shape):
        more, larger = _block_tails(table[r, c], of_rows(bounds, r))
        counts[r] += more
        sums[r] += larger
    return counts, sums


def _block_tails(block: Array, bounds: Array) -> tuple[Array, Array]:
    magnitudes = np.abs(block)
    large = magnitudes >= bounds
    magnitudes *= large
    if len(block) == 1:
        # Without an axis it is ten times as fast.
        counts = np.float64(np.count_nonzero(large))
    else:
        counts = np.add.reduce(large, axis=1, dtype=np.int64)
    return counts, np.add.reduce(magnitudes, axis=1, dtype=np.float64)
