"""Payloads of parts: their bytes, hostile ones, and what a memory keeps of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flower_compress import Identity, PerArray, RotatedQuantizer, StochasticQuantizer
from flower_compress.compressors import Parts, Vector
from flower_compress.errors import CorruptPacket
from flower_compress.links import (
    Broadcast,
    Channel,
    Direct,
    ErrorFeedback,
    Link,
    Memory,
    Payload,
    ReceiverState,
    SenderState,
    accept,
    fold,
)
from flower_compress.streams import Purpose, Stream

STREAM = Stream(3, Purpose.UPLINK, 1, 4)
ARRAYS = [("w", (8, 5)), ("norm", (6,)), ("v", (30,))]
SIZES = (40, 6, 30)
NORM = slice(40, 46)
RULES = PerArray({"norm": Identity()}, RotatedQuantizer(step=1.5))
MANY = PerArray(
    {"norm": Identity(), "v": StochasticQuantizer(levels=3)}, RotatedQuantizer()
)


def bound(link: Link) -> tuple[Link, Channel]:
    link = link.bind(ARRAYS)
    return link, link.channel(STREAM, SIZES)


def vector(seed: int) -> Vector:
    return np.random.default_rng(seed).normal(size=76).astype(np.float32)


def encode(policy: PerArray, code: str = "auto") -> Payload:
    link, channel = bound(Direct(policy))
    return Payload.encode(vector(0), link.compressor, code, channel)


@pytest.mark.parametrize("code", ["auto", "elias", "packed-huffman", "fixed-width"])
def test_a_payload_is_its_parts(code: str) -> None:
    payload, operators = encode(MANY, code), MANY.operators
    x, channel = vector(0), payload.channel
    assert channel is not None
    pieces, alone = [bytes((11, 0, 3))], []
    for part, entries in enumerate((x[NORM], x[46:], x[:40])):
        stream = STREAM.of_part(part)
        sent = Payload.encode(entries, operators[part], code, Channel(stream))
        alone.append(sent)
        length = len(sent.data).to_bytes(4, "little")
        pieces += [length if part < 2 else b"", sent.data]
    assert payload.data == b"".join(pieces)
    assert payload.num_bits == sum(sent.num_bits for sent in alone)
    received = Payload(payload.data, 76).on(channel)
    assert received.vector.tobytes() == payload.vector.tobytes()
    expected = np.concatenate([alone[2].vector, alone[0].vector, alone[1].vector])
    assert received.vector.tobytes() == expected.tobytes()
    assert received.compressor == payload.compressor
    assert received.compact().num_bits == payload.num_bits


def test_who_knows_no_parts_reads_none() -> None:
    payload = encode(RULES)
    for channel in (None, Channel(STREAM, SIZES)):
        with pytest.raises(CorruptPacket, match="where the contract knows of none"):
            _ = Payload(payload.data, 76, channel).vector
    with pytest.raises(CorruptPacket):
        _ = Payload(payload.data, 75, payload.channel).vector


def test_damaged_bytes_are_refused_or_decode() -> None:
    payload, chance = encode(MANY), np.random.default_rng(7)
    num_refused = 0
    for _ in range(1500):
        data = bytearray(payload.data)
        at = int(chance.integers(min(len(data), int(chance.choice([12, 1000])))))
        data[at] = int(chance.integers(256))
        if chance.random() < 0.2:
            del data[int(chance.integers(len(data))) :]
        try:
            value = Payload(bytes(data), 76, payload.channel).vector
        except CorruptPacket:
            num_refused += 1
        else:
            assert value.shape == (76,)
    assert num_refused > 300


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:2],
        lambda data: data[:2] + b"\x02" + data[3:],  # one part too few
        lambda data: bytes((11, 1)) + data[2:],  # a code
        lambda data: bytes((11 | 128,)) + data[1:],
        lambda data: data[:3] + b"\xff\xff\xff\xff" + data[7:],
        lambda data: data[:5],
        lambda data: data + b"\x00",
        lambda data: data[:3] + len(data).to_bytes(4, "little") + data + data[7:],
    ],
)
def test_heads_that_are_refused(change: Any) -> None:
    payload = encode(MANY)
    with pytest.raises(CorruptPacket):
        _ = Payload(change(payload.data), 76, payload.channel).vector


# --- Memories -------------------------------------------------------------------------


def test_a_memory_holds_nothing_of_lossless_arrays() -> None:
    """So what arrives of them is what was sent, bit for bit, whatever came before."""
    link, channel = bound(Memory(RULES, initial="first"))
    rate = link.memory_rate(76)
    assert rate == pytest.approx(1 / (2 * (3 / 16 + 1)))
    sender, receiver = SenderState(), ReceiverState()
    for version in range(1, 6):
        x = vector(version) * np.float32(1e-6 if version == 3 else 1.0)
        base = sender.version
        sender, payload = link.send(sender, x, version, channel.at(version))
        receiver = accept(
            receiver,
            base=base,
            version=version,
            payloads=(payload,),
            final=False,
            rate=rate,
        )
        value = receiver.value(rate)
        assert value is not None
        assert value[NORM].tobytes() == x[NORM].tobytes()
        sender = link.acknowledge(sender, version)
        assert sender.vector is not None
        assert not sender.vector[NORM].any()
        assert sender.vector[:40].any()
    receiver = accept(
        receiver, base=5, version=6, payloads=(payload,), final=False, rate=rate
    )
    assert receiver.vector is not None
    assert receiver.vector.tobytes() == sender.vector.tobytes()


def test_a_downlink_memory_starts_without_them() -> None:
    link, channel = bound(Memory(RULES))
    broadcast = Broadcast.begin(link, "model", vector(0))
    w = vector(1) * np.float32(1e-7)
    broadcast = broadcast.publish(w, channel)
    assert broadcast.value is not None
    assert broadcast.value[NORM].tobytes() == w[NORM].tobytes()
    # A new receiver's snapshot says nothing of them, and the payload with it all.
    needed = broadcast.catch_up(None)
    assert needed.snapshot is not None
    assert not needed.snapshot[NORM].any()
    assert len(needed.payloads) == 1


def test_updates_are_added_up_whole() -> None:
    """Where receivers add updates to a model, that is no memory of the link."""
    link, channel = bound(Direct(RULES))
    initial, update = vector(0), vector(1)
    broadcast = Broadcast.begin(link, "update", initial).publish(update, channel)
    assert broadcast.value is not None
    expected = initial[NORM] + update[NORM]
    assert broadcast.value[NORM].tobytes() == expected.tobytes()
    payload = broadcast.log[-1]
    assert fold(initial, payload, 1.0)[NORM].tobytes() == expected.tobytes()


def test_error_feedback_has_no_error_of_them() -> None:
    link, channel = bound(ErrorFeedback(RULES))
    sender, payload = link.send(SenderState(), vector(0), 1, channel.at(1))
    sender = link.acknowledge(sender, 1, payload.crc)
    assert sender.vector is not None
    assert not sender.vector[NORM].any()
    assert sender.vector[:40].any()


def test_a_link_of_rules_is_bound_once() -> None:
    link, _ = bound(Memory(RULES))
    assert isinstance(link.compressor, Parts)
    assert link.bind(ARRAYS) == link
    assert link.config() == Memory(RULES).config()
