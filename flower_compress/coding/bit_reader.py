"""Reads what :class:`~flower_compress.coding.bits.BitWriter` wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptPacket
from .bits import BLOCK, FEW, Numbers, unsigned_dtype

__all__ = ["BitReader"]

_WINDOW_BYTES = 512
_NO_BITS = np.zeros(0, dtype=np.uint8)
_WEIGHTS = np.left_shift(1, np.arange(7, -1, -1)).astype(np.uint8)


class BitReader:
    """Reads bits from the front of bytes that may go on with other things.

    Every method raises CorruptPacket where there are not as many bits as it is to read,
    before it takes memory for them.

    Attributes
    ----------
    position : int
        How many bits have been read.
    """

    def __init__(self, data: memoryview) -> None:
        self.position = 0
        self._data = data
        self._size = 8 * len(data)
        self._window = _NO_BITS
        self._window_start = self._window_end = 0

    def require(self, count: int) -> None:
        """Raise CorruptPacket unless there are `count` more bits."""
        if count > self._size - self.position:
            raise CorruptPacket(
                f"expected {count} more bits, got {self._size - self.position}"
            )

    def skip(self, count: int) -> int:
        """Move on by `count` bits; return the position before."""
        self.require(count)
        self.position += count
        return self.position - count

    def peek(self, width: int) -> int:
        """Return the number that the next `width` bits are, zeros after the data."""
        end = self.position + width
        first, last = self.position >> 3, (end + 7) >> 3
        chunk = self._data[first:last]
        number = int.from_bytes(chunk, "big") << 8 * (last - first - len(chunk))
        return (number >> (-end & 7)) & ((1 << width) - 1)

    def take_number(self, width: int) -> int:
        """Return the number that the next `width` bits are."""
        number = self.peek(width)
        self.skip(width)
        return number

    def take(self, count: int) -> NDArray[np.uint8]:
        """Return the next `count` bits, each 0 or 1; a view, not to be written to."""
        start = self.skip(count)
        return self._unpack(start, start + count)

    def take_planes(self, count: int, width: int) -> NDArray[np.unsignedinteger[Any]]:
        """Return `count` numbers of `width` bits."""
        start = self.skip(count * width)
        if width <= 8 and count <= FEW:
            table = self._unpack(start, self.position).reshape(width, count)
            return table[0].copy() if width == 1 else _WEIGHTS[8 - width :] @ table
        numbers = np.zeros(count, dtype=unsigned_dtype(width))
        for block in range(0, count, BLOCK):
            part = numbers[block : block + BLOCK]
            for plane in range(width):
                begin = start + plane * count + block
                if plane:
                    part <<= 1
                part |= self._unpack(begin, begin + part.size)
        return numbers

    def take_varying_planes(self, widths: Numbers) -> NDArray[np.int64]:
        """Return numbers of `widths` bits each."""
        numbers = np.zeros(widths.size, dtype=np.int64)
        for plane in range(int(widths.max(initial=0)) - 1, -1, -1):
            wide = (widths > plane).nonzero()[0]
            numbers[wide] = numbers.take(wide) * 2 + self.take(wide.size)
        return numbers

    def take_unary(self, count: int, max_bits: int) -> NDArray[np.int64]:
        """Return where the next `count` ones are, counted from the position.

        Raises
        ------
        CorruptPacket
            If the next `max_bits` bits have fewer ones.
        """
        start = self.position
        max_bits = min(max_bits, self._size - start)
        if max_bits <= BLOCK:
            bits = self._unpack(start, start + max_bits)
            ends = bits.view(bool).nonzero()[0][:count]
        else:
            ends = self._find_ones(count, max_bits)
        if ends.size < count:
            raise CorruptPacket(
                f"expected {count} ones in {max_bits} bits, got {ends.size}"
            )
        if count:
            self.position = start + int(ends[-1]) + 1
        return ends

    def finish(self) -> int:
        """Return how many bits were read, after a look at the padding of the last byte.

        Raises
        ------
        CorruptPacket
            If the padding is not zero.
        """
        used = self.position & 7
        if used and self._data[self.position >> 3] & (0xFF >> used):
            raise CorruptPacket("the padding after the symbols is not zero")
        return self.position

    def _find_ones(self, count: int, max_bits: int) -> NDArray[np.int64]:
        start = self.position
        ends = np.empty(min(count, max_bits), dtype=np.int64)
        found = 0
        for block in range(0, max_bits, BLOCK):
            bits = self._unpack(start + block, start + min(block + BLOCK, max_bits))
            ones = bits.view(bool).nonzero()[0][: count - found]
            np.add(ones, block, out=ends[found : found + ones.size])
            found += ones.size
            if found == count:
                break
        return ends[:found]

    def _unpack(self, start: int, end: int) -> NDArray[np.uint8]:
        if start < self._window_start or end > self._window_end:
            # A little more than asked for: a short code is unpacked at once.
            first = start >> 3
            last = max((end + 7) >> 3, first + _WINDOW_BYTES)
            chunk = np.frombuffer(self._data[first:last], dtype=np.uint8)
            self._window = np.unpackbits(chunk)
            self._window_start = 8 * first
            self._window_end = self._window_start + self._window.size
        return self._window[start - self._window_start : end - self._window_start]
