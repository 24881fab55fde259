"""The random rotation of the rows of a NumPy table, and the levels around it.

Blocks of rows are rotated and rounded, or scaled and rotated back, while they are in
the cache.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...coding.symbols import symbol_dtype
from ...compiled import compiled
from ...streams import Dither
from .numpy_blocks import BLOCK, RowBuffers, blocks, column
from .ops import Array

__all__ = ["rotate", "rotate_scaled_back", "round_rotated"]

_SMALLEST = 2.0**-149
_PAIRS = 64
"""So many pairs of neighbours are set apart for the last stages."""
_SHORT = 1 << 11
"""Up to this many entries the number of calls counts, not the work in them."""
_MOST_SHAPES = 64
_SHORTEST_BUFFERS = RowBuffers(16)
"""Longer ones NumPy fills with copies where the rows of two arrays meet."""


def _minus_of_bytes() -> NDArray[np.uint32]:
    """Return for each byte of signs what changes those of eight float32 numbers."""
    every_byte = np.arange(256, dtype=np.uint8)[:, None]
    bits = np.unpackbits(every_byte, axis=1, bitorder="little")
    return bits.astype(np.uint32) << np.uint32(31)


_MINUS = _minus_of_bytes()


class _Step(NamedTuple):
    """Sums and differences of two arrays, or a copy of the first one."""

    first: Array
    second: Array | None
    sums: Array
    differences: Array | None


class _Work(threading.local):
    """Arrays of one block that every call writes over: new ones cost page faults."""

    def __init__(self) -> None:
        self._held: dict[str, NDArray[np.float32]] = {}
        self._steps: dict[tuple[int, int], tuple[list[_Step], Array]] = {}

    def take(self, name: str, size: int) -> NDArray[np.float32]:
        """Return an array of so many entries."""
        if size > BLOCK:
            return np.empty(size, dtype=np.float32)
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = np.empty(BLOCK, dtype=np.float32)
        return held[:size]

    def steps(self, flat: Array, rows: int, width: int) -> tuple[list[_Step], Array]:
        """Return :func:`_hadamard_steps`; of a block, which is "first", they are kept.

        To cut arrays in halves takes as long as to add a few.
        """
        if flat.size > BLOCK:
            return _hadamard_steps(flat, np.empty_like(flat), rows, width)
        known = self._steps.get((rows, width))
        if known is None:
            if len(self._steps) >= _MOST_SHAPES:
                self._steps.clear()
            known = _hadamard_steps(flat, self.take("second", flat.size), rows, width)
            self._steps[rows, width] = known
        return known


_WORK = _Work()


def rotate(table: Array, signs: list[Array], inverse: bool) -> Array:
    """Return :meth:`ArrayOps.rotate`."""
    result = np.empty_like(table)
    for r, _ in blocks(*table.shape, whole_rows=True):
        _rotate_rows(table[r], signs, r, inverse, result[r])
    return result


def round_rotated(
    table: Array,
    signs: list[Array],
    scales: Array,
    levels: float,
    high: int,
    dither: Dither,
    out: Array | None,
) -> Array:
    """Return :meth:`ArrayOps.round_rotated`."""
    rows, width = table.shape
    if out is None:
        out = np.empty((rows, width), dtype=symbol_dtype(-high, high))
    # Any positive scale gives the zeros of a row of zeros.
    scales = np.maximum(np.asarray(scales, dtype=np.float32), np.float32(_SMALLEST))
    factor = np.float32(levels * 2.0**16)
    fast = compiled("rotation", table.size, shortest=1)
    if fast is not None and table.flags.c_contiguous and out.flags.c_contiguous:
        scales = scales.reshape(-1)
        for r, _ in blocks(rows, width, whole_rows=True):
            drawn = dither.part(r.start * width, r.stop * width)
            fast.round_rows(table[r], out[r], r.start, signs, scales[r], factor, drawn)
        return out
    scales = scales.reshape(-1, 1)
    for r, _ in blocks(rows, width, whole_rows=True):
        block = table[r]
        t = _WORK.take("rotated", block.size).reshape(block.shape)
        _rotate_rows(block, signs, r, False, t)
        if rows == 1:
            t /= scales[0]
        else:
            with _SHORTEST_BUFFERS:
                t /= scales[r]
        t *= factor
        np.rint(t, out=t)
        # |t| is at most 2^16 levels, and a little: no sum overflows.
        k = _WORK.take("integers", t.size).view(np.int32).reshape(t.shape)
        np.copyto(k, t, casting="unsafe")
        j = t.view(np.int32)
        j[...] = dither.part(r.start * width, r.stop * width).reshape(t.shape)
        k += j
        k >>= 16
        np.copyto(out[r], k, casting="unsafe")
    return out


def rotate_scaled_back(
    integers: Array,
    scales: Array,
    signs: list[Array],
    dither: Dither,
    out: Array | None = None,
) -> Array:
    """Return :meth:`ArrayOps.rotate_scaled_back`."""
    rows, width = integers.shape
    result = np.empty((rows, width), dtype=np.float32) if out is None else out
    wide = np.int32 if integers.itemsize == 1 else np.int64
    scales = column(scales) * np.float32(2.0**-17)
    fast = compiled("rotation", integers.size, shortest=1)
    if fast is not None and integers.flags.c_contiguous and result.flags.c_contiguous:
        flat = np.asarray(scales, dtype=np.float32).reshape(-1)
        for r, _ in blocks(rows, width, whole_rows=True):
            drawn = dither.part(r.start * width, r.stop * width)
            fast.rotate_back(integers[r], result[r], r.start, signs, flat[r], drawn)
        return result
    for r, _ in blocks(rows, width, whole_rows=True):
        # (k - u + 1/2) * scale, in integers up to the product.
        k = integers[r].astype(wide)
        k <<= 16
        j = dither.part(r.start * width, r.stop * width).reshape(k.shape)
        k -= j.astype(wide)
        k <<= 1
        k += 65535
        y = _WORK.take("first", k.size).reshape(k.shape)
        np.copyto(y, k, casting="unsafe")
        if rows == 1:
            y *= scales
        else:
            with _SHORTEST_BUFFERS:
                y *= scales[r]
        _rotate_rows(y, signs, r, True, result[r])
    return result


def _rotate_rows(
    table: Array, signs: list[Array], rows: slice, inverse: bool, out: Array
) -> None:
    """Rotate some rows of a table into `out`, their first 2^m entries, then the last.

    Parameters
    ----------
    table : Array
        Those rows, shape (rows, width).
    signs : list[Array]
        Bytes of signs of all rows, a bit each, for each rotation.
    rows : slice
        Which rows they are.
    inverse : bool
        Whether to undo it: the last entries, then the first.
    out : Array
        Where to write them.
    """
    count, width = table.shape
    part = 1 << (width.bit_length() - 1)
    factor = np.float32(part**-0.5)
    if part < width:
        out[...] = table
        table = out
    steps = list(zip((slice(0, part), slice(width - part, width)), signs, strict=False))
    for span, flips in reversed(steps) if inverse else steps:
        minus = _minus(flips, rows, part)
        x, y = table[:, span], out[:, span]
        flat = _WORK.take("first", count * part)
        first = flat.reshape(count, part)
        if inverse:
            if x.base is not flat.base or x.size > BLOCK:
                first[...] = x
        else:
            np.bitwise_xor(x.view(np.uint32), minus, out=first.view(np.uint32))
        transformed = _hadamard(flat, count, part)
        np.multiply(transformed.reshape(count, part), factor, out=y)
        if inverse:
            bits = y.view(np.uint32)
            np.bitwise_xor(bits, minus, out=bits)


def _minus(flips: NDArray[np.uint8], rows: slice, part: int) -> NDArray[np.uint32]:
    """Return the bits of the signs of some rows, shape (rows, part)."""
    first, last = rows.start * part, rows.stop * part
    if part % 8 == 0:
        taken = _MINUS.take(flips[first // 8 : last // 8], axis=0)
        return taken.reshape(-1, part)
    bits = np.unpackbits(flips, count=last, bitorder="little")[first:]
    minus: NDArray[np.uint32] = bits.astype(np.uint32) << np.uint32(31)
    return minus.reshape(-1, part)


def _hadamard(flat: Array, rows: int, width: int) -> Array:
    """Walsh-Hadamard transform of each row, in stages of falling stride; flat.

    A stage of stride s replaces every pair (a_i, a_{i+s}) by its sum and difference.
    `flat`, in a block the array "first", is overwritten, and what is returned will be.
    """
    steps, end = _WORK.steps(flat, rows, width)
    with _SHORTEST_BUFFERS if flat.size > _SHORT else nullcontext():
        for first, second, sums, differences in steps:
            if second is None:
                np.copyto(sums, first)
            else:
                np.add(first, second, sums)
                np.subtract(first, second, differences)
    return end


def _hadamard_steps(
    old: Array, new: Array, rows: int, width: int
) -> tuple[list[_Step], Array]:
    """Return the steps of :func:`_hadamard` from one array to the other and back.

    And the array that they end in. Of few entries the two halves of a row meet in every
    stage, and what they make is written pairwise, which brings the pairs of the next
    stage into the halves, and in the end all into their places. Of more, stages of long
    stride go over the rows as they are; for those of short stride pairs of neighbours
    are transposed, so that their loops are long too; last of all neighbours meet.
    """
    steps: list[_Step] = []
    half = width // 2
    if old.size <= _SHORT:
        # Of one row a flat array: a loop over rows takes time, even over one.
        shape = (width,) if rows == 1 else (rows, width)
        for _ in range(width.bit_length() - 1):
            table, other = old.reshape(shape), new.reshape(shape)
            halves = table[..., :half], table[..., half:]
            steps.append(_Step(*halves, other[..., ::2], other[..., 1::2]))
            old, new = new, old
        return steps, old
    pairs, stride = min(_PAIRS, half), half
    while pairs and stride >= 2 * pairs:
        steps.append(_stage(old, new, stride))
        old, new, stride = new, old, stride // 2
    groups = old.size // max(2 * pairs, 1)
    if pairs > 1:
        steps.append(_transposition(old, new, groups, pairs))
        old, new, stride = new, old, pairs // 2
        while stride:
            steps.append(_stage(old, new, 2 * stride * groups))
            old, new, stride = new, old, stride // 2
        steps.append(_transposition(old, new, pairs, groups))
        old, new = new, old
    if width > 1:
        steps.append(_Step(old[::2], old[1::2], new[::2], new[1::2]))
        old = new
    return steps, old


def _stage(old: Array, new: Array, stride: int) -> _Step:
    old, new = old.reshape(-1, 2, stride), new.reshape(-1, 2, stride)
    return _Step(old[:, 0], old[:, 1], new[:, 0], new[:, 1])


def _transposition(old: Array, new: Array, rows: int, columns: int) -> _Step:
    """Return the step that transposes a table of pairs."""
    table = old.view(np.uint64).reshape(rows, columns)
    return _Step(table.T, None, new.view(np.uint64).reshape(columns, rows), None)
