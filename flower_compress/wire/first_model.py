"""A run's first model where it does not travel dense: made by the client, or packed.

A memory at both ends begins with a vector that both know. Where that is no snapshot,
the contract says what it is: the digest of a vector that the client makes by itself, or
that a payload stands in front of the exact arrays, of any operator that needs nothing
but the arrays' lengths.
"""

from __future__ import annotations

import hashlib
import re
import struct

from ..compressors import Vector
from ..errors import CorruptPacket
from ..links import Channel, Payload
from ..streams import Purpose, Stream
from .framing import section, take_section, vector_bytes
from .layout import Layout

__all__ = ["PACKED", "channel_of", "digest_of", "is_term", "pack", "unpack"]

PACKED = "packed"
"""Term of a contract: the first model is a payload."""

_DIGEST = re.compile("sha256:[0-9a-f]{32}")
_VERSION = 1


def digest_of(vector: Vector) -> str:
    """Return the term of a contract for a vector that the client makes itself.

    The first 128 bits of the SHA-256 of its entries, float32, little-endian.
    """
    return f"sha256:{hashlib.sha256(vector_bytes(vector)).hexdigest()[:32]}"


def is_term(term: object) -> bool:
    """Whether that is what a contract may say of the first model."""
    return isinstance(term, str) and (
        term == PACKED or _DIGEST.fullmatch(term) is not None
    )


def channel_of(seed: int, layout: Layout) -> Channel:
    """Return the channel of the payload: version 1 of the first downlink."""
    return Channel(Stream(seed, Purpose.DOWNLINK, 0), layout.sizes).at(_VERSION)


def pack(first: Payload, exact: bytes) -> bytes:
    """Return a packet's section of exact arrays, with the first model before them."""
    return b"".join((*section(first.data), exact))


def unpack(data: bytes, seed: int, layout: Layout) -> tuple[Vector, bytes]:
    """Return the first model, shape (d,), and the exact arrays.

    Raises
    ------
    CorruptPacket
        If there is no such payload.
    """
    first, exact = take_section(memoryview(data))
    try:
        payload = Payload(first, layout.dim).on(channel_of(seed, layout))
        return payload.vector, bytes(exact)
    except (IndexError, struct.error) as error:
        raise CorruptPacket(f"not a first model: {error}") from error
