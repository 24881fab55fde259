"""What is fuzzed: every decoder of bytes that come from a stranger.

An input is one byte for the target, two for the dimension, and the stranger's bytes.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum

from flower_compress.coding import CODE_NAMES
from flower_compress.compressors import (
    Compressor,
    Identity,
    Parts,
    PerArray,
    RandK,
    StochasticQuantizer,
    Tied,
    get_compressor,
)
from flower_compress.errors import CorruptPacket
from flower_compress.links import Channel, Payload
from flower_compress.links.payload import _decode, _vector
from flower_compress.streams import Purpose, Stream
from flower_compress.wire.contract import Contract
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.mail import EVERYONE, Delivery, Letter, Posting
from flower_compress.wire.packet import HEADER_BYTES, Packet
from tests.flower_compress.operators import FIRST, Row

MAX_DIM = 600
STREAM = Stream(1, Purpose.UPLINK, 2, 3)
BY_ARRAY = PerArray({"0": RandK(k=3)}, StochasticQuantizer(levels=4))
_PREFIX = struct.Struct("<BH")
# Of mail without a body.
DELIVERY_BYTES, POSTING_BYTES = len(Delivery(0, 0).data), len(Posting(0, 0).data)


class Target(IntEnum):
    """The decoders."""

    PAYLOAD = 0
    PACKET = 1
    CONTRACT = 2
    DELIVERY = 3
    POSTING = 4
    GOSSIP_CONTRACT = 5


OPERATORS: tuple[Row, ...] = (
    *FIRST,
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
    {"name": "natural-compression"},
)
"""Each operator, and what its other configurations do with bytes."""


def fuzz_one(data: bytes) -> bool:
    """Feed one input to its decoder; return whether it was accepted.

    Anything but :class:`CorruptPacket` comes through.
    """
    if len(data) < _PREFIX.size:
        return False
    target, dim = _PREFIX.unpack_from(data)
    dim, body = dim % (MAX_DIM + 1), data[_PREFIX.size :]
    channel = _channel(dim)
    try:
        match Target(target % len(Target)):
            case Target.PAYLOAD:
                _vector(_decode(body, dim, channel.sizes, channel.parts), channel)
            case Target.PACKET:
                packet = Packet.parse(with_checksum(body, HEADER_BYTES))
                packet.require_dim(dim)
                for payload in packet.on(channel).payloads:
                    made = _decode(payload.data, dim, channel.sizes, channel.parts)
                    _vector(made, payload.channel)
            case Target.CONTRACT:
                Contract.from_bytes(body)
            case Target.DELIVERY:
                delivery = Delivery.parse(with_checksum(body, DELIVERY_BYTES))
                _read_letters(delivery.letters, dim, channel)
            case Target.POSTING:
                posting = Posting.parse(with_checksum(body, POSTING_BYTES))
                _read_letters(posting.letters, dim, channel)
            case Target.GOSSIP_CONTRACT:
                GossipContract.from_bytes(body)
    except CorruptPacket:
        return False
    return True


def with_checksum(data: bytes, header_bytes: int) -> bytes:
    """Return a packet, or mail, with the checksum that its bytes should have.

    It is the last four bytes of a header of that length.
    """
    if len(data) < header_bytes:
        return data
    head, rest = data[: header_bytes - 4], data[header_bytes:]
    return head + struct.pack("<I", zlib.crc32(rest, zlib.crc32(head))) + rest


def _read_letters(letters: tuple[Letter, ...], dim: int, channel: Channel) -> None:
    for letter in letters:
        if letter.snapshot:
            letter.estimate(dim)
        else:
            _vector(_decode(letter.data, dim, channel.sizes), channel)


def _channel(dim: int) -> Channel:
    """A tensor of its own for the first third, for operators that act on each."""
    operator = _by_array(dim)
    sizes = dim // 3, dim - dim // 3
    if not dim % 2:  # Of one length, and perhaps equal.
        sizes = dim // 2, dim // 2
        arrays = [(str(i), (size,)) for i, size in enumerate(sizes)]
        operator = Tied(StochasticQuantizer(levels=4), ((1, 0),)).bind(arrays)
    composite = operator if isinstance(operator, Parts | Tied) else None
    return Channel(STREAM, sizes, composite)


def _by_array(dim: int) -> Compressor:
    sizes = dim // 3, dim - dim // 3
    return BY_ARRAY.bind([(str(i), (size,)) for i, size in enumerate(sizes)])


def seeds() -> list[bytes]:
    """Inputs that decode: every operator with every code."""
    from benchmarks.vectors import random_vector
    from flower_compress.links import Memory
    from flower_compress.wire.layout import Layout, Tensor

    inputs = []
    for dim in (0, 1, 9, 200, MAX_DIM):
        channel = _channel(dim)
        x = random_vector("gaussian", dim)
        composite = channel.parts or Identity()
        by_array = Payload.encode(x, composite, "auto", channel)
        inputs.append(_PREFIX.pack(Target.PAYLOAD, dim) + by_array.data)
        w = Layout((Tensor("w", (dim,), "float32", False),))
        two = Layout((*w.tensors, Tensor("v", (dim,), "float32", False)))
        ties = Memory(Tied(BY_ARRAY, ((1, 0),))).bind(two.shapes)
        inputs.append(
            _PREFIX.pack(Target.CONTRACT, 0) + Contract(two, ties, 0.5, 3).to_bytes()
        )
        rules = Contract(w, Memory(BY_ARRAY), 0.5, 3, downlink=Memory(BY_ARRAY))
        inputs.append(_PREFIX.pack(Target.CONTRACT, 0) + rules.to_bytes())
        for config in OPERATORS:
            compressor = get_compressor(config)
            alphabet = compressor.alphabet(dim)
            for code in CODE_NAMES:
                if code == "indices" and alphabet != (0, 1):
                    continue
                payload = Payload.encode(x, compressor, code, channel)
                packet = Packet(7, 2, 3, 1, 0, dim, (payload,)).data
                inputs.append(_PREFIX.pack(Target.PAYLOAD, dim) + payload.data)
                inputs.append(_PREFIX.pack(Target.PACKET, dim) + packet)
                layout = Layout((Tensor("w", (dim,), "float32", False),))
                contract = Contract(layout, Memory(compressor, code), 0.5, 3)
                inputs.append(_PREFIX.pack(Target.CONTRACT, 0) + contract.to_bytes())
                peers = (((0, 0.25), (2, 0.25)),)
                gossip = GossipContract(
                    layout,
                    1,
                    "choco-sgd",
                    {},
                    compressor,
                    code,
                    1.0,
                    True,
                    0.5,
                    3,
                    peers,
                    peers,
                )
                inputs.append(
                    _PREFIX.pack(Target.GOSSIP_CONTRACT, 0) + gossip.to_bytes()
                )
                letters = (
                    Letter(0, 1, 0, bytes(8 * dim), 64 * dim, snapshot=True),
                    Letter(EVERYONE, 2, 1, payload.data, payload.num_bits),
                )
                delivery = Delivery(
                    7, 3, contract=gossip.to_bytes(), model=x, dim=dim, letters=letters
                )
                posting = Posting(7, 3, model=x, exact=b"x", dim=dim, letters=letters)
                inputs.append(_PREFIX.pack(Target.DELIVERY, dim) + delivery.data)
                inputs.append(_PREFIX.pack(Target.POSTING, dim) + posting.data)
    return inputs
