"""The positions of the ones among zeros."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..errors import ConfigurationError, CorruptPacket
from .bit_code import BitCode
from .bit_reader import BitReader
from .bits import BitWriter
from .supports import put_support, support_num_bits, take_support
from .symbols import Symbols

__all__ = ["Indices", "check_alphabet"]


class Indices(BitCode):
    """Golomb-coded runs between the ones of an alphabet {0, 1}.

    For k ones among d symbols:

    1. k + 1 in Elias gamma, 2 floor(log2(k + 1)) + 1 bits;
    2. the runs of zeros before each one or, if 2 k > d, the runs of ones before each
       zero, as :mod:`~flower_compress.coding.golomb` stores them, with its
       :func:`~flower_compress.coding.golomb.golomb_parameter` for min(k, d - k) and d;
       nothing if there are none.

    Raises
    ------
    ConfigurationError
        On :meth:`encode` and :meth:`num_bits`, for another alphabet.
    """

    name: ClassVar[str] = "indices"
    wire_id: ClassVar[int] = 3

    def _write(self, symbols: Symbols, writer: BitWriter) -> None:
        check_alphabet(symbols)
        put_support(writer, symbols.sparse()[0], symbols.dim)

    def _read(self, reader: BitReader, dim: int, low: int, high: int) -> Symbols:
        if (low, high) != (0, 1):
            raise CorruptPacket(
                f"indices have the alphabet [0, 1], not [{low}, {high}]"
            )
        positions = take_support(reader, dim)
        entries = np.ones(positions.size, dtype=np.int8)
        return Symbols(dim, 0, 1, entries, positions)

    def num_bits(self, symbols: Symbols) -> int:
        """Return the exact length of the code in bits, without writing it."""
        check_alphabet(symbols)
        return support_num_bits(symbols.sparse()[0], symbols.dim)


def check_alphabet(symbols: Symbols) -> None:
    """Raise ConfigurationError unless the alphabet is {0, 1}."""
    if (symbols.low, symbols.high) != (0, 1):
        raise ConfigurationError(
            f"the code 'indices' takes the alphabet [0, 1], got [{symbols.low}, "
            f"{symbols.high}]; take 'nested-golomb'"
        )
