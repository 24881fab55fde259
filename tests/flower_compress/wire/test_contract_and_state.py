"""Contracts and client states: written, read again, and never mixed up."""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_compress.compressors import (
    ArrayRule,
    Compressor,
    DitheredQuantizer,
    Identity,
    Parts,
    PerArray,
    RandK,
    RandomSparsifier,
    RotatedQuantizer,
    ScaledSign,
    StochasticQuantizer,
    TopK,
    Vector,
)
from flower_compress.errors import CorruptPacket
from flower_compress.links import (
    Channel,
    Direct,
    ErrorFeedback,
    Link,
    Memory,
    Payload,
    ReceiverState,
    SenderState,
)
from flower_compress.mods.client_state import ClientState
from flower_compress.streams import Purpose, Stream
from flower_compress.wire.agreement import PROTOCOL
from flower_compress.wire.contract import Contract
from flower_compress.wire.layout import Layout
from tests.cases import in_one_test

LAYOUT = Layout.of(
    ArrayRecord(
        {
            "w\u00e9ight": Array(np.zeros((2, 3), np.float32)),
            "scale": Array(np.array(1.0)),
            "norm.running_mean": Array(np.zeros(3, np.float32)),
            "count": Array(np.zeros(0, np.int64)),
        }
    )
)
LINKS: list[Link] = [
    Direct(Identity()),
    Direct(StochasticQuantizer(3, "inf", bucket_size=128), code="elias"),
    Memory(RandomSparsifier(0.3)),
    Memory(StochasticQuantizer(1), rate=0.25, initial="first"),
    ErrorFeedback(TopK(fraction=0.01), code="fixed-width"),
    ErrorFeedback(TopK(k=3), feedback=0.5),
    Direct(RotatedQuantizer(1.0, bucket_size=None), code="packed-huffman"),
    Memory(RandK(fraction=0.1, per="tensor")),
    Direct(DitheredQuantizer(4, "none", subtractive=True), code="nested-golomb"),
    ErrorFeedback(ScaledSign(per="tensor", bucket_size=64), code="support-vector"),
]
DIM = 7


def contract(
    link: Link = LINKS[3],
    rate: float | None = 0.1,
    groups: int | Literal["client"] = 1,
) -> Contract:
    return Contract(LAYOUT, link, rate, seed=-(1 << 70), downlink_groups=groups)


# --- Contracts ------------------------------------------------------------------------


@in_one_test("link", LINKS, ids=lambda link: str(link.config()))
@in_one_test("rate", [None, 0.0, 1.0, 1 / 3])
@in_one_test("groups", [1, 7, "client"])
def test_contract_round_trip(link: Link, rate: float | None, groups: Any) -> None:
    sent = contract(link, rate, groups)
    data = sent.to_bytes()
    read = Contract.from_bytes(data)
    assert read == sent
    assert type(read.uplink) is type(link)
    assert read.uplink.config() == link.config()
    assert read.to_bytes() == data


def test_rules_by_array_are_read_for_both_links() -> None:
    policy = PerArray({ArrayRule(max_ndim=0): Identity()}, RotatedQuantizer(1.5))
    links = [Memory(policy).bind(LAYOUT.shapes), Direct(policy).bind(LAYOUT.shapes)]
    sent = Contract(LAYOUT, links[0], 0.1, seed=3, downlink=links[1])
    read = Contract.from_bytes(sent.to_bytes())
    assert read == sent
    assert read.to_bytes() == sent.to_bytes()
    assert isinstance(read.uplink.compressor, Parts)
    for channel in (read.uplink_channel(5), read.downlink_channel(5)):
        assert channel.parts is not None
        assert channel.parts.groups == (1, 0)
        assert channel.sizes == (6, 1)
    # Of the memory of the answers nothing is held where they are dense.
    assert read.uplink_channel(5).forgotten == ((6, 7),)
    assert read.downlink_channel(5).forgotten == ()


