"""What packets and mail have in common as bytes: a header, its CRC-32, a body.

All numbers are little-endian. The CRC-32 stands behind the header and is that of the
header and the body. A section is bytes with their length in 4 bytes before them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compressors import Vector
from ..errors import ConfigurationError, CorruptPacket

__all__ = [
    "CRC_BYTES",
    "bytes_of",
    "pack",
    "seal",
    "section",
    "take",
    "take_section",
    "take_vector",
    "unseal",
    "vector_bytes",
]

_CRC = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
CRC_BYTES = _CRC.size
_FEW = 1 << 12


def pack(form: struct.Struct, *numbers: float) -> bytes:
    """Return the numbers as bytes.

    Raises
    ------
    ConfigurationError
        If one is out of range.
    """
    try:
        return form.pack(*numbers)
    except struct.error:
        raise ConfigurationError(
            "session, versions, numbers, CRC and dimension must lie in [0, 2^32), got "
            f"{numbers}"
        ) from None


def seal(header: bytes, body: Sequence[bytes | memoryview]) -> bytes:
    """Return the header, the CRC-32 and the parts of the body."""
    crc = zlib.crc32(header)
    for part in body:
        crc = zlib.crc32(part, crc)
    return b"".join((header, _CRC.pack(crc), *body))


def unseal(
    form: struct.Struct, data: bytes, version: int, kind: str
) -> tuple[tuple[Any, ...], memoryview]:
    """Return the numbers of the header, and the body.

    Raises
    ------
    CorruptPacket
        If the bytes are too few, of another format version, or damaged.
    """
    size = form.size + CRC_BYTES
    if len(data) < size:
        raise CorruptPacket(
            f"expected a {kind} of at least {size} bytes, got {len(data)}"
        )
    if data[0] != version:
        raise CorruptPacket(
            f"expected a {kind} of format {version}, got {data[0]}: install the same "
            "major version of flower-compress at both ends"
        )
    rest = memoryview(data)[size:]
    crc = zlib.crc32(rest, zlib.crc32(data[: form.size]))
    if _CRC.unpack_from(data, form.size)[0] != crc:
        raise CorruptPacket("the checksum does not match: damaged on the way")
    return form.unpack_from(data), rest


def section(data: bytes) -> tuple[bytes, bytes]:
    """Return the parts of a section."""
    return pack(_LENGTH, len(data)), data


def take(data: memoryview, size: int) -> tuple[bytes, memoryview]:
    """Return the first `size` bytes, and the rest; CorruptPacket if there are less."""
    if size > len(data):
        raise CorruptPacket(f"expected {size} more bytes, got {len(data)}")
    return bytes(data[:size]), data[size:]


def take_section(data: memoryview) -> tuple[bytes, memoryview]:
    """Return the bytes whose length stands before them, and the rest."""
    if len(data) < _LENGTH.size:
        raise CorruptPacket(f"expected a length of 4 bytes, got {len(data)} bytes")
    (size,) = _LENGTH.unpack_from(data)
    return take(data[_LENGTH.size :], size)


def bytes_of(entries: NDArray[Any]) -> bytes | memoryview:
    """Return the bytes of entries in C order; of many in place, to be copied."""
    if entries.nbytes < _FEW or not entries.flags.c_contiguous:
        return entries.tobytes()
    return entries.reshape(-1).view(np.uint8).data


def vector_bytes(vector: Vector) -> bytes | memoryview:
    """Return a vector as float32, 4 d bytes, as :func:`bytes_of` does."""
    return bytes_of(vector.astype("<f4", copy=False))


def take_vector(data: memoryview, dim: int) -> tuple[Vector, memoryview]:
    """Return a vector of length `dim`, all entries finite, and the rest."""
    size = 4 * dim
    if size > len(data):
        raise CorruptPacket(f"expected {size} more bytes, got {len(data)}")
    vector = np.frombuffer(data[:size], dtype="<f4").astype(np.float32)
    if not np.isfinite(vector).all():
        raise CorruptPacket("a dense vector holds NaN or infinity")
    return vector, data[size:]
