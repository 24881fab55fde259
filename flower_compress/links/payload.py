"""A compressed vector as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ..coding import choose_code, code_by_wire_id
from ..compressors import Compressed, Compressor, Vector, compressor_from_wire
from ..errors import CorruptPacket
from ..streams import Stream

__all__ = ["Payload"]

_NO_CODE = 0
_MAX_CACHED_DIM = 1 << 14


@dataclass(frozen=True, eq=False)
class Payload:
    """One vector after its compressor and its code.

    The bytes are: compressor id (1), code id (1, zero for no symbols), the
    compressor's parameters, the symbols' bits padded with zeros to a byte, the
    float32 values, little-endian.

    Parameters
    ----------
    data : bytes
        The bytes above.
    dim : int
        Length d of the vector.
    """

    data: bytes
    dim: int

    @classmethod
    def encode(
        cls, x: Vector, compressor: Compressor, code: str, stream: Stream
    ) -> Payload:
        """Compress and code `x`; the vector and the bits are known right away."""
        compressed = compressor.compress(x, stream)
        parts = [compressor.to_wire()]
        code_id, num_bits = _NO_CODE, 32 * compressed.values.size
        if compressed.symbols is not None:
            chosen = choose_code(code, compressed.symbols)
            bits = chosen.encode(compressed.symbols)
            code_id, num_bits = chosen.wire_id, num_bits + bits.size
            parts.append(np.packbits(bits).tobytes())
        parts.append(compressed.values.astype("<f4", copy=False).tobytes())
        prefix = bytes((compressor.wire_id, code_id))
        payload = cls(prefix + b"".join(parts), x.size)
        payload.__dict__["num_bits"] = num_bits
        return payload

    @property
    def compressor(self) -> Compressor:
        """The operator that made the payload."""
        return self._decoded.compressor

    @cached_property
    def num_bits(self) -> int:
        """Exact payload length in bits: the code's bits and 32 a value."""
        return self._decoded.num_bits

    @property
    def vector(self) -> Vector:
        """The value that the payload carries, C(x), shape (d,), read-only.

        Raises
        ------
        CorruptPacket
            If the bytes are not a payload of a vector of length `dim`.
        """
        return self._decoded.vector

    def compact(self) -> Payload:
        """Return the payload without its decoded vector, to be kept for long."""
        payload = Payload(self.data, self.dim)
        payload.__dict__["num_bits"] = self.num_bits
        return payload

    @cached_property
    def _decoded(self) -> _Decoded:
        # Both ends of a link decode a payload when it arrives and again when it is
        # folded, and clients of a shared link decode the same bytes: in one process,
        # once is enough. Vectors too long to keep are decoded each time.
        if self.dim <= _MAX_CACHED_DIM:
            return _decode_cached(self.data, self.dim)
        return _decode(self.data, self.dim)


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    compressor: Compressor
    vector: Vector
    num_bits: int


def _decode(data: bytes, dim: int) -> _Decoded:
    view = memoryview(data)
    if len(view) < 2:
        raise CorruptPacket(f"a payload has at least 2 bytes, got {len(view)}")
    if len(view) > 64 + 16 * dim:
        raise CorruptPacket(
            f"a payload of {len(view)} bytes cannot be a vector of length {dim}"
        )
    compressor, size = compressor_from_wire(view[0], view[2:])
    body = view[2 + size :]
    alphabet = compressor.alphabet()
    symbols, num_bits, used = None, 0, 0
    if alphabet is not None:
        bits = np.unpackbits(np.frombuffer(body, dtype=np.uint8))
        symbols, num_bits = code_by_wire_id(view[1]).decode(bits, dim, *alphabet)
        used = -(-num_bits // 8)
        if bits[num_bits : 8 * used].any():
            raise CorruptPacket("the padding after the symbols is not zero")
    elif view[1] != _NO_CODE:
        raise CorruptPacket(f"{compressor.name} has no symbols, got code {view[1]}")
    count = compressor.num_values(dim, symbols.num_nonzero if symbols else 0)
    if len(body) - used != 4 * count:
        raise CorruptPacket(
            f"expected {count} float32 values after the symbols, got "
            f"{len(body) - used} bytes"
        )
    values = np.frombuffer(body[used:], dtype="<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise CorruptPacket("a payload holds a value that is NaN or infinite")
    vector = compressor.decompress(Compressed(dim, values, symbols))
    vector.flags.writeable = False
    return _Decoded(compressor, vector, num_bits + 32 * count)


_decode_cached = lru_cache(maxsize=1024)(_decode)
