"""Symbols to bytes of several digits, and back, in one pass over the symbols.

:class:`~flower_compress.coding.packing.Packing` says what is written; here without low
bits that are kept apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jit import collect, intrinsic, kernel, types

__all__ = ["pack", "unpack"]


_BLOCK = 1 << 12
"""Bytes that are made or read at a time: they stay in the fastest cache."""

_USUAL = 64
"""One symbol of so many is escaped, seldom more: else all is done once again."""


@kernel
def _pack(
    values: Any,
    out: Any,
    work: Any,
    offset: Any,
    last: Any,
    group: int,
    block: int,
    gap: bool,
    escape: bool,
    places: Any,
) -> int:
    """Write the bytes, as many at a time as `work` has; see :func:`pack`."""
    zero, found = values[0] - values[0], 0
    flags = np.empty(work.size, dtype=np.uint8)
    for start in range(0, values.size, group * block):
        part = values[start : start + group * block]
        size = -(-part.size // group)
        for first in range(0, size, work.size):
            to = out[start // group :][first : min(first + work.size, size)]
            for i in range(to.size):
                to[i] = 0
            weight = np.uint8(1)
            for k in range(group):
                run = part[k * size + first : k * size + first + to.size]
                u, sums, flag = work[: run.size], to[: run.size], flags[: run.size]
                # In the unsigned dtype of the symbols: what lies below the window
                # wraps around to far above it.
                if gap:
                    for i in range(u.size):
                        u[i] = run[i] - (run[i] > zero) - offset
                else:
                    for i in range(u.size):
                        u[i] = run[i] - offset
                if escape:
                    if gap:
                        for i in range(u.size):
                            u[i] = last if run[i] == zero else u[i]
                    for i in range(u.size):
                        u[i] = min(u[i], last)
                        flag[i] = u[i] == last
                    found = collect(flag, start + k * size + first, places, found)
                for i in range(sums.size):
                    sums[i] = np.uint8(sums[i] + np.uint8(weight * np.uint8(u[i])))
                weight = np.uint8(weight * (last + 1))
    return found


def pack(
    values: Any,
    out: Any,
    low: int,
    base: int,
    group: int,
    block: int,
    gap: bool,
    escape: bool,
) -> NDArray[np.int64]:
    """Write the bytes of `values` to `out`; return the places that were escaped.

    Parameters
    ----------
    values : NDArray, signed integer
        Symbols, flat, contiguous, at least one.
    out : NDArray[np.uint8]
        Room for them: a byte for each `group`.
    low, base, group : int
        As in Packing.
    block : int
        Bytes of a block.
    gap, escape : bool
        As in Packing.
    """
    unsigned = np.dtype(f"u{values.itemsize}").type
    work = np.empty(_BLOCK, dtype=unsigned)
    offset = unsigned(low % 2 ** (8 * values.itemsize))
    last = unsigned(base - 1)
    room = values.size // _USUAL + 1000 if escape else 0
    while True:
        places = np.empty(room, dtype=np.int64)
        how = offset, last, group, block, gap, escape
        found = _pack(values, out, work, *how, places)
        if found <= room:
            return np.sort(places[:found], kind="stable")
        room = found


@intrinsic
def _quotient(_: Any, x: Any, inverse: Any) -> Any:
    """Return floor(x / b) of a byte x, where inverse = floor(2^16 / b) + 1, b > 1.

    It is above 2^16 / b by 1 at most, and 255 of that are less than the 2^16 / b that
    the smallest part cut off is, for b up to 256.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        x, inverse = arguments
        # Of integers numba makes 64 bits: a fourth of them are computed at a time.
        product = builder.mul(builder.zext(x, ir.IntType(32)), inverse)
        quotient = builder.lshr(product, ir.Constant(ir.IntType(32), 16))
        return builder.trunc(quotient, ir.IntType(8))

    return types.uint8(types.uint8, types.uint32), generate


@intrinsic
def _rest(_: Any, x: Any, quotient: Any, base: Any) -> Any:
    """Return x - quotient base, in bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, quotient, base = arguments
        return builder.sub(x, builder.mul(quotient, base))

    return types.uint8(types.uint8, types.uint8, types.uint8), generate


@kernel
def _unpack(
    packed: Any,
    values: Any,
    low: int,
    base: int,
    group: int,
    block: int,
    gap: bool,
    escape: bool,
    places: Any,
) -> int:
    """Write the symbols that bytes hold; return how many are escaped.

    Or -1 if a byte holds no `group` digits, -2 if a digit past the end is not 0.
    """
    found, zero = 0, values[0] - values[0]
    bound, most, last = base**group, np.uint8(base), np.uint8(base - 1)
    inverse = np.uint32((1 << 16) // base + 1)
    rest = np.empty(_BLOCK, dtype=np.uint8)
    digits = np.empty(_BLOCK, dtype=np.uint8)
    flags = np.empty(_BLOCK, dtype=np.uint8)
    highest = np.uint8(0)
    for i in range(packed.size):
        highest = max(highest, packed[i])
    if highest >= bound:
        return -1
    for start in range(0, values.size, group * block):
        part = values[start : start + group * block]
        size = -(-part.size // group)
        for first in range(0, size, _BLOCK):
            here = packed[start // group :][first : min(first + _BLOCK, size)]
            x, digit = rest[: here.size], digits[: here.size]
            # Loops: numba copies slices entry by entry.
            for i in range(x.size):
                x[i] = here[i]
            for k in range(group):
                if k < group - 1:
                    for i in range(x.size):
                        quotient = _quotient(x[i], inverse)
                        digit[i] = _rest(x[i], quotient, most)
                        x[i] = quotient
                else:
                    for i in range(x.size):
                        digit[i] = x[i]
                run = part[k * size + first : k * size + first + x.size]
                for i in range(run.size, x.size):
                    if digits[i]:
                        return -2
                if escape:
                    flag = flags[: run.size]
                    for i in range(run.size):
                        flag[i] = digit[i] == last
                    found = collect(flag, start + k * size + first, places, found)
                for i in range(run.size):
                    run[i] = digit[i] + low
                if gap:
                    for i in range(run.size):
                        run[i] = run[i] + (run[i] >= zero)
    return found


def unpack(
    packed: Any,
    values: Any,
    low: int,
    base: int,
    group: int,
    block: int,
    gap: bool,
    escape: bool,
) -> NDArray[np.int64] | int:
    """Write the symbols that bytes hold; return the places of the escaped ones.

    Or -1 if a byte holds no `group` digits, -2 if a digit past the end is not 0.
    Arguments as those of :func:`pack`; a byte for each `group` of the values.
    """
    how = low, base, group, block, gap, escape
    room = values.size // _USUAL + 1000 if escape else 0
    while True:
        places = np.empty(room, dtype=np.int64)
        found = int(_unpack(packed, values, *how, places))
        if found < 0:
            return found
        if found <= room:
            return np.sort(places[:found], kind="stable")
        room = found
