"""What the codes of single bits share: a writer, and a reader in the same order."""

from __future__ import annotations

from abc import abstractmethod

from .base import Code
from .bit_reader import BitReader
from .bits import BitWriter
from .symbols import Symbols

__all__ = ["BitCode"]


class BitCode(Code):
    """Writes bits one after the other, and reads them so."""

    def encode(self, symbols: Symbols) -> tuple[bytes, int]:
        """Return the code, padded with zeros to a byte, and its length in bits."""
        writer = BitWriter()
        self._write(symbols, writer)
        return writer.finish()

    def decode(
        self, data: memoryview, dim: int, low: int, high: int
    ) -> tuple[Symbols, int]:
        """Return the symbols at the front of `data` and how many bits they took.

        Raises
        ------
        CorruptPacket
            If the bytes are no code of `dim` symbols in [low, high].
        """
        reader = BitReader(data)
        symbols = self._read(reader, dim, low, high)
        return symbols, reader.finish()

    @abstractmethod
    def _write(self, symbols: Symbols, writer: BitWriter) -> None:
        """Write the code."""

    @abstractmethod
    def _read(self, reader: BitReader, dim: int, low: int, high: int) -> Symbols:
        """Read it again; raise CorruptPacket if it is none."""
