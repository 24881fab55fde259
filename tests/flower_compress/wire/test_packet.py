"""Packets: what was sent is what is read, and what was damaged is refused."""

from __future__ import annotations

import itertools
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_compress.compressors import (
    DitheredQuantizer,
    Identity,
    RandK,
    RandomSparsifier,
    RotatedQuantizer,
    StochasticQuantizer,
    TopK,
)
from flower_compress.errors import ConfigurationError, CorruptPacket
from flower_compress.links import Channel, Payload
from flower_compress.streams import Purpose, Stream
from flower_compress.wire.packet import FORMAT_VERSION, HEADER_BYTES, Packet
from tests.steps import at_most_steps

DIM = 11
CRC_AT = 26
HEADER = struct.Struct("<BBIIIIII")


OPERATORS = (
    StochasticQuantizer(3),
    RandK(k=2),
    Identity(),
    RotatedQuantizer(1.0),
    DitheredQuantizer(3, subtractive=True, per="tensor"),
    TopK(k=2),
    RandomSparsifier(0.4),
)


def channel(dim: int = DIM) -> Channel:
    return Channel(Stream(5, Purpose.UPLINK), (dim // 3, dim - dim // 3))


def payload(version: int, dim: int = DIM) -> Payload:
    generator = np.random.Generator(np.random.Philox(version))
    x = generator.normal(size=dim).astype(np.float32)
    operator = OPERATORS[version % len(OPERATORS)]
    return Payload.encode(x, operator, "auto", channel(dim).at(version))


def make(
    *, payloads: int, final: bool, snapshot: bool = False, dim: int = DIM
) -> Packet:
    base = 994
    vector = np.linspace(-2, 3, dim).astype(np.float32) if snapshot else None
    return Packet(
        session=0xFFFFFFFE,
        base=base,
        version=base + (payloads if final else 1),
        acked=77,
        detail=0xDEADBEEF,
        dim=dim,
        payloads=tuple(payload(base + 1 + i, dim) for i in range(payloads)),
        final=final,
        snapshot=vector,
    )


def assert_same(one: Packet, other: Packet) -> None:
    names = ("session", "base", "version", "acked", "detail", "dim", "final")
    for name in (*names, "greeting", "resync", "refused"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.contract == other.contract
    assert one.exact == other.exact
    assert [p.data for p in one.payloads] == [p.data for p in other.payloads]
    assert [p.dim for p in one.payloads] == [p.dim for p in other.payloads]
    for name in ("snapshot", "memory"):
        sent, came = getattr(one, name), getattr(other, name)
        if sent is None:
            assert came is None
        else:
            assert came.tobytes() == sent.tobytes()
            assert came.dtype == np.float32
    assert one.payload_bits == other.on(channel(one.dim)).payload_bits


def with_crc(data: bytes | bytearray) -> bytes:
    """The bytes with the checksum that they should have."""
    changed = bytearray(data)
    crc = zlib.crc32(changed[HEADER_BYTES:], zlib.crc32(changed[:CRC_AT]))
    changed[CRC_AT:HEADER_BYTES] = struct.pack("<I", crc)
    return bytes(changed)


FULL = replace(
    make(payloads=7, final=True, snapshot=True),
    contract=b'{"any": "bytes"}',
    exact=b"\x01\x02\x03",
    greeting=True,
    memory=np.linspace(7, 8, DIM).astype(np.float32),
)


# --- Round trips ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payloads", "final"), [(0, False), (1, False), (0, True), (1, True), (7, True)]
)
@pytest.mark.parametrize("dim", [0, DIM])
def test_round_trip_with_every_combination_of_sections(
    payloads: int, final: bool, dim: int
) -> None:
    yes_no = (False, True)
    some = np.arange(dim, dtype=np.float32)
    for contract, snapshot, exact, greeting, memory in itertools.product(
        (None, b"", b"contract"), yes_no, (None, b"", bytes(300)), yes_no, (None, some)
    ):
        packet = replace(
            make(payloads=payloads, final=final, snapshot=snapshot, dim=dim),
            contract=contract,
            exact=exact,
            greeting=greeting,
            resync=memory is None,
            refused=snapshot,
            memory=memory,
        )
        read = Packet.parse(packet.data)
        assert_same(packet, read)
        assert read.data == packet.data
        read = read.on(channel(dim))
        assert_same(packet, read)
        assert read.data == packet.data
        for sent, came in zip(packet.payloads, read.payloads, strict=True):
            assert came.vector.tobytes() == sent.vector.tobytes()


def test_payloads_may_be_no_more_than_a_head() -> None:
    shortest = Payload.encode(np.zeros(0, np.float32), Identity(), "auto", channel(0))
    assert len(shortest.data) == 2
    for count in (1, 3):
        chain = (shortest,) * count
        data = Packet(1, version=count, payloads=chain, final=True).data
        read = Packet.parse(data).payloads
        assert [each.data for each in read] == [shortest.data] * count


def test_header_is_pinned() -> None:
    packet = Packet(
        session=0x01020304, base=5, version=6, acked=7, detail=8, dim=2, resync=True
    )
    assert len(packet.data) == HEADER_BYTES == 30
    fields = "01 20 04030201 05000000 06000000 07000000 08000000 02000000"
    assert packet.data[:CRC_AT] == bytes.fromhex(fields)
    crc = zlib.crc32(packet.data[:CRC_AT])
    assert packet.data[CRC_AT:] == struct.pack("<I", crc)
    flags = {"contract": b"", "snapshot": np.zeros(2, np.float32), "final": True}
    flags |= {"exact": b"", "greeting": True, "resync": True, "refused": True}
    flags |= {"memory": np.zeros(2, np.float32)}
    for bit, (name, value) in enumerate(flags.items()):
        one = Packet(session=1, base=5, version=5, dim=2, **{name: value})  # type: ignore[arg-type]
        assert one.data[1] == 1 << bit


def test_sections_are_where_the_format_says() -> None:
    assert FULL.snapshot is not None
    assert FULL.memory is not None
    *earlier, newest = (p.data for p in FULL.payloads)
    expected = b"".join(
        (
            struct.pack("<I", 16),
            b'{"any": "bytes"}',
            FULL.snapshot.astype("<f4").tobytes(),
            FULL.memory.astype("<f4").tobytes(),
            struct.pack("<I", 3),
            b"\x01\x02\x03",
            *(struct.pack("<I", len(data)) + data for data in earlier),
            newest,
        )
    )
    assert FULL.data[HEADER_BYTES:] == expected


def test_payload_bits_are_those_of_the_vectors() -> None:
    bits = sum(p.num_bits for p in FULL.payloads)
    assert FULL.payload_bits == bits + 2 * 32 * DIM + 8 * 3
    assert FULL.snapshot_bytes == 2 * 4 * DIM
    assert Packet(session=1, contract=b"not a vector").payload_bits == 0


@pytest.mark.parametrize(
    "name", ["session", "base", "version", "acked", "detail", "dim"]
)
def test_numbers_fill_32_bits(name: str) -> None:
    largest = 2**32 - 1
    numbers = {"session": 1, "version": largest if name == "base" else 3, name: largest}
    assert getattr(Packet.parse(Packet(**numbers).data), name) == largest  # type: ignore[arg-type]
    for wrong in (2**32, -1):
        packet = Packet(**{**numbers, name: wrong})  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=str(wrong)):
            _ = packet.data


def test_require_dim() -> None:
    FULL.require_dim(DIM)
    with pytest.raises(CorruptPacket, match=f"length 12, got {DIM}"):
        FULL.require_dim(12)


def test_every_payload_is_on_the_channel_of_its_version() -> None:
    read = Packet.parse(FULL.data)
    assert all(part.channel is None for part in read.payloads)
    on = read.on(channel())
    assert [part.channel for part in on.payloads] == [
        channel().at(version) for version in range(995, 1002)
    ]
    assert all(part.channel is None for part in read.payloads), "a new packet"
    for sent, came in zip(FULL.payloads, on.payloads, strict=True):
        assert came.vector.tobytes() == sent.vector.tobytes()
    # One version off, and the payloads that share randomness are other vectors.
    off = replace(read, version=1002).on(channel())
    for sent, came in zip(on.payloads, off.payloads, strict=True):
        differ = came.vector.tobytes() != sent.vector.tobytes()
        assert differ == sent.compressor.shared_randomness
    one = make(payloads=1, final=False)
    assert Packet.parse(one.data).on(channel()).payloads[0].channel == channel().at(
        one.version
    )
    assert Packet(session=1).on(channel()).payloads == ()


def test_packets_do_not_share_memory_with_their_bytes() -> None:
    data = bytearray(FULL.data)
    read = Packet.parse(bytes(data))
    assert read.snapshot is not None
    assert read.snapshot.flags.owndata


# --- Damage ---------------------------------------------------------------------------


def test_every_changed_byte_is_noticed() -> None:
    data = FULL.data
    for at in range(len(data)):
        for change in (1, 2, 4, 8, 16, 32, 64, 128, 0x55, 0xFF):
            changed = bytearray(data)
            changed[at] ^= change
            with pytest.raises(CorruptPacket):
                Packet.parse(bytes(changed))


def test_every_truncation_and_addition_is_noticed() -> None:
    data = FULL.data
    for cut in range(len(data)):
        with pytest.raises(CorruptPacket):
            Packet.parse(data[:cut])
    for extra in (b"\0", b"\0\0\0\0", data):
        with pytest.raises(CorruptPacket):
            Packet.parse(data + extra)


@given(data=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptPacket):
        Packet.parse(data)
    with pytest.raises(CorruptPacket):
        Packet.parse(bytes((FORMAT_VERSION,)) + data)


def test_what_is_wrong_is_said() -> None:
    data = FULL.data
    with pytest.raises(CorruptPacket, match="at least 30 bytes, got 29"):
        Packet.parse(data[:29])
    with pytest.raises(CorruptPacket, match="format 1, got 2"):
        Packet.parse(with_crc(b"\x02" + data[1:]))
    with pytest.raises(CorruptPacket, match="checksum"):
        Packet.parse(data[:-1] + bytes([data[-1] ^ 1]))
    before = replace(FULL, base=2000)
    with pytest.raises(CorruptPacket, match="before its base 2000"):
        Packet.parse(before.data)
    empty = Packet(session=1, base=4, version=4, final=True)
    with pytest.raises(CorruptPacket, match="5 bytes too many"):
        Packet.parse(with_crc(empty.data + b"12345"))


def parse_or_refuse(data: bytes) -> Packet | None:
    """Parse and decode as a receiver that expects vectors of length DIM."""
    try:
        packet = Packet.parse(data)
    except CorruptPacket:
        return None
    # Nothing is lost in reading.
    assert packet.data == data
    try:
        packet.require_dim(DIM)
        packet = packet.on(channel())
        for part in packet.payloads:
            assert np.isfinite(part.vector).all()
            assert part.vector.shape == (DIM,)
        assert packet.payload_bits >= 0
    except CorruptPacket:
        return None
    return packet


BASES = [
    FULL.data,
    make(payloads=1, final=False).data,
    make(payloads=2, final=True, snapshot=True).data,
    Packet(session=3, resync=True).data,
    Packet(session=3, contract=bytes(40), greeting=True).data,
]


@given(
    base=st.sampled_from(BASES),
    changes=st.lists(
        st.tuples(st.integers(1, 10_000), st.integers(1, 255)), min_size=1, max_size=4
    ),
    cut=st.none() | st.integers(0, 10_000),
    tail=st.binary(max_size=8),
)
@settings(max_examples=400, deadline=None)
def test_mutations_with_a_true_checksum_are_read_or_refused(
    base: bytes, changes: list[tuple[int, int]], cut: int | None, tail: bytes
) -> None:
    changed = bytearray(base)
    for at, change in changes:
        changed[at % len(base)] ^= change
    if cut is not None:
        del changed[HEADER_BYTES + cut % (len(base) - HEADER_BYTES + 1) :]
    parse_or_refuse(with_crc(changed + tail))


def test_every_changed_byte_with_a_true_checksum_is_read_or_refused() -> None:
    for base in BASES:
        for at in range(len(base)):
            for change in (0x01, 0x20, 0x80, 0xFF):
                changed = bytearray(base)
                changed[at] ^= change
                parse_or_refuse(with_crc(changed))


@given(
    flags=st.integers(0, 255),
    base=st.integers(0, 3) | st.integers(0, 2**32 - 1),
    ahead=st.integers(0, 4),
    dim=st.sampled_from([0, 1, DIM, 2**20, 2**32 - 1]),
    body=st.binary(max_size=120),
)
@settings(max_examples=300, deadline=None)
def test_random_bodies_with_a_true_checksum_are_read_or_refused(
    flags: int, base: int, ahead: int, dim: int, body: bytes
) -> None:
    version = min(base + ahead, 2**32 - 1)
    header = HEADER.pack(FORMAT_VERSION, flags, 9, base, version, 0, 0, dim)
    parse_or_refuse(with_crc(header + bytes(4) + body))


@pytest.mark.parametrize("body", [b"", bytes(4000), b"\x01\0\0\0\x01" * 800])
def test_huge_counts_and_lengths_are_refused_at_once(body: bytes) -> None:
    for flags in (4, 5, 6, 12, 15):
        for dim in (DIM, 2**32 - 1):
            header = HEADER.pack(FORMAT_VERSION, flags, 9, 0, 2**32 - 1, 0, 0, dim)
            data = with_crc(header + bytes(4) + body)
            with at_most_steps(2000), pytest.raises(CorruptPacket):
                Packet.parse(data)
    for flags in (1, 8):
        header = HEADER.pack(FORMAT_VERSION, flags, 9, 0, 0, 0, 0, DIM)
        with pytest.raises(CorruptPacket, match="4294967295 more bytes"):
            Packet.parse(with_crc(header + bytes(4) + b"\xff" * 4 + body))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_snapshots_that_are_not_finite_are_refused(bad: float) -> None:
    vector = np.array([1.0, bad, 2.0], np.float32)
    for name in ("snapshot", "memory"):
        packet = Packet(session=1, base=1, version=1, dim=3, **{name: vector})  # type: ignore[arg-type]
        with pytest.raises(CorruptPacket, match="NaN or infinity"):
            Packet.parse(packet.data)
