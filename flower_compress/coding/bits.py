"""Bits, one uint8 or bool a bit, most significant first; packed eight to a byte.

Numbers are stored by *bit planes*: all their most significant bits, then all the next
ones, and so on. The length is that of numbers one after the other, and both directions
are array operations. Unary numbers and the binary remainders of a prefix code are
stored apart for the same reason.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .symbols import Integers

__all__ = [
    "BLOCK",
    "FEW",
    "BitWriter",
    "Bits",
    "Numbers",
    "signs_of",
    "unsigned_dtype",
]

Bits = NDArray[Any]
"""uint8 or bool; every number but 0 is a one."""

Numbers = NDArray[np.integer[Any]]

BLOCK = 1 << 16
"""Entries worked on at a time, so that temporary arrays stay in the cache."""

FEW = 256
"""Up to this many entries the number of calls counts, not the work in them."""

_MASKS = np.left_shift(1, np.arange(7, -1, -1)).astype(np.uint8).reshape(8, 1)


def unsigned_dtype(width: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the smallest unsigned dtype of at least `width` bits."""
    if width <= 8:
        return np.dtype(np.uint8)
    if width <= 16:
        return np.dtype(np.uint16)
    return np.dtype(np.uint32 if width <= 32 else np.uint64)


def signs_of(bits: NDArray[np.uint8], dtype: np.dtype[Any]) -> Integers:
    """Return -1 for each one and 1 for each zero, as `dtype`."""
    if bits.size <= FEW:
        return _signs(dtype).take(bits)
    signs: Integers = 1 - 2 * bits.astype(dtype)
    return signs


@lru_cache(maxsize=8)
def _signs(dtype: np.dtype[Any]) -> Integers:
    return np.array((1, -1), dtype=dtype)


class BitWriter:
    """Takes arrays of bits and packs them once there are enough of them."""

    def __init__(self) -> None:
        self._pieces: list[Bits] = []
        self._waiting = 0
        self._packed: list[bytes] = []

    def put(self, bits: Bits) -> None:
        """Append `bits`."""
        if bits.size > 2 * BLOCK:
            for start in range(0, bits.size, BLOCK):
                self.put(bits[start : start + BLOCK])
            return
        self._pieces.append(bits)
        self._waiting += bits.size
        if self._waiting > 2 * BLOCK:
            joined = np.concatenate(self._pieces)
            whole = joined.size & ~7
            self._packed.append(np.packbits(joined[:whole]).tobytes())
            self._pieces = [joined[whole:]]
            self._waiting = joined.size - whole

    def put_number(self, number: int, width: int) -> None:
        """Append 0 <= `number` < 2^`width` in `width` bits."""
        if width:
            self.put(_number_bits(number, width))

    def put_planes(self, numbers: Numbers, width: int) -> None:
        """Append numbers of `width` bits as planes, the most significant first."""
        if width == 1:
            self.put(numbers.astype(np.uint8, copy=False))
        elif width <= 8 and numbers.size <= FEW:
            planes = numbers.astype(np.uint8, copy=False) & _MASKS[8 - width :]
            self.put(planes.reshape(-1))
        else:
            for plane in range(width - 1, -1, -1):
                mask = np.uint8(1 << (plane & 7))
                for start in range(0, numbers.size, BLOCK):
                    part = numbers[start : start + BLOCK]
                    if part.itemsize > 1:
                        part = (part >> (plane & ~7)).astype(np.uint8)
                    self.put(part & mask)

    def put_varying_planes(self, numbers: Numbers, widths: Numbers) -> None:
        """Append numbers of `widths` bits each as planes, the most significant first.

        Plane j has the bits of weight 2^j of the numbers of more than j bits.
        """
        planes: list[Bits] = []
        for plane in range(int(widths.max(initial=0))):
            wide = (widths > plane).nonzero()[0]
            numbers, widths = numbers.take(wide), widths.take(wide)
            planes.append(((numbers >> plane) & 1).astype(np.uint8))
        for bits in reversed(planes):
            self.put(bits)

    def put_unary(self, lengths: Numbers) -> None:
        """Append for each length n >= 1 n - 1 zeros and a one."""
        for start in range(0, lengths.size, BLOCK):
            part = lengths[start : start + BLOCK]
            ends: NDArray[np.int64] = np.add.accumulate(part, dtype=np.int64)
            bits = np.zeros(int(ends[-1]) + 1, dtype=np.uint8)
            bits[ends] = 1
            self.put(bits[1:])

    def finish(self) -> tuple[bytes, int]:
        """Return the bits, padded with zeros to a byte, and their number."""
        num_bits = self._waiting
        for part in self._packed:
            num_bits += 8 * len(part)
        if self._waiting:
            self._packed.append(np.packbits(np.concatenate(self._pieces)).tobytes())
        return b"".join(self._packed), num_bits


@lru_cache(maxsize=1024)
def _number_bits(number: int, width: int) -> Bits:
    text = f"{number:0{width}b}".encode("ascii")
    return np.frombuffer(text, dtype=np.uint8) & np.uint8(1)
