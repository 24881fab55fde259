"""A compressed vector as bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from ..coding import code_by_wire_id, encode_symbols
from ..compressors import (
    Compressed,
    Compressor,
    Parts,
    Tied,
    Vector,
    compressor_from_wire,
)
from ..compressors.arrays import NUMPY, Array
from ..compressors.checks import LARGEST
from ..errors import CorruptPacket
from ..streams import Stream
from .shared_vectors import Opened, SharedVectors

__all__ = ["Channel", "Payload", "share_decoding"]

_NO_CODE = 0
_FLOAT32 = np.dtype("<f4")
_LENGTH = struct.Struct("<I")
_MAX_CACHED_DIM = 1 << 14


class Channel(NamedTuple):
    """What both ends of a link know of a payload before it arrives.

    Attributes
    ----------
    stream : Stream
        The stream of the payload's compression, of the payload's version. Operators
        with shared randomness need it at both ends.
    sizes : tuple[int, ...], optional
        Lengths of the tensors that the vector is made of, for operators that act on
        each; None for one tensor.
    parts : Parts or Tied, optional
        Which tensors make up which part, where several operators share the vector, and
        which may be copies.
    forgotten : tuple[tuple[int, int], ...]
        Start and end of each stretch of which a memory holds nothing.
    """

    stream: Stream
    sizes: tuple[int, ...] | None = None
    parts: Parts | Tied | None = None
    forgotten: tuple[tuple[int, int], ...] = ()

    def at(self, version: int) -> Channel:
        """Return the channel of another version."""
        seed, purpose, index, _, part = self.stream
        stream = Stream(seed, purpose, index, version, part)
        return Channel(stream, self.sizes, self.parts, self.forgotten)

    def at_index(self, index: int) -> Channel:
        """Return the channel of another client, or group of them."""
        seed, purpose, _, version, part = self.stream
        stream = Stream(seed, purpose, index, version, part)
        return Channel(stream, self.sizes, self.parts, self.forgotten)


@dataclass(frozen=True, eq=False, init=False)
class Payload:
    """One vector after its compressor and its code.

    The bytes are: compressor id and scope (1), code id (1, zero for no symbols), the
    compressor's parameters, the symbols' bits padded with zeros to a byte, the
    float32 values, little-endian. Of a vector that several operators share they are:
    id of that (1), zero (1), number of parts (1), and the bytes of each part's vector,
    each but the last after their length (4). Of one whose arrays may be tied: id of
    that (1), zero (1), which ties hold, a bit each, and the bytes of the vector without
    those copies.

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

    def __init__(self, data: bytes, dim: int, channel: Channel | None = None) -> None:
        # The one that a frozen class is given takes three times as long.
        self.__dict__.update(data=data, dim=dim, channel=channel)

    @classmethod
    def encode(
        cls, x: Array, compressor: Compressor, code: str, channel: Channel
    ) -> Payload:
        """Compress and code `x`; the vector and the bits are known right away.

        A torch tensor is compressed on its device; what follows is NumPy on the host.
        """
        compressed = compressor.compress(x, channel.stream, channel.sizes).numpy()
        return cls.of(compressed, compressor, code, channel)

    @classmethod
    def of(
        cls, compressed: Compressed, compressor: Compressor, code: str, channel: Channel
    ) -> Payload:
        """Code what the operator made of a vector, on the host."""
        data, made = _write(compressed, compressor, code)
        payload = cls(data, compressed.dim, channel)
        payload.__dict__["_decoded"] = made
        return payload

    def on(self, channel: Channel) -> Payload:
        """Return the payload with what its bytes do not say."""
        if channel == self.channel:
            return self
        return Payload(self.data, self.dim, channel)

    @property
    def compressor(self) -> Compressor:
        """The operator that made the payload."""
        compressor: Compressor | None = self.__dict__.get("_compressor")
        return self._made.compressor if compressor is None else compressor

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
                key = self.data, self.dim, self.channel
                vector, operator, num_bits = _SHARED.get(key, self._open)
                self.__dict__.update(_compressor=operator, _num_bits=num_bits)
            else:
                vector = _vector(self._made, self.channel)
            self.__dict__["_vector"] = vector
        return vector

    def used_once(self) -> Vector:
        """Return :attr:`vector`, and do not hold it if it is long and was not held.

        The operator is known afterwards, without decoding once more.
        """
        if self.is_decoded or self.dim <= _MAX_CACHED_DIM or _SHARED.num_bytes:
            return self.vector
        made: _Decoded | None = self.__dict__.get("_decoded")
        if made is None:
            made = _decode(self.data, self.dim, *_tensors(self.channel))
            self.__dict__["_compressor"] = made.compressor
        return _vector(made, self.channel)

    def tensor(self, device: Any) -> Any:
        """Return :attr:`vector` as a torch tensor on a device, computed there.

        The code is decoded on the host; the same bytes as those of :attr:`vector`.

        Raises
        ------
        CorruptPacket
            If the bytes are not a payload of a vector of length `dim`.
        """
        made, channel = self._made, self.channel
        stream, sizes = (
            (None, None) if channel is None else (channel.stream, channel.sizes)
        )
        there = made.compressed.tensors(device)
        return made.compressor.decompress(there, stream, sizes)

    def contents(self) -> Iterator[tuple[Compressor, Compressed]]:
        """Yield each operator with what it made of its part of the vector.

        Raises
        ------
        CorruptPacket
            If the bytes are not a payload of a vector of length `dim`.
        """
        made = self._made
        yield from _contents(made.compressor, made.compressed)

    @property
    def is_decoded(self) -> bool:
        """Whether the vector is held."""
        return "_vector" in self.__dict__

    @property
    def crc(self) -> int:
        """CRC-32 of the payload's bytes."""
        return zlib.crc32(self.data)

    def compact(self) -> Payload:
        """Return the payload without its decoded vector, to be kept for long."""
        payload = Payload(self.data, self.dim, self.channel)
        payload.__dict__.update(_num_bits=self.num_bits, _compressor=self.compressor)
        return payload

    def lean(self) -> Payload:
        """Return the payload without its decoded vector, if that is long."""
        is_long = self.is_decoded and self.dim > _MAX_CACHED_DIM
        return self.compact() if is_long else self

    def _open(self) -> Opened:
        made = self._made
        return Opened(_vector(made, self.channel), made.compressor, made.num_bits)

    @property
    def _made(self) -> _Decoded:
        decoded: _Decoded | None = self.__dict__.get("_decoded")
        if decoded is None:
            sizes, parts = _tensors(self.channel)
            decode = _decode if self.dim > _MAX_CACHED_DIM else _decode_cached
            decoded = decode(self.data, self.dim, sizes, parts)
            self.__dict__["_decoded"] = decoded
        return decoded


