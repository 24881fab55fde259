"""The interface of a code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from .symbols import Symbols

__all__ = ["Code"]


class Code(ABC):
    """A lossless map between symbols and bits.

    Both ends know the length of the vector and its alphabet, so neither is written.
    A decoder reads bytes of strangers: it raises
    :class:`~flower_compress.errors.CorruptPacket` and nothing else, in time and
    memory proportional to the expected length.
    """

    name: ClassVar[str]
    wire_id: ClassVar[int]

    @abstractmethod
    def encode(self, symbols: Symbols) -> tuple[bytes, int]:
        """Return the code, padded with zeros to a byte, and its length in bits."""

    @abstractmethod
    def decode(
        self, data: memoryview, dim: int, low: int, high: int
    ) -> tuple[Symbols, int]:
        """Return the symbols at the front of `data` and how many bits they took.

        Raises
        ------
        CorruptPacket
            If the bytes are no code of `dim` symbols in [low, high].
        """

    @abstractmethod
    def num_bits(self, symbols: Symbols) -> int:
        """Return the exact length of the code in bits, without writing it."""
