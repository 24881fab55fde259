"""What a node remembers as bytes: exact, damaged, and of strangers."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_compress.clients.gossip.state import GossipState
from flower_compress.wire.mail import EVERYONE, Letter

DIM = 5
STATE = GossipState(
    session=9,
    contract=b'{"algorithm":"malcom","protocol":1,"seed":7}',
    number=77,
    received=8,
    vectors={
        "model": np.linspace(0, 1, DIM).astype(np.float32),
        "tracker": np.linspace(1, 2, DIM).astype(np.float32),
    },
    own={(0, 4): np.linspace(2, 3, DIM), (1, EVERYONE): np.linspace(3, 4, DIM)},
    heard={(0, 1): np.linspace(4, 5, DIM)},
    present=frozenset({(0, 1), (1, 3)}),
    pending=(Letter(4, 77, 0, b"abc", 20), Letter(EVERYONE, 77, 1, b"", 0)),
    pending_crc=zlib.crc32(b"abc"),
    committed=70,
    due={0: 12, 1: 11},
    stepped=(12, 0),
    exact=b"\1\2\3",
    unreadable={3: 76},
)
HOSTILE = [None, True, -1, 1e400, float("nan"), "x", [], {}, [[1]], [[["a", 1]]]]


def assert_same_state(one: GossipState, other: GossipState) -> None:
    for name in one.__dataclass_fields__:
        a, b = getattr(one, name), getattr(other, name)
        if name in ("vectors", "own", "heard"):
            assert list(a) == list(b)
            for key in a:
                assert a[key].dtype == b[key].dtype
                assert a[key].tobytes() == b[key].tobytes()
        else:
            assert a == b, name


@pytest.mark.parametrize(
    "state",
    [
        STATE,
        GossipState(1, b""),
        replace(STATE, vectors={}, own={}, heard={}, pending=()),
        GossipState(1, b"", vectors={"model": np.zeros(0, np.float32)}),
    ],
)
def test_states_survive(state: GossipState) -> None:
    read = GossipState.from_bytes(state.to_bytes())
    assert read is not None
    assert_same_state(state, read)
    assert read.to_bytes() == state.to_bytes()


def test_damaged_states_are_no_states() -> None:
    data = STATE.to_bytes()
    for size in range(len(data)):
        assert GossipState.from_bytes(data[:size]) is None
    assert GossipState.from_bytes(data + b"\0") is None
    assert GossipState.from_bytes(b"\2" + data[1:]) is None


def test_flipped_bits_in_a_state_raise_nothing() -> None:
    """A file has a checksum of its own; a context is in memory."""
    data = STATE.to_bytes()
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        GossipState.from_bytes(bytes(damaged))


@given(noise=st.binary(max_size=200))
def test_noise_is_no_state(noise: bytes) -> None:
    assert GossipState.from_bytes(noise) is None
    header = struct.pack("<BI", 1, len(noise))
    assert GossipState.from_bytes(header + noise) is None


def state_header(**changes: Any) -> bytes:
    data = STATE.to_bytes()
    (size,) = struct.unpack_from("<I", data, 1)
    header = {**json.loads(data[5 : 5 + size]), **changes}
    text = json.dumps(header).encode()
    return b"".join((b"\1", struct.pack("<I", len(text)), text, data[5 + size :]))


@pytest.mark.parametrize("value", [*HOSTILE, 2**80, -3, 1.5])
def test_states_with_other_fields_raise_nothing(value: Any) -> None:
    data = STATE.to_bytes()
    (size,) = struct.unpack_from("<I", data, 1)
    tracemalloc.start()
    try:
        for name in json.loads(data[5 : 5 + size]):
            GossipState.from_bytes(state_header(**{name: value}))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("text", [b"[" * 100_000, b"null", b"[]", b'"a"', b"1e999"])
def test_other_json_is_no_state(text: bytes) -> None:
    data = b"\1" + struct.pack("<I", len(text)) + text
    assert GossipState.from_bytes(data) is None
