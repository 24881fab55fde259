"""A strategy's messages, with its model over the downlink."""

from __future__ import annotations

from logging import getLogger
from typing import NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from flower_compress.errors import ConfigurationError
from flower_compress.wire.packet import packet_record
from flower_compress.wire.records import array_bytes

from .evaluation import EvaluateOn, evaluate_messages
from .outbox import Keys, packets_with_model, rests
from .plain import model_key, same_arrays, with_content
from .roster import Client
from .session import Session

__all__ = ["Addressed", "Outgoing"]

_log = getLogger("flwr")


class Addressed(NamedTuple):
    """A message that holds a model."""

    message: Message
    key: str
    """Of the record that holds it."""
    client: Client


class Outgoing:
    """What a strategy wants to send in a round.

    Parameters
    ----------
    session : Session
        The run. It follows the model that the messages hold.
    messages : list[Message]
        The strategy's messages; they stay as they are.
    arrays : ArrayRecord
        The model that the strategy was given.

    Attributes
    ----------
    addressed : list[Addressed]
        The messages that hold a model.
    others : list[Message]
        The others.

    Raises
    ------
    ConfigurationError
        If the models differ, or a node is sent two.
    """

    def __init__(
        self, session: Session, messages: list[Message], arrays: ArrayRecord
    ) -> None:
        self._session = session
        self.others: list[Message] = []
        found: dict[int, Addressed] = {}
        model: ArrayRecord | None = None
        for msg in messages:
            key, node_id = model_key(msg.content, arrays), msg.metadata.dst_node_id
            if key is None:
                self.others.append(msg)
                continue
            client = session.roster.find(node_id)
            if client is None:
                _log.warning("node %d is left out: it was not greeted", node_id)
                continue
            if node_id in found:
                raise ConfigurationError(
                    f"the strategy sends two models to node {node_id} at once: "
                    "expected one message with a model for each node"
                )
            record = msg.content[key]
            if isinstance(record, ArrayRecord):
                model = model or record
                if not same_arrays(record, model):
                    raise ConfigurationError(
                        "the strategy sends different models to different nodes: "
                        "expected the same arrays for all, which are compressed once"
                    )
            found[node_id] = Addressed(msg, key, client)
        self.addressed = list(found.values())
        if model is not None and not same_arrays(model, arrays):
            session.follow(model)

    def with_model(self, server_round: int, *, trains: bool) -> dict[int, Message]:
        """Return the messages with the model as a packet, by node, and bill them.

        Parameters
        ----------
        server_round : int
            The round that trains on this model.
        trains : bool
            Whether the clients are to train, or to evaluate it before that round.
        """
        session, sent = self._session, {}
        awake = [e for e in self.addressed if not rests(session, e.client)]
        clients = [entry.client for entry in awake]
        packets = packets_with_model(session, clients, server_round, trains=trains)
        for entry, packet in zip(awake, packets, strict=True):
            record = packet_record(packet, plain=entry.client.plain)
            msg = with_content(entry.message, entry.key, record)
            dense = array_bytes(msg.content) - len(packet.data)
            if dense:  # Other arrays of the strategy, as they are.
                session.tell_of_others("down", dense)
                session.ledger.record_bytes(
                    "downlink", dense, 8 * dense, evaluation=not trains
                )
            sent[entry.client.node_id] = msg
        return sent

    def evaluations(
        self, server_round: int, evaluate_on: EvaluateOn
    ) -> dict[int, Message]:
        """Return the messages that ask clients to evaluate a model, by node.

        A client that holds nothing is sent the server's with ``"held"``, as all are
        with ``"global"``.
        """
        if evaluate_on == "received":
            return self.with_model(server_round + 1, trains=False)
        holders: list[Addressed] = []
        others: list[Addressed] = []
        for entry in self.addressed:
            holds = evaluate_on == "held" and entry.client.downlink.held is not None
            (holders if holds else others).append(entry)
        return {
            **self._evaluations(holders, "held"),
            **self._evaluations(others, "global"),
        }

    def _evaluations(
        self, chosen: list[Addressed], evaluate_on: EvaluateOn
    ) -> dict[int, Message]:
        if not chosen:
            return {}
        keys = Keys(chosen[0].key, _config_key(chosen[0].message.content))
        clients = [entry.client for entry in chosen]
        ours = evaluate_messages(
            self._session, clients, ConfigRecord(), keys, 0, evaluate_on
        )
        changed = {}
        for entry, about in zip(chosen, ours, strict=True):
            msg = with_content(entry.message, entry.key, None)
            for name, record in about.content.items():
                before = msg.content.get(name)
                if isinstance(record, ConfigRecord) and isinstance(
                    before, ConfigRecord
                ):
                    record = ConfigRecord({**dict(before), **dict(record)})
                msg.content[name] = record
            # Other arrays of the strategy, as they are; the model is billed above.
            self._session.ledger.record_extra(
                "downlink", array_bytes(msg.content, beside=entry.key), evaluation=True
            )
            changed[entry.client.node_id] = msg
        return changed


def _config_key(content: RecordDict) -> str:
    for key, record in content.items():
        if isinstance(record, ConfigRecord):
            return key
    return "config"