def test_channels_are_those_of_client_and_group() -> None:
    sizes = LAYOUT.sizes
    assert sizes == (6, 1)
    seed = -(1 << 70)
    for groups, index in ((1, 0), (2, 1), (3, 2), (6, 5), (100, 5), ("client", 5)):
        agreed = contract(groups=groups)
        assert agreed.uplink_channel(5) == Channel(
            Stream(seed, Purpose.UPLINK, 5), sizes
        )
        assert agreed.downlink_channel(5) == Channel(
            Stream(seed, Purpose.DOWNLINK, index), sizes
        )
    in_groups = contract(groups=3)
    downlinks = [in_groups.downlink_channel(i).stream.index for i in range(7)]
    assert downlinks == [0, 1, 2, 0, 1, 2, 0]
    # A node id of 64 bits is an identity as well.
    alone = contract(groups="client").downlink_channel(2**64 - 1)
    assert alone.stream.draws().words(1).size == 1


def changed(**changes: Any) -> bytes:
    return json.dumps({**json.loads(contract().to_bytes()), **changes}).encode()


def without(name: str) -> bytes:
    config = json.loads(contract().to_bytes())
    del config[name]
    return json.dumps(config).encode()


def test_other_protocols_are_refused() -> None:
    for protocol in (PROTOCOL + 1, 0, None, "1"):
        with pytest.raises(CorruptPacket, match=f"protocol 1, got {protocol}"):
            Contract.from_bytes(changed(protocol=protocol))


@in_one_test(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b'"contract"',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        *(without(name) for name in json.loads(contract().to_bytes())),
        changed(layout=None),
        changed(layout=3),
        changed(layout=[["w"]]),
        changed(layout=[["w", 3, "float32", False]]),
        changed(layout=[["w", [-3], "float32", False]]),
        changed(layout=[["w", [float("inf")], "float32", False]]),
        changed(layout=[["w", [3], "float33", False]]),
        changed(layout=[["w", [3], "object", True]]),
        changed(layout=[["w", [3], 7, True]]),
        changed(uplink=None),
        changed(uplink=[]),
        changed(uplink={}),
        changed(uplink={"kind": "pigeon"}),
        changed(uplink={"kind": ["direct"]}),
        changed(uplink={"kind": "direct"}),
        changed(uplink={"kind": "direct", "compressor": 3}),
        changed(uplink={"kind": "direct", "compressor": {"name": "pigeon"}}),
        changed(uplink={"kind": "direct", "compressor": {"name": ["identity"]}}),
        changed(uplink={**LINKS[0].config(), "speed": 3}),
        changed(uplink={**LINKS[0].config(), "code": "pigeon"}),
        changed(uplink={**LINKS[0].config(), "code": ["auto"]}),
        changed(uplink={**LINKS[2].config(), "rate": 2.0}),
        changed(uplink={**LINKS[2].config(), "rate": "fast"}),
        changed(
            uplink={
                "kind": "direct",
                "compressor": {"name": "stochastic-quantizer", "levels": 2.5},
            }
        ),
        changed(downlink=3),
        changed(downlink={}),
        changed(downlink={"kind": "direct", "compressor": {"name": "per-array"}}),
        changed(
            uplink={
                "kind": "direct",
                "compressor": {
                    "name": "per-array",
                    "rules": [[{"max_ndim": "x"}, {"name": "identity"}]],
                    "default": {"name": "identity"},
                },
            }
        ),
        changed(
            uplink={
                "kind": "direct",
                "compressor": {
                    "name": "per-array",
                    "rules": [[{}]],
                    "default": {"name": "identity"},
                },
            }
        ),
        changed(downlink_rate="fast"),
        changed(downlink_rate=[1]),
        changed(downlink_rate=10**400),
        changed(seed=None),
        changed(seed="seed"),
        changed(seed=float("inf")),
        changed(seed=float("nan")),
        changed(downlink_groups=0),
        changed(downlink_groups=-2),
        changed(downlink_groups=None),
        changed(downlink_groups=1.5),
        changed(downlink_groups="server"),
        changed(downlink_groups=[1]),
    ],
    ids=lambda data: data[:40].decode(errors="replace"),
)
def test_what_is_no_contract_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptPacket):
        Contract.from_bytes(data)


