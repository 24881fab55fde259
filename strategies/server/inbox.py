"""What clients answer: opened, checked, and refused where it would do harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from logging import getLogger
from typing import NamedTuple

from flwr.app import Message
from flwr.common.constant import ErrorCode

from flower_compress.errors import (
    CorruptPacket,
    FlowerCompressError,
    LayoutMismatchError,
    NonFiniteError,
    OutOfSyncError,
    RefusedUpdateError,
    StalePacketError,
)
from flower_compress.wire.measures import measure_packet
from flower_compress.wire.packet import Header, Packet, find_packet
from flower_compress.wire.records import array_bytes

from ..callbacks import EventKind
from ..run.packed import objects_of
from .bounds import Given
from .roster import Client
from .session import Session
from .uplink_end import Contribution

__all__ = [
    "Accepted",
    "Inbox",
    "leave_out",
    "note_held",
    "packet_of",
    "synchronise",
    "tell",
]

_log = getLogger("flwr")
_SPOILT = (NonFiniteError.__name__, LayoutMismatchError.__name__)
_OF_APP = ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.MOD_FAILED_PRECONDITION
"""Errors of a client that was reached, and failed."""
_OFTEN = 5
_LONGEST_REASON = 300
MOST_DECODED = 1 << 28
"""Bytes of decoded vectors: those of a hundred clients with 670,000 entries."""
_FEWEST_DECODED = 4
"""Vectors that are kept in any case: of long ones they are no more than a session."""
_ASKS = "asks to be synchronised"


class Accepted(NamedTuple):
    """A reply that takes part in the round."""

    identity: int
    part: Contribution
    exact: bytes
    message: Message


class Inbox:
    """Reads the replies of a round, and takes nothing in yet.

    Parameters
    ----------
    session : Session
        The run. What arrives is billed, what clients hold by now is noted.
    weigh : Callable[[Message], float]
        Returns a client's weight; raises a FlowerCompressError if it gives none.
    most_decoded : int, optional
        Bytes of decoded vectors that are kept until all lengths of the round are
        known, at least four vectors; of more replies the packets are, which are decoded
        again. None for no limit.
    """

    def __init__(
        self,
        session: Session,
        weigh: Callable[[Message], float],
        most_decoded: int | None = MOST_DECODED,
    ) -> None:
        self._session, self._weigh = session, weigh
        self._most_decoded, self._decoded = most_decoded, 0

    def read(
        self, valid: list[Message], errors: list[Message]
    ) -> tuple[list[Accepted], list[str]]:
        """Return the usable replies by the clients' identity, and why others are not.

        Parameters
        ----------
        valid, errors : list[Message]
            The replies that hold a content, and those that hold an error.
        """
        session = self._session
        reasons = [f"{msg.error.reason}"[:_LONGEST_REASON] for msg in errors]
        reasons += session.sync_budget.left_out()
        for msg, reason in zip(errors, reasons, strict=False):
            client = session.roster.find(msg.metadata.src_node_id)
            if client is not None and msg.error.code in _OF_APP:
                self._count_failed(client, reason)
            if reason.startswith(_SPOILT):  # The client's own mod refused it.
                self._count_refused(msg)
                tell(session, "refused", client, msg, reason)
            elif client is not None:  # Else it is Flower that speaks, of another node.
                if msg.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION:
                    client.plain = False  # It may be an older release by now.
                tell(session, "lost", client, msg, reason)
        accepted: dict[int, Accepted] = {}
        for msg in valid:
            try:
                client, packet = self._open(msg)
                session.failed.pop(client.identity, None)
                if packet.resync:
                    # A second answer to a message that reached it twice says nothing
                    # new; if it has lost its state since, it will say so again.
                    if client.identity not in accepted:
                        synchronise(session, client, packet.version)
                        reasons.append(f"client {client.identity} {_ASKS}")
                    continue
                if client.identity in accepted:
                    raise StalePacketError("a second answer of the same client")
                if not packet.payloads:
                    raise OutOfSyncError("expected an update, got none in the reply")
                accepted[client.identity] = self._check(msg, client, packet)
            except FlowerCompressError as error:
                reasons.append(self._refuse(msg, error))
        reasons += self._judge(accepted)
        session.downlinks.settle(len(session.roster))
        return [accepted[identity] for identity in sorted(accepted)], reasons

    def _judge(self, accepted: dict[int, Accepted]) -> list[str]:
        """Take out what is far from what others send; return why. Cap the weights."""
        session = self._session
        given = {
            identity: Given(entry.part.norm, entry.part.weight, entry.exact)
            for identity, entry in sorted(accepted.items())
        }
        refused, weights = session.bounds.judge(session.exact, given)
        for identity, weight in weights.items():
            entry = accepted[identity]
            if weight != entry.part.weight:
                part = replace(entry.part, weight=weight)
                accepted[identity] = entry._replace(part=part)
            session.sync_budget.pay(identity)
            if session.uplinks.ends_epoch(entry.part):
                session.epoch_budget.ask(identity, entry.part.version)
                session.epoch_budget.pay(identity)
            elif not entry.part.is_new:  # All begin anew in the round after.
                session.epoch_budget.pay(identity)
        reasons = []
        for identity, error in refused.items():
            entry = accepted.pop(identity)
            entry.part.end.refused = True
            reasons.append(self._refuse(entry.message, error))
        return reasons

    def _refuse(self, msg: Message, error: FlowerCompressError) -> str:
        """Tell and count that a reply is left out; return why."""
        reason = f"{type(error).__name__}: {error}"
        leave_out(self._session, msg, error)
        if not isinstance(error, OutOfSyncError):
            self._count_refused(msg)
        return reason

    def _open(self, msg: Message) -> tuple[Client, Packet]:
        """Read a reply's packet, bill it, and note what the client holds."""
        session = self._session
        num_bytes, payload_bits, measured = array_bytes(msg.content), 0, None
        try:
            client, packet = packet_of(session, msg)
            packet = packet.on(session.contract.uplink_channel(client.identity))
            session.uplinks.require_form(packet)
            beside = 8 * (num_bytes - len(packet.data))
            session.tell_of_others("up", beside // 8)
            payload_bits = packet.payload_bits + beside
            measured = measure_packet(packet, beside)
        finally:
            session.ledger.record_bytes(
                "uplink",
                num_bytes,
                payload_bits,
                measured=measured,
                objects=objects_of(msg.content),
            )
        note_held(session, client, packet)
        return client, packet

    def _check(self, msg: Message, client: Client, packet: Packet) -> Accepted:
        """Decode what a client contributes, and take nothing in yet."""
        exact, weight = packet.exact or b"", self._weigh(msg)
        client.uplink.refused = False  # It answers the message that said so.
        try:
            self._session.layout.check_exact(exact, "the client's reply")
            part = self._session.uplinks.check(
                client.uplink, packet, weight, keeps=self._may_keep()
            )
        except (RefusedUpdateError, NonFiniteError, CorruptPacket):
            client.uplink.refused = True
            raise
        budget = self._session.epoch_budget
        if self._session.uplinks.ends_epoch(part) and budget.rests(client.identity):
            raise OutOfSyncError(*budget.left_out())
        return Accepted(client.identity, part, exact, msg)

    def _count_failed(self, client: Client, reason: str) -> None:
        """Warn once of a client that fails round after round."""
        session, identity = self._session, client.identity
        session.failed[identity] += 1
        if session.failed[identity] < _OFTEN:
            return
        all_of_it = "" if client.downlink.held is not None else ", the whole model"
        session.warn_once(
            f"fails {identity}",
            "client %d (node %d) has failed %d times in a row, and is sent what it "
            "lacks each time%s: %s",
            *(identity, client.node_id, _OFTEN, all_of_it, reason),
        )

    def _may_keep(self) -> bool:
        if self._most_decoded is None:
            return True
        size = 4 * self._session.layout.dim
        self._decoded += size
        return self._decoded <= max(self._most_decoded, _FEWEST_DECODED * size)

    def _count_refused(self, msg: Message) -> None:
        client = self._session.roster.find(msg.metadata.src_node_id)
        if client is not None:
            self._session.refused[client.identity] += 1


def leave_out(session: Session, msg: Message, error: FlowerCompressError) -> None:
    """Tell that a reply is left out."""
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, StalePacketError):  # Its client may have been heard.
        _log.warning("node %d: %s", msg.metadata.src_node_id, reason)
        return
    client = session.roster.find(msg.metadata.src_node_id)
    late = isinstance(error, OutOfSyncError)
    tell(session, "lost" if late else "refused", client, msg, reason)


