"""Rounding to levels at random, and the values of levels, in one pass over a table.

Operation by operation what :mod:`~flower_compress.compressors.arrays.numpy_rounding`
and :mod:`~flower_compress.compressors.arrays.numpy_levels` compute.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jit import collect, kernel

__all__ = ["round_table", "scale_from_zero", "scale_table"]

_BLOCK = 1 << 12


@kernel
def _round(
    table: Any,
    out: Any,
    width: int,
    shifts: Any,
    scales: Any,
    factor: Any,
    dither: Any,
    bits: int,
    mode: int,
    below: Any,
    tied: Any,
    at_ties: Any,
) -> int:
    """Write k to `out`, flat; return how many ties there are, `tied` has room or not.

    mode 0: no offset, to the nearest integer; 1: no offset, floor; 2: offset, the
    integer part, 3: offset, nearest. `below` is empty, or how many levels lie below
    zero in each row.
    """
    zero, nearest = np.int32(0), mode == 0 or mode == 3
    ones, shift = np.int32((1 << bits) - 1), np.int32(bits)
    found = 0
    whole = np.empty(_BLOCK, dtype=np.int32)
    whole_k = np.empty(_BLOCK, dtype=np.int32)
    flags = np.empty(_BLOCK, dtype=np.uint8)
    for row in range(table.size // width):
        scale = scales[row]
        offset = shifts[row] if mode >= 2 else np.float32(0.0)
        first = below[row] if below.size else zero
        for start in range(row * width, (row + 1) * width, _BLOCK):
            end = min(start + _BLOCK, (row + 1) * width)
            x, j, k = table[start:end], dither[start:end], out[start:end]
            if mode == 0:
                for i in range(x.size):
                    t = np.rint(x[i] / scale * factor)
                    whole[i] = np.int32(t) + np.int32(j[i])
            elif mode == 1:
                for i in range(x.size):
                    t = np.floor(x[i] / scale * factor)
                    whole[i] = np.int32(t) + np.int32(j[i])
            elif mode == 2:
                for i in range(x.size):
                    t = (x[i] - offset) / scale * factor
                    whole[i] = np.int32(t) + np.int32(j[i])
            else:
                for i in range(x.size):
                    t = np.rint((x[i] - offset) / scale * factor)
                    whole[i] = np.int32(t) + np.int32(j[i])
            if below.size:
                for i in range(x.size):
                    v = np.int32((whole[i] >> shift) - first)
                    whole_k[i] = np.int32(v + np.int32(v >= zero))
                for i in range(x.size):
                    k[i] = whole_k[i] * np.int32(x[i] != np.float32(0.0))
            else:
                for i in range(x.size):
                    k[i] = whole[i] >> shift
            if nearest:
                continue
            flag = flags[: x.size]
            for i in range(x.size):
                flag[i] = np.int32(whole[i] & ones) == ones
            before, found = found, collect(flag, start, tied, found)
            for n in range(before, min(found, tied.size)):
                t = table[tied[n]]
                if mode == 2:
                    t -= offset
                at_ties[n] = t / scale * factor
    return found


def round_table(
    table: Any,
    shifts: Any,
    scales: Any,
    factor: float,
    dither: Any,
    refines: bool,
    below: Any,
    out: Any,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Write k to `out`, contiguous; return the places of ties, and t there.

    `shifts`, `scales` and `below` are flat, a number each row, or None.
    """
    rows, width = table.shape
    if shifts is None:
        shifts, mode = np.zeros(0, dtype=np.float32), int(refines)
    else:
        mode = 2 if refines else 3
    if below is None:
        below = np.zeros(0, dtype=np.int32)
    bits = 8 * dither.itemsize
    # One of 2^bits is a tie: ten standard deviations more, or once again.
    room = table.size >> bits
    room = room + 10 * int(room**0.5) + 100 if refines else 0
    flat = table.reshape(-1), out.reshape(-1)
    while True:
        tied = np.empty(room, dtype=np.int64)
        at_ties = np.empty(room, dtype=np.float32)
        found = _round(
            *flat,
            width,
            shifts,
            scales,
            np.float32(factor),
            dither,
            bits,
            mode,
            below,
            tied,
            at_ties,
        )
        if found <= room:
            return tied[:found], at_ties[:found]
        room = found


