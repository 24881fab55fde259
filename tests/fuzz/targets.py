"""What is fuzzed: every decoder of bytes that come from a stranger.

An input is one byte for the target, two for the dimension, and the stranger's bytes.
"""

from __future__ import annotations

import struct
import zlib

from flower_compress.coding import CODE_NAMES
from flower_compress.compressors import get_compressor
from flower_compress.contract import Contract
from flower_compress.errors import CorruptPacket
from flower_compress.links import Channel, Payload
from flower_compress.links.payload import _decode, _vector
from flower_compress.packet import HEADER_BYTES, Packet
from flower_compress.streams import Purpose, Stream

MAX_DIM = 600
CHANNEL = Channel(Stream(1, Purpose.UPLINK, 2, 3))
_PREFIX = struct.Struct("<BH")
PAYLOAD, PACKET, CONTRACT = 0, 1, 2

OPERATORS: tuple[dict[str, object], ...] = (
    {"name": "identity"},
    {"name": "stochastic-quantizer", "levels": 1},
    {"name": "stochastic-quantizer", "levels": 4, "bucket_size": 64},
    {"name": "stochastic-quantizer", "levels": 1000, "subtractive": True},
    {"name": "stochastic-quantizer", "levels": 32767, "norm": "inf"},
    {"name": "random-sparsifier", "p": 0.1},
    {"name": "top-k", "fraction": 0.05},
    {"name": "rand-k", "k": 9},
    {"name": "min-variance-sparsifier", "density": 0.1},
    {"name": "dithered-quantizer", "levels": 8},
    {"name": "dithered-quantizer", "levels": 300, "subtractive": True},
    {"name": "scaled-sign", "per": "tensor"},
    {"name": "rotated-quantizer", "bucket_size": 100},
)


def fuzz_one(data: bytes) -> bool:
    """Feed one input to its decoder; return whether it was accepted.

    Anything but :class:`CorruptPacket` comes through.
    """
    if len(data) < _PREFIX.size:
        return False
    target, dim = _PREFIX.unpack_from(data)
    dim, body = dim % (MAX_DIM + 1), data[_PREFIX.size :]
    # A tensor of its own for the first third, for operators that act on each.
    channel = Channel(CHANNEL.stream, (dim // 3, dim - dim // 3))
    try:
        if target % 3 == PAYLOAD:
            _vector(_decode(body, dim, channel.sizes), channel)
        elif target % 3 == PACKET:
            packet = Packet.parse(with_checksum(body))
            packet.require_dim(dim)
            for payload in packet.on(channel).payloads:
                _vector(_decode(payload.data, dim, channel.sizes), payload.channel)
        else:
            Contract.from_bytes(body)
    except CorruptPacket:
        return False
    return True


def with_checksum(data: bytes) -> bytes:
    """Return the packet with the checksum that its bytes should have."""
    if len(data) < HEADER_BYTES:
        return data
    head, rest = data[: HEADER_BYTES - 4], data[HEADER_BYTES:]
    return head + struct.pack("<I", zlib.crc32(rest, zlib.crc32(head))) + rest


def seeds() -> list[bytes]:
    """Inputs that decode: every operator with every code."""
    from benchmarks.vectors import random_vector
    from flower_compress.layout import Layout, Tensor
    from flower_compress.links import Memory

    inputs = []
    for dim in (0, 1, 9, 200, MAX_DIM):
        channel = Channel(CHANNEL.stream, (dim // 3, dim - dim // 3))
        x = random_vector("gaussian", dim)
        for config in OPERATORS:
            compressor = get_compressor(config)
            alphabet = compressor.alphabet(dim)
            for code in CODE_NAMES:
                if code == "indices" and alphabet != (0, 1):
                    continue
                payload = Payload.encode(x, compressor, code, channel)
                packet = Packet(7, 2, 3, 1, 0, dim, (payload,)).data
                inputs.append(_PREFIX.pack(PAYLOAD, dim) + payload.data)
                inputs.append(_PREFIX.pack(PACKET, dim) + packet)
                contract = Contract(
                    Layout((Tensor("w", (dim,), "float32", False),)),
                    Memory(compressor, code),
                    0.5,
                    3,
                )
                inputs.append(_PREFIX.pack(CONTRACT, 0) + contract.to_bytes())
    return inputs
