"""A client's ends of its two links, as bytes that Flower keeps between messages."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from ..compressors import Vector
from ..links import Channel, Payload, ReceiverState, SenderState
from ..wire.framing import vector_bytes

__all__ = ["ClientState"]

_FORMAT = 1
_HEADER = struct.Struct("<BIIIIBIII6q")
_ABSENT = -1


class ClientState(NamedTuple):
    """Everything a client remembers of one session.

    Parameters
    ----------
    session : int
        The session's id; state of another session is never used.
    contract : bytes
        See :class:`~flower_compress.wire.contract.Contract`.
    receiver : ReceiverState
        The downlink's end.
    sender : SenderState
        The uplink's end.
    exact : bytes
        The exact arrays received last.
    """

    session: int
    contract: bytes
    receiver: ReceiverState
    sender: SenderState
    exact: bytes = b""

    def on(self, downlink: Channel, uplink: Channel) -> ClientState:
        """Return the state; pending payloads that were read are on their channels."""
        receiver, sender = self.receiver, self.sender
        held, sent = receiver.pending, sender.pending
        if held is not None and held.channel is None:
            held = held.on(downlink.at(receiver.pending_version))
        if sent is not None and sent.channel is None:
            sent = sent.on(uplink.at(sender.pending_version))
        if held is receiver.pending and sent is sender.pending:
            return self
        return self._replace(
            receiver=receiver._replace(pending=held),
            sender=sender._replace(pending=sent),
        )

    def to_bytes(self, dim: int) -> bytes:
        """Return the state as bytes."""
        receiver, sender = self.receiver, self.sender
        sections = (
            self.contract,
            self.exact,
            _vector_bytes(receiver.vector),
            None if receiver.pending is None else receiver.pending.data,
            _vector_bytes(sender.vector),
            None if sender.pending is None else sender.pending.data,
        )
        header = _HEADER.pack(
            _FORMAT,
            dim,
            self.session,
            receiver.version,
            receiver.pending_version,
            receiver.final,
            sender.version,
            sender.pending_version,
            sender.num_inputs,
            *[_ABSENT if part is None else len(part) for part in sections],
        )
        return b"".join([header, *[part for part in sections if part]])

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> ClientState | None:
        """Rebuild a state; None if it is cut off, or of another format."""
        if len(data) < _HEADER.size or data[0] != _FORMAT:
            return None
        _, dim, session, *numbers = _HEADER.unpack_from(data)
        version, pending_version, final, sent, sent_pending, inputs, *sizes = numbers
        if sum(max(size, 0) for size in sizes) != len(data) - _HEADER.size:
            return None
        rest, sections = memoryview(data)[_HEADER.size :], []
        for size in sizes:
            sections.append(None if size == _ABSENT else rest[:size])
            rest = rest[max(size, 0) :]
        contract, exact, held, accepted, memory, pending = sections
        return cls(
            session,
            bytes(contract or b""),
            ReceiverState(
                version,
                _vector(held),
                None if accepted is None else Payload(bytes(accepted), dim),
                pending_version,
                bool(final),
            ),
            SenderState(
                sent,
                _vector(memory),
                None if pending is None else Payload(bytes(pending), dim),
                sent_pending,
                inputs,
            ),
            bytes(exact or b""),
        )


def _vector_bytes(vector: Vector | None) -> bytes | memoryview | None:
    return None if vector is None else vector_bytes(vector)


def _vector(section: memoryview | None) -> Vector | None:
    return None if section is None else np.frombuffer(section, dtype="<f4")
