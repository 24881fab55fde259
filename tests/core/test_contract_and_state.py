"""Contracts and client states: written, read again, and never mixed up."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_compress.client_state import ClientState
from flower_compress.compressors import (
    Identity,
    RandomSparsifier,
    StochasticQuantizer,
    TopK,
    Vector,
)
from flower_compress.contract import PROTOCOL, Contract
from flower_compress.errors import CorruptPacket
from flower_compress.layout import Layout
from flower_compress.links import (
    Direct,
    ErrorFeedback,
    Link,
    Memory,
    Payload,
    ReceiverState,
    SenderState,
)
from flower_compress.streams import Purpose, Stream

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
    Direct(StochasticQuantizer(3, "inf", 128), code="elias"),
    Memory(RandomSparsifier(0.3)),
    Memory(StochasticQuantizer(1), rate=0.25, initial="first"),
    ErrorFeedback(TopK(fraction=0.01), code="fixed-width"),
    ErrorFeedback(TopK(k=3), feedback=0.5),
]
DIM = 7


def contract(link: Link = LINKS[3], rate: float | None = 0.1) -> Contract:
    return Contract(LAYOUT, link, rate, seed=-(1 << 70))


# --- Contracts ------------------------------------------------------------------------


@pytest.mark.parametrize("link", LINKS, ids=lambda link: str(link.config()))
@pytest.mark.parametrize("rate", [None, 0.0, 1.0, 1 / 3])
def test_contract_round_trip(link: Link, rate: float | None) -> None:
    sent = contract(link, rate)
    data = sent.to_bytes()
    read = Contract.from_bytes(data)
    assert read == sent
    assert type(read.uplink) is type(link)
    assert read.uplink.config() == link.config()
    assert read.to_bytes() == data


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


@pytest.mark.parametrize(
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
        changed(downlink_rate="fast"),
        changed(downlink_rate=[1]),
        changed(downlink_rate=10**400),
        changed(seed=None),
        changed(seed="seed"),
        changed(seed=float("inf")),
        changed(seed=float("nan")),
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
    assert Stream(read.seed, Purpose.UPLINK).uniforms(1).size == 1


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


def payload(seed: int) -> Payload:
    stream = Stream(1, Purpose.UPLINK, 0, seed)
    return Payload.encode(vector(seed), StochasticQuantizer(2), "auto", stream)


RECEIVERS = [
    ReceiverState(),
    ReceiverState(3, vector(1)),
    ReceiverState(3, vector(1), payload(2), 4, final=True),
    ReceiverState(2**32 - 2, None, payload(3), 2**32 - 1),
]
SENDERS = [
    SenderState(),
    SenderState(5, vector(4)),
    SenderState(5, vector(4), payload(5), 9),
    SenderState(0, None, payload(6), 2**32 - 1),
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


@pytest.mark.parametrize("receiver", range(len(RECEIVERS)))
@pytest.mark.parametrize("sender", range(len(SENDERS)))
@pytest.mark.parametrize("exact", [b"", b"\x00exact"])
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
    written = [replace(state, session=s).to_bytes(DIM) for s in sessions]
    assert len(set(written)) == len(sessions)
    for session, data in zip(sessions, written, strict=True):
        read = ClientState.from_bytes(data)
        assert read is not None
        assert read.session == session


def test_state_goes_on_where_it_stopped() -> None:
    link, stream = Memory(StochasticQuantizer(2)), Stream(1, Purpose.UPLINK, 3)
    kept, through_bytes = SenderState(), SenderState()
    for version in range(1, 6):
        x = vector(version)
        kept, sent = link.send(kept, x, version, stream.at(version))
        through_bytes, again = link.send(through_bytes, x, version, stream.at(version))
        assert sent.data == again.data
        state = ClientState(1, b"", ReceiverState(), through_bytes)
        read = ClientState.from_bytes(state.to_bytes(DIM))
        assert read is not None
        # Every other payload is lost.
        heard = version if version % 2 else version - 1
        kept = link.acknowledge(kept, heard)
        through_bytes = link.acknowledge(read.sender, heard)
        assert_vectors(kept.vector, through_bytes.vector)


def test_a_state_that_was_cut_off_is_none() -> None:
    data = ClientState(1, b"{}", RECEIVERS[2], SENDERS[2], b"abc").to_bytes(DIM)
    for size in range(len(data)):
        assert ClientState.from_bytes(data[:size]) is None
    assert ClientState.from_bytes(data + b"x") is None
