"""Several symbols to a byte, the bytes in Huffman code.

Source: Huffman, "A method for the construction of minimum-redundancy codes" (1952);
the bytes are a raw deflate stream (RFC 1951).
"""

from __future__ import annotations

import struct
import zlib
from typing import ClassVar

import numpy as np

from ..compiled import compiled
from ..errors import CorruptPacket
from .packed_code import PackedCode
from .packing import BLOCK_BYTES, Bytes
from .packing_plan import ByteCoder

__all__ = ["PackedHuffman"]

_LENGTH = struct.Struct("<I")


class PackedHuffman(PackedCode):
    """Digits packed into bytes (see `packed_code`), the bytes through zlib's Huffman.

    The packed bytes of a layer are written as the length of a raw deflate stream in
    bytes (uint32, little-endian) and that stream. The encoder searches no matches and
    starts a new Huffman table every 32,704 bytes.

    For long vectors the length is 1.01 to 1.03 of the zero-order entropy, a table of
    60 to 100 bytes for each 32,704 included. Up to eight symbols share a codeword, so
    entropies below 0.5 bit a symbol are for other codes.

    A decoder takes any deflate stream of the right bytes: another zlib may write other
    bytes for the same symbols, and the length is that of the zlib at hand.
    """

    name: ClassVar[str] = "packed-huffman"
    wire_id: ClassVar[int] = 6
    byte_coder: ClassVar[ByteCoder] = ByteCoder(
        per_byte=0.25,
        per_bit=0.03,
        per_escape=1.5,
        table_bytes=0.35,
        table_every=BLOCK_BYTES,
        whole_bits=True,
    )

    def compress(self, packed: Bytes, limit: int) -> list[bytes]:
        """Return the length of the deflate stream and the stream."""
        fast = compiled("deflate", packed.size)
        if fast is not None and fast.writes_as_zlib():
            stream = fast.deflate(packed, BLOCK_BYTES)
            return [_LENGTH.pack(len(stream)), stream]
        deflate = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
        parts = []
        for start in range(0, packed.size, BLOCK_BYTES):
            if start:
                # Empties the window: zlib need not move its hash table along, which
                # takes longer than these 5 bytes are worth.
                parts.append(deflate.flush(zlib.Z_FULL_FLUSH))
            parts.append(deflate.compress(packed[start : start + BLOCK_BYTES].data))
        parts.append(deflate.flush())
        return [_LENGTH.pack(sum(map(len, parts))), *parts]

    def decompress(self, data: memoryview, count: int, limit: int) -> tuple[Bytes, int]:
        """Return `count` bytes and how many of `data` they took."""
        if len(data) < _LENGTH.size:
            raise CorruptPacket("the length of a deflate stream is cut off")
        end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
        if end > len(data):
            raise CorruptPacket(f"expected {end} bytes of deflate, got {len(data)}")
        fast = compiled("inflate", count)
        if fast is not None:
            # None is for zlib to judge.
            found: Bytes | None = fast.inflate(data[_LENGTH.size : end], count)
            if found is not None:
                return found, end
        inflate = zlib.decompressobj(-15)
        try:
            # One more than expected: the end of the stream is read, and if it is
            # longer no more than that is held.
            packed = inflate.decompress(data[_LENGTH.size : end], count + 1)
        except zlib.error as error:
            raise CorruptPacket(f"a deflate stream is damaged: {error}") from None
        if len(packed) != count or not inflate.eof or inflate.unused_data:
            raise CorruptPacket(f"expected a deflate stream of {count} bytes")
        return np.frombuffer(packed, dtype=np.uint8), end
