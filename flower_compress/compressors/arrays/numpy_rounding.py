"""Rounding NumPy tables to levels at random: a sender's half."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...coding.symbols import symbol_dtype
from ...compiled import compiled
from ...streams import Draws
from .numpy_blocks import BLOCK, blocks, column, integer_column, of_rows, row_buffers
from .ops import Array

__all__ = ["round_table"]

_SMALLEST = 2.0**-149
_NOTHING: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


def round_table(
    table: Array,
    offsets: Array | None,
    scales: Array,
    levels: float,
    high: int,
    dither: Array,
    refine: Draws | None,
    below: Array | None,
    out: Array | None,
) -> Array:
    """Return :meth:`ArrayOps.round`."""
    rows, width = table.shape
    dtype = symbol_dtype(-high, high) if out is None else out.dtype
    first = None if below is None else integer_column(below, dtype)
    # Any positive scale gives the zeros of a row of zeros.
    if isinstance(scales, float):
        scales = max(scales, _SMALLEST)
    else:
        scales = np.maximum(scales, _SMALLEST)[:, None]
    shifts = None if offsets is None else column(offsets)
    factor = levels * 256.0**dither.itemsize
    fast = compiled("rounding", table.size, shortest=1)
    if fast is not None and table.flags.c_contiguous:
        result = np.empty((rows, width), dtype) if out is None else out
        if result.flags.c_contiguous:
            tied, at_ties = fast.round_table(
                table,
                _each_row(shifts, np.float32),
                _each_row(scales, np.float32),
                factor,
                dither,
                refine is not None,
                _each_row(first, np.int32),
                result,
            )
            if refine is not None and tied.size:
                _refine(result, tied, at_ties, refine, from_zero=first is not None)
            return result
    dither = dither.reshape(rows, width)
    if table.size <= BLOCK:
        zeros = None if first is None else table == 0
        result, tied, at_ties = _round(
            table, shifts, scales, factor, dither, refine, dtype
        )
        if first is not None:
            _count_from_zero(result, first, zeros)
        if out is not None:
            out[...] = result
            result = out
    else:
        result = np.empty((rows, width), dtype) if out is None else out
        places: list[Array] = []
        values: list[Array] = []
        for r, c in blocks(rows, width):
            x, block = table[r, c], result[r, c]
            # The first to read `x` waits for the memory: this one least of all.
            zeros = None if first is None else x == 0
            k, tied, at_ties = _round(
                x,
                of_rows(shifts, r),
                of_rows(scales, r),
                factor,
                dither[r, c],
                refine,
                dtype,
            )
            block[...] = k
            if first is not None:
                _count_from_zero(block, of_rows(first, r), zeros)
            if tied.size:
                # A block has whole rows, or is a part of one.
                places.append(tied + (r.start * width + c.start))
                values.append(at_ties)
        tied = np.concatenate(places) if places else _NOTHING
        at_ties = np.concatenate(values) if values else _NOTHING
    if refine is not None and tied.size:
        _refine(result, tied, at_ties, refine, from_zero=first is not None)
    return result


def _round(
    t: Array,
    shifts: Array | None,
    scales: Array,
    factor: float,
    dither: Array,
    refine: Draws | None,
    dtype: np.dtype[Any],
) -> tuple[Array, Array, Array]:
    """Return k of one block, the flat places of ties, and t there."""
    with row_buffers(*t.shape):
        if shifts is not None:
            t = t - shifts
        t = t / scales
    t *= factor
    whole = t
    if refine is None:
        # The nearest integer stands for t: no bias to one side.
        whole = np.rint(t)
    elif shifts is None:
        whole = np.floor(t)
    # Else t is not negative, and its floor is what a cast leaves. |t| is at most
    # 127 * 2^8 or 32767 * 2^16.
    bits = 8 * dither.itemsize
    whole = whole.astype(np.int16 if bits == 8 else np.int32)
    # The low bits by themselves and the carry: NumPy is slow where it must convert.
    total = whole.astype(dither.dtype)
    total += dither
    tied = at_ties = _NOTHING
    if refine is not None:
        # The lowest bits all set: the dither fell into t's own interval.
        tied = (total == (1 << bits) - 1).reshape(-1).nonzero()[0]
        if tied.size:
            at_ties = t.reshape(-1)[tied]
    whole >>= bits
    k = whole.astype(dtype)
    k += (total < dither).view(np.int8)
    return k, tied, at_ties


def _each_row(numbers: Array | None, dtype: Any) -> Array | None:
    """Return a column, or what all rows have in common, flat; None stays."""
    return None if numbers is None else np.asarray(numbers, dtype=dtype).reshape(-1)


def _count_from_zero(block: Array, first: Array, zeros: Array) -> None:
    block -= first
    # As integers: NumPy is slow where it must convert.
    block += (block >= 0).view(np.int8)
    if np.count_nonzero(zeros):
        block[zeros] = 0


def _refine(
    k: Array, tied: Array, at_ties: Array, draws: Draws, *, from_zero: bool
) -> None:
    """Let k be one more at ties with probability t - floor(t)."""
    rest = at_ties.astype(np.float64) - np.floor(at_ties)
    tied = tied[draws.uniforms(tied.size) < rest]
    flat = k.reshape(-1)
    more = flat.take(tied)
    if from_zero:
        # No level is counted as 0, and zeros stay what they are.
        more += np.where(more == -1, 2, more != 0).astype(k.dtype)
    else:
        more += 1
    flat[tied] = more
