"""Every symbol in the same number of bits."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..errors import CorruptPacket
from .bit_code import BitCode
from .bit_reader import BitReader
from .bits import BitWriter, unsigned_dtype
from .symbols import Symbols, symbol_dtype

__all__ = ["FixedWidth"]


class FixedWidth(BitCode):
    """As many bits a symbol as the symbols that occur need.

    With W the number of bits of high - low, and w that of the largest symbol less the
    smallest one:

    1. the smallest symbol less low, W bits;
    2. w, as many bits as W has itself;
    3. each symbol less the smallest one in w bits, as w bit planes of d bits, the most
       significant first.

    W + bit_length(W) + w d bits; none if d = 0.
    """

    name: ClassVar[str] = "fixed-width"
    wire_id: ClassVar[int] = 1

    def _write(self, symbols: Symbols, writer: BitWriter) -> None:
        if symbols.dim == 0:
            return
        smallest, width = _range(symbols)
        full = (symbols.high - symbols.low).bit_length()
        writer.put_number(smallest - symbols.low, full)
        writer.put_number(width, full.bit_length())
        if width:
            entries = symbols.dense()
            # Modulo 2^8, 2^16 or 2^32 no difference is lost.
            dtype = unsigned_dtype(8 * entries.itemsize)
            offset = dtype.type(smallest % (1 << 8 * entries.itemsize))
            writer.put_planes(entries.view(dtype) - offset, width)

    def _read(self, reader: BitReader, dim: int, low: int, high: int) -> Symbols:
        dtype = symbol_dtype(low, high)
        if dim == 0:
            return Symbols(0, low, high, np.zeros(0, dtype=dtype))
        full = (high - low).bit_length()
        smallest = low + reader.take_number(full)
        width = reader.take_number(full.bit_length())
        if width > full:
            raise CorruptPacket(f"{width} bits a symbol, expected at most {full}")
        if width == 0 and smallest == 0:
            none = np.zeros(0, dtype=np.int64)
            return Symbols(dim, low, high, none.astype(dtype), none)
        numbers = reader.take_planes(dim, width)
        largest = int(np.maximum.reduce(numbers))
        if largest.bit_length() != width or int(np.minimum.reduce(numbers)):
            raise CorruptPacket("the smallest symbol or the width is not the real one")
        if smallest + largest > high:
            raise CorruptPacket(
                f"symbol {smallest + largest} exceeds the alphabet [{low}, {high}]"
            )
        unsigned = unsigned_dtype(8 * dtype.itemsize)
        numbers = numbers.astype(unsigned, copy=False)
        numbers += unsigned.type(smallest % (1 << 8 * dtype.itemsize))
        return Symbols(dim, low, high, numbers.view(dtype))

    def num_bits(self, symbols: Symbols) -> int:
        """Return the exact length of the code in bits, without writing it."""
        if symbols.dim == 0:
            return 0
        full = (symbols.high - symbols.low).bit_length()
        return full + full.bit_length() + symbols.dim * _range(symbols)[1]


def _range(symbols: Symbols) -> tuple[int, int]:
    """Return the smallest symbol, and the width of the largest one less it."""
    entries = symbols.entries
    if entries.size == 0:
        return 0, 0
    smallest = int(np.minimum.reduce(entries))
    largest = int(np.maximum.reduce(entries))
    if entries.size < symbols.dim:
        smallest, largest = min(smallest, 0), max(largest, 0)
    return smallest, (largest - smallest).bit_length()
