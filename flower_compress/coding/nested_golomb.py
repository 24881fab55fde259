"""Sparse symbols: the set of nonzeros, and nested in it the sets of larger ones."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..errors import CorruptPacket
from .bit_code import BitCode
from .bit_reader import BitReader
from .bits import BLOCK, BitWriter, Numbers, signs_of
from .golomb import (
    golomb_parameter,
    positions_num_bits,
    put_positions,
    take_positions,
)
from .supports import put_support, support_num_bits, take_side
from .symbols import Integers, Symbols, symbol_dtype
from .universal import gamma_num_bits, put_gamma, take_gamma

__all__ = ["NESTED", "NestedGolomb"]

NESTED = 8
"""The largest magnitude that has a support of its own."""

_LONGEST = 1 << 20
"""Of more entries 64 bits might not hold a product of compiled functions."""

_LONGEST_WRITTEN, _LONGEST_READ = 1 << 14, 1 << 15
"""Up to here NumPy's calls take longer than to look at every bit."""


class NestedGolomb(BitCode):
    """Supports nested by magnitude, each as Golomb-coded runs, and one bit a sign.

    With L = max(-low, high) and supports as :mod:`~flower_compress.coding.supports`
    stores them:

    1. the support of the nonzeros among all d positions;
    2. if low < 0, for each nonzero a one if it is negative, else a zero;
    3. for l = 2, 3, ..., min(L, 8), while there are symbols of magnitude l - 1 or more:
       among them the support of those of magnitude l or more;
    4. if L > 8 and m > 0 symbols have a magnitude of 8 or more: the sum E of their
       excesses, magnitude - 8, as E + 1 in Elias gamma; then, if E > 0, the excesses as
       runs (:mod:`~flower_compress.coding.golomb`), with M for m and m + E.

    For sparse symbols within 2 % of the entropy.
    """

    name: ClassVar[str] = "nested-golomb"
    wire_id: ClassVar[int] = 4

    def encode(self, symbols: Symbols) -> tuple[bytes, int]:
        """Return the code, padded with zeros to a byte, and its length in bits."""
        fast = _compiled(symbols.dim, _LONGEST_WRITTEN)
        if fast is not None and symbols.positions is None:
            data, num_bits = fast.encode(*_of_dense(symbols))
            if num_bits >= 0:
                return data.tobytes(), num_bits
        return super().encode(symbols)

    def decode(
        self, data: memoryview, dim: int, low: int, high: int
    ) -> tuple[Symbols, int]:
        """Return the symbols at the front of `data` and how many bits they took.

        Raises
        ------
        CorruptPacket
            If the bytes are no code of `dim` symbols in [low, high].
        """
        fast = _compiled(dim, _LONGEST_READ)
        if fast is not None:
            side = np.empty(dim, dtype=np.int32)
            entries: Integers = np.empty(dim, dtype=symbol_dtype(low, high))
            found = np.frombuffer(data, dtype=np.uint8)
            used, count = fast.decode(found, low, high, NESTED, side, entries)
            if used >= 0 and 2 * count > dim:
                return Symbols(dim, low, high, entries), used
            if used >= 0:
                # Copies: what they are cut from is longer.
                positions = side[:count].astype(np.int64)
                return Symbols(dim, low, high, entries[:count].copy(), positions), used
            # NumPy says why, or it is too long a one.
        return super().decode(data, dim, low, high)

    def _write(self, symbols: Symbols, writer: BitWriter) -> None:
        positions, entries = symbols.sparse()
        put_support(writer, positions, symbols.dim)
        if symbols.low < 0:
            writer.put(entries < 0)
        supports, left = _nested_supports(symbols)
        for above, among in supports:
            put_support(writer, above, among)
        if left.size:
            total = int(left.sum(dtype=np.int64)) - NESTED * left.size
            put_gamma(writer, total + 1)
            if total:
                parameter = golomb_parameter(left.size, left.size + total)
                put_positions(writer, _excess_ends(left), parameter)

    def _read(self, reader: BitReader, dim: int, low: int, high: int) -> Symbols:
        count, side, is_outside = take_side(reader, dim, int(low < 0))
        dtype = symbol_dtype(low, high)
        entries: Integers
        if low < 0:
            entries = signs_of(reader.take(count), dtype)
        else:
            entries = np.ones(count, dtype=dtype)
        largest = max(-low, high)
        if count and largest > 1:
            entries *= _take_magnitudes(reader, count, largest, dtype)
        if entries.size and not -low == high > 0:
            _check_range(entries, low, high)
        if not is_outside:
            return Symbols(dim, low, high, entries, side)
        return Symbols(dim, low, high, _spread(entries, side, True, dim, 0))

    def num_bits(self, symbols: Symbols) -> int:
        """Return the exact length of the code in bits, without writing it."""
        fast = _compiled(symbols.dim, _LONGEST)
        if fast is not None and symbols.positions is None:
            num_bits: int = fast.num_bits(*_of_dense(symbols))
            if num_bits >= 0:
                return num_bits
        positions, _ = symbols.sparse()
        total = support_num_bits(positions, symbols.dim)
        if symbols.low < 0:
            total += positions.size
        supports, left = _nested_supports(symbols)
        for above, among in supports:
            total += support_num_bits(above, among)
        if left.size:
            excess = int(left.sum(dtype=np.int64)) - NESTED * left.size
            total += gamma_num_bits(excess + 1)
            if excess:
                parameter = golomb_parameter(left.size, left.size + excess)
                total += positions_num_bits(_excess_ends(left), parameter)
        return total


