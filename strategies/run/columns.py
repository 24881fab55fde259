"""Many rows of numbers in a checkpoint: a column each, as an array.

JSON would take ten times the time and the room.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .checkpoint import Arrays, Checkpoint

__all__ = ["restore_integers", "restore_rows", "save_integers", "save_rows"]

_NONE, _LARGEST = -1, 1 << 32


def save_rows(
    rows: Sequence[object], kinds: Mapping[str, str], arrays: Arrays, name: str
) -> None:
    """Add attributes of rows to `arrays`.

    Parameters
    ----------
    rows : Sequence[object]
        The rows.
    kinds : Mapping[str, str]
        The dtype of each attribute: ``"u4"`` and ``"?"``, ``"f8"`` for finite numbers,
        ``"i8"`` for numbers from 0 below 2^32, or None.
    arrays, name
        Where they go to, and the prefix of their names.
    """
    for attribute, dtype in kinds.items():
        values: Iterable[Any] = (getattr(row, attribute) for row in rows)
        if dtype == "i8":
            values = (_NONE if value is None else value for value in values)
        arrays[f"{name}/{attribute}"] = np.fromiter(values, np.dtype(dtype), len(rows))


def restore_rows(
    checkpoint: Checkpoint, kinds: Mapping[str, str], name: str, count: int
) -> Iterator[tuple[Any, ...]]:
    """Return the attributes of each row, in the order of `kinds`.

    Raises
    ------
    CheckpointError
        If a column is missing, of another dtype, or not of `count` rows.
    ValueError
        If it holds what it cannot.
    """
    columns = []
    for attribute, dtype in kinds.items():
        column = checkpoint.array(f"{name}/{attribute}", (count,), np.dtype(dtype))
        if dtype == "f8" and not np.isfinite(column).all():
            raise ValueError(f"expected finite numbers in {name}/{attribute}")
        values = column.tolist()
        if dtype == "i8":
            if not ((column >= _NONE) & (column < _LARGEST)).all():
                raise ValueError(
                    f"expected numbers from 0 below 2^32 in {name}/{attribute}"
                )
            values = [None if value == _NONE else value for value in values]
        columns.append(values)
    return zip(*columns, strict=True)


def save_integers(numbers: Sequence[int], arrays: Arrays, name: str) -> list[int]:
    """Add integers of any size to `arrays`; return them where no dtype holds them."""
    least, most = min(numbers, default=0), max(numbers, default=0)
    for dtype in (np.int64, np.uint64):
        limits = np.iinfo(dtype)
        if limits.min <= least and most <= limits.max:
            arrays[name] = np.fromiter(numbers, dtype, len(numbers))
            return []
    return list(numbers)


def restore_integers(saved: list[Any], checkpoint: Checkpoint, name: str) -> list[int]:
    """Return what :func:`save_integers` was given."""
    column = checkpoint.find(name)
    numbers = saved if column is None else column.tolist()
    if not all(type(number) is int for number in numbers):
        raise ValueError(f"expected whole numbers as {name}")
    return numbers