def tell(
    session: Session, kind: EventKind, client: Client | None, msg: Message, reason: str
) -> None:
    """Tell what became of a reply."""
    identity = None if client is None else client.identity
    session.observers.note(kind, identity, msg.metadata.src_node_id, reason)


def packet_of(session: Session, msg: Message) -> tuple[Client, Packet]:
    """Return who wrote a reply, and its packet, of which nothing is decoded yet.

    Raises
    ------
    OutOfSyncError
        If a node wrote it that is no client any more, or it holds no packet, or one of
        another session.
    CorruptPacket
        If the packet is damaged, of vectors of another length, or no client's answer.
    """
    client = session.roster.find(msg.metadata.src_node_id)
    found = find_packet(msg.content)
    if client is None:
        raise OutOfSyncError("a reply of a node that is no client any more")
    if found is None:
        raise OutOfSyncError(
            "the reply holds no packet: is CompressionMod in the client app's mods? A "
            "configure_train of one's own has to send on the messages that "
            "super().configure_train(...) makes, whose arrays are packets"
        )

    def check(header: Header) -> None:
        if header.session != session.id:
            raise OutOfSyncError("the reply belongs to another session")
        header.require_reply()
        # It bounds what decoding may allocate. A client that asks to be synchronised
        # sends no vectors.
        header.require_dim(0 if header.resync else session.layout.dim)

    packet = Packet.parse(found[1], check)
    if packet.resync and packet.payloads:
        raise CorruptPacket("a client that asks to be synchronised sends no payload")
    return client, packet


def note_held(session: Session, client: Client, packet: Packet) -> None:
    """Note what a client holds by now.

    Raises
    ------
    OutOfSyncError
        If its reply answers anything but what it was sent last.
    """
    if packet.version != client.downlink.sent:
        raise OutOfSyncError(
            f"expected an answer to version {client.downlink.sent}, got one to "
            f"{packet.version}: late"
        )
    if not packet.resync:
        session.downlinks.acknowledge(client.identity, client.downlink, packet.version)


def synchronise(session: Session, client: Client, version: int) -> None:
    """Note that a client has lost what it held: it will be sent everything.

    Parameters
    ----------
    session, client
        The run, and who asks.
    version : int
        That of the message which it could not follow.
    """
    session.observers.note("resynchronised", client.identity, client.node_id, _ASKS)
    if session.downlinks.begin_dense(client.downlink):
        _log.warning(
            "client %d cannot begin with first_model=%r, its own log says why: it is "
            "sent the first model dense",
            client.identity,
            session.composition.first_model,
        )
    session.sync_budget.ask(client.identity, version)
    session.downlinks.forget(client.identity, client.downlink)
