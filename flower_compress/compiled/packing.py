"""Symbols to bytes of several digits, and back, in one pass over the symbols.

:class:`~flower_compress.coding.packing.Packing` says what is written; here without low
bits that are kept apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jit import kernel

__all__ = ["pack", "unpack"]


_USUAL = 64
"""One symbol of so many is escaped, seldom more: else all is done once again."""


@kernel
def _collect(flags: Any, start: int, out: Any, place: int) -> int:
    """Write start + i for each flag i that is set, eight looked at at a time."""
    eights = flags[: flags.size // 8 * 8].view(np.uint64)
    for n in range(eights.size):
        if eights[n]:
            for i in range(8 * n, 8 * n + 8):
                if flags[i] and place < out.size:
                    out[place] = start + i
                    place += 1
    for i in range(eights.size * 8, flags.size):
        if flags[i] and place < out.size:
            out[place] = start + i
            place += 1
    return place


@kernel
def _pack(
    values: Any,
    out: Any,
    work: Any,
    offset: Any,
    last: Any,
    group: int,
    gap: bool,
    escape: bool,
    places: Any,
) -> int:
    """Write the bytes of blocks as long as `work` is for each run; see :func:`pack`."""
    block, zero = work.size, values[0] - values[0]
    escaped, found = 0, 0
    flags = np.empty(block, dtype=np.uint8)
    for start in range(0, values.size, group * block):
        part = values[start : start + group * block]
        size = -(-part.size // group)
        to = out[start // group : start // group + size]
        to[:] = 0
        weight = np.uint8(1)
        for k in range(group):
            run = part[k * size : (k + 1) * size]
            u, sums, flag = work[: run.size], to[: run.size], flags[: run.size]
            # In the unsigned dtype of the symbols: what lies below the window wraps
            # around to far above it.
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
                some = np.int32(0)
                for i in range(u.size):
                    u[i] = min(u[i], last)
                    flag[i] = u[i] == last
                    some += np.int32(flag[i])
                if some:
                    escaped += some
                    found = _collect(flag, start + k * size, places, found)
            for i in range(sums.size):
                sums[i] += weight * u[i]
            weight = np.uint8(weight * (last + 1))
    return escaped


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
    work = np.empty(block, dtype=unsigned)
    offset = unsigned(low % 2 ** (8 * values.itemsize))
    last = unsigned(base - 1)
    room = values.size // _USUAL + 1000 if escape else 0
    while True:
        places = np.empty(room, dtype=np.int64)
        found = _pack(values, out, work, offset, last, group, gap, escape, places)
        if found <= room:
            return places[:found]
        room = found


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
    escaped, found, zero = 0, 0, values[0] - values[0]
    bound, most, last = base**group, np.uint16(base), np.uint8(base - 1)
    # floor(x / base) for every byte x.
    inverse = np.uint16((65536 + base - 1) // base)
    rest = np.empty(block, dtype=np.uint8)
    digits = np.empty(block, dtype=np.uint8)
    flags = np.empty(block, dtype=np.uint8)
    highest = np.uint8(0)
    for i in range(packed.size):
        highest = max(highest, packed[i])
    if highest >= bound:
        return -1
    for start in range(0, values.size, group * block):
        part = values[start : start + group * block]
        size = -(-part.size // group)
        x, digit = rest[:size], digits[:size]
        x[:] = packed[start // group : start // group + size]
        for k in range(group):
            if k < group - 1:
                for i in range(x.size):
                    product = np.uint32(x[i]) * np.uint32(inverse)
                    q = np.uint8(product >> np.uint32(16))
                    digit[i] = x[i] - q * most
                    x[i] = q
            else:
                digit[:] = x
            run = part[k * size : (k + 1) * size]
            for i in range(run.size, size):
                if digits[i]:
                    return -2
            if escape:
                some, flag = np.int32(0), flags[: run.size]
                for i in range(run.size):
                    flag[i] = digit[i] == last
                    some += np.int32(flag[i])
                if some:
                    escaped += some
                    found = _collect(flag, start + k * size, places, found)
            for i in range(run.size):
                run[i] = digit[i] + low
            if gap:
                for i in range(run.size):
                    run[i] = run[i] + (run[i] >= zero)
    return escaped


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
            return places[:found]
        room = found
