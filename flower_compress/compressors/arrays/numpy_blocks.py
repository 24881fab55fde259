"""Tables in blocks that stay in the processor's cache, and numbers for their rows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from .ops import Array

__all__ = [
    "BLOCK",
    "RowBuffers",
    "blocks",
    "column",
    "integer_column",
    "of_rows",
    "row_buffers",
    "row_number",
]

BLOCK = 1 << 16
"""Entries that are processed at a time: they stay in the cache."""


def blocks(
    rows: int, width: int, *, whole_rows: bool = False
) -> list[tuple[slice, slice]]:
    """Return the blocks of a table, row-major: whole rows, or each a part of one."""
    if width == 0 or rows * width <= BLOCK:
        return [(slice(0, rows), slice(0, width))]
    high = max(1, BLOCK // width)
    wide = width if whole_rows else BLOCK
    return [
        (slice(row, min(row + high, rows)), slice(start, min(start + wide, width)))
        for row in range(0, rows, high)
        for start in range(0, width, wide)
    ]


def row_number(x: Array) -> Array:
    """Return the entry of an array of one row, or the array."""
    return x.item() if x.size == 1 else x


def column(x: Array) -> Array:
    """Return row numbers so that they meet the entries of their rows."""
    return x if isinstance(x, float) else x[:, None]


def integer_column(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return :func:`column` of row numbers that are integers, in that dtype."""
    return int(x) if isinstance(x, float) else x.astype(dtype)[:, None]


def of_rows(numbers: Array, rows: slice) -> Array:
    """Return a part of a column, or what all rows have in common."""
    return numbers[rows] if isinstance(numbers, np.ndarray) else numbers


class RowBuffers:
    """Within, NumPy's buffers are no longer than a row.

    Where a table meets a number for each row, and 8192 entries are more than a row,
    NumPy writes each number into a buffer of so many entries, as often as it is used:
    that takes longer than the operation.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def __enter__(self) -> None:
        self._before = np.setbufsize(self._size)

    def __exit__(self, *_: object) -> None:
        np.setbufsize(self._before)


_USUAL_BUFFERS = nullcontext()


def row_buffers(rows: int, width: int) -> AbstractContextManager[None]:
    """Return a context in which NumPy's buffers are no longer than a row.

    It does nothing where that does not help: for one row, for rows too short for a
    buffer, and for rows that fill the usual.
    """
    if rows == 1 or not 128 <= width < 8192:
        return _USUAL_BUFFERS
    return RowBuffers(width & ~15)
