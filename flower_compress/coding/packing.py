"""Symbols to bytes, several symbols to a byte, the rare ones set apart.

A byte coder (Huffman, ANS) works byte by byte, so it is the faster the more symbols a
byte holds, and Huffman's loss, a fraction of a bit a codeword, is shared by them.
Symbols are written as digits of base b: g digits with b^g <= 256 make a byte. A base
smaller than the alphabet holds a window of levels and one digit more, the escape;
escaped symbols are coded again, by themselves, in the next layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled, scratch
from ..errors import CorruptPacket
from .symbols import Integers, nonzero_mask

__all__ = ["BLOCK_BYTES", "GROUPS", "Bytes", "Packing"]

Bytes = NDArray[np.uint8]

GROUPS = ((8, 2), (5, 3), (4, 4), (3, 6), (2, 16), (1, 256))
"""Each group size g with the largest base b for which b^g <= 256."""

BLOCK_BYTES = 32_704
"""Packed bytes of a block: a multiple of 64 below the 32,767 of zlib's own blocks."""


@dataclass(frozen=True)
class Packing:
    """How one layer of symbols is written in digits.

    A symbol v becomes u = v, or with `gap` u = v - [v > 0], which closes the gap of an
    alphabet without zero. The `shift` low bits of u are kept apart; the digit is
    (u >> shift) - low. With `escape` the digit base - 1 stands for every symbol that
    has no digit below base - 1, and for v = 0 if there is a gap.

    The digits are cut into blocks of 32,704 g, the last one shorter. Byte j of a block
    of n digits is sum_k b^k digit[k m + j] with m = ceil(n / g): each of its m bytes
    takes one digit from each of g runs. Digits past the end are 0.

    The low bits make shift // 8 planes of a byte a symbol, the lowest byte first, and
    then shift % 8 planes of a bit a symbol, the lowest of the remaining bits first,
    the most significant bit of a byte first, filled up with zeros.

    Parameters
    ----------
    base : int
        Number of digits b, escape included, 1 to 256. It fixes g: the largest with
        b^g <= 256. With b = 1 there are no bytes.
    low : int
        The u >> shift of digit 0. All digits but the escape stand for levels that the
        dtype of the symbols holds.
    shift : int
        Number of low bits that are kept apart.
    gap, escape : bool
        See above.
    """

    base: int
    low: int
    shift: int = 0
    gap: bool = False
    escape: bool = False

    @property
    def group(self) -> int:
        """Number g of digits in a byte."""
        return next(group for group, base in GROUPS if self.base <= base)

    @property
    def num_byte_values(self) -> int:
        """Number of values b^g that a packed byte can have."""
        return int(self.base**self.group)

    @property
    def _is_bytes(self) -> bool:
        """Whether there is nothing but digits."""
        return self.shift == 0 and self.base > 1

    def num_bytes(self, count: int) -> int:
        """Return the number of bytes that hold the digits of `count` symbols."""
        return -(-count // self.group) if self.base > 1 else 0

    def num_low_bytes(self, count: int) -> int:
        """Return the number of bytes that hold the low bits of `count` symbols."""
        return count * (self.shift // 8) + -(-count // 8) * (self.shift % 8)

    def pack(self, values: Integers) -> tuple[Bytes, Bytes, Integers]:
        """Return the low bits and the digits of `values`, and what was escaped.

        The next call in the same thread may write over the first two.
        """
        fast = compiled("packing", values.size) if self._is_bytes else None
        if fast is not None and values.flags.c_contiguous:
            packed = scratch("packed", self.num_bytes(values.size))
            how = self.base, self.group, BLOCK_BYTES, self.gap, self.escape
            places = fast.pack(values, packed, self.low, *how)
            return packed[:0], packed, values[places]
        group, escaped = self.group, []
        step = group * BLOCK_BYTES
        packed = np.empty(self.num_bytes(values.size), dtype=np.uint8)
        low_bits = np.empty(self.num_low_bytes(values.size), dtype=np.uint8)
        planes = list(_planes(low_bits, values.size, self.shift))
        digits = np.empty(min(step, values.size + group), dtype=np.uint8)
        unsigned = np.dtype(f"u{values.itemsize}")
        work = digits if values.itemsize == 1 else np.empty(digits.size, unsigned)
        offset = unsigned.type(self.low % 2 ** (8 * unsigned.itemsize))
        # An array, because NumPy's minimum is several times slower with a scalar.
        last = np.full(digits.size, self.base - 1, dtype=unsigned)
        for start in range(0, values.size, step):
            block = symbols = values[start : start + step]
            count = symbols.size
            if self.gap:
                block = symbols - (symbols > 0).view(np.int8)
            for plane, bit, each in planes:
                if each == 8:
                    plane[start : start + count] = (block >> bit).astype(np.uint8)
                else:
                    bits = np.packbits(nonzero_mask(block & (1 << bit)))
                    plane[start // 8 :][: bits.size] = bits
            if not packed.size:
                continue
            if self.shift:
                block = block >> self.shift
            # Unsigned: what lies below the window wraps around to far above it.
            np.subtract(block.view(unsigned), offset, out=work[:count])
            if self.escape:
                if self.gap and np.count_nonzero(nonzero_mask(symbols)) < count:
                    work[:count][symbols == 0] = self.base - 1
                if int(np.maximum.reduce(work[:count])) >= self.base - 1:
                    np.minimum(work[:count], last[:count], out=work[:count])
                    escapes = work[:count] == last[:count]
                    escaped.append(symbols[np.flatnonzero(escapes)])
            if values.itemsize > 1:
                digits[:count] = work[:count]
            size = self.num_bytes(count)
            digits[count : group * size] = 0
            out = packed[start // group :][:size]
            out[:] = digits[(group - 1) * size : group * size]
            for k in range(group - 2, -1, -1):
                np.multiply(out, np.uint8(self.base), out=out)
                np.add(out, digits[k * size : (k + 1) * size], out=out)
        return low_bits, packed, np.concatenate([values[:0], *escaped])

    def unpack(
        self, low_bits: Bytes, packed: Bytes, values: Integers
    ) -> NDArray[np.int64]:
        """Write the symbols into `values`; return the places of the escaped ones.

        Raises
        ------
        CorruptPacket
            If a byte holds no g digits, or a digit or bit past the end is not 0.
        """
        group, base = self.group, self.base
        fast = compiled("packing", values.size) if self._is_bytes else None
        if fast is not None and values.flags.c_contiguous:
            how = base, group, BLOCK_BYTES, self.gap, self.escape
            found: NDArray[np.int64] | int = fast.unpack(packed, values, self.low, *how)
            if not isinstance(found, int):
                return found
            if found == -1:
                raise CorruptPacket(f"a packed byte is not below {base}^{group}")
            raise CorruptPacket("a packed digit past the end is not 0")
        if int(packed.max(initial=0)) >= self.num_byte_values:
            raise CorruptPacket(f"a packed byte is not below {base}^{group}")
        step = group * BLOCK_BYTES
        unsigned = np.dtype(f"u{values.itemsize}")
        offset = unsigned.type(self.low % 2 ** (8 * unsigned.itemsize))
        planes = list(_planes(low_bits, values.size, self.shift))
        for plane, _, each in planes:
            if each == 1 and values.size % 8 and plane[-1] & 0xFF >> values.size % 8:
                raise CorruptPacket("the padding of the low bits is not zero")
        digits = np.zeros(min(step, values.size + group), dtype=np.uint8)
        rests = np.empty((2, min(BLOCK_BYTES, packed.size)), dtype=np.uint8)
        places = [np.zeros(0, dtype=np.int64)]
        for start in range(0, values.size, step):
            out = values[start : start + step]
            size = self.num_bytes(out.size)
            rest = packed[start // group :][:size]
            for k in range(group - 1):
                quotient, run = rests[k % 2, :size], digits[k * size : (k + 1) * size]
                np.floor_divide(rest, np.uint8(base), out=quotient)
                np.multiply(quotient, np.uint8(base), out=run)
                np.subtract(rest, run, out=run)
                rest = quotient
            digits[(group - 1) * size : group * size] = rest
            if digits[out.size : group * size].any():
                raise CorruptPacket("a packed digit past the end is not 0")
            block = digits[: out.size]
            if self.escape and int(np.maximum.reduce(block)) == base - 1:
                places.append(np.flatnonzero(block == np.uint8(base - 1)) + start)
            bare = out.view(unsigned)
            # Before NumPy 2 a small offset would be added in 8 bits.
            np.add(block, offset, out=bare, dtype=unsigned)
            if self.shift:
                # Several times faster than NumPy's shift to the left.
                bare *= unsigned.type(1 << self.shift)
            for plane, bit, each in planes:
                if each == 8:
                    bits = plane[start : start + out.size].astype(unsigned)
                else:
                    bits = np.unpackbits(plane[start // 8 :], count=out.size)
                bare |= bits * unsigned.type(1 << bit)
            if self.gap:
                out += (out >= 0).view(np.int8)
        return np.concatenate(places)


def _planes(
    low_bits: Bytes, count: int, shift: int
) -> Iterator[tuple[Bytes, int, int]]:
    """Yield each plane of low bits, its lowest bit, and how many bits it has."""
    start = bit = 0
    while bit < shift:
        each = 8 if shift - bit >= 8 else 1
        end = start + (count if each == 8 else -(-count // 8))
        yield low_bits[start:end], bit, each
        start, bit = end, bit + each
