"""Deflate streams without matches, as zlib's Huffman-only mode writes them.

The bytes are those that zlib writes at level 1 with Z_HUFFMAN_ONLY, blocks cut by full
flushes: its heap, its limits of code lengths and its choice between stored, fixed and
dynamic blocks (RFC 1951; trees.c of zlib 1.2.11 to 1.3.1). :func:`writes_as_zlib` asks
the zlib at hand, which may be another one. The reader takes such streams only, and
leaves every other, damaged ones among them, to zlib.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import scratch
from .jit import address, intrinsic, kernel, pointer_to, types

__all__ = ["deflate", "inflate", "writes_as_zlib"]

_END = 256
_LITERALS, _DISTANCES, _LENGTHS = 286, 30, 19
_MOST_BITS, _MOST_LENGTH_BITS = 15, 7
_ORDER = np.array(
    [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], dtype=np.int64
)
_MORE = np.zeros(_LITERALS, dtype=np.int64)
_MORE[16:19] = 2, 3, 7
"""Bits that follow the lengths 16, 17 and 18."""
_NONE = np.zeros(_LITERALS, dtype=np.int64)
_FIXED = np.repeat(np.array([8, 9, 7, 8]), (144, 112, 24, 8)).astype(np.int64)
_FIXED_DISTANCES = np.full(_DISTANCES, 5, dtype=np.int64)

_TABLE_BITS = 12
_BLOCK_OVERHEAD = 32
"""Bytes of a block beyond its own if they are stored, with the flush and room to write
eight at once."""


@intrinsic
def _put64(_: Any, array: Any, index: Any, number: Any) -> Any:
    """Write eight bytes, which must be there, the lowest first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, number = arguments
        pointer = address(context, builder, signature.args[0], array, index)
        builder.store(number, pointer_to(builder, pointer, number.type), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), generate