@kernel
def _scale(
    integers: Any,
    out: Any,
    width: int,
    scales: Any,
    shifts: Any,
    dither: Any,
    wide: Any,
) -> None:
    """Write (k - u + 1/2) scale + shift, flat."""
    for row in range(integers.size // width):
        start, end = row * width, (row + 1) * width
        k, y, scale = integers[start:end], out[start:end], scales[row]
        if dither.size:
            j = dither[start:end]
            for i in range(y.size):
                # `wide` is a zero of the dtype that holds the sum.
                t = ((wide + k[i]) << 17) - ((wide + j[i]) << 1) + 65535
                y[i] = np.float32(t) * scale
        else:
            for i in range(y.size):
                y[i] = np.float32(k[i]) * scale
        if shifts.size:
            shift = shifts[row]
            for i in range(y.size):
                y[i] += shift


@kernel
def _scale_from_zero(
    integers: Any,
    out: Any,
    width: int,
    below: Any,
    scales: Any,
    shifts: Any,
    dither: Any,
    wide: Any,
    highest: int,
) -> bool:
    """Write the values of levels that count from zero; return whether all are levels.

    As :func:`_scale`, but 0 for the symbol 0.
    """
    zero, most = np.int32(0), np.int32(highest + 1)
    for row in range(integers.size // width):
        start, end = row * width, (row + 1) * width
        k, y = integers[start:end], out[start:end]
        scale, shift, first = scales[row], shifts[row], below[row]
        least, greatest = zero, zero
        for i in range(y.size):
            level = np.int32(k[i]) + first
            least, greatest = min(least, level), max(greatest, level)
        if least < zero or greatest > most:
            return False
        if dither.size:
            j = dither[start:end]
            for i in range(y.size):
                level = wide + k[i] + first - (k[i] > zero)
                t = (level << 17) - ((wide + j[i]) << 1) + 65535
                value = np.float32(t) * scale + shift
                y[i] = value if k[i] != zero else np.float32(0.0)
        else:
            for i in range(y.size):
                level = np.int32(k[i]) + first - np.int32(k[i] > zero)
                value = np.float32(level) * scale + shift
                y[i] = value if k[i] != zero else np.float32(0.0)
    return True


_NO_DITHER = np.zeros(0, dtype=np.uint16)
_NO_SHIFT = np.zeros(0, dtype=np.float32)


def scale_table(integers: Any, scales: Any, shifts: Any, dither: Any, out: Any) -> None:
    """Write (k - u + 1/2) scale + shift of a table to `out`, both contiguous.

    `scales` and `shifts` are flat, a number each row; `shifts` and `dither` may be
    None. With a dither, `scales` are 2^-17 times those of the rows.
    """
    _scale(
        integers.reshape(-1),
        out.reshape(-1),
        integers.shape[1],
        scales,
        _NO_SHIFT if shifts is None else shifts,
        _NO_DITHER if dither is None else dither,
        _wide(integers),
    )


def scale_from_zero(
    integers: Any,
    below: Any,
    scales: Any,
    shifts: Any,
    highest: int,
    dither: Any,
    out: Any,
) -> bool:
    """Write the values of levels that count from zero; return whether all are levels.

    `below` is int32, a number each row; the rest as in :func:`scale_table`.
    """
    return _scale_from_zero(
        integers.reshape(-1),
        out.reshape(-1),
        integers.shape[1],
        below,
        scales,
        shifts,
        _NO_DITHER if dither is None else dither,
        _wide(integers),
        highest,
    )


def _wide(integers: Any) -> Any:
    return np.int32(0) if integers.itemsize == 1 else np.int64(0)