@contextmanager
def share_decoding(num_bytes: int) -> Iterator[None]:
    """Keep so many bytes of decoded vectors for other receivers of the same bytes.

    For several clients in one process: each payload is decoded once. Within another
    one, or beside that of another thread, the larger number counts.
    """
    with _SHARING_LOCK:
        _SHARING.append(num_bytes)
        _SHARED.num_bytes = max(_SHARING)
    try:
        yield
    finally:
        with _SHARING_LOCK:
            _SHARING.remove(num_bytes)
            _SHARED.num_bytes = max(_SHARING, default=0)
            if not _SHARING:
                _SHARED.clear()


_SHARED = SharedVectors()
_SHARING: list[int] = []
_SHARING_LOCK = Lock()


@dataclass(slots=True, eq=False)
class _Decoded:
    compressor: Compressor
    compressed: Compressed
    num_bits: int


def _write(
    compressed: Compressed, compressor: Compressor, code: str
) -> tuple[bytes, _Decoded]:
    """Return the bytes, and what decoding them would give."""
    if isinstance(compressor, Parts):
        return _write_parts(compressed, compressor, code)
    if isinstance(compressor, Tied):
        mask, (part,) = compressed.ties, compressed.parts
        data, made = _write(part, compressor.reduced(mask).operator, code)
        head = bytes((compressor.wire_id, _NO_CODE))
        data = head + mask.to_bytes(compressor.mask_bytes, "little") + data
        return data, _with_copies(compressed.dim, compressor, mask, made)
    wire_id, parameters = compressor.to_wire()
    code_id, num_bits, body = _NO_CODE, 32 * len(compressed.values), b""
    if compressed.symbols is not None:
        chosen, body, code_bits = encode_symbols(code, compressed.symbols)
        code_id, num_bits = chosen.wire_id, num_bits + code_bits
    values = compressed.values.astype(_FLOAT32, copy=False).tobytes()
    data = b"".join((bytes((wire_id, code_id)), parameters, body, values))
    if not compressed.values.flags.owndata:
        # Perhaps the caller's own array: take the values as they are in the bytes.
        sent = np.frombuffer(data, dtype=_FLOAT32, offset=len(data) - len(values))
        compressed = Compressed(compressed.dim, sent, compressed.symbols)
    return data, _Decoded(compressor, compressed, num_bits)


def _write_parts(
    compressed: Compressed, compressor: Parts, code: str
) -> tuple[bytes, _Decoded]:
    written = [
        _write(part, operator, code)
        for part, operator in zip(compressed.parts, compressor.operators, strict=True)
    ]
    pieces = [bytes((compressor.wire_id, _NO_CODE, len(written)))]
    for data, _ in written[:-1]:
        pieces += [_LENGTH.pack(len(data)), data]
    pieces.append(written[-1][0])
    return b"".join(pieces), _joined(
        compressed.dim, compressor, [m for _, m in written]
    )