@intrinsic
def _get64(_: Any, array: Any, index: Any) -> Any:
    """Read eight bytes, which must be there, the lowest first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        array, index = arguments
        pointer = address(context, builder, signature.args[0], array, index)
        return builder.load(pointer_to(builder, pointer, ir.IntType(64)), align=1)

    return types.uint64(array, types.intp), generate


# --- Code lengths, as zlib finds them -------------------------------------------------


@kernel
def _sift(heap: Any, size: int, place: int, counts: Any, depth: Any) -> None:
    """Move an entry down until none below it is smaller."""
    v, k, j = heap[place], place, 2 * place
    while j <= size:
        if j < size:
            a, b = heap[j + 1], heap[j]
            if counts[a] < counts[b] or (
                counts[a] == counts[b] and depth[a] <= depth[b]
            ):
                j += 1
        b = heap[j]
        if counts[v] < counts[b] or (counts[v] == counts[b] and depth[v] <= depth[b]):
            break
        heap[k] = b
        k, j = j, 2 * j
    heap[k] = v


@kernel
def _code_lengths(counts: Any, elements: int, most: int, lengths: Any) -> int:
    """Write the length of each code; return the last that has one.

    `counts` has room for twice the elements and what is built of them.
    """
    room = 2 * _LITERALS + 1
    heap = np.empty(room + 1, dtype=np.int64)
    depth = np.zeros(room + 1, dtype=np.int64)
    parents = np.zeros(room + 1, dtype=np.int64)
    inner = np.zeros(room + 1, dtype=np.int64)
    size, top, last = 0, room, -1
    for n in range(elements):
        lengths[n] = 0
        if counts[n]:
            size += 1
            heap[size] = last = n
    while size < 2:
        # There are two codes at least.
        if last < 2:
            last += 1
            node = last
        else:
            node = 0
        size += 1
        heap[size] = node
        counts[node] = 1
    for n in range(size // 2, 0, -1):
        _sift(heap, size, n, counts, depth)
    node = elements
    while size >= 2:
        n = heap[1]
        heap[1] = heap[size]
        size -= 1
        _sift(heap, size, 1, counts, depth)
        m = heap[1]
        heap[top - 1], heap[top - 2] = n, m
        top -= 2
        counts[node] = counts[n] + counts[m]
        depth[node] = max(depth[n], depth[m]) + 1
        parents[n] = parents[m] = node
        heap[1] = node
        node += 1
        _sift(heap, size, 1, counts, depth)
    top -= 1
    heap[top] = heap[1]
    # From the root downwards: `inner` has the lengths of all nodes.
    per_length = np.zeros(_MOST_BITS + 2, dtype=np.int64)
    overflow = 0
    inner[heap[top]] = 0
    h = top + 1
    while h < room:
        n = heap[h]
        bits = inner[parents[n]] + 1
        if bits > most:
            bits = most
            overflow += 1
        inner[n] = bits
        if n < elements:
            lengths[n] = bits
            per_length[bits] += 1
        h += 1
    if overflow:
        while overflow > 0:
            bits = most - 1
            while per_length[bits] == 0:
                bits -= 1
            per_length[bits] -= 1
            per_length[bits + 1] += 2
            per_length[most] -= 1
            overflow -= 2
        for bits in range(most, 0, -1):
            n = per_length[bits]
            while n:
                h -= 1
                m = heap[h]
                if m < elements:
                    lengths[m] = bits
                    n -= 1
    return last


@kernel
def _codes(lengths: Any, count: int, codes: Any) -> None:
    """Write the code of each length, its first bit the lowest."""
    per_length = np.zeros(_MOST_BITS + 1, dtype=np.int64)
    following = np.zeros(_MOST_BITS + 1, dtype=np.int64)
    for n in range(count):
        per_length[lengths[n]] += 1
    per_length[0] = 0
    code = 0
    for bits in range(1, _MOST_BITS + 1):
        code = (code + per_length[bits - 1]) << 1
        following[bits] = code
    for n in range(count):
        bits = lengths[n]
        if bits:
            code, turned = following[bits], 0
            following[bits] += 1
            for _ in range(bits):
                turned = (turned << 1) | (code & 1)
                code >>= 1
            codes[n] = turned
        else:
            codes[n] = 0


@kernel
def _runs_of_lengths(lengths: Any, last: int, out: Any, place: int) -> int:
    """Write lengths as (symbol, what follows) pairs; return where the next begins."""
    before, following, count = -1, lengths[0], 0
    longest, shortest = 7, 4
    if following == 0:
        longest, shortest = 138, 3
    for n in range(last + 1):
        current = following
        following = lengths[n + 1] if n < last else -2
        count += 1
        if count < longest and current == following:
            continue
        if count < shortest:
            for _ in range(count):
                out[place, 0], out[place, 1] = current, 0
                place += 1
        elif current != 0:
            if current != before:
                out[place, 0], out[place, 1] = current, 0
                place += 1
                count -= 1
            out[place, 0], out[place, 1] = 16, count - 3
            place += 1
        elif count <= 10:
            out[place, 0], out[place, 1] = 17, count - 3
            place += 1
        else:
            out[place, 0], out[place, 1] = 18, count - 11
            place += 1
        count, before = 0, current
        if following == 0:
            longest, shortest = 138, 3
        elif current == following:
            longest, shortest = 6, 3
        else:
            longest, shortest = 7, 4
    return place


# --- Writing --------------------------------------------------------------------------


@kernel
def _put(out: Any, state: Any, number: int, bits: int) -> None:
    """Append up to 16 bits; the state is the place, the bits waiting, their number."""
    state[1] |= np.uint64(number) << state[2]
    state[2] += np.uint64(bits)
    _put64(out, np.int64(state[0]), state[1])
    whole = state[2] >> np.uint64(3)
    state[0] += whole
    state[1] >>= whole << np.uint64(3)
    state[2] &= np.uint64(7)


@kernel
def _to_byte(out: Any, state: Any) -> None:
    if state[2]:
        _put(out, state, 0, 8 - np.int64(state[2]))


@kernel
def _count(data: Any, counts: Any) -> None:
    # Four tables: equal neighbours need not wait for each other.
    parts = np.zeros((4, 256), dtype=np.int32)
    whole = data.size // 4 * 4
    for i in range(0, whole, 4):
        parts[0, data[i]] += 1
        parts[1, data[i + 1]] += 1
        parts[2, data[i + 2]] += 1
        parts[3, data[i + 3]] += 1
    for i in range(whole, data.size):
        parts[0, data[i]] += 1
    for n in range(256):
        counts[n] = parts[0, n] + parts[1, n] + parts[2, n] + parts[3, n]


@kernel
def _put_block(data: Any, last: int, out: Any, state: Any) -> None:
    """Write one block, the shortest of three kinds."""
    room = 2 * _LITERALS + 2
    counts = np.zeros(room, dtype=np.int64)
    lengths = np.zeros(_LITERALS + 2, dtype=np.int64)
    _count(data, counts)
    counts[_END] = 1
    fixed, dynamic = 0, 0
    literals = counts[: _END + 1].copy()
    _code_lengths(counts, _LITERALS, _MOST_BITS, lengths)
    for n in range(_END + 1):
        fixed += literals[n] * _FIXED[n]
        dynamic += literals[n] * lengths[n]
    # There are no matches; zlib gives the first two distances a bit each.
    distances = np.ones(2, dtype=np.int64)
    pairs = np.empty((_LITERALS + _DISTANCES, 2), dtype=np.int64)
    used = _runs_of_lengths(lengths, _END, pairs, 0)
    used = _runs_of_lengths(distances, 1, pairs, used)
    counts[:] = 0
    for n in range(used):
        counts[pairs[n, 0]] += 1
        dynamic += _MORE[pairs[n, 0]]
    tree = counts[:_LENGTHS].copy()
    tree_lengths = np.zeros(_LENGTHS + 1, dtype=np.int64)
    _code_lengths(counts, _LENGTHS, _MOST_LENGTH_BITS, tree_lengths)
    for n in range(_LENGTHS):
        dynamic += tree[n] * tree_lengths[n]
    most = _LENGTHS - 1
    while most >= 3 and tree_lengths[_ORDER[most]] == 0:
        most -= 1
    dynamic += 3 * (most + 1) + 14
    codes = np.zeros(_LITERALS + 2, dtype=np.int64)
    fixed, dynamic = (fixed + 10) >> 3, (dynamic + 10) >> 3
    if data.size + 4 <= min(fixed, dynamic):
        _put(out, state, last, 3)
        _to_byte(out, state)
        _put(out, state, data.size, 16)
        _put(out, state, data.size ^ 0xFFFF, 16)
        place = np.int64(state[0])
        out[place : place + data.size] = data
        state[0] += np.uint64(data.size)
        return
    if fixed <= dynamic:
        _put(out, state, 2 + last, 3)
        lengths[:] = _FIXED
        _codes(lengths, lengths.size, codes)
    else:
        _put(out, state, 4 + last, 3)
        _put(out, state, _END + 1 - 257, 5)
        _put(out, state, 1, 5)
        _put(out, state, most + 1 - 4, 4)
        for n in range(most + 1):
            _put(out, state, tree_lengths[_ORDER[n]], 3)
        _codes(tree_lengths, _LENGTHS, codes)
        for n in range(used):
            symbol = pairs[n, 0]
            _put(out, state, codes[symbol], tree_lengths[symbol])
            if symbol >= 16:
                _put(out, state, pairs[n, 1], _MORE[symbol])
        _codes(lengths, _END + 1, codes)
    # The code above its length: one look at a table for each byte.
    words = np.empty(256, dtype=np.uint32)
    for n in range(256):
        words[n] = codes[n] << 4 | lengths[n]
    place, waiting, bits = np.int64(state[0]), state[1], state[2]
    four, three, fifteen = np.uint64(4), np.uint64(3), np.uint64(15)
    whole = data.size // 3 * 3
    for i in range(0, whole, 3):
        # Up to 7 bits wait, and three codes have up to 45.
        for k in range(3):
            word = np.uint64(words[data[i + k]])
            waiting |= (word >> four) << bits
            bits += word & fifteen
        _put64(out, place, waiting)
        done = bits >> three
        place += np.int64(done)
        waiting >>= done << three
        bits &= np.uint64(7)
    state[0], state[1], state[2] = np.uint64(place), waiting, bits
    for i in range(whole, data.size):
        _put(out, state, codes[data[i]], lengths[data[i]])
    _put(out, state, codes[_END], lengths[_END])


@kernel
def _deflate(data: Any, block: int, out: Any) -> int:
    """Write the stream of `data`; return its length."""
    state = np.zeros(3, dtype=np.uint64)
    for start in range(0, data.size, block):
        if start:
            # A full flush: an empty block that is stored.
            _put(out, state, 0, 3)
            _to_byte(out, state)
            _put(out, state, 0, 16)
            _put(out, state, 0xFFFF, 16)
        part = data[start : start + block]
        _put_block(part, 1 if start + block >= data.size else 0, out, state)
    _to_byte(out, state)
    return np.int64(state[0])


def deflate(data: NDArray[np.uint8], block: int) -> bytes:
    """Return the deflate stream of at least one byte, `block` of them at a time."""
    blocks = -(-data.size // block)
    out = scratch("deflated", data.size + _BLOCK_OVERHEAD * (blocks + 1))
    return out[: _deflate(data, block, out)].tobytes()


@lru_cache(maxsize=1)
def writes_as_zlib() -> bool:
    """Return whether the zlib at hand writes what :func:`deflate` does."""
    for data in _samples():
        other = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
        half = len(data) // 2 + 1
        parts = [other.compress(data[:half].data)]
        if half < len(data):
            parts += [other.flush(zlib.Z_FULL_FLUSH), other.compress(data[half:].data)]
        parts.append(other.flush())
        if deflate(data, half) != b"".join(parts):
            return False
    return True


def _samples() -> list[NDArray[np.uint8]]:
    """Return bytes for which zlib writes stored, fixed and dynamic blocks."""
    ramp = np.arange(40_000, dtype=np.int64)
    # As many of each as Fibonacci's numbers say: codes would be too long.
    steep, a, b = [], 1, 1
    for value in range(21):
        steep.append(np.full(a, 7 * value))
        a, b = b, a + b
    return [
        each.astype(np.uint8)
        for each in (
            ramp[:1],
            ramp[:300],
            ramp * ramp * 40_503 >> 7 & 255,
            (ramp * ramp * 40_503 >> 7 & 255) ** 2 >> 9,
            np.concatenate(steep),
            ramp[:9000] * 0,
        )
    ]


# --- Reading --------------------------------------------------------------------------


@kernel
def _is_complete(lengths: Any, count: int) -> bool:
    per_length = np.zeros(_MOST_BITS + 1, dtype=np.int64)
    for n in range(count):
        per_length[lengths[n]] += 1
    left = 1
    for length in range(1, _MOST_BITS + 1):
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
    if literals != _END + 1 or head >> 5 & 31 != 1:
        return -1
    bit += 14
    tree = np.zeros(_LENGTHS, dtype=np.int64)
    codes = np.zeros(_LENGTHS, dtype=np.int64)
    table = np.zeros(1 << _MOST_LENGTH_BITS, dtype=np.uint16)
    for n in range(most):
        tree[_ORDER[n]] = _peek(data, bit) & 7
        bit += 3
    if not _is_complete(tree, _LENGTHS):
        return -1
    _codes(tree, _LENGTHS, codes)
    _fill_table(tree, codes, _LENGTHS, table, _MOST_LENGTH_BITS)
    n, total = 0, literals + 2
    every = np.zeros(total, dtype=np.int64)
    while n < total:
        head = _peek(data, bit)
        entry = np.int64(table[head & ((1 << _MOST_LENGTH_BITS) - 1)])
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
            used += _MORE[symbol]
            every[n : n + count] = repeated
            n += count
        bit += used
    if every[_END] == 0 or every[total - 2] != 1 or every[total - 1] != 1:
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
        if first == 0 or first >= _END << 4:
            pairs[i] = 0
            continue
        used = first & 15
        second = np.int64(table[i >> used])
        both = used + (second & 15)
        if second == 0 or second >= _END << 4 or both > _TABLE_BITS:
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
    codes = np.zeros(_LITERALS + 2, dtype=np.int64)
    _codes(lengths, count, codes)
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
        if symbol == _END:
            return bit, place
        if symbol < 0 or symbol > _END or place >= out.size or bit > 8 * data.size:
            return -1, place
        out[place] = np.uint8(symbol)
        place += 1


@kernel
def _inflate(data: Any, out: Any, most_blocks: int) -> bool:
    """Read a stream of literals that is `out` in the end; return whether it is one."""
    table = np.zeros(1 << _TABLE_BITS, dtype=np.uint16)
    pairs = np.zeros(1 << _TABLE_BITS, dtype=np.uint32)
    lengths = np.zeros(_LITERALS + 2, dtype=np.int64)
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
            lengths[:] = _FIXED
            bit, place = _read_block(data, bit, lengths, 288, out, place, table, pairs)
        elif kind == 2:
            lengths[:] = 0
            bit = _read_lengths(data, bit, lengths)
            if bit >= 0:
                bit, place = _read_block(
                    data, bit, lengths, _END + 1, out, place, table, pairs
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
