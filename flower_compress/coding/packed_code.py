"""What the codes of packed bytes share: layers, each a packing and its bytes.

A code consists of layers. The first holds all symbols; each further one the symbols
that the layer before escaped, in their order. There is a next layer if a layer holds
an escape, and the third is the last. Nothing is written for a vector of length 0.
A layer, little-endian:

====== ===== ===========================================================
offset bytes field
====== ===== ===========================================================
0      1     base - 1
1      1     shift (bits 0 to 4), + 32 if there is a gap, + 64 if there
             is an escape
2      4     low, signed
6            the low bits of the symbols, if shift > 0
             the packed bytes, as the byte coder writes them, if base > 1
====== ===== ===========================================================

:class:`~flower_compress.coding.packing.Packing` says what the fields mean and how
low bits and digits lie in bytes. The low bits of an escaped symbol mean nothing.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from typing import ClassVar

import numpy as np

from ..errors import CorruptPacket
from .base import Code
from .packing import Bytes, Packing
from .packing_plan import ByteCoder, plan_all, plan_packing
from .symbols import Integers, Symbols, symbol_dtype

__all__ = ["PackedCode"]

_HEADER = struct.Struct("<BBi")
_SHIFT, _GAP, _ESCAPE = 31, 32, 64
_MAX_LAYERS = 3


class PackedCode(Code):
    """Packs symbols into bytes and leaves the bytes to a byte coder."""

    byte_coder: ClassVar[ByteCoder]

    @abstractmethod
    def compress(self, packed: Bytes, limit: int) -> list[bytes]:
        """Return the code of `packed`, in parts: one byte or more below `limit`."""

    @abstractmethod
    def decompress(self, data: memoryview, count: int, limit: int) -> tuple[Bytes, int]:
        """Return `count` bytes below `limit` and how many of `data` they took."""

    def encode(self, symbols: Symbols) -> tuple[bytes, int]:
        """Return the code and its length in bits, a multiple of 8."""
        parts: list[bytes | memoryview] = []
        values = np.ascontiguousarray(symbols.dense())
        for layer in range(_MAX_LAYERS):
            if not values.size:
                break
            if layer < _MAX_LAYERS - 1:
                packing = plan_packing(values, self.byte_coder)
            else:
                packing = plan_all(values)
            low_bits, packed, escaped = packing.pack(values)
            flags = packing.shift | _GAP * packing.gap | _ESCAPE * packing.escape
            parts.append(_HEADER.pack(packing.base - 1, flags, packing.low))
            parts.append(low_bits.data)
            if packed.size:
                parts += self.compress(packed, packing.num_byte_values)
            values = escaped
        data = b"".join(parts)
        return data, 8 * len(data)

    def decode(
        self, data: memoryview, dim: int, low: int, high: int
    ) -> tuple[Symbols, int]:
        """Return the symbols at the front of `data` and how many bits they took."""
        if not dim:
            return Symbols(dim, low, high, np.zeros(0, symbol_dtype(low, high))), 0
        packing = _read_header(data, low, high, 1)
        if packing == Packing(1, 0):
            # Six bytes may claim a vector of any length: this one takes no memory.
            none = np.zeros(0, dtype=np.int64)
            entries = none.astype(symbol_dtype(low, high))
            return Symbols(dim, low, high, entries, none), 8 * _HEADER.size
        values, used = self._decode_layer(data, dim, low, high, 1)
        return Symbols(dim, low, high, values), 8 * used

    def num_bits(self, symbols: Symbols) -> int:
        """Return the exact length of the code in bits.

        Only the byte coder knows it, so this encodes.
        """
        return self.encode(symbols)[1]

    def _decode_layer(
        self, data: memoryview, count: int, low: int, high: int, layer: int
    ) -> tuple[Integers, int]:
        """Return `count` symbols and how many bytes they took."""
        packing = _read_header(data, low, high, layer)
        used = _HEADER.size + packing.num_low_bytes(count)
        if used > len(data):
            raise CorruptPacket(f"the low bits of {count} symbols are cut off")
        low_bits = np.frombuffer(data[_HEADER.size : used], dtype=np.uint8)
        packed = np.zeros(0, dtype=np.uint8)
        size = packing.num_bytes(count)
        if size:
            packed, taken = self.decompress(data[used:], size, packing.num_byte_values)
            used += taken
        # Only now: the bytes that fill it are there.
        values = np.empty(count, dtype=symbol_dtype(low, high))
        places = packing.unpack(low_bits, packed, values)
        if places.size:
            values[places], taken = self._decode_layer(
                data[used:], places.size, low, high, layer + 1
            )
            used += taken
        if packing.shift and (int(values.min()) < low or int(values.max()) > high):
            raise CorruptPacket(f"a symbol lies outside [{low}, {high}]")
        return values, used


def _read_header(data: memoryview, low: int, high: int, layer: int) -> Packing:
    """Return the packing of a layer of symbols in [low, high]."""
    if len(data) < _HEADER.size:
        raise CorruptPacket(f"expected {_HEADER.size} bytes, got {len(data)}")
    last_digit, flags, start = _HEADER.unpack_from(data)
    packing = Packing(
        base=last_digit + 1,
        low=start,
        shift=flags & _SHIFT,
        gap=bool(flags & _GAP),
        escape=bool(flags & _ESCAPE),
    )
    top = start + packing.base - packing.escape - 1
    if (
        flags > (_SHIFT | _GAP | _ESCAPE)
        or packing.shift >= 8 * symbol_dtype(low, high).itemsize
        or (packing.escape and (packing.base == 1 or layer == _MAX_LAYERS))
        or start < low >> packing.shift
        or top > (high - packing.gap) >> packing.shift
    ):
        raise CorruptPacket(f"{packing} is no layer of symbols in [{low}, {high}]")
    return packing
