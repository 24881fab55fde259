"""Any strategy of Flower over two compressed links."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from flower_compress.compressors import Vector
from flower_compress.errors import ConfigurationError

from ..run.attributes import (
    attributes_digests,
    restore_attributes,
    save_attributes,
)
from ..run.checkpoint import Arrays, Checkpoint
from .composition import Composition
from .evaluation import EvaluateOn, read_evaluations
from .greeted_nodes import GreetedNodes
from .metrics import usual_replies
from .optimizers import OptimizerState, ServerOptimizer
from .outbox import Keys
from .outgoing import Outgoing
from .plain import as_initial, as_yielded
from .plain_replies import Asked, plain_replies, unusable
from .recovery import OnDivergence
from .session_strategy import SessionStrategy
from .wrappable import averages, client_side_clipping, weight_key

__all__ = ["Compressed", "StepInside"]

_log = getLogger("flwr")


@dataclass(frozen=True)
class StepInside(ServerOptimizer):
    """The step that a strategy inside makes by itself.

    Parameters
    ----------
    strategy : str
        Name of its class.
    """

    strategy: str

    def step(
        self, state: OptimizerState, gradient: Vector, server_round: int
    ) -> tuple[OptimizerState, Vector]:
        """Raise ConfigurationError: there is no estimate to step with."""
        raise ConfigurationError(f"{self.strategy} makes the step itself")


class Compressed(SessionStrategy):
    """A strategy over two compressed links; made by :func:`compress`.

    Parameters
    ----------
    strategy : Strategy
        Samples, configures, aggregates.
    composition : Composition
        The links.
    evaluate_on : {"received", "global", "held"}
        Which model clients evaluate.
    on_divergence : {"warn", "repair"}
        What happens when the noise of compression feeds itself.
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
        composition: Composition,
        *,
        evaluate_on: EvaluateOn = "received",
        on_divergence: OnDivergence = "warn",
        **kwargs: Any,
    ) -> None:
        if on_divergence == "repair" and not averages(strategy):
            raise ConfigurationError(
                f"{type(strategy).__name__} makes a step of its own, and keeps what it "
                'remembers of the steps before: on_divergence="repair" goes with plain '
                "averaging (FedAvg, FedProx), or with MCM(optimizer=...)"
            )
        super().__init__(evaluate_on=evaluate_on, on_divergence=on_divergence, **kwargs)
        self.strategy = strategy
        self.name = f"compressed {type(strategy).__name__}"
        self._composition = composition
        self._clipping = client_side_clipping(strategy)
        self._settings = self._digests()  # Before anything has changed.
        self._round: Asked | None = None
        self._evaluated: dict[int, Message] = {}

    _not_begun = (
        "expected start to be called: compress is the outermost wrapper, "
        "compress(DifferentialPrivacy...(FedAvg())), not the other way round"
    )

    if not TYPE_CHECKING:  # Where types are checked, an attribute is there or not.

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError, and say where the strategy inside has it."""
            kind, inside = type(self), vars(self).get("strategy")
            text = f"{kind.__name__!r} object has no attribute {name!r}"
            if hasattr(inside, name):
                text += f": the strategy inside has it, as .strategy.{name}"
            raise AttributeError(text, name=name, obj=self)

    # -- a run -----------------------------------------------------------------------

    def _digests(self) -> dict[str, str]:
        """Return what tells attributes apart, where they are to be saved."""
        return {} if self.saving.folder is None else attributes_digests(self.strategy)

    def _begin(self, arrays: ArrayRecord) -> None:
        session = self._begin_session(self._composition, arrays)
        half = [t.name for t in session.layout.tensors if t.dtype == "bfloat16"]
        if half:
            raise ConfigurationError(
                f"array {half[0]!r} is of bfloat16, which NumPy, and so "
                f"{type(self.strategy).__name__}, cannot add up: expected float32 "
                "arrays, or a strategy of this package, as MCM()"
            )
        self._round, self._can_save = None, False

    def _fingerprint(self) -> dict[str, Any]:
        kind = type(self.strategy)
        name = f"{kind.__module__}.{kind.__qualname__}"
        return {**super()._fingerprint(), "strategy": name, **self._settings}

    def _save(self, arrays: Arrays) -> dict[str, Any]:
        saved = super()._save(arrays)
        return {**saved, "strategy": save_attributes(self.strategy, arrays)}

    def _restore(self, saved: Checkpoint, skip_to: int | None) -> ArrayRecord:
        arrays = super()._restore(saved, skip_to)
        restore_attributes(self.strategy, saved.meta["strategy"], saved)
        return arrays

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
        self._observers.begin_round(server_round)
        session = self._running
        self._follow(arrays)
        session.ledger.begin_round()
        nodes = self._greeted(grid, config)
        plain = as_yielded(
            self.strategy.configure_train(server_round, arrays, config, nodes)
        )
        if nodes.seen is not None:
            there = session.roster.online(nodes.seen)
            session.begin_training(client.identity for client in there)
        outgoing = Outgoing(session, plain, arrays)
        session.departures.ask(entry.client.identity for entry in outgoing.addressed)
        self._watch.begin(len(session.roster), len(outgoing.addressed))
        sent = outgoing.with_model(server_round, trains=True)
        self._round = Asked(arrays, sent, self.refused.total())
        return [*sent.values(), *outgoing.others]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Give the strategy plain replies, and take over the model that it makes."""
        session, this = self._running, self._round
        if this is None:
            return None, None
        norm = None if self._clipping is None else self._clipping.clipping_norm
        plain, num_usable, reasons = plain_replies(
            session, list(replies), this, norm, weight_key(self.strategy)
        )
        self._failures.count(num_usable, reasons)
        arrays, metrics = self.strategy.aggregate_train(server_round, plain)
        if self.saving.folder is not None and not self._can_save:
            self._digests()  # Not after many rounds: that nothing new is unsavable.
            self._can_save = True
        if arrays is None:
            self._follow(this.arrays)
            if not num_usable:
                before = session
                session = self._step.without_replies(session, server_round, reasons)
                self._session = session
                if session is not before:
                    return session.arrays, metrics
            return None, metrics
        step = partial(self._take_over, as_initial(arrays, session.layout))
        session = self._session = self._step.take(session, server_round, step)
        metrics = MetricRecord() if metrics is None else MetricRecord(dict(metrics))
        self._add_counts(metrics, this.refused_before)
        return session.arrays, metrics

    def _take_over(self, arrays: ArrayRecord) -> bool:
        """Make the model that the strategy has made the session's, or go part of it."""
        session = self._running
        before = session.model
        if session.damping != 1.0:
            arrays = session.on_the_way_to(arrays)
        session.follow(arrays, f"the model of {type(self.strategy).__name__}")
        session.update_norm = float(np.linalg.norm(session.model - before))
        return True

    # -- evaluation ------------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send what the strategy sends, its model over the downlink or as asked for."""
        session = self._running
        self._follow(arrays)
        nodes = self._greeted(grid, config)
        plain = as_yielded(
            self.strategy.configure_evaluate(server_round, arrays, config, nodes)
        )
        outgoing = Outgoing(session, plain, arrays)
        self._evaluated = outgoing.evaluations(server_round, self.evaluate_on)
        return [*self._evaluated.values(), *outgoing.others]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Give the strategy the replies."""
        session, replies = self._running, list(replies)
        self._tell_of_errors(replies)
        answers: list[Message] = []
        others: list[Message] = []
        for msg in replies:
            asked = msg.metadata.src_node_id in self._evaluated
            is_answer = asked and not msg.has_error()
            (answers if is_answer else others).append(msg)
        found = (session.roster.find(node_id) for node_id in self._evaluated)
        identities = frozenset(client.identity for client in found if client)
        answers = read_evaluations(session, answers, self.evaluate_on, identities)
        key, cap = weight_key(self.strategy), session.bounds.evaluation_weights
        usual, odd = usual_replies(session, answers, key, cap)
        odd_ones = odd.keys() - {msg.metadata.src_node_id for msg in usual}
        others += unusable(self._evaluated, odd_ones)
        metrics = self.strategy.aggregate_evaluate(server_round, [*usual, *others])
        return self._with_sent(metrics)

    # -- what a user sees ------------------------------------------------------------

    def summary(self) -> None:
        """Log the links with their omega and alpha, and the strategy's own settings."""
        num_clients = getattr(self.strategy, "min_available_nodes", 2)
        self._log_links(self._composition, num_clients)
        self.strategy.summary()
