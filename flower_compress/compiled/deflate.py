"""Deflate streams without matches, as zlib's Huffman-only mode writes them.

The bytes are those that zlib writes at level 1 with Z_HUFFMAN_ONLY, blocks cut by full
flushes: its heap, its limits of code lengths and its choice between stored, fixed and
dynamic blocks (RFC 1951; trees.c of zlib 1.2.11 to 1.3.1). :func:`writes_as_zlib` asks
the zlib at hand, which may be another one.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import scratch
from .huffman_codes import (
    DISTANCES,
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

__all__ = ["deflate", "writes_as_zlib"]

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
    room = 2 * LITERALS + 1
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
    per_length = np.zeros(MOST_BITS + 2, dtype=np.int64)
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
    room = 2 * LITERALS + 2
    counts = np.zeros(room, dtype=np.int64)
    lengths = np.zeros(LITERALS + 2, dtype=np.int64)
    _count(data, counts)
    counts[END] = 1
    fixed, dynamic = 0, 0
    literals = counts[: END + 1].copy()
    _code_lengths(counts, LITERALS, MOST_BITS, lengths)
    for n in range(END + 1):
        fixed += literals[n] * FIXED[n]
        dynamic += literals[n] * lengths[n]
    # There are no matches; zlib gives the first two distances a bit each.
    distances = np.ones(2, dtype=np.int64)
    pairs = np.empty((LITERALS + DISTANCES, 2), dtype=np.int64)
    used = _runs_of_lengths(lengths, END, pairs, 0)
    used = _runs_of_lengths(distances, 1, pairs, used)
    counts[:] = 0
    for n in range(used):
        counts[pairs[n, 0]] += 1
        dynamic += MORE[pairs[n, 0]]
    tree = counts[:LENGTHS].copy()
    tree_lengths = np.zeros(LENGTHS + 1, dtype=np.int64)
    _code_lengths(counts, LENGTHS, MOST_LENGTH_BITS, tree_lengths)
    for n in range(LENGTHS):
        dynamic += tree[n] * tree_lengths[n]
    most = LENGTHS - 1
    while most >= 3 and tree_lengths[ORDER[most]] == 0:
        most -= 1
    dynamic += 3 * (most + 1) + 14
    codes = np.zeros(LITERALS + 2, dtype=np.int64)
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
        lengths[:] = FIXED
        codes_of(lengths, lengths.size, codes)
    else:
        _put(out, state, 4 + last, 3)
        _put(out, state, END + 1 - 257, 5)
        _put(out, state, 1, 5)
        _put(out, state, most + 1 - 4, 4)
        for n in range(most + 1):
            _put(out, state, tree_lengths[ORDER[n]], 3)
        codes_of(tree_lengths, LENGTHS, codes)
        for n in range(used):
            symbol = pairs[n, 0]
            _put(out, state, codes[symbol], tree_lengths[symbol])
            if symbol >= 16:
                _put(out, state, pairs[n, 1], MORE[symbol])
        codes_of(lengths, END + 1, codes)
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
    _put(out, state, codes[END], lengths[END])


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
