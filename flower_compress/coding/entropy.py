"""Several symbols to a byte, the bytes by ANS, within 1 % of the entropy.

Source: Duda et al., "The use of asymmetric numeral systems as an accurate replacement
for Huffman coding" (PCS 2015); the coder is that of the package `constriction`
(Bamler, "Understanding entropy coding with asymmetric numeral systems", 2022).
"""

from __future__ import annotations

import math
import struct
from types import ModuleType
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptPacket, MissingExtraError
from .nested_golomb import NestedGolomb
from .packed_code import PackedCode
from .packing import BLOCK_BYTES, Bytes
from .packing_plan import ByteCoder
from .symbols import Symbols

__all__ = ["Entropy"]

_LENGTH = struct.Struct("<I")
_TOTAL = 2**16
_MAX_VARINT_BYTES = 3
_SPARSE = 8
_BY_BYTES, _BY_RUNS = b"\0", b"\1"
_RUNS = NestedGolomb()


class Entropy(PackedCode):
    """Digits packed into bytes (see `packed_code`), the bytes through ANS.

    A first byte is 0 before that, and 1 before the code of
    :class:`~flower_compress.coding.NestedGolomb`, which stands for it where fewer than
    an eighth of the symbols are not zero and it is shorter: there the frequencies of
    the bytes would weigh more than the runs lose. The packed bytes of a layer, n bytes
    below m = b^g, are written as

    1. a bit for each value 0 to m - 1, a one if it occurs, most significant bit of a
       byte first, filled up with zeros;
    2. for each value that occurs its frequency: its count c if n <= 2^16, else
       ceil(2^16 c / n), in LEB128: 7 bits a byte, the lowest first, 128 added to all
       but the last byte, 3 bytes at most;
    3. the number of words (uint32, little-endian) and the words (likewise).

    The words are those of constriction's `AnsCoder` (32-bit words, 64-bit state, 24-bit
    probabilities) with one `Categorical` model, `perfect=False`, of the frequencies as
    float64: integers whose sums are exact, so both ends derive the same model. The
    last word is not 0. Decoding must leave nothing over.

    The length is within 1.005 of the zero-order entropy for long vectors, frequencies
    (at most m / 8 + 2 m bytes) and the state of the coder (at most 8 bytes) included.

    Raises
    ------
    MissingExtraError
        On encoding and decoding, if constriction is not installed.
    """

    name: ClassVar[str] = "entropy"
    wire_id: ClassVar[int] = 7
    byte_coder: ClassVar[ByteCoder] = ByteCoder(
        per_byte=0.1,
        per_bit=0.0,
        per_escape=0.5,
        table_bytes=1.5,
        table_every=math.inf,
        whole_bits=False,
    )

    def encode(self, symbols: Symbols) -> tuple[bytes, int]:
        """Return the code and its length in bits."""
        # At the first vector, not at the first one that needs the package.
        _constriction()
        if not symbols.dim:
            return b"", 0
        data, num_bits = super().encode(symbols)
        if _SPARSE * symbols.num_nonzero < symbols.dim:
            runs, runs_bits = _RUNS.encode(symbols)
            if runs_bits < num_bits:
                return _BY_RUNS + runs, 8 + runs_bits
        return _BY_BYTES + data, 8 + num_bits

    def decode(
        self, data: memoryview, dim: int, low: int, high: int
    ) -> tuple[Symbols, int]:
        """Return the symbols at the front of `data` and how many bits they took."""
        _constriction()
        if not dim:
            return super().decode(data, dim, low, high)
        if data[:1] == _BY_BYTES:
            symbols, num_bits = super().decode(data[1:], dim, low, high)
        elif data[:1] == _BY_RUNS:
            symbols, num_bits = _RUNS.decode(data[1:], dim, low, high)
        else:
            raise CorruptPacket(f"expected a 0 or a 1 first, got {bytes(data[:1])!r}")
        return symbols, 8 + num_bits

    def compress(self, packed: Bytes, limit: int) -> list[bytes]:
        """Return the frequencies, the number of words and the words."""
        stream = _constriction()
        counts = np.zeros(limit, dtype=np.int64)
        for start in range(0, packed.size, BLOCK_BYTES):
            block = packed[start : start + BLOCK_BYTES]
            counts += np.bincount(block, minlength=limit)
        if packed.size > _TOTAL:
            counts = -(-_TOTAL * counts // packed.size)
        model = stream.model.Categorical(counts.astype(np.float64), perfect=False)
        coder = stream.stack.AnsCoder()
        # A stack: what is pushed last is decoded first.
        for start in reversed(range(0, packed.size, BLOCK_BYTES)):
            block = packed[start : start + BLOCK_BYTES]
            coder.encode_reverse(block.astype(np.int32), model)
        words = coder.get_compressed().astype("<u4")
        return [_write_counts(counts), _LENGTH.pack(words.size), words.tobytes()]

    def decompress(self, data: memoryview, count: int, limit: int) -> tuple[Bytes, int]:
        """Return `count` bytes and how many of `data` they took."""
        stream = _constriction()
        counts, used = _read_counts(data, limit)
        if len(data) < used + _LENGTH.size:
            raise CorruptPacket("the number of ANS words is cut off")
        num_words = _LENGTH.unpack_from(data, used)[0]
        start, used = used + _LENGTH.size, used + _LENGTH.size + 4 * num_words
        if used > len(data):
            raise CorruptPacket(f"expected {num_words} ANS words: they are cut off")
        words = np.frombuffer(data[start:used], dtype="<u4").astype(np.uint32)
        total, most = int(counts.sum()), int(counts.max())
        if not total:
            raise CorruptPacket("all frequencies are 0")
        # Each byte takes -log2(most / total) bits at least; a tenth is for rounding.
        if 32 * num_words + 64 < 0.9 * count * math.log2(total / most):
            raise CorruptPacket(f"{num_words} ANS words are too few for {count} bytes")
        if num_words and words[-1] == 0:
            raise CorruptPacket("the last ANS word is 0")
        model = stream.model.Categorical(counts.astype(np.float64), perfect=False)
        coder = stream.stack.AnsCoder(words)
        packed = np.empty(count, dtype=np.uint8)
        for at in range(0, count, BLOCK_BYTES):
            block = packed[at : at + BLOCK_BYTES]
            block[:] = coder.decode(model, block.size)
        if not coder.is_empty():
            raise CorruptPacket(f"{count} bytes do not use up {num_words} ANS words")
        return packed, used


def _constriction() -> ModuleType:
    try:
        import constriction
    except ImportError:
        raise MissingExtraError("constriction", "entropy") from None
    stream: ModuleType = constriction.stream
    return stream


def _write_counts(counts: NDArray[np.int64]) -> bytes:
    data = bytearray(np.packbits(counts > 0).tobytes())
    for value in counts[counts > 0].tolist():
        while value >= 128:
            data.append(128 | value & 127)
            value >>= 7
        data.append(value)
    return bytes(data)


def _read_counts(data: memoryview, limit: int) -> tuple[NDArray[np.int64], int]:
    """Return a count for each of `limit` values and how many bytes they took."""
    used = -(-limit // 8)
    bitmap = np.frombuffer(data[:used], dtype=np.uint8)
    if bitmap.size < used:
        raise CorruptPacket(f"expected {used} bytes of bitmap, got {bitmap.size}")
    if limit % 8 and bitmap[-1] & 0xFF >> limit % 8:
        raise CorruptPacket("the padding of the bitmap is not zero")
    occurring = np.flatnonzero(np.unpackbits(bitmap, count=limit))
    counts = np.zeros(limit, dtype=np.int64)
    for value in occurring.tolist():
        for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
            if used == len(data):
                raise CorruptPacket("a frequency is cut off")
            byte, used = data[used], used + 1
            counts[value] |= (byte & 127) << shift
            if byte < 128:
                break
        else:
            raise CorruptPacket(f"a frequency is longer than {_MAX_VARINT_BYTES} bytes")
    return counts, used
