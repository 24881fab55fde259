"""Any strategy of Flower over two compressed links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from logging import getLogger
from typing import Any, get_args

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from flower_compress.errors import (
    ConfigurationError,
    NonFiniteError,
    UnknownNameError,
)
from flower_compress.wire.ledger import Ledger
from flower_compress.wire.packet import find_packet, packet_record
from flower_compress.wire.records import array_bytes

from ..run.attributes import (
    attributes_digests,
    restore_attributes,
    save_attributes,
)
from ..run.checkpoint import Arrays, Checkpoint
from ..run.strategy import RunStrategy
from .composition import Composition
from .greeted_nodes import GreetedNodes
from .inbox import Accepted, Inbox
from .outbox import Keys, evaluate_messages, train_packets
from .plain import as_initial, clipped, model_key, same_arrays, with_content
from .roster import Client
from .session import Session
from .strategy import EvaluateOn
from .watch import NoiseWatch
from .wrappable import client_side_clipping

__all__ = ["Compressed", "WrappedComposition"]

_log = getLogger("flwr")
_UNUSABLE = "its answer could not be used: the server's log says why"


@dataclass(frozen=True)
class WrappedComposition(Composition):
    """Two links around another strategy's step.

    Parameters
    ----------
    step : str
        What makes the step.
    averages : bool
        Whether it is the mean of the clients' models.
    """

    step: str = "averaging"
    averages: bool = True

    def largest_share(
        self, dim: int, num_clients: int, num_active: int
    ) -> float | None:
        """Return what :meth:`Composition.largest_share` does, where it is known."""
        if not self.averages:
            return None
        return super().largest_share(dim, num_clients, num_active)

    def describe(self, dim: int | None) -> list[str]:
        """Return lines on both links and the step, for the log."""
        return [
            f"Server step: {self.step}" if line.startswith("Server step") else line
            for line in super().describe(dim)
        ]


class Compressed(RunStrategy):
    """A strategy over two compressed links; made by :func:`compress`.

    Parameters
    ----------
    strategy : Strategy
        Samples, configures, aggregates.
    composition : WrappedComposition
        The links.
    evaluate_on : {"held", "global"}
        Clients evaluate the model that they hold, or the server's.
    **kwargs
        Those of :class:`~flower_compress.strategies.run.RunStrategy`.

    Attributes
    ----------
    strategy : Strategy
        The strategy inside.
    ledger : Ledger
        What was sent, in bytes and bits.
    refused : Counter[int]
        How many updates were refused, by the client's identity.
    resumed_from : int
        The round of the checkpoint that the run went on from, 0 for a new run.
    """

    def __init__(
        self,
        strategy: Strategy,
        composition: WrappedComposition,
        *,
        evaluate_on: EvaluateOn = "held",
        **kwargs: Any,
    ) -> None:
        if evaluate_on not in get_args(EvaluateOn):
            raise UnknownNameError("evaluate_on", evaluate_on, get_args(EvaluateOn))
        super().__init__(**kwargs)
        self.strategy, self.evaluate_on = strategy, evaluate_on
        self.name = f"compressed {type(strategy).__name__}"
        self._composition = composition
        self._clipping = client_side_clipping(strategy)
        self._settings = self._digests()  # Before anything has changed.
        self._session: Session | None = None
        self._round: _Round | None = None

    @property
    def ledger(self) -> Ledger:
        """What was sent, in bytes and bits."""
        return Ledger() if self._session is None else self._session.ledger

    @property
    def refused(self) -> Counter[int]:
        """How many updates were refused, by the client's identity."""
        return Counter() if self._session is None else self._session.refused

    # -- a run -----------------------------------------------------------------------

    def _digests(self) -> dict[str, str]:
        """Return what tells attributes apart, where they are to be saved."""
        return {} if self.saving.folder is None else attributes_digests(self.strategy)

    def _begin(self, arrays: ArrayRecord) -> None:
        session = self._session = Session(self._composition, arrays)
        dim = session.layout.dim
        self._watch = NoiseWatch(self.name, session.composition, dim)
        self._round, self._can_save = None, False

    @property
    def _running(self) -> Session:
        if self._session is None:
            raise ConfigurationError(
                "expected start to be called: compress is the outermost wrapper, "
                "compress(DifferentialPrivacy...(FedAvg())), not the other way round"
            )
        return self._session

    def _fingerprint(self) -> dict[str, Any]:
        kind = type(self.strategy)
        name = f"{kind.__module__}.{kind.__qualname__}"
        return {**self._running.fingerprint(), "strategy": name, **self._settings}

    def _save(self, arrays: Arrays) -> dict[str, Any]:
        saved = self._running.save(arrays)
        return {**saved, "strategy": save_attributes(self.strategy, arrays)}

    def _restore(self, saved: Checkpoint, skip_to: int | None) -> ArrayRecord:
        self._running.restore(saved, skip_to)
        restore_attributes(self.strategy, saved.meta["strategy"], saved)
        return self._running.arrays

    def _greeted(self, grid: Grid, config: ConfigRecord) -> GreetedNodes:
        roster, timeout = self._running.roster, self._greeting_timeout
        return GreetedNodes(grid, roster, config, Keys("arrays", "config"), timeout)

    def _follow(self, arrays: ArrayRecord) -> None:
        session = self._running
        if arrays is not session.arrays:
            session.follow(arrays)

    # -- training --------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send what the strategy sends, its model over the downlink."""
        session = self._running
        self._follow(arrays)
        session.ledger.begin_round()
        nodes = self._greeted(grid, config)
        plain = list(self.strategy.configure_train(server_round, arrays, config, nodes))
        addressed = self._addressed(plain, arrays)
        model = next((msg.content[key] for msg, key, _ in addressed), arrays)
        if isinstance(model, ArrayRecord) and not same_arrays(model, arrays):
            session.follow(model)
        clients = [client for _, _, client in addressed]
        self._watch.begin(len(session.roster), len(clients))
        sent: dict[int, Message] = {}
        packets = train_packets(session, clients, server_round)
        for (msg, key, client), packet in zip(addressed, packets, strict=True):
            msg = with_content(msg, key, packet_record(packet))
            dense = array_bytes(msg.content) - len(packet.data)
            if dense:
                session.ledger.record_bytes("downlink", dense, 8 * dense)
            sent[client.node_id] = msg
        self._round = _Round(arrays, sent, self.refused.total())
        others = [msg for msg in plain if model_key(msg.content, arrays) is None]
        return [*sent.values(), *others]

    def _addressed(
        self, messages: list[Message], arrays: ArrayRecord
    ) -> list[tuple[Message, str, Client]]:
        """Return the messages that hold a model, with its key, and for whom."""
        name = type(self.strategy).__name__
        found: dict[int, tuple[Message, str, Client]] = {}
        first: ArrayRecord | None = None
        for msg in messages:
            key = model_key(msg.content, arrays)
            if key is None:
                continue
            node_id = msg.metadata.dst_node_id
            client = self._running.roster.find(node_id)
            if client is None:
                _log.warning("node %d is left out: it was not greeted", node_id)
                continue
            if node_id in found:
                raise ConfigurationError(
                    f"{name} sends two models to node {node_id} in one round: expected "
                    "one message with a model for each node"
                )
            record = msg.content[key]
            if isinstance(record, ArrayRecord):
                first = first or record
                if not same_arrays(record, first):
                    raise ConfigurationError(
                        f"{name} sends different models to different nodes: expected "
                        "the same arrays for all, which the downlink compresses once"
                    )
            found[node_id] = (msg, key, client)
        return list(found.values())

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Give the strategy plain replies, and take over the model that it makes."""
        session, this = self._running, self._round
        if this is None:
            return None, None
        plain = self._plain_replies(list(replies), this)
        arrays, metrics = self.strategy.aggregate_train(server_round, plain)
        if self.saving.folder is not None and not self._can_save:
            self._digests()  # Not after many rounds: that nothing new is unsavable.
            self._can_save = True
        if arrays is None:
            self._follow(this.arrays)
            return None, metrics
        before = session.model
        arrays = as_initial(arrays, session.layout)
        session.follow(arrays, f"the model of {type(self.strategy).__name__}")
        session.update_norm = float(np.linalg.norm(session.model - before))
        self._watch.note(server_round, session.update_norm)
        metrics = MetricRecord() if metrics is None else MetricRecord(dict(metrics))
        metrics["refused-updates"] = self.refused.total() - this.refused_before
        metrics["uplink-bytes"] = self.ledger.round_uplink.num_bytes
        metrics["downlink-bytes"] = self.ledger.round_downlink.num_bytes
        return arrays, metrics

    def _plain_replies(self, replies: list[Message], this: _Round) -> list[Message]:
        """Return what the strategy would have received without compression.

        A client whose answer cannot be used has reported an error, for the strategy.
        """
        session = self._running
        errors = [msg for msg in replies if msg.has_error()]
        packed: list[Message] = []
        plain: list[Message] = []
        for msg in replies:
            if msg.has_error():
                continue
            asked = msg.metadata.src_node_id in this.sent
            is_ours = asked or find_packet(msg.content) is not None
            (packed if is_ours else plain).append(msg)
        inbox = Inbox(session, lambda msg: 1.0)  # Weights are the strategy's matter.
        accepted, reasons = inbox.read(packed, errors)
        usable = []
        model = _Model(session)
        for entry in accepted:
            try:
                plain.append(self._plain(entry, model))
                usable.append(entry)
            except NonFiniteError as error:
                reasons.append(f"{type(error).__name__}: {error}")
                self._refuse(entry, reasons[-1])
        session.uplinks.take_in([entry.part for entry in usable])
        self._failures.count(len(plain), reasons)
        answered = {msg.metadata.src_node_id for msg in packed}
        answered -= {entry.message.metadata.src_node_id for entry in usable}
        unusable = [
            Message(Error(ErrorCode.UNKNOWN, _UNUSABLE), reply_to=this.sent[node_id])
            for node_id in sorted(answered & this.sent.keys())
        ]
        return [*plain, *errors, *unusable]

    def _plain(self, entry: Accepted, model: _Model) -> Message:
        """Return a reply with w_i = w - (h_i + q_i) in place of the packet."""
        session, layout = self._running, self._running.layout
        with np.errstate(over="ignore", invalid="ignore"):  # check_finite tells
            weights = session.model - session.uplinks.value(entry.part)
        layout.check_finite(weights, "the client's weights")
        record = layout.unflatten(weights, entry.exact)
        if self._clipping is not None:
            record = clipped(record, model.record, self._clipping.clipping_norm)
        found = find_packet(entry.message.content)
        return with_content(entry.message, found and found[0], record)

    def _refuse(self, entry: Accepted, reason: str) -> None:
        node_id = entry.message.metadata.src_node_id
        _log.warning("node %d: %s", node_id, reason)
        entry.part.end.refused = True
        client = self._running.roster.find(node_id)
        if client is not None:
            self.refused[client.identity] += 1

    # -- evaluation ------------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the clients that the strategy asks, about the model that they hold.

        One that holds none is sent the server's.
        """
        session = self._running
        self._follow(arrays)
        nodes = self._greeted(grid, config)
        plain = list(
            self.strategy.configure_evaluate(server_round, arrays, config, nodes)
        )
        addressed = self._addressed(plain, arrays)
        changed: list[Message] = []
        for send_model in (False, True):
            chosen = [
                entry
                for entry in addressed
                if send_model
                == (self.evaluate_on == "global" or entry[2].downlink.held is None)
            ]
            changed += _evaluations(session, chosen, send_model=send_model)
        others = [msg for msg in plain if model_key(msg.content, arrays) is None]
        return [*changed, *others]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Give the strategy the replies."""
        replies = list(replies)
        for msg in replies:
            num_bytes = 0 if msg.has_error() else array_bytes(msg.content)
            if num_bytes:
                self.ledger.record_bytes("uplink", num_bytes, 0)
        return self.strategy.aggregate_evaluate(server_round, replies)

    # -- what a user sees ------------------------------------------------------------

    def summary(self) -> None:
        """Log the links with their omega and alpha, and the strategy's own settings."""
        dim = None if self._session is None else self._session.layout.dim
        *lines, last = self._composition.describe(dim)
        _log.info("\t├──> Compression:")
        for line in lines:
            _log.info("\t│\t├── %s", line)
        _log.info("\t│\t└── %s", last)
        self.strategy.summary()