def _compiled(dim: int, longest: int) -> Any:
    """Return the compiled functions for at most so many symbols, however few."""
    return compiled("nested_golomb", dim, shortest=1) if dim <= longest else None


def _of_dense(symbols: Symbols) -> tuple[Integers, int, int, int]:
    """Return what the compiled functions take: entries, low, the largest, NESTED."""
    largest = max(-symbols.low, symbols.high)
    return np.ascontiguousarray(symbols.entries), symbols.low, largest, NESTED


def _nested_supports(
    symbols: Symbols,
) -> tuple[list[tuple[NDArray[np.int64], int]], Integers]:
    """Return each support of step 3 with its n, and the magnitudes of step 4."""
    largest, level = max(-symbols.low, symbols.high), 1
    left = symbols.sparse()[1]
    if symbols.low < 0 and largest > 1:
        left = np.abs(left)
    supports = []
    while left.size and level < min(largest, NESTED):
        level += 1
        above = (left >= level).nonzero()[0]
        supports.append((above, left.size))
        left = left.take(above) if above.size else left[:0]
    return supports, left if largest > NESTED else left[:0]


def _excess_ends(magnitudes: Integers) -> NDArray[np.int64]:
    """Return where each excess ends, as a run of its length before one position."""
    ends = magnitudes.cumsum(dtype=np.int64)
    ends -= np.arange(1, ends.size + 1) * (NESTED - 1) + 1
    return ends


def _take_magnitudes(
    reader: BitReader, count: int, largest: int, dtype: np.dtype[Any]
) -> Integers:
    """Read steps 3 and 4: the magnitudes of `count` > 0 symbols."""
    level, left = 1, count
    supports: list[tuple[Numbers, bool, int, int]] = []
    while left and level < min(largest, NESTED):
        level += 1
        nested: Numbers
        inner, nested, is_outside = take_side(reader, left)
        if inner < left:
            # All are held at once: long ones in half as many bytes.
            nested = nested.astype(np.uint32) if nested.size > BLOCK else nested
            supports.append((nested, is_outside, left, level - 1))
        left = inner
    # From the largest ones outwards: what lies in a support is larger.
    magnitudes: Integers = np.full(left, level, dtype=dtype)
    if left and largest > NESTED:
        excesses = _take_excesses(reader, left, largest - NESTED)
        magnitudes += excesses.astype(dtype)
    for support in reversed(supports):
        magnitudes = _spread(magnitudes, *support)
    return magnitudes


def _spread(
    inner: Integers, side: Numbers, is_outside: bool, size: int, other: int
) -> Integers:
    """Return `size` entries of which `inner` are those of a set, the rest `other`.

    `side` holds the positions of the set, or those that are not in it.
    """
    fast = compiled("nested_golomb", size) if is_outside else None
    if fast is not None:
        entries: Integers = np.empty(size, dtype=inner.dtype)
        fast.fill_around(side, other, inner, entries)
        return entries
    entries = np.full(size, other, dtype=inner.dtype)
    if is_outside:
        mask = np.ones(size, dtype=bool)
        mask[side] = False
        entries[mask] = inner
    else:
        entries[side] = inner
    return entries


def _take_excesses(reader: BitReader, count: int, largest: int) -> NDArray[np.int64]:
    """Read `count` excesses of at most `largest` each."""
    total = take_gamma(reader, count * largest + 1) - 1
    if total == 0:
        return np.zeros(count, dtype=np.int64)
    parameter = golomb_parameter(count, count + total)
    ends = take_positions(reader, count, count + total, parameter)
    if int(ends[-1]) != count + total - 1:
        raise CorruptPacket(f"the excesses do not add up to {total}")
    ends[1:] -= ends[:-1] + 1
    if int(ends.max()) > largest:
        raise CorruptPacket(f"an excess is larger than {largest}")
    return ends


def _check_range(entries: Integers, low: int, high: int) -> None:
    smallest, largest = int(entries.min()), int(entries.max())
    if smallest < low or largest > high:
        raise CorruptPacket(
            f"symbols in [{smallest}, {largest}], expected the alphabet [{low}, {high}]"
        )
