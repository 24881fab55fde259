"""Reads Deflate streams that :mod:`.deflate` and zlib's Huffman-only mode write.

Every other stream, damaged ones among them, is left to zlib.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import scratch
from .huffman_codes import (
    END,
    FIXED,
    LENGTHS,
    LITERALS,
    MORE,
    MOST_BITS,
    MOST_LENGTH_BITS,
    ORDER,
    codes_of,
)
from .jit import address, intrinsic, kernel, pointer_to, types

__all__ = ["inflate"]

_TABLE_BITS = 12


@intrinsic
def _get64(_: Any, array: Any, index: Any) -> Any:
    """Read eight bytes, which must be there, the lowest first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        array, index = arguments
        pointer = address(context, builder, signature.args[0], array, index)
        return builder.load(pointer_to(builder, pointer, ir.IntType(64)), align=1)

    return types.uint64(array, types.intp), generate


@kernel
def _is_complete(lengths: Any, count: int) -> bool:
    per_length = np.zeros(MOST_BITS + 1, dtype=np.int64)
    for n in range(count):
        per_length[lengths[n]] += 1
    left = 1
    for length in range(1, MOST_BITS + 1):
        left = 2 * left - per_length[length]
        if left < 0:
            return False
    return bool(left == 0)


@kernel
def _fill_table(lengths: Any, codes: Any, count: int, table: Any, most: int) -> None:
    """Let a table have for the bits that follow a symbol, above the length of its code.

    It has 0 where a code is longer than its `most` bits.
    """
    table[: 1 << most] = 0
    for n in range(count):
        length = lengths[n]
        if 0 < length <= most:
            entry = np.uint16(n << 4 | length)
            for i in range(codes[n], 1 << most, 1 << length):
                table[i] = entry


@kernel
def _peek(data: Any, bit: int) -> int:
    """Return the 24 bits from a bit on, zeros after the data."""
    place, found = bit >> 3, 0
    for k in range(4):
        if place + k < data.size:
            found |= np.int64(data[place + k]) << (8 * k)
    return found >> (bit & 7)


@kernel
def _read_lengths(data: Any, bit: int, lengths: Any) -> int:
    """Read the codes of a dynamic block; return the bit that follows, -1 for others.

    Taken are two distances of a bit each and complete codes that have an end.
    """
    head = _peek(data, bit)
    literals, most = (head & 31) + 257, (head >> 10 & 15) + 4
    if literals != END + 1 or head >> 5 & 31 != 1:
        return -1
    bit += 14
    tree = np.zeros(LENGTHS, dtype=np.int64)
    codes = np.zeros(LENGTHS, dtype=np.int64)
    table = np.zeros(1 << MOST_LENGTH_BITS, dtype=np.uint16)
    for n in range(most):
        tree[ORDER[n]] = _peek(data, bit) & 7
        bit += 3
    if not _is_complete(tree, LENGTHS):
        return -1
    codes_of(tree, LENGTHS, codes)
    _fill_table(tree, codes, LENGTHS, table, MOST_LENGTH_BITS)
    n, total = 0, literals + 2
    every = np.zeros(total, dtype=np.int64)
    while n < total:
        head = _peek(data, bit)
        entry = np.int64(table[head & ((1 << MOST_LENGTH_BITS) - 1)])
        symbol, used = entry >> 4, entry & 15
        more = head >> used
        if symbol < 16:
            every[n] = symbol
            n += 1
        else:
            if symbol == 16:
                if n == 0:
                    return -1
                repeated, count = every[n - 1], (more & 3) + 3
            elif symbol == 17:
                repeated, count = 0, (more & 7) + 3
            else:
                repeated, count = 0, (more & 127) + 11
            if n + count > total:
                return -1
            used += MORE[symbol]
            every[n : n + count] = repeated
            n += count
        bit += used
    if every[END] == 0 or every[total - 2] != 1 or every[total - 1] != 1:
        return -1
    lengths[:literals] = every[:literals]
    if not _is_complete(lengths, literals):
        return -1
    return bit


@kernel
def _fill_pairs(table: Any, pairs: Any) -> None:
    """Let `pairs` have the one or two literals that begin the bits of each place.

    From the lowest bit: two literals, their number in four bits, the bits they take; 0
    where no literal begins.
    """
    for i in range(pairs.size):
        first = np.int64(table[i])
        if first == 0 or first >= END << 4:
            pairs[i] = 0
            continue
        used = first & 15
        second = np.int64(table[i >> used])
        both = used + (second & 15)
        if second == 0 or second >= END << 4 or both > _TABLE_BITS:
            pairs[i] = first >> 4 | 1 << 16 | used << 20
        else:
            pairs[i] = first >> 4 | second >> 4 << 8 | 2 << 16 | both << 20


