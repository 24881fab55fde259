"""Symbols to bytes of several digits, and back, in one pass over the symbols.

:class:`~flower_compress.coding.packing.Packing` says what is written; here without low
bits that are kept apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel

__all__ = ["pack", "unpack"]


@kernel
def pack(
    values: Any, out: Any, low: int, base: int, group: int, block: int, gap: Any,
    escape: bool,
) -> int:
    """Write the bytes of `values` to `out`; return how many of them were escaped.

    Parameters
    ----------
    values : NDArray, signed integer
        Symbols, flat, contiguous.
    out : NDArray[np.uint8]
        Room for them: a byte for each `group`.
    low, base, group : int
        As in Packing.
    block : int
        Bytes of a block.
    gap : np.int32
        1 if symbols above zero move one down.
    escape : bool
        Whether the last digit stands for what has none.
    """
    last, low32 = np.uint32(base - 1), np.int32(low)
    times, zero = np.uint8(base), np.int32(0)
    escaped = 0
    digits = np.empty(block, dtype=np.uint8)
    for start in range(0, values.size, group * block):
        part = values[start : start + group * block]
        size = -(-part.size // group)
        to = out[start // group : start // group + size]
        for k in range(group - 1, -1, -1):
            run = part[k * size : (k + 1) * size]
            here = digits[: run.size]
            for i in range(run.size):
                v = np.int32(run[i])
                # What lies below the window wraps around to far above it.
                u = np.uint32(v - gap * np.int32(v > zero) - low32)
                if escape:
                    if gap and v == zero:
                        u = last
                    u = min(u, last)
                here[i] = np.uint8(u)
            if escape:
                count = 0
                for i in range(run.size):
                    count += np.uint8(here[i] == np.uint8(last))
                escaped += count
            if k == group - 1:
                to[:] = 0
                to[: run.size] = here
            else:
                for i in range(run.size):
                    to[i] = to[i] * times + here[i]
                for i in range(run.size, size):
                    to[i] = to[i] * times
    return escaped


@kernel
def escapes(values: Any, low: int, base: int, gap: Any, out: Any) -> None:
    """Write the symbols that have no digit below base - 1 to `out`, in their order."""
    place, last, low32 = 0, np.uint32(base - 1), np.int32(low)
    for i in range(values.size):
        v = np.int32(values[i])
        u = np.uint32(v - gap * np.int32(v > 0) - low32)
        if u >= last or (gap and v == 0):
            out[place] = values[i]
            place += 1


@kernel
def unpack(
    packed: Any, values: Any, low: int, base: int, group: int, block: int, gap: Any,
    escape: bool,
) -> int:
    """Write the symbols that bytes hold; return how many are escaped.

    Or -1 if a byte holds no `group` digits, -2 if a digit past the end is not 0.
    Arguments as those of :func:`pack`.
    """
    most, escaped = np.uint32(base), 0
    bound = base**group
    last, low32 = np.uint8(base - 1), np.int32(low)
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
        rest[:size] = packed[start // group : start // group + size]
        for k in range(group):
            for i in range(size):
                x = np.uint32(rest[i])
                q = (x * inverse) >> np.uint32(16)
                digits[i] = np.uint8(x - q * most)
                rest[i] = np.uint8(q)
            run = part[k * size : (k + 1) * size]
            for i in range(run.size, size):
                if digits[i]:
                    return -2
            if escape:
                for i in range(run.size):
                    escaped += digits[i] == last
            for i in range(run.size):
                v = np.int32(digits[i]) + low32
                run[i] = v + gap * np.int32(v >= 0)
    return escaped


@kernel
def places(packed: Any, count: int, base: int, group: int, block: int, out: Any) -> None:
    """Write where the digit base - 1 is among `count`, ascending."""
    place = 0
    rest = np.empty(block, dtype=np.uint8)
    for start in range(0, count, group * block):
        left = min(group * block, count - start)
        size = -(-left // group)
        rest[:size] = packed[start // group : start // group + size]
        for k in range(group):
            for i in range(min(size, left - k * size)):
                if rest[i] % base == base - 1:
                    out[place] = start + k * size + i
                    place += 1
            for i in range(size):
                rest[i] = rest[i] // base