def _contents(
    compressor: Compressor, compressed: Compressed
) -> Iterator[tuple[Compressor, Compressed]]:
    if isinstance(compressor, Tied):
        operator = compressor.reduced(compressed.ties).operator
        yield from _contents(operator, compressed.parts[0])
    elif isinstance(compressor, Parts):
        for each, part in zip(compressor.operators, compressed.parts, strict=True):
            yield from _contents(each, part)
    else:
        yield compressor, compressed


def _joined(dim: int, compressor: Parts, made: list[_Decoded]) -> _Decoded:
    parts = tuple(each.compressed for each in made)
    compressed = Compressed(dim, np.zeros(0, dtype=np.float32), None, parts)
    return _Decoded(compressor, compressed, sum(each.num_bits for each in made))


def _with_copies(dim: int, compressor: Tied, mask: int, made: _Decoded) -> _Decoded:
    none = np.zeros(0, dtype=np.float32)
    compressed = Compressed(dim, none, None, (made.compressed,), mask)
    return _Decoded(compressor, compressed, made.num_bits)


def _decode_tied(view: memoryview, dim: int, tied: Parts | Tied | None) -> _Decoded:
    if not isinstance(tied, Tied):
        raise CorruptPacket("a payload without copies, where the contract has no ties")
    mask = int.from_bytes(view[2 : 2 + tied.mask_bytes], "little")
    if len(view) < 2 + tied.mask_bytes or view[1] != _NO_CODE:
        raise CorruptPacket("expected a payload without copies, got another head")
    if mask >> len(tied.ties):
        raise CorruptPacket(f"expected bits of {len(tied.ties)} ties, got more")
    expected, sizes = tied.reduced(mask)[:2]
    parts = expected if isinstance(expected, Parts) else None
    rest = bytes(view[2 + tied.mask_bytes :])
    made = _decode(rest, sum(sizes), sizes, parts)
    if made.compressor != expected:
        raise CorruptPacket(f"expected {expected}, got {made.compressor}")
    return _with_copies(dim, tied, mask, made)


def _decode_parts(view: memoryview, dim: int, parts: Parts | Tied | None) -> _Decoded:
    if not isinstance(parts, Parts) or dim != sum(parts.dims):
        raise CorruptPacket("a payload of parts, where the contract knows of none")
    count = len(parts.operators)
    if len(view) < 3 or view[1] != _NO_CODE or view[2] != count:
        raise CorruptPacket(f"expected a payload of {count} parts, got another head")
    made, rest = [], view[3:]
    for part, (width, sizes) in enumerate(
        zip(parts.dims, parts.part_sizes, strict=True)
    ):
        size = len(rest)
        if part < count - 1:
            if len(rest) < _LENGTH.size:
                raise CorruptPacket("a payload of parts that ends too early")
            (size,) = _LENGTH.unpack_from(rest)
            rest = rest[_LENGTH.size :]
        if size > len(rest):
            raise CorruptPacket(f"a part of {size} bytes, of which {len(rest)} came")
        made.append(_decode(bytes(rest[:size]), width, sizes))
        rest = rest[size:]
    sent = replace(parts, operators=tuple(each.compressor for each in made))
    return _joined(dim, sent, made)


def _decode(
    data: bytes,
    dim: int,
    sizes: tuple[int, ...] | None,
    parts: Parts | Tied | None = None,
) -> _Decoded:
    view = memoryview(data)
    if len(view) < 2:
        raise CorruptPacket(f"a payload has at least 2 bytes, got {len(view)}")
    if view[0] == Parts.wire_id:
        return _decode_parts(view, dim, parts)
    if view[0] == Tied.wire_id:
        return _decode_tied(view, dim, parts)
    compressor, size = compressor_from_wire(view[0], view[2:])
    body = view[2 + size :]
    alphabet = compressor.alphabet(dim)
    symbols, num_bits, used = None, 0, 0
    if alphabet is not None:
        low, high = alphabet
        # No code takes more than 9 bytes an entry, or more than a bit a level besides;
        # ANS has a bit a value of a byte, and frequencies, in each of its layers.
        if len(body) > 256 + 16 * dim + (high - low):
            raise CorruptPacket(
                f"a payload of {len(body)} bytes cannot be a vector of length {dim}"
            )
        symbols, num_bits = code_by_wire_id(view[1]).decode(body, dim, low, high)
        most = compressor.most_nonzeros(dim, sizes)
        if most < dim and symbols.num_nonzero > most:
            raise CorruptPacket(
                f"{compressor} leaves at most {most} of {dim} symbols other than zero, "
                f"got {symbols.num_nonzero}"
            )
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


def _tensors(
    channel: Channel | None,
) -> tuple[tuple[int, ...] | None, Parts | Tied | None]:
    return (None, None) if channel is None else (channel.sizes, channel.parts)


@lru_cache(maxsize=1024)
def _vector_cached(data: bytes, dim: int, channel: Channel | None) -> Vector:
    return _vector(_decode_cached(data, dim, *_tensors(channel)), channel)


_decode_cached = lru_cache(maxsize=1024)(_decode)
