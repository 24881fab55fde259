"""What a client can do to its own answers: other packets, other numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from flwr.app import Message, RecordDict

from flower_compress import Identity
from flower_compress.links import Channel, Payload
from flower_compress.streams import Purpose, Stream
from flower_compress.wire.packet import Packet, find_packet, packet_record

from .fleet import Answer


def _changed(reply: Message, packet: Packet) -> Message:
    found = find_packet(reply.content)
    assert found is not None
    content = {**dict(reply.content.items()), found[0]: packet_record(packet)}
    reply.content = RecordDict(content)
    return reply


def _packet(reply: Message) -> Packet | None:
    """The packet of an answer to a model, None of one to a greeting."""
    found = find_packet(reply.content)
    packet = None if found is None else Packet.parse(found[1])
    return None if packet is None or packet.greeting else packet


def dense(size: float, only: int | None = None) -> Answer:
    """Answer uncompressed, with a vector of that norm; only so many times."""

    def answer(msg: Message, reply: Message, count: int) -> Message:
        packet = _packet(reply)
        if packet is None:
            return reply
        if only is not None and count > only:
            raise RuntimeError("silent")
        vector = np.full(packet.dim, size / packet.dim**0.5, dtype=np.float32)
        channel = Channel(Stream(0, Purpose.UPLINK, 0).at(packet.version))
        payload = Payload.encode(vector, Identity(), "auto", channel)
        return _changed(reply, replace(packet, payloads=(payload,)))

    return answer


def no_payload_at_all(_: Message, reply: Message, __: int) -> Message:
    """Answer with a payload of no bytes."""
    packet = _packet(reply)
    if packet is None:
        return reply
    empty = Payload(b"", packet.dim)
    return _changed(reply, replace(packet, payloads=(empty, empty), final=True))


def many_payloads(number: int) -> Answer:
    """Answer with so many empty payloads."""

    def answer(_: Message, reply: Message, __: int) -> Message:
        packet = _packet(reply)
        if packet is None:
            return reply
        payloads = (Payload(b"", packet.dim),) * number
        base = max(packet.version - number, 0)
        many = replace(
            packet, base=base, version=base + number, payloads=payloads, final=True
        )
        return _changed(reply, many)

    return answer


def resynchronise(_: Message, reply: Message, __: int) -> Message:
    """Ask for everything again, each time."""
    packet = _packet(reply)
    if packet is None:
        return reply
    asks = Packet(session=packet.session, version=packet.version, resync=True)
    return _changed(reply, asks)


def noise(_: Message, reply: Message, count: int) -> Message:
    """Answer with a payload of random bytes behind a right header."""
    packet = _packet(reply)
    if packet is None:
        return reply
    length = len(packet.payloads[0].data) - 2 if packet.payloads else 0
    generator = np.random.Generator(np.random.Philox(count))
    data = packet.payloads[0].data[:2] + generator.bytes(length)
    return _changed(reply, replace(packet, payloads=(Payload(data, packet.dim),)))


def no_mod(msg: Message, _: Message, __: int) -> Message:
    """Answer as an app without the mod would that returns what came."""
    return Message(RecordDict(dict(msg.content.items())), reply_to=msg)
