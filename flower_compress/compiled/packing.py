"""Symbols to bytes of several digits, and back, in one pass over the symbols.

:class:`~flower_compress.coding.packing.Packing` says what is written; here without low
bits that are kept apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel

__all__ = ["escapes", "pack", "places", "unpack"]


_BLOCK = 1 << 12


@kernel
def _pack(
    values: Any, out: Any, work: Any, offset: Any, last: Any, group: int, gap: bool,
    escape: bool,
) -> int:
    """Write the bytes of blocks as long as `work` is for each run; see :func:`pack`."""
    block, times = work.size, np.uint8(last + 1)
    escaped, zero = 0, values[0] - values[0]
    for start in range(0, values.size, group * block):
        part = values[start : start + group * block]
        size = -(-part.size // group)
        to = out[start // group : start // group + size]
        to[:] = 0
        for k in range(group - 1, -1, -1):
            run = part[k * size : (k + 1) * size]
            u, sums = work[: run.size], to[: run.size]
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
                    some += np.int32(u[i] == last)
                escaped += some
            for i in range(sums.size):
                sums[i] = sums[i] * times + u[i]
            for i in range(run.size, size):
                to[i] *= times
    return escaped


def pack(
    values: Any, out: Any, low: int, base: int, group: int, block: int, gap: bool,
    escape: bool,
) -> int:
    """Write the bytes of `values` to `out`; return how many of them were escaped.

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
    return int(_pack(values, out, work, offset, last, group, gap, escape))


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
def _escapes(
    values: Any, work: Any, offset: Any, last: Any, gap: bool, out: Any
) -> None:
    place, zero = 0, values[0] - values[0]
    flags = np.empty(work.size, dtype=np.uint8)
    for start in range(0, values.size, work.size):
        run = values[start : start + work.size]
        u, flag = work[: run.size], flags[: run.size]
        if gap:
            for i in range(u.size):
                u[i] = run[i] - (run[i] > zero) - offset
            for i in range(u.size):
                flag[i] = (u[i] >= last) | (run[i] == zero)
        else:
            for i in range(u.size):
                u[i] = run[i] - offset
            for i in range(u.size):
                flag[i] = u[i] >= last
        place = _collect(flag, start, out, place)


def escapes(values: Any, low: int, base: int, gap: bool, count: int) -> Any:
    """Return the `count` symbols that have no digit below base - 1, in their order."""
    unsigned = np.dtype(f"u{values.itemsize}").type
    work = np.empty(_BLOCK, dtype=unsigned)
    offset = unsigned(low % 2 ** (8 * values.itemsize))
    found = np.zeros(count, dtype=np.int64)
    _escapes(values, work, offset, unsigned(base - 1), gap, found)
    return values[found]


@kernel
def unpack(
    packed: Any, values: Any, low: int, base: int, group: int, block: int, gap: bool,
    escape: bool,
) -> int:
    """Write the symbols that bytes hold; return how many are escaped.

    Or -1 if a byte holds no `group` digits, -2 if a digit past the end is not 0.
    Arguments as those of :func:`pack`.
    """
    most, escaped, zero = np.uint16(base), 0, values[0] - values[0]
    bound = base**group
    last = np.uint8(base - 1)
    # floor(x / base) for every byte x.
    inverse = np.uint32((65536 + base - 1) // base)
    rest = np.empty(block, dtype=np.uint8)
    digits = np.empty(block, dtype=np.uint8)
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
                    q = np.uint8((np.uint32(x[i]) * inverse) >> np.uint32(16))
                    digit[i] = x[i] - q * most
                    x[i] = q
            else:
                digit[:] = x
            run = part[k * size : (k + 1) * size]
            for i in range(run.size, size):
                if digits[i]:
                    return -2
            if escape:
                some = np.int32(0)
                for i in range(run.size):
                    some += np.int32(digit[i] == last)
                escaped += some
            for i in range(run.size):
                run[i] = digit[i] + low
            if gap:
                for i in range(run.size):
                    run[i] = run[i] + (run[i] >= zero)
    return escaped


@kernel
def places(packed: Any, count: int, base: int, group: int, block: int, out: Any) -> None:
    """Write where the digit base - 1 is among `count`, ascending."""
    place, last = 0, np.uint8(base - 1)
    most, inverse = np.uint16(base), np.uint32((65536 + base - 1) // base)
    rest = np.empty(block, dtype=np.uint8)
    found = np.empty(block, dtype=np.uint8)
    for start in range(0, count, group * block):
        left = min(group * block, count - start)
        size = -(-left // group)
        x, flags = rest[:size], found[:size]
        x[:] = packed[start // group : start // group + size]
        for k in range(group):
            some = np.uint8(0)
            for i in range(x.size):
                q = np.uint8((np.uint32(x[i]) * inverse) >> np.uint32(16))
                flags[i] = np.uint8(x[i] - q * most) == last
                some |= flags[i]
                x[i] = q
            if some:
                end = max(0, min(size, left - k * size))
                place = _collect(flags[:end], start + k * size, out, place)