@kernel
def _read_block(
    data: Any,
    bit: int,
    lengths: Any,
    count: int,
    out: Any,
    place: int,
    table: Any,
    pairs: Any,
) -> tuple[int, int]:
    """Read literals until a block ends; return the bit and the place that follow.

    A bit of -1 is returned for what is no literal or does not fit.
    """
    codes = np.zeros(LITERALS + 2, dtype=np.int64)
    codes_of(lengths, count, codes)
    _fill_table(lengths, codes, count, table, _TABLE_BITS)
    _fill_pairs(table, pairs)
    mask, fifteen = np.uint64((1 << _TABLE_BITS) - 1), np.uint64(15)
    three, seven = np.uint64(3), np.uint64(7)
    sixteen, twenty = np.uint64(16), np.uint64(20)
    while True:
        # Four looks at the table take up to 48 bits, of the 57 and more that are read,
        # and write up to eight literals.
        at = np.uint64(bit)
        more = True
        while (
            more
            and (at >> three) + np.uint64(8) <= np.uint64(data.size)
            and place + 8 <= out.size
        ):
            waiting = _get64(data, np.int64(at >> three)) >> (at & seven)
            for _ in range(4):
                entry = np.uint64(pairs[waiting & mask])
                if not entry:
                    more = False
                    break
                out[place] = np.uint8(entry)
                out[place + 1] = np.uint8(entry >> np.uint64(8))
                place += np.int64(entry >> sixteen & fifteen)
                used = entry >> twenty
                waiting >>= used
                at += used
        bit = np.int64(at)
        # One by one: at the end, and where a code is long.
        head = _peek(data, bit)
        entry_here = np.int64(table[head & ((1 << _TABLE_BITS) - 1)])
        symbol, length = entry_here >> 4, entry_here & 15
        if entry_here == 0:
            symbol = -1
            for n in range(count):
                if lengths[n] > _TABLE_BITS:
                    length = lengths[n]
                    if head & ((1 << length) - 1) == codes[n]:
                        symbol = n
                        break
        bit += length
        if symbol == END:
            return bit, place
        if symbol < 0 or symbol > END or place >= out.size or bit > 8 * data.size:
            return -1, place
        out[place] = np.uint8(symbol)
        place += 1


@kernel
def _inflate(data: Any, out: Any, most_blocks: int) -> bool:
    """Read a stream of literals that is `out` in the end; return whether it is one."""
    table = np.zeros(1 << _TABLE_BITS, dtype=np.uint16)
    pairs = np.zeros(1 << _TABLE_BITS, dtype=np.uint32)
    lengths = np.zeros(LITERALS + 2, dtype=np.int64)
    bit, place, last = 0, 0, 0
    while not last:
        head = _peek(data, bit)
        last, kind = head & 1, head >> 1 & 3
        bit += 3
        if kind == 0:
            start = (bit + 7) >> 3
            if start + 4 > data.size:
                return False
            size = np.int64(data[start]) | np.int64(data[start + 1]) << 8
            other = np.int64(data[start + 2]) | np.int64(data[start + 3]) << 8
            start += 4
            if size ^ other != 0xFFFF or start + size > data.size:
                return False
            if place + size > out.size:
                return False
            out[place : place + size] = data[start : start + size]
            place += size
            bit = 8 * (start + size)
            continue
        most_blocks -= 1
        if most_blocks < 0:
            return False
        if kind == 1:
            lengths[:] = FIXED
            bit, place = _read_block(data, bit, lengths, 288, out, place, table, pairs)
        elif kind == 2:
            lengths[:] = 0
            bit = _read_lengths(data, bit, lengths)
            if bit >= 0:
                bit, place = _read_block(
                    data, bit, lengths, END + 1, out, place, table, pairs
                )
        else:
            return False
        if bit < 0 or bit > 8 * data.size:
            return False
    return bool(place == out.size and (bit + 7) >> 3 == data.size)


def inflate(data: memoryview, count: int) -> NDArray[np.uint8] | None:
    """Return the `count` bytes that a whole stream holds, or None: ask zlib.

    They are overwritten by the next call in the same thread.
    """
    if count > 8 * len(data):
        # A literal has a bit at least: no memory for what cannot be there.
        return None
    out = scratch("inflated", count)
    # Small blocks take more time here than in zlib; no sender writes many.
    most_blocks = count // 4096 + 8
    if _inflate(np.frombuffer(data, dtype=np.uint8), out, most_blocks):
        return out
    return None
