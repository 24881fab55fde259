"""The functions that operators compute with, on NumPy arrays.

Long vectors are worked on in blocks that stay in the cache; on short ones the number of
calls counts.
"""

# ruff: noqa: D102 - ArrayOps says what each function computes.

from __future__ import annotations

import math
import struct
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..coding.bits import FEW
from ..coding.symbols import symbol_dtype
from ..streams import Draws, Stream
from .arrays import Array, ArrayOps, no_level

__all__ = ["NUMPY", "NumpyOps"]

_FEW = 8
"""So many entries are looked at one by one: faster than a reduction."""

_SMALLEST = 2.0**-149
_FLOAT32 = struct.Struct("<f")

_NOTHING: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
_ZERO = np.zeros(1, dtype=np.float32)

_BLOCK = 1 << 16
"""Entries that are processed at a time: they stay in the cache."""


class NumpyOps(ArrayOps):
    """NumPy, in blocks that stay in the cache."""

    def vector(self, x: Array) -> Array:
        if isinstance(x, np.ndarray) and x.dtype == np.float32 and x.flags.c_contiguous:
            return x.reshape(-1)
        # An entry beyond float32 becomes infinite: the operator reports it.
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(x, dtype=np.float32).reshape(-1)

    def draws(self, stream: Stream) -> Draws:
        return stream.draws()

    def shared_draws(self, stream: Stream) -> Draws:
        return stream.draws()

    def within(self, x: Array, low: float, high: float) -> bool:
        # No comparison with NaN holds, and a NaN is its array's minimum.
        if isinstance(x, float):
            return low <= x <= high
        if x.size <= _FEW:
            return all(low <= entry <= high for entry in x.tolist())
        return bool(x.min().item() >= low) and bool(x.max().item() <= high)

    def num_infinite(self, x: Array) -> tuple[int, int]:
        finite = np.isfinite(x)
        return int(x.size - np.count_nonzero(finite)), int(np.argmin(finite))

    def squares(self, table: Array) -> Array:
        return _row_number(_row_sums(table, _add_squares))

    def abs_sums(self, table: Array) -> Array:
        return _row_number(_row_sums(table, _add_magnitudes))

    def reaches(self, table: Array, bounds: Array) -> Array:
        bounds = _column(bounds)
        if table.size <= _BLOCK:
            return np.abs(table) >= bounds
        result = np.empty(table.shape, dtype=bool)
        for r, c in _blocks(*table.shape):
            np.greater_equal(np.abs(table[r, c]), _of_rows(bounds, r), out=result[r, c])
        return result

    def same(self, x: Array, y: Array) -> bool:
        return x == y if isinstance(x, float) else bool((x == y).all())

    def tails(self, table: Array, bounds: Array) -> tuple[Array, Array]:
        bounds = _column(bounds)
        if table.size <= _BLOCK:
            counts, sums = _tails(table, bounds)
        else:
            counts, sums = np.zeros((2, table.shape[0]), dtype=np.float64)
            for r, c in _blocks(*table.shape):
                more, larger = _tails(table[r, c], _of_rows(bounds, r))
                counts[r] += more
                sums[r] += larger
        return _row_number(counts), _row_number(sums)

    def limit(self, table: Array, bounds: Array) -> Array:
        bounds = _column(bounds)
        limited = np.maximum(table, -bounds)
        return np.minimum(limited, bounds, out=limited)

    def extremes(self, table: Array) -> tuple[Array, Array]:
        low, high = _extremes(table)
        return _row_number(low) + 0.0, _row_number(high) + 0.0

    def moments(self, table: Array) -> tuple[Array, Array, Array]:
        if table.size <= _BLOCK:
            return super().moments(table)
        low, high = table[:, 0].copy(), table[:, 0].copy()
        squares = np.zeros(low.size, dtype=np.float64)
        for r, c in _blocks(*table.shape):
            block = table[r, c]
            least, greatest = _extremes(block)
            np.minimum(low[r], least, out=low[r])
            np.maximum(high[r], greatest, out=high[r])
            squares[r] += _add_squares(block)
        low, high = _row_number(low), _row_number(high)
        return low + 0.0, high + 0.0, _row_number(squares)

    def where(self, condition: Array, yes: Any, no: Any) -> Array:
        if isinstance(condition, bool):
            return yes if condition else no
        return np.where(condition, yes, no)

    def divide(self, x: Array, divisor: Array | float) -> Array:
        return x / divisor

    def sqrt(self, x: Array) -> Array:
        return math.sqrt(x) if isinstance(x, float) else np.sqrt(x)

    def ceil(self, x: Array) -> Array:
        return float(math.ceil(x)) if isinstance(x, float) else np.ceil(x)

    def clip(self, x: Array, low: float | None, high: float | None) -> Array:
        if isinstance(x, float):
            x = x if low is None else max(x, low)
            return x if high is None else min(x, high)
        # np.clip takes three times as long on a few entries.
        if low is not None:
            x = np.maximum(x, low)
        return x if high is None else np.minimum(x, high)

    def float32(self, x: Array) -> Array:
        if isinstance(x, float):
            return _FLOAT32.unpack(_FLOAT32.pack(x))[0]
        return x.astype(np.float32)

    def float64(self, x: Array) -> Array:
        return x if isinstance(x, float) else x.astype(np.float64)

    def int64(self, x: Array) -> Array:
        return x.astype(np.int64)

    def narrow(self, x: Array, low: int, high: int) -> Array:
        return x.astype(symbol_dtype(low, high))

    def values(self, numbers: list[Array]) -> Array:
        if isinstance(numbers[0], float):
            return np.array(numbers, dtype=np.float32)
        return super().values(numbers)

    def row_numbers(self, values: Array, rows: int) -> list[Array]:
        if rows == 1:
            numbers: list[float] = values.tolist()
            return numbers
        return super().row_numbers(values, rows)

    def concat(self, parts: list[Array]) -> Array:
        return np.concatenate(parts)

    def empty(self) -> Array:
        return np.zeros(0, dtype=np.float32)

    def integers(self, count: int, low: int, high: int) -> Array:
        return np.empty(count, dtype=symbol_dtype(low, high))

    def falses(self, dim: int) -> Array:
        return np.zeros(dim, dtype=bool)

    def count(self, mask: Array) -> int:
        return int(np.count_nonzero(mask))

    def multiples(self, number: int, count: int) -> Array:
        return np.arange(count, dtype=np.int64) * number

    def search(self, positions: Array, bounds: list[int]) -> list[int]:
        found: list[int] = positions.searchsorted(np.array(bounds)).tolist()
        return found

    def positions(self, mask: Array) -> Array:
        return np.flatnonzero(mask)

    def scatter(self, dim: int, positions: Array, values: Array) -> Array:
        result = np.zeros(dim, dtype=np.float32)
        result[positions] = values
        return result

    def densify(self, dim: int, positions: Array, entries: Array) -> Array:
        result = np.zeros(dim, dtype=entries.dtype)
        result[positions] = entries
        return result

    def top_k(self, table: Array, k: int) -> Array:
        rows, width = table.shape
        if rows == 1:
            return _top_k(table[0], k)
        magnitudes = np.abs(table)
        magnitudes.partition(width - k, axis=1)
        thresholds = magnitudes[:, width - k, None].copy()
        np.abs(table, out=magnitudes)
        kept = magnitudes > thresholds
        missing = k - np.count_nonzero(kept, axis=1)
        ties = magnitudes == thresholds
        kept |= ties & (ties.cumsum(axis=1) <= missing[:, None])
        return np.flatnonzero(kept)

    def bernoulli(self, p: float, count: int, draws: Draws) -> Array:
        dither, t = draws.dither(count), 65536.0 * p
        whole = math.floor(t)
        result: Array = dither < whole
        ties = np.flatnonzero(dither == whole)
        if ties.size:
            result[ties] = draws.uniforms(ties.size) < t - whole
        return result

    def round(
        self,
        table: Array,
        offsets: Array | None,
        scales: Array,
        levels: float,
        high: int,
        dither: Array,
        refine: Draws | None,
        below: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        rows, width = table.shape
        dtype = symbol_dtype(-high, high) if out is None else out.dtype
        first = None if below is None else _integer_column(below, dtype)
        # Any positive scale gives the zeros of a row of zeros.
        scales = _column(self.clip(scales, _SMALLEST, None))
        shifts = None if offsets is None else _column(offsets)
        factor = levels * 256.0**dither.itemsize
        dither = dither.reshape(rows, width)
        if table.size <= _BLOCK:
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
            for r, c in _blocks(rows, width):
                x, block = table[r, c], result[r, c]
                # The first to read `x` waits for the memory: this one least of all.
                zeros = None if first is None else x == 0
                k, tied, at_ties = _round(
                    x,
                    _of_rows(shifts, r),
                    _of_rows(scales, r),
                    factor,
                    dither[r, c],
                    refine,
                    dtype,
                )
                block[...] = k
                if first is not None:
                    _count_from_zero(block, _of_rows(first, r), zeros)
                if tied.size:
                    # A block has whole rows, or is a part of one.
                    places.append(tied + (r.start * width + c.start))
                    values.append(at_ties)
            tied = np.concatenate(places) if places else _NOTHING
            at_ties = np.concatenate(values) if values else _NOTHING
        if refine is not None and tied.size:
            rest = at_ties.astype(np.float64) - np.floor(at_ties)
            tied = tied[refine.uniforms(tied.size) < rest]
            flat = result.reshape(-1)
            more = flat.take(tied)
            if first is None:
                more += 1
            else:
                # No level is counted as 0, and zeros stay what they are.
                more += np.where(more == -1, 2, more != 0).astype(dtype)
            flat[tied] = more
        return result

    def product(self, integers: Array, scales: Array) -> Array:
        return np.multiply(integers, scales, dtype=np.float32)

    def scaled(
        self,
        integers: Array,
        scales: Array,
        offsets: Array | None = None,
        dither: Array | None = None,
    ) -> Array:
        rows, width = integers.shape
        scales = _column(scales)
        shifts = None if offsets is None else _column(offsets)
        result = np.empty((rows, width), dtype=np.float32)
        if dither is not None:
            dither = dither.reshape(rows, width)
        for r, c in _blocks(rows, width):
            part = None if dither is None else dither[r, c]
            scale, shift = _of_rows(scales, r), _of_rows(shifts, r)
            _scale(integers[r, c], scale, shift, part, result[r, c])
        return result

    def scaled_from_zero(
        self,
        integers: Array,
        below: Array,
        scales: Array,
        offsets: Array,
        highest: int,
        dither: Array | None,
    ) -> Array:
        rows, width = integers.shape
        below = _integer_column(below, integers.dtype)
        if rows == 1 and width <= FEW and highest < 127 and dither is None:
            return _look_up(integers, below, scales, offsets, highest)
        scales, shifts = _column(scales), _column(offsets)
        result = np.empty((rows, width), dtype=np.float32)
        if dither is not None:
            dither = dither.reshape(rows, width)
        for r, c in _blocks(rows, width):
            block, value = integers[r, c], result[r, c]
            levels = block + _of_rows(below, r)
            # Integers that overflow become negative.
            if levels.min() < 0 or levels.max() > highest + 1:
                raise no_level(highest)
            # As integers: NumPy is slow where it must convert.
            levels -= (block > 0).view(np.int8)
            part = None if dither is None else dither[r, c]
            _scale(levels, _of_rows(scales, r), _of_rows(shifts, r), part, value)
            if np.count_nonzero(block) < block.size:
                value[block == 0] = 0.0
        return result

    def rotate(self, table: Array, signs: list[Array], inverse: bool) -> Array:
        rows, width = table.shape
        part = signs[0].shape[1]
        factor = np.float32(part**-0.5)
        spans = [slice(0, part), slice(width - part, width)][: len(signs)]
        steps = list(zip(spans, signs, strict=True))
        result = table.copy()
        for span, flips in reversed(steps) if inverse else steps:
            for r, _ in _blocks(rows, part, whole_rows=True):
                factors = np.float32(1.0) - np.float32(2.0) * flips[r]
                block = result[r, span]
                if inverse:
                    result[r, span] = _hadamard(block) * factor * factors
                else:
                    result[r, span] = _hadamard(block * factors) * factor
        return result


NUMPY = NumpyOps()


def _row_number(x: Array) -> Array:
    """Return the entry of an array of one row, or the array."""
    return x.item() if x.size == 1 else x


def _column(x: Array) -> Array:
    """Return row numbers so that they meet the entries of their rows."""
    return x if isinstance(x, float) else x[:, None]


def _integer_column(x: Array, dtype: np.dtype[Any]) -> Array:
    return int(x) if isinstance(x, float) else x.astype(dtype)[:, None]


def _of_rows(column: Array, rows: slice) -> Array:
    """Return a part of a column, or what all rows have in common."""
    return column[rows] if isinstance(column, np.ndarray) else column


def _blocks(
    rows: int, width: int, *, whole_rows: bool = False
) -> list[tuple[slice, slice]]:
    """Return the blocks of a table, row-major."""
    if width == 0 or rows * width <= _BLOCK:
        return [(slice(0, rows), slice(0, width))]
    high = max(1, _BLOCK // width)
    wide = width if whole_rows else _BLOCK
    return [
        (slice(row, min(row + high, rows)), slice(column, min(column + wide, width)))
        for row in range(0, rows, high)
        for column in range(0, width, wide)
    ]


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
    with _row_buffers(*t.shape):
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


def _count_from_zero(block: Array, first: Array, zeros: Array) -> None:
    block -= first
    # As integers: NumPy is slow where it must convert.
    block += (block >= 0).view(np.int8)
    if np.count_nonzero(zeros):
        block[zeros] = 0


def _scale(
    integers: Array,
    scales: Array,
    shifts: Array | None,
    dither: Array | None,
    out: Array,
) -> None:
    """Write (k - u + 1/2) * scale + shift of one block to `out`."""
    if dither is not None:
        scales = scales * np.float32(2.0**-17)
        integers = integers.astype(np.int32 if integers.itemsize == 1 else np.int64)
        integers <<= 16
        integers -= dither
        integers <<= 1
        integers += 65535
    with _row_buffers(*out.shape):
        np.multiply(integers, scales, out=out, dtype=np.float32, casting="unsafe")
        if shifts is not None:
            out += shifts


def _look_up(
    integers: Array, below: int, scale: float, offset: float, highest: int
) -> Array:
    """Return :meth:`ArrayOps.scaled_from_zero` of a few entries of one row."""
    values = _levels_up_to(highest) * scale
    values += offset
    values = np.concatenate((values[:below], _ZERO, values[below:]))
    try:
        # What lies below the levels wraps around to far above them.
        found: Array = values.take((integers + below).view(np.uint8))
    except IndexError:
        raise no_level(highest) from None
    return found


@lru_cache(maxsize=64)
def _levels_up_to(highest: int) -> NDArray[np.float32]:
    return np.arange(highest + 1, dtype=np.float32)


def _extremes(block: Array) -> tuple[Array, Array]:
    """Least and greatest entry of each row of contiguous rows."""
    # Twice as fast as `reduce` along an axis.
    flat, starts = block.reshape(-1), _row_starts(*block.shape)
    return np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)


@lru_cache(maxsize=64)
def _row_starts(rows: int, width: int) -> NDArray[np.int64]:
    return np.arange(rows, dtype=np.int64) * width


class _RowBuffers:
    """Within, NumPy's buffers are no longer than a row.

    Where a table meets a number for each row, and 8192 entries are more than a row,
    NumPy writes each number into a buffer of so many entries, as often as it is used:
    that takes longer than the operation.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def __enter__(self) -> None:
        self._before = np.setbufsize(self._size)

    def __exit__(self, *_: object) -> None:
        np.setbufsize(self._before)


_USUAL_BUFFERS = nullcontext()


def _row_buffers(rows: int, width: int) -> AbstractContextManager[None]:
    """Return :class:`_RowBuffers`, or nothing where they do not help.

    So for one row, for rows too short for a buffer, and for rows that fill the usual.
    """
    if rows == 1 or not 128 <= width < 8192:
        return _USUAL_BUFFERS
    return _RowBuffers(width & ~15)


def _add_squares(block: Array) -> Array:
    wide = block.astype(np.float64)
    return np.einsum("ij,ij->i", wide, wide)


def _add_magnitudes(block: Array) -> Array:
    return np.add.reduce(np.abs(block), axis=1, dtype=np.float64)


def _tails(block: Array, bounds: Array) -> tuple[Array, Array]:
    magnitudes = np.abs(block)
    large = magnitudes >= bounds
    magnitudes *= large
    if len(block) == 1:
        # Without an axis it is ten times as fast.
        counts = np.float64(np.count_nonzero(large))
    else:
        counts = np.add.reduce(large, axis=1, dtype=np.int64)
    return counts, np.add.reduce(magnitudes, axis=1, dtype=np.float64)


def _row_sums(table: Array, sums: Any) -> Array:
    rows, width = table.shape
    if rows * width <= _BLOCK:
        return sums(table)
    total = np.zeros(rows, dtype=np.float64)
    for r, c in _blocks(rows, width):
        total[r] += sums(table[r, c])
    return total


_SAMPLE = 1 << 14


def _top_k(x: Array, k: int) -> Array:
    """Positions of the k largest magnitudes of a long vector, ascending.

    A sample gives a threshold that a few more than k entries are likely to pass; only
    those are partitioned. If fewer than k pass, all are.
    """
    dim = x.size
    candidates, magnitudes = None, None
    if dim >= 8 * _SAMPLE and 8 * k <= dim:
        sample = np.abs(x[:: dim // _SAMPLE])
        expected = sample.size * k / dim
        # Six standard deviations of how many of the k lie in the sample.
        rank = int(expected + 6.0 * expected**0.5 + 6.0)
        if rank < sample.size:
            sample.partition(sample.size - rank)
            candidates = _above(x, sample[sample.size - rank])
            if candidates.size < k:
                candidates = None
    magnitudes = np.abs(x if candidates is None else x[candidates])
    ordered = np.partition(magnitudes, magnitudes.size - k)
    threshold = ordered[magnitudes.size - k]
    kept = np.flatnonzero(magnitudes > threshold)
    missing = k - kept.size
    if missing:
        ties = np.flatnonzero(magnitudes == threshold)[:missing]
        kept = np.sort(np.concatenate((kept, ties)))
    return kept if candidates is None else candidates[kept]


def _above(x: Array, threshold: Any) -> Array:
    """Positions where |x| >= threshold, block by block."""
    parts = []
    for start in range(0, x.size, _BLOCK):
        found = np.flatnonzero(np.abs(x[start : start + _BLOCK]) >= threshold)
        parts.append(found + start)
    return np.concatenate(parts)


def _hadamard(table: Array) -> Array:
    """Walsh-Hadamard transform of each row, in stages of falling stride; overwrites.

    A stage of stride s replaces every pair (a_i, a_{i+s}) by its sum and difference.
    Here the two halves of a row meet in every stage, and what they make is written
    pairwise, which brings the pairs of the next stage into the halves, and in the end
    all into their places: every stage has long loops.
    """
    stages, half = table.shape[1].bit_length() - 1, table.shape[1] // 2
    # Of one row a flat array: a loop over rows takes time, even over one.
    start = table.reshape(-1) if len(table) == 1 else np.ascontiguousarray(table)
    tables = start, np.empty_like(start)
    halves = [(each[..., :half], each[..., half:]) for each in tables]
    pairs = [(each[..., ::2], each[..., 1::2]) for each in tables]
    for stage in range(stages):
        first, second = halves[stage % 2]
        sums, differences = pairs[1 - stage % 2]
        np.add(first, second, out=sums)
        np.subtract(first, second, out=differences)
    return tables[stages % 2].reshape(table.shape)
