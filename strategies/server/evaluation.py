"""Evaluation by the clients: which model they are asked about, what they answer."""

from __future__ import annotations

from typing import Literal

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from flower_compress.errors import FlowerCompressError, OutOfSyncError, StalePacketError
from flower_compress.wire.building import new_record_dict, with_content
from flower_compress.wire.packet import SESSION_KEY, bytes_beside, find_packet
from flower_compress.wire.records import array_bytes, num_objects

from ..run.packed import objects_of
from .inbox import leave_out, note_held, packet_of, synchronise
from .outbox import Keys, messages_with_model
from .roster import Client
from .session import Session

__all__ = ["EvaluateOn", "evaluate_messages", "read_evaluations"]

EvaluateOn = Literal["received", "global", "held"]
"""Which model clients evaluate; see :class:`CompressedStrategy`."""


def evaluate_messages(
    session: Session,
    clients: list[Client],
    config: ConfigRecord,
    keys: Keys,
    server_round: int,
    evaluate_on: EvaluateOn,
) -> list[Message]:
    """Return the messages that ask those clients to evaluate a model."""
    if evaluate_on == "received":
        return messages_with_model(
            session, clients, config, keys, server_round + 1, trains=False
        )
    model = session.layout.unflatten(session.model, session.exact)
    messages = []
    for client in clients:
        record = ConfigRecord(dict(config))
        content = RecordDict({keys.config: record})
        if evaluate_on == "held":
            record[SESSION_KEY] = session.id
            record["arrayrecord-key"] = keys.arrays
        else:
            content[keys.arrays] = ArrayRecord(dict(model.items()))
            num_bytes = array_bytes(content)
            session.ledger.record_bytes(
                "downlink",
                num_bytes,
                8 * session.layout.num_bytes,
                evaluation=True,
                objects=num_objects(content),
            )
        messages.append(Message(content, client.node_id, MessageType.EVALUATE))
    return messages


def read_evaluations(
    session: Session,
    replies: list[Message],
    evaluate_on: EvaluateOn,
    asked: frozenset[int],
) -> list[Message]:
    """Bill replies, note what clients hold by now, and return those that count.

    Arrays that clients answer with are billed as what they are, dense.

    Parameters
    ----------
    session : Session
        The run.
    replies : list[Message]
        The replies that hold a content.
    evaluate_on : {"received", "global", "held"}
        What clients were asked about.
    asked : frozenset[int]
        Identities of those clients.

    Returns
    -------
    list[Message]
        As the app gave them, one of each client, in the order of their identities.
    """
    if evaluate_on != "received":
        return _one_of_each(session, replies)
    answers: dict[int, Message] = {}
    for msg in replies:
        _bill(session, msg)
        try:
            client, packet = packet_of(session, msg)
            if packet.payloads or client.identity not in asked:
                raise OutOfSyncError("an answer to another message: late")
            note_held(session, client, packet)
            if client.identity in answers:
                raise StalePacketError("a second answer of the same client")
            if packet.resync:
                synchronise(session, client, packet.version)
                continue
            answers[client.identity] = _without_packet(msg)
        except FlowerCompressError as error:
            leave_out(session, msg, error)
    session.downlinks.pack()
    return [answers[identity] for identity in sorted(answers)]


def _one_of_each(session: Session, replies: list[Message]) -> list[Message]:
    """Bill replies and return them in an order that no network makes.

    Those of nodes that are no clients any more come last.
    """
    answers: dict[tuple[bool, int], Message] = {}
    for msg in replies:
        _bill(session, msg)
        node_id = msg.metadata.src_node_id
        client = session.roster.find(node_id)
        key = (True, node_id) if client is None else (False, client.identity)
        if key in answers:
            again = StalePacketError("a second answer of the same client")
            leave_out(session, msg, again)
        else:
            answers[key] = msg
    return [answers[key] for key in sorted(answers)]


def _bill(session: Session, msg: Message) -> None:
    if num_bytes := array_bytes(msg.content):
        payload_bits = 8 * bytes_beside(msg.content)
        session.ledger.record_bytes(
            "uplink",
            num_bytes,
            payload_bits,
            evaluation=True,
            objects=objects_of(msg.content),
        )


def _without_packet(msg: Message) -> Message:
    """Return a reply as the client's app gave it; the original stays as it is."""
    found = find_packet(msg.content)
    entries = {
        key: record
        for key, record in msg.content.items()
        if found is None or key != found[0]
    }
    return with_content(msg, new_record_dict(entries))
