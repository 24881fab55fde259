"""A compressed vector as bytes."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..coding import code_by_wire_id, encode_symbols
from ..compressors import Compressed, Compressor, Vector, compressor_from_wire
from ..compressors.arrays import NUMPY, Array
from ..compressors.checks import LARGEST
from ..errors import CorruptPacket
from ..streams import Stream

__all__ = ["Channel", "Payload", "share_decoding"]

_NO_CODE = 0
_FLOAT32 = np.dtype("<f4")
_MAX_CACHED_DIM = 1 << 14


@dataclass(frozen=True, slots=True)
class Channel:
    """What both ends of a link know of a payload before it arrives.

    Parameters
    ----------
    stream : Stream
        The stream of the payload's compression, of the payload's version. Operators
        with shared randomness need it at both ends.
    sizes : tuple[int, ...], optional
        Lengths of the tensors that the vector is made of, for operators that act on
        each; None for one tensor.
    """

    stream: Stream
    sizes: tuple[int, ...] | None = None

    def at(self, version: int) -> Channel:
        """Return the channel of another version."""
        return Channel(self.stream.at(version), self.sizes)


@dataclass(frozen=True, eq=False)
class Payload:
    """One vector after its compressor and its code.

    The bytes are: compressor id and scope (1), code id (1, zero for no symbols), the
    compressor's parameters, the symbols' bits padded with zeros to a byte, the
    float32 values, little-endian.

    Parameters
    ----------
    data : bytes
        The bytes above.
    dim : int
        Length d of the vector.
    channel : Channel, optional
        What the bytes do not say; None until it is known.
    """

    data: bytes
    dim: int
    channel: Channel | None = None

    @classmethod
    def encode(
        cls, x: Array, compressor: Compressor, code: str, channel: Channel
    ) -> Payload:
        """Compress and code `x`; the vector and the bits are known right away.

        A torch tensor is compressed on its device; what follows is NumPy on the host.
        """
        compressed = compressor.compress(x, channel.stream, channel.sizes).numpy()
        wire_id, parameters = compressor.to_wire()
        code_id, num_bits, body = _NO_CODE, 32 * len(compressed.values), b""
        if compressed.symbols is not None:
            chosen, body, code_bits = encode_symbols(code, compressed.symbols)
            code_id, num_bits = chosen.wire_id, num_bits + code_bits
        values = compressed.values.astype(_FLOAT32, copy=False).tobytes()
        data = b"".join((bytes((wire_id, code_id)), parameters, body, values))
        payload = cls(data, compressed.dim, channel)
        if not compressed.values.flags.owndata:
            # Perhaps the caller's own array: take the values as they are in the bytes.
            sent = np.frombuffer(data, dtype=_FLOAT32, offset=len(data) - len(values))
            compressed = Compressed(compressed.dim, sent, compressed.symbols)
        payload.__dict__["_decoded"] = _Decoded(compressor, compressed, num_bits)
        return payload

    def on(self, channel: Channel) -> Payload:
        """Return the payload with what its bytes do not say."""
        if channel == self.channel:
            return self
        return Payload(self.data, self.dim, channel)

    @property
    def compressor(self) -> Compressor:
        """The operator that made the payload."""
        return self._made.compressor

    @property
    def num_bits(self) -> int:
        """Exact payload length in bits: the code's bits and 32 a value."""
        num_bits: int | None = self.__dict__.get("_num_bits")
        return self._made.num_bits if num_bits is None else num_bits

    @property
    def vector(self) -> Vector:
        """The value that the payload carries, C(x), shape (d,), read-only.

        Raises
        ------
        CorruptPacket
            If the bytes are not a payload of a vector of length `dim`.
        """
        # Kept by hand: a cached_property of Python 3.11 takes a lock.
        vector: Vector | None = self.__dict__.get("_vector")
        if vector is None:
            if "_decoded" not in self.__dict__ and self.dim <= _MAX_CACHED_DIM:
                # Clients of a shared link decode the same bytes: in one process, once
                # is enough. Vectors too long to keep are decoded each time, unless
                # share_decoding() says how many may be kept.
                vector = _vector_cached(self.data, self.dim, self.channel)
            elif _SHARED.num_bytes:
                vector = _SHARED.get(self)
            else:
                vector = _vector(self._made, self.channel)
            self.__dict__["_vector"] = vector
        return vector

    @property
    def crc(self) -> int:
        """CRC-32 of the payload's bytes."""
        return zlib.crc32(self.data)

    def compact(self) -> Payload:
        """Return the payload without its decoded vector, to be kept for long."""
        payload = Payload(self.data, self.dim, self.channel)
        payload.__dict__["_num_bits"] = self.num_bits
        return payload

    @property
    def _made(self) -> _Decoded:
        decoded: _Decoded | None = self.__dict__.get("_decoded")
        if decoded is None:
            sizes = None if self.channel is None else self.channel.sizes
            decode = _decode if self.dim > _MAX_CACHED_DIM else _decode_cached
            decoded = self.__dict__["_decoded"] = decode(self.data, self.dim, sizes)
        return decoded


