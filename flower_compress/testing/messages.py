"""Telling messages apart, and making others of them."""

from __future__ import annotations

import copy

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from ..wire.mail import Delivery, find_mail
from ..wire.packet import Packet, find_packet

__all__ = ["GREETING", "kind_of", "new_message", "superlink_error", "with_metadata"]

GREETING = "greeting"
"""Kind of the first message of a CompressedStrategy or a Relay to a node."""


def kind_of(message: Message) -> str:
    """Return the type of a message, or :data:`GREETING`."""
    found = find_packet(message.content)
    if found is not None and Packet.parse(found[1]).greeting:
        return GREETING
    mail = find_mail(message.content)  # of a relay
    if mail is not None and Delivery.parse(mail[1]).number == 0:
        return GREETING
    return message.metadata.message_type


def new_message(message: Message) -> Message:
    """Return another message with the same content for the same node."""
    metadata = message.metadata
    return Message(
        RecordDict(dict(message.content.items())),
        metadata.dst_node_id,
        metadata.message_type,
        ttl=metadata.ttl,
        group_id=metadata.group_id,
        dst_task_id=metadata.dst_task_id,
    )


def superlink_error(message: Message) -> Message:
    """Return what a SuperLink answers in place of a reply that it does not have."""
    error = Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "injected by a FaultyGrid")
    reply = Message(error, reply_to=message)
    return with_metadata(reply, _src_node_id=reply.metadata.dst_node_id)


def with_metadata(message: Message, **changes: object) -> Message:
    """Return the message with other metadata; the original stays as it is."""
    changed = copy.copy(message)
    changed.__dict__["_metadata"] = copy.copy(message.metadata)
    changed.metadata.__dict__.update(changes)
    return changed
