"""What a strategy would have received without compression."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from flwr.app import ArrayRecord, Error, Message, MetricRecord
from flwr.common.constant import ErrorCode

from flower_compress.errors import ConfigurationError, NonFiniteError, shown
from flower_compress.wire.packet import find_packet
from flower_compress.wire.records import records_of

from .inbox import Accepted, Inbox, tell
from .metrics import usual_replies
from .plain import clipped, with_content
from .session import Session

__all__ = ["Asked", "plain_replies", "unusable"]

_ODD = "RefusedUpdateError: {}: the strategy wants all replies alike"
_UNUSABLE = "its answer could not be used: the server's log says why"
_LATE = "StalePacketError: an answer to an earlier round: late"


class Asked(NamedTuple):
    """What was sent in a round."""

    arrays: ArrayRecord
    """The model that the strategy was given."""
    sent: dict[int, Message]
    """The messages that hold a model, by node."""
    refused_before: int
    """How many updates had been refused."""


def plain_replies(
    session: Session,
    replies: list[Message],
    asked: Asked,
    norm: float | None,
    weighted_by: str,
) -> tuple[list[Message], int, list[str]]:
    """Return plain replies, how many of them hold a content, and why others do not.

    They come in the order of the clients' identities, then what did not answer a
    model, then errors. A client whose answer cannot be used has reported one.

    Parameters
    ----------
    session : Session
        The run; what is used is taken in.
    replies : list[Message]
        What came.
    asked : Asked
        What was sent.
    norm : float, optional
        The largest distance from the model that the strategy counts on.
    weighted_by : str
        Key of the weights that it looks at.
    """
    errors = [msg for msg in replies if msg.has_error()]
    packed: list[Message] = []
    others: list[Message] = []
    for msg in replies:
        if not msg.has_error():
            has_model = msg.metadata.src_node_id in asked.sent
            is_ours = has_model or find_packet(msg.content) is not None
            (packed if is_ours else others).append(msg)
    # The strategy inside takes all vectors at once: to keep them costs no more.
    inbox = Inbox(session, _alike, most_decoded=None)
    accepted, reasons = inbox.read(packed, errors)
    model = None
    if norm is not None:
        model = session.layout.unflatten(session.model, session.exact)
    plain: list[Message] = []
    used: dict[int, Accepted] = {}
    for entry in accepted:
        if entry.message.metadata.src_node_id not in asked.sent:
            reasons.append(_LATE)
            continue
        try:
            record = _weights(session, entry)
        except NonFiniteError as error:
            reasons.append(f"{type(error).__name__}: {error}")
            _refuse(session, entry, reasons[-1])
            continue
        if norm is not None and model is not None:
            record = clipped(record, model, norm)
        found = find_packet(entry.message.content)
        plain.append(with_content(entry.message, found and found[0], record))
        used[entry.message.metadata.src_node_id] = entry
    plain, odd = usual_replies(session, plain, weighted_by, session.bounds.weights)
    for node_id, reason in odd.items():
        reasons.append(_ODD.format(reason))
        _refuse(session, used.pop(node_id), reasons[-1])
    session.departures.end(entry.identity for entry in used.values())
    session.uplinks.take_in([entry.part for entry in used.values()])
    unheard = {msg.metadata.src_node_id for msg in packed} - used.keys()
    plain += others
    left_out = unusable(asked.sent, unheard)
    return [*plain, *errors, *left_out], len(plain), reasons


def _alike(msg: Message) -> float:
    """Return 1, weights are looked at later; refuse what Flower would not have sent."""
    for metrics in records_of(msg.content, MetricRecord):
        for key, value in metrics.items():
            if type(value) not in (int, float, list):
                raise ConfigurationError(
                    f"metric {key!r}: expected a number or a list, got {shown(value)}"
                )
    return 1.0


def unusable(sent: dict[int, Message], node_ids: set[int]) -> list[Message]:
    """Return an error for each of those nodes that was sent a message."""
    return [
        Message(Error(ErrorCode.UNKNOWN, _UNUSABLE), reply_to=sent[node_id])
        for node_id in sorted(node_ids & sent.keys())
    ]


def _weights(session: Session, entry: Accepted) -> ArrayRecord:
    """Return w_i = w - (h_i + q_i)."""
    with np.errstate(over="ignore", invalid="ignore"):  # check_finite tells
        weights = session.model - session.uplinks.value(entry.part)
    session.layout.check_finite(weights, "the client's weights")
    return session.layout.unflatten(weights, entry.exact)


def _refuse(session: Session, entry: Accepted, reason: str) -> None:
    entry.part.end.refused = True
    client = session.roster.find(entry.message.metadata.src_node_id)
    tell(session, "refused", client, entry.message, reason)
    if client is not None:
        session.refused[client.identity] += 1
