"""The values that levels stand for, in NumPy tables: a receiver's half of rounding."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...coding.bits import FEW
from ...compiled import compiled
from .numpy_blocks import BLOCK, blocks, column, integer_column, of_rows, row_buffers
from .ops import Array, no_level

__all__ = ["scaled", "scaled_from_zero"]

_ZERO = np.zeros(1, dtype=np.float32)


def scaled(
    integers: Array,
    scales: Array,
    offsets: Array | None,
    dither: Array | None,
    out: Array | None,
) -> Array:
    """Return :meth:`ArrayOps.scaled`."""
    rows, width = integers.shape
    scales = column(scales)
    shifts = None if offsets is None else column(offsets)
    result = np.empty((rows, width), dtype=np.float32) if out is None else out
    fast = compiled("rounding", result.size)
    if fast is not None and _are_contiguous(integers, result):
        fast.scale_table(integers, *_each_row(scales, shifts, dither), dither, result)
        return result
    if dither is not None:
        dither = dither.reshape(rows, width)
    if result.size <= BLOCK:
        _scale(integers, scales, shifts, dither, result)
        return result
    for r, c in blocks(rows, width):
        part = None if dither is None else dither[r, c]
        scale, shift = of_rows(scales, r), of_rows(shifts, r)
        _scale(integers[r, c], scale, shift, part, result[r, c])
    return result


def scaled_from_zero(
    integers: Array,
    below: Array,
    scales: Array,
    offsets: Array,
    highest: int,
    dither: Array | None,
    out: Array | None,
) -> Array:
    """Return :meth:`ArrayOps.scaled_from_zero`."""
    rows, width = integers.shape
    below = integer_column(below, integers.dtype)
    if rows == 1 and width <= FEW and highest < 127 and dither is None:
        return _look_up(integers, below, scales, offsets, highest)
    scales, shifts = column(scales), column(offsets)
    result = np.empty((rows, width), dtype=np.float32) if out is None else out
    fast = compiled("rounding", result.size)
    if fast is not None and _are_contiguous(integers, result):
        first = np.asarray(below, dtype=np.int32).reshape(-1)
        each = _each_row(scales, shifts, dither)
        if not fast.scale_from_zero(integers, first, *each, highest, dither, result):
            raise no_level(highest)
        return result
    if dither is not None:
        dither = dither.reshape(rows, width)
    for r, c in blocks(rows, width):
        block, value = integers[r, c], result[r, c]
        levels = block + of_rows(below, r)
        # Integers that overflow become negative.
        if levels.min() < 0 or levels.max() > highest + 1:
            raise no_level(highest)
        # As integers: NumPy is slow where it must convert.
        levels -= (block > 0).view(np.int8)
        part = None if dither is None else dither[r, c]
        _scale(levels, of_rows(scales, r), of_rows(shifts, r), part, value)
        if np.count_nonzero(block) < block.size:
            value[block == 0] = 0.0
    return result


def _are_contiguous(*arrays: Array) -> bool:
    return all(array.flags.c_contiguous for array in arrays)


def _each_row(
    scales: Array, shifts: Array | None, dither: Array | None
) -> tuple[Array, Array | None]:
    """Return a scale and a shift for each row, flat; the scale of half a dither."""
    if dither is not None:
        scales = scales * np.float32(2.0**-17)
    flat = np.asarray(scales, dtype=np.float32).reshape(-1)
    if shifts is None:
        return flat, None
    return flat, np.asarray(shifts, dtype=np.float32).reshape(-1)


def _scale(
    integers: Array,
    scales: Array,
    shifts: Array | None,
    dither: Array | None,
    out: Array,
) -> None:
    """Write (k - u + 1/2) * scale + shift of one block to `out`."""
    if dither is not None:
        scales = scales * np.float32(2.0**-17)
        integers = integers.astype(np.int32 if integers.itemsize == 1 else np.int64)
        integers <<= 16
        integers -= dither
        integers <<= 1
        integers += 65535
    with row_buffers(*out.shape):
        np.multiply(integers, scales, out=out, dtype=np.float32, casting="unsafe")
        if shifts is not None:
            out += shifts


def _look_up(
    integers: Array, below: int, scale: float, offset: float, highest: int
) -> Array:
    """Return :func:`scaled_from_zero` of a few entries of one row."""
    values = _levels_up_to(highest) * scale
    values += offset
    values = np.concatenate((values[:below], _ZERO, values[below:]))
    try:
        # What lies below the levels wraps around to far above them.
        found: Array = values.take((integers + below).view(np.uint8))
    except IndexError:
        raise no_level(highest) from None
    return found


@lru_cache(maxsize=64)
def _levels_up_to(highest: int) -> NDArray[np.float32]:
    return np.arange(highest + 1, dtype=np.float32)
