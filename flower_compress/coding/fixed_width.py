"""Every symbol in the same number of bits."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..errors import CorruptPacket
from .base import Code
from .bits import Bits, from_fixed, to_fixed
from .symbols import Symbols, symbol_dtype

__all__ = ["FixedWidth"]


class FixedWidth(Code):
    """ceil(log2(high - low + 1)) bits a symbol, holding symbol - low."""

    name: ClassVar[str] = "fixed-width"
    wire_id: ClassVar[int] = 1

    def encode(self, symbols: Symbols) -> Bits:
        """Return the bits of `symbols`."""
        offsets = symbols.dense().astype(np.int64) - symbols.low
        return to_fixed(offsets, _width(symbols.low, symbols.high))

    def decode(self, bits: Bits, dim: int, low: int, high: int) -> tuple[Symbols, int]:
        """Return the symbols at the front of `bits` and how many bits they took."""
        width = _width(low, high)
        values = from_fixed(bits, dim, width) + low
        if dim and int(values.max()) > high:
            raise CorruptPacket(f"a symbol exceeds the alphabet [{low}, {high}]")
        entries = values.astype(symbol_dtype(low, high))
        return Symbols(dim, low, high, entries), dim * width

    def num_bits(self, symbols: Symbols) -> int:
        """Return the exact length of the code in bits."""
        return symbols.dim * _width(symbols.low, symbols.high)


def _width(low: int, high: int) -> int:
    return (high - low).bit_length()