@contextmanager
def share_decoding(num_bytes: int) -> Iterator[None]:
    """Keep so many bytes of decoded vectors for other receivers of the same bytes.

    For several clients in one process, of one thread: each payload is decoded once.
    """
    before, _SHARED.num_bytes = _SHARED.num_bytes, num_bytes
    try:
        yield
    finally:
        _SHARED.num_bytes = before
        _SHARED.clear()


class _SharedVectors:
    """Vectors of the payloads used last, up to a number of bytes."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._held = 0
        self._vectors: OrderedDict[tuple[bytes, int, Channel | None], Vector] = (
            OrderedDict()
        )

    def get(self, payload: Payload) -> Vector:
        key = payload.data, payload.dim, payload.channel
        vector = self._vectors.get(key)
        if vector is None:
            vector = _vector(payload._made, payload.channel)
            self._vectors[key] = vector
            self._held += vector.nbytes
            while self._held > self.num_bytes and self._vectors:
                _, oldest = self._vectors.popitem(last=False)
                self._held -= oldest.nbytes
        else:
            self._vectors.move_to_end(key)
        return vector

    def clear(self) -> None:
        self._vectors.clear()
        self._held = 0


_SHARED = _SharedVectors()


@dataclass(slots=True, eq=False)
class _Decoded:
    compressor: Compressor
    compressed: Compressed
    num_bits: int


def _decode(data: bytes, dim: int, sizes: tuple[int, ...] | None) -> _Decoded:
    view = memoryview(data)
    if len(view) < 2:
        raise CorruptPacket(f"a payload has at least 2 bytes, got {len(view)}")
    compressor, size = compressor_from_wire(view[0], view[2:])
    body = view[2 + size :]
    alphabet = compressor.alphabet(dim)
    symbols, num_bits, used = None, 0, 0
    if alphabet is not None:
        low, high = alphabet
        # No code takes more than 9 bytes an entry, or more than a bit a level besides.
        if len(body) > 64 + 16 * dim + (high - low):
            raise CorruptPacket(
                f"a payload of {len(body)} bytes cannot be a vector of length {dim}"
            )
        symbols, num_bits = code_by_wire_id(view[1]).decode(body, dim, low, high)
        used = -(-num_bits // 8)
    elif view[1] != _NO_CODE:
        raise CorruptPacket(f"{compressor.name} has no symbols, got code {view[1]}")
    count = compressor.num_values(dim, symbols, sizes)
    if len(body) - used != 4 * count:
        raise CorruptPacket(
            f"expected {count} float32 values after the symbols, got "
            f"{len(body) - used} bytes"
        )
    values = np.frombuffer(body[used:], dtype=_FLOAT32)
    if not NUMPY.within(values, -LARGEST, LARGEST):
        raise CorruptPacket("a payload holds a value that is NaN or infinite")
    compressed = Compressed(dim, values, symbols)
    return _Decoded(compressor, compressed, num_bits + 32 * count)


def _vector(made: _Decoded, channel: Channel | None) -> Vector:
    stream, sizes = (None, None) if channel is None else (channel.stream, channel.sizes)
    vector: Vector = made.compressor.decompress(made.compressed, stream, sizes)
    vector.flags.writeable = False
    return vector


@lru_cache(maxsize=1024)
def _vector_cached(data: bytes, dim: int, channel: Channel | None) -> Vector:
    sizes = None if channel is None else channel.sizes
    return _vector(_decode_cached(data, dim, sizes), channel)


_decode_cached = lru_cache(maxsize=1024)(_decode)
