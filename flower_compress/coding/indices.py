"""The positions of the ones among zeros."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..errors import ConfigurationError, CorruptPacket
from .base import Code
from .bit_reader import BitReader
from .bits import BitWriter
from .supports import put_support, support_num_bits, take_support
from .symbols import Symbols

__all__ = ["Indices", "check_alphabet"]


class Indices(Code):
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

    def encode(self, symbols: Symbols) -> tuple[bytes, int]:
        """Return the code, padded with zeros to a byte, and its length in bits."""
        check_alphabet(symbols)
        writer = BitWriter()
        put_support(writer, symbols.sparse()[0], symbols.dim)
        return writer.finish()

    def decode(
        self, data: memoryview, dim: int, low: int, high: int
    ) -> tuple[Symbols, int]:
        """Return the symbols at the front of `data` and how many bits they took.

        Raises
        ------
        CorruptPacket
            If the bytes are no code of `dim` symbols, or the alphabet is not {0, 1}.
        """
        if (low, high) != (0, 1):
            raise CorruptPacket(
                f"indices have the alphabet [0, 1], not [{low}, {high}]"
            )
        reader = BitReader(data)
        positions = take_support(reader, dim)
        num_bits = reader.finish()
        entries = np.ones(positions.size, dtype=np.int8)
        return Symbols(dim, 0, 1, entries, positions), num_bits

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