def test_every_truncation_is_refused() -> None:
    data = contract().to_bytes()
    for cut in range(len(data)):
        with pytest.raises(CorruptPacket):
            Contract.from_bytes(data[:cut])


def read_or_refuse(data: bytes) -> None:
    try:
        read = Contract.from_bytes(data)
    except CorruptPacket:
        return
    # What was accepted can be used.
    assert read.layout.dim >= 0
    assert read.layout.exact_bytes >= 0
    assert read.uplink.compressor.to_wire() is not None
    for channel in (read.uplink_channel(3), read.downlink_channel(3)):
        assert channel.sizes == read.layout.sizes
        assert channel.at(1).stream.draws().uniforms(1).size == 1


@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), link=st.sampled_from(LINKS))
@settings(max_examples=400, deadline=None)
def test_changed_bytes_are_read_or_refused(at: int, byte: int, link: Link) -> None:
    data = bytearray(contract(link).to_bytes())
    data[at % len(data)] = byte
    read_or_refuse(bytes(data))


@given(data=st.binary(max_size=50) | st.text(max_size=50).map(str.encode))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptPacket):
        Contract.from_bytes(data)


# --- Client states --------------------------------------------------------------------


def vector(seed: int) -> Vector:
    generator = np.random.Generator(np.random.Philox(seed))
    return generator.normal(size=DIM).astype(np.float32)


UP = Channel(Stream(1, Purpose.UPLINK), LAYOUT.sizes)
DOWN = Channel(Stream(1, Purpose.DOWNLINK), LAYOUT.sizes)
SHARED: list[Compressor] = [
    RandK(k=2, per="tensor"),
    RotatedQuantizer(1.0),
    StochasticQuantizer(4, subtractive=True),
    DitheredQuantizer(4, subtractive=True, per="tensor"),
]


def payload(seed: int, channel: Channel, version: int) -> Payload:
    compressor = [StochasticQuantizer(2), *SHARED][seed % 5]
    return Payload.encode(vector(seed), compressor, "auto", channel.at(version))


RECEIVERS = [
    ReceiverState(),
    ReceiverState(3, vector(1)),
    ReceiverState(3, vector(1), payload(2, DOWN, 4), 4, final=True),
    ReceiverState(2**32 - 2, None, payload(3, DOWN, 2**32 - 1), 2**32 - 1),
]
SENDERS = [
    SenderState(),
    SenderState(5, vector(4)),
    SenderState(5, vector(4), payload(5, UP, 9), 9),
    SenderState(0, None, payload(6, UP, 2**32 - 1), 2**32 - 1),
]


def assert_vectors(one: Vector | None, other: Vector | None) -> None:
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert one.tobytes() == other.tobytes()
        assert other.dtype == np.float32


def assert_payloads(one: Payload | None, other: Payload | None) -> None:
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert (one.data, one.dim) == (other.data, other.dim)
        assert_vectors(one.vector, other.vector)


@in_one_test("receiver", range(len(RECEIVERS)))
@in_one_test("sender", range(len(SENDERS)))
@in_one_test("exact", [b"", b"\x00exact"])
def test_state_round_trip(receiver: int, sender: int, exact: bytes) -> None:
    state = ClientState(
        0xFEDCBA98,
        contract().to_bytes(),
        RECEIVERS[receiver],
        SENDERS[sender],
        exact,
    )
    data = state.to_bytes(DIM)
    read = ClientState.from_bytes(data)
    assert read is not None
    assert read.to_bytes(DIM) == data
    read = read.on(DOWN, UP)
    assert read.session == state.session
    assert read.contract == state.contract
    assert read.exact == exact
    for name in ("version", "pending_version", "final"):
        assert getattr(read.receiver, name) == getattr(state.receiver, name)
    for name in ("version", "pending_version"):
        assert getattr(read.sender, name) == getattr(state.sender, name)
    for kept, again in ((state.receiver, read.receiver), (state.sender, read.sender)):
        assert_vectors(kept.vector, again.vector)
        assert_payloads(kept.pending, again.pending)
    assert read.to_bytes(DIM) == data


