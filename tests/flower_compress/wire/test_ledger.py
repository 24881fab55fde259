"""The ledger: every byte once, by direction, in total and by round."""

from __future__ import annotations

import json

import numpy as np

from flower_compress.compressors import Identity, StochasticQuantizer
from flower_compress.links import Channel, Payload
from flower_compress.streams import Purpose, Stream
from flower_compress.wire.ledger import Ledger, Traffic
from flower_compress.wire.packet import HEADER_BYTES, Packet

X = np.linspace(-1, 1, 37).astype(np.float32)
CHANNEL = Channel(Stream(0, Purpose.UPLINK))


def packet(payloads: int, *, snapshot: bool = False, contract: bool = False) -> Packet:
    quantizer = StochasticQuantizer(1)
    return Packet(
        session=1,
        version=payloads,
        dim=37,
        payloads=tuple(
            Payload.encode(X, quantizer, "fixed-width", CHANNEL.at(i))
            for i in range(payloads)
        ),
        final=True,
        snapshot=X if snapshot else None,
        contract=b"contract" if contract else None,
        exact=b"12345" if contract else None,
    )


def numbers(traffic: Traffic) -> tuple[int, int, int, int]:
    return (
        traffic.messages,
        traffic.num_bytes,
        traffic.payload_bits,
        traffic.snapshot_bytes,
    )


def test_one_packet() -> None:
    ledger = Ledger()
    sent = packet(1)
    ledger.record("uplink", sent)
    bits = 4 + 37 * 2 + 32
    assert numbers(ledger.uplink) == (1, len(sent.data), bits, 0)
    assert numbers(ledger.round_uplink) == numbers(ledger.uplink)
    assert numbers(ledger.downlink) == numbers(ledger.round_downlink) == (0, 0, 0, 0)
    # The header, the operator with its parameters, and two bits of padding.
    assert ledger.uplink.framing_bytes == HEADER_BYTES + 2 + 3 + 1
    assert ledger.uplink.num_bytes == HEADER_BYTES + 5 + (4 + 37 * 2 + 2) // 8 + 4


def test_snapshots_and_exact_arrays_are_payload_and_contracts_framing() -> None:
    ledger = Ledger()
    sent = packet(0, snapshot=True, contract=True)
    ledger.record("downlink", sent)
    assert ledger.downlink.snapshot_bytes == 37 * 4
    assert ledger.downlink.payload_bits == 37 * 32 + 5 * 8
    # Two lengths of four bytes.
    assert ledger.downlink.framing_bytes == HEADER_BYTES + 8 + len(b"contract")
    assert ledger.downlink.num_bytes == len(sent.data)


def test_rounds_add_up_to_the_total() -> None:
    ledger = Ledger()
    rounds = [([packet(1), packet(2)], [packet(1)]), ([packet(0)], []), ([], [])]
    rounds.append(([packet(1, snapshot=True)] * 3, [packet(3, contract=True)]))
    totals = {"uplink": [0, 0, 0, 0], "downlink": [0, 0, 0, 0]}
    for down, up in rounds:
        ledger.begin_round()
        assert numbers(ledger.round_uplink) == numbers(ledger.round_downlink)
        for sent in down:
            ledger.record("downlink", sent)
        for sent in up:
            ledger.record("uplink", sent)
        of_round = {"uplink": ledger.round_uplink, "downlink": ledger.round_downlink}
        assert ledger.round_downlink.messages == len(down)
        assert ledger.round_uplink.messages == len(up)
        assert ledger.round_downlink.num_bytes == sum(len(p.data) for p in down)
        for direction, traffic in of_round.items():
            for i, number in enumerate(numbers(traffic)):
                totals[direction][i] += number
    assert numbers(ledger.uplink) == tuple(totals["uplink"])
    assert numbers(ledger.downlink) == tuple(totals["downlink"])
    assert ledger.downlink.messages == 6


def test_bytes_of_others_are_counted_by_their_numbers() -> None:
    ledger = Ledger()
    ledger.record_bytes("downlink", 1000, 7200, 900)
    ledger.record_bytes("downlink", 10, 0)
    ledger.record_bytes("uplink", 3, 17)
    assert numbers(ledger.downlink) == (2, 1010, 7200, 900)
    assert ledger.downlink.framing_bytes == 110
    assert numbers(ledger.uplink) == (1, 3, 17, 0)
    assert ledger.uplink.framing_bytes == 1


def test_as_dict_is_json() -> None:
    ledger = Ledger()
    ledger.record("uplink", packet(2))
    ledger.record("downlink", packet(1, snapshot=True))
    read = json.loads(json.dumps(ledger.as_dict()))
    assert read.keys() == {
        "uplink",
        "downlink",
        "evaluation_uplink",
        "evaluation_downlink",
    }
    for direction, traffic in (
        ("uplink", ledger.uplink),
        ("downlink", ledger.downlink),
    ):
        assert Traffic(**read[direction]) == traffic


def test_ledgers_are_apart() -> None:
    one, other = Ledger(), Ledger()
    one.record("uplink", packet(1))
    assert numbers(other.uplink) == (0, 0, 0, 0)


def test_dense_traffic_has_little_framing() -> None:
    ledger = Ledger()
    x = np.ones(10_000, dtype=np.float32)
    payload = Payload.encode(x, Identity(), "auto", CHANNEL)
    ledger.record(
        "uplink", Packet(session=1, version=1, dim=10_000, payloads=(payload,))
    )
    assert ledger.uplink.payload_bits == 320_000
    assert ledger.uplink.framing_bytes <= 48
