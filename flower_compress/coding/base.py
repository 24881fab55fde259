"""The interface of a code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from .bits import Bits
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
    def encode(self, symbols: Symbols) -> Bits:
        """Return the bits of `symbols`, shape (num_bits,)."""

    @abstractmethod
    def decode(self, bits: Bits, dim: int, low: int, high: int) -> tuple[Symbols, int]:
        """Return the symbols at the front of `bits` and how many bits they took."""

    @abstractmethod
    def num_bits(self, symbols: Symbols) -> int:
        """Return the exact length of the code in bits, without writing it."""