@dataclass(frozen=True)
class _Round:
    """What was sent."""

    arrays: ArrayRecord
    """The model that the strategy was given."""
    sent: dict[int, Message]
    """The messages that hold a model, by node."""
    refused_before: int


class _Model:
    """The model that was sent, as a record if it is asked for."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @cached_property
    def record(self) -> ArrayRecord:
        session = self._session
        return session.layout.unflatten(session.model, session.exact)


def _evaluations(
    session: Session,
    addressed: list[tuple[Message, str, Client]],
    *,
    send_model: bool,
) -> list[Message]:
    """Return the strategy's evaluations with our way of naming the model."""
    if not addressed:
        return []
    keys = Keys(addressed[0][1], _config_key(addressed[0][0].content))
    clients = [client for _, _, client in addressed]
    ours = evaluate_messages(
        session, clients, ConfigRecord(), keys, send_model=send_model
    )
    changed = []
    for (msg, key, _), about in zip(addressed, ours, strict=True):
        msg = with_content(msg, key, None)
        for name, record in about.content.items():
            if isinstance(record, ConfigRecord):
                before = msg.content.get(name)
                known = dict(before) if isinstance(before, ConfigRecord) else {}
                record = ConfigRecord({**known, **dict(record)})
            msg.content[name] = record
        changed.append(msg)
    return changed


def _config_key(content: RecordDict) -> str:
    for key, record in content.items():
        if isinstance(record, ConfigRecord):
            return key
    return "config"
