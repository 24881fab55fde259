"""The functions that operators compute with, on NumPy arrays.

Long vectors are worked on in blocks that stay in the cache; on short ones the number of
calls counts.
"""

# ruff: noqa: D102 - ArrayOps says what each function computes.

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from ...coding.symbols import symbol_dtype
from ...streams import Draws, Stream
from .numpy_blocks import BLOCK, blocks, column, of_rows, row_number
from .numpy_levels import scaled, scaled_from_zero
from .numpy_powers import powers, round_to_powers
from .numpy_rotation import rotate, rotate_scaled_back, round_rotated
from .numpy_rounding import round_table
from .numpy_sums import (
    add_magnitudes,
    extremes,
    moments,
    row_sums,
    squares,
    tails,
)
from .numpy_top_k import top_k
from .ops import Array, ArrayOps

__all__ = ["NUMPY", "NumpyOps"]

_FEW = 8
"""So many entries are looked at one by one: faster than a reduction."""

_FLOAT32 = struct.Struct("<f")


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
        return row_number(squares(table))

    def abs_sums(self, table: Array) -> Array:
        return row_number(row_sums(table, add_magnitudes))

    def reaches(self, table: Array, bounds: Array) -> Array:
        bounds = column(bounds)
        if table.size <= BLOCK:
            return np.abs(table) >= bounds
        result = np.empty(table.shape, dtype=bool)
        for r, c in blocks(*table.shape):
            np.greater_equal(np.abs(table[r, c]), of_rows(bounds, r), out=result[r, c])
        return result

    def same(self, x: Array, y: Array) -> bool:
        return x == y if isinstance(x, float) else bool((x == y).all())

    def tails(self, table: Array, bounds: Array) -> tuple[Array, Array]:
        counts, sums = tails(table, column(bounds))
        return row_number(counts), row_number(sums)

    def limit(self, table: Array, bounds: Array) -> Array:
        bounds = column(bounds)
        limited = np.maximum(table, -bounds)
        return np.minimum(limited, bounds, out=limited)

    def extremes(self, table: Array) -> tuple[Array, Array]:
        low, high = extremes(table)
        return row_number(low) + 0.0, row_number(high) + 0.0

    def moments(self, table: Array) -> tuple[Array, Array, Array]:
        if table.size <= BLOCK:
            return super().moments(table)
        low, high, sums = (row_number(x) for x in moments(table))
        return low + 0.0, high + 0.0, sums

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

    def floats(self, count: int) -> Array | None:
        return np.empty(count, dtype=np.float32)

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
        return top_k(table, k)

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
        return round_table(
            table, offsets, scales, levels, high, dither, refine, below, out
        )

    def round_to_powers(self, x: Array, dither: Array, refine: Draws) -> Array:
        return round_to_powers(x, dither, refine)

    def powers(self, symbols: Array) -> Array:
        return powers(symbols)

    def product(self, integers: Array, scales: Array) -> Array:
        return np.multiply(integers, scales, dtype=np.float32)

    def scaled(
        self,
        integers: Array,
        scales: Array,
        offsets: Array | None = None,
        dither: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        return scaled(integers, scales, offsets, dither, out)

    def scaled_from_zero(
        self,
        integers: Array,
        below: Array,
        scales: Array,
        offsets: Array,
        highest: int,
        dither: Array | None,
        out: Array | None = None,
    ) -> Array:
        return scaled_from_zero(integers, below, scales, offsets, highest, dither, out)

    def rotate(self, table: Array, signs: list[Array], inverse: bool) -> Array:
        return rotate(table, signs, inverse)

    def round_rotated(
        self,
        table: Array,
        signs: list[Array],
        scales: Array,
        levels: float,
        high: int,
        draws: Draws,
        out: Array | None,
    ) -> Array:
        dither = draws.dither_in_parts(table.size)
        return round_rotated(table, signs, scales, levels, high, dither, out)

    def rotate_scaled_back(
        self,
        integers: Array,
        scales: Array,
        signs: list[Array],
        draws: Draws,
        out: Array | None = None,
    ) -> Array:
        dither = draws.dither_in_parts(integers.size)
        return rotate_scaled_back(integers, scales, signs, dither, out)

    def rotation_signs(self, rows: int, width: int, draws: Draws) -> list[Array]:
        # A bit each: they are unpacked block by block.
        part = 1 << (width.bit_length() - 1)
        count = 1 if part == width else 2
        return [draws.packed_signs(rows * part) for _ in range(count)]


NUMPY = NumpyOps()
