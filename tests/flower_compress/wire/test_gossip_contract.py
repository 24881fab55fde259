"""Contracts of decentralized runs: exact bytes, hostile bytes."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest

from flower_compress import DitheredQuantizer, StochasticQuantizer, TopK
from flower_compress.errors import CorruptPacket
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.layout import Layout, Tensor
from flower_compress.wire.mail import EVERYONE

CONTRACT = GossipContract(
    layout=Layout((Tensor("w", (5,), "float32", False),)),
    node=2,
    algorithm="malcom",
    parameters={"l1": 0.25},
    compressor=DitheredQuantizer(8),
    code="auto",
    rate=0.5,
    residual=True,
    consensus_step=0.75,
    seed=7,
    receives=(((0, 0.25), (3, 0.5)), ((1, 0.5),)),
    sends=(((0, 0.25), (3, 0.5)), ((4, 0.5),)),
)
HOSTILE = [None, True, -1, 1e400, float("nan"), "x", [], {}, [[1]], [[["a", 1]]]]


def test_contracts_survive() -> None:
    read = GossipContract.from_bytes(CONTRACT.to_bytes())
    assert read == CONTRACT
    assert read.to_bytes() == CONTRACT.to_bytes()
    assert read.sources == {0: 0.25, 1: 0.5, 3: 0.5}
    assert read.per_edge
    assert read.targets == (0, 3, 4)
    assert [read.targets_of(t) for t in (1, 2, 3)] == [(0, 3), (4,), (0, 3)]
    one = replace(CONTRACT, receives=CONTRACT.receives[:1], sends=CONTRACT.sends[:1])
    assert not one.per_edge
    assert one.targets == one.targets_of(5) == (EVERYONE,)
    assert (
        read.channel(2, EVERYONE, 5) != read.channel(2, 0, 5) != read.channel(2, 1, 5)
    )
    for compressor in (TopK(k=3), StochasticQuantizer(levels=3)):
        other = replace(CONTRACT, compressor=compressor, residual=False)
        assert GossipContract.from_bytes(other.to_bytes()) == other


def test_gamma_may_decrease() -> None:
    assert CONTRACT.consensus_step_of(1) == CONTRACT.consensus_step_of(99) == 0.75
    decreasing = replace(CONTRACT, consensus_power=0.5)
    data = decreasing.to_bytes()
    assert GossipContract.from_bytes(data) == decreasing
    assert decreasing.consensus_step_of(1) == 0.75
    assert decreasing.consensus_step_of(4) == 0.375
    assert json.loads(data)["consensus_step"] == [0.75, 0.5]


def test_damaged_contracts_are_refused() -> None:
    data = CONTRACT.to_bytes()
    for size in range(len(data)):
        with pytest.raises(CorruptPacket):
            GossipContract.from_bytes(data[:size])
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with contextlib.suppress(CorruptPacket):
            GossipContract.from_bytes(bytes(damaged))


@pytest.mark.parametrize("name", sorted(json.loads(CONTRACT.to_bytes())))
def test_contracts_with_other_fields_raise_nothing_else(name: str) -> None:
    config = json.loads(CONTRACT.to_bytes())
    for value in HOSTILE:
        with contextlib.suppress(CorruptPacket):
            GossipContract.from_bytes(json.dumps({**config, name: value}).encode())
    del config[name]
    with pytest.raises(CorruptPacket):
        GossipContract.from_bytes(json.dumps(config).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"3",
        b"[]",
        b"[" * 100_000,
        b'{"protocol":99}',
        b'{"a":' * 50_000,
    ],
)
def test_what_is_no_contract_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptPacket):
        GossipContract.from_bytes(data)


def test_contracts_refuse_what_does_not_fit() -> None:
    config = json.loads(CONTRACT.to_bytes())
    for change in (
        {"protocol": 99},
        {"code": "morse"},
        {"receives": []},
        {"sends": []},
        {"compressor": {"name": "shouting"}},
    ):
        with pytest.raises(CorruptPacket):
            GossipContract.from_bytes(json.dumps({**config, **change}).encode())