def test_vectors_of_length_zero_are_not_absent_ones() -> None:
    empty = np.zeros(0, dtype=np.float32)
    state = ClientState(1, b"", ReceiverState(1, empty), SenderState(1, empty))
    read = ClientState.from_bytes(state.to_bytes(0))
    assert read is not None
    assert read.receiver.vector is not None
    assert read.receiver.vector.shape == (0,)
    assert read.sender.vector is not None
    assert read.sender.pending is None


def test_state_of_another_format_is_none() -> None:
    state = ClientState(1, b"{}", RECEIVERS[2], SENDERS[2], b"abc")
    data = state.to_bytes(DIM)
    assert ClientState.from_bytes(data) is not None
    for form in (0, 2, 255):
        assert ClientState.from_bytes(bytes([form]) + data[1:]) is None
    for short in (b"", data[:1], data[:20]):
        assert ClientState.from_bytes(short) is None


def test_sessions_are_kept_apart() -> None:
    # I4: two runs' states differ in their bytes, even where all else is equal.
    state = ClientState(17, contract().to_bytes(), RECEIVERS[2], SENDERS[2])
    sessions = (0, 16, 17, 17 << 8, 2**32 - 1)
    written = [state._replace(session=s).to_bytes(DIM) for s in sessions]
    assert len(set(written)) == len(sessions)
    for session, data in zip(sessions, written, strict=True):
        read = ClientState.from_bytes(data)
        assert read is not None
        assert read.session == session


@pytest.mark.parametrize("compressor", [StochasticQuantizer(2), *SHARED], ids=repr)
def test_state_goes_on_where_it_stopped(compressor: Compressor) -> None:
    link = Memory(compressor)
    kept, through_bytes = SenderState(), SenderState()
    for version in range(1, 6):
        x = vector(version)
        kept, sent = link.send(kept, x, version, UP.at(version))
        through_bytes, again = link.send(through_bytes, x, version, UP.at(version))
        assert sent.data == again.data
        state = ClientState(1, b"", ReceiverState(), through_bytes)
        read = ClientState.from_bytes(state.to_bytes(DIM))
        assert read is not None
        read = read.on(DOWN, UP)
        # Every other payload is lost.
        heard = version if version % 2 else version - 1
        kept = link.acknowledge(kept, heard)
        through_bytes = link.acknowledge(read.sender, heard)
        assert_vectors(kept.vector, through_bytes.vector)


@pytest.mark.parametrize("compressor", SHARED, ids=repr)
def test_pending_payloads_need_their_own_channel(compressor: Compressor) -> None:
    x = vector(3)
    down = Payload.encode(x, compressor, "auto", DOWN.at(4))
    up = Payload.encode(x, compressor, "auto", UP.at(9))
    state = ClientState(
        1, b"", ReceiverState(3, None, down, 4), SenderState(5, None, up, 9)
    )
    read = ClientState.from_bytes(state.to_bytes(DIM))
    assert read is not None
    right, wrong = read.on(DOWN, UP), read.on(UP, DOWN)
    assert_payloads(down, right.receiver.pending)
    assert_payloads(up, right.sender.pending)
    for sent, came in (
        (down, wrong.receiver.pending),
        (up, wrong.sender.pending),
        (down, right.sender.pending),
    ):
        assert came is not None
        assert came.vector.tobytes() != sent.vector.tobytes()
    # Nothing else moves.
    assert (right.receiver.version, right.sender.version) == (3, 5)
    assert right.to_bytes(DIM) == state.to_bytes(DIM)


def test_a_state_that_was_cut_off_is_none() -> None:
    data = ClientState(1, b"{}", RECEIVERS[2], SENDERS[2], b"abc").to_bytes(DIM)
    for size in range(len(data)):
        assert ClientState.from_bytes(data[:size]) is None
    assert ClientState.from_bytes(data + b"x") is None
