"""The loop over rounds, as Flower's, that can begin later and saves as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from logging import getLogger

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from .packed import mark_packed

__all__ = ["EvaluateFn", "Rounds", "ShouldStop"]

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]
"""Evaluates a round's model at the server."""

ShouldStop = Callable[[int, Result], bool]
"""Told each round and what there is by then, whether the run ends with that round."""

_log = getLogger("flwr")


@dataclass
class Rounds:
    """What :meth:`flwr.serverapp.strategy.Strategy.start` is told.

    Flower's own loop always begins at round 1 and leaves no room after a round.

    Parameters
    ----------
    grid : Grid
        The grid.
    num_rounds : int
        Number of the last round.
    timeout : float
        Seconds to wait for replies.
    train_config, evaluate_config : ConfigRecord
        Sent to the clients.
    evaluate_fn : EvaluateFn, optional
        Evaluates each round's model, and the initial one as round 0.
    should_stop : ShouldStop, optional
        Asked at the end of each round; True ends the run there.
    exchanges : int
        How often a round trains: the strategy configures and aggregates each time.
    on_send : Callable[[list[Message]], None], optional
        Told of the messages before they are sent.
    """

    grid: Grid
    num_rounds: int
    timeout: float | None
    train_config: ConfigRecord = field(default_factory=ConfigRecord)
    evaluate_config: ConfigRecord = field(default_factory=ConfigRecord)
    evaluate_fn: EvaluateFn | None = None
    should_stop: ShouldStop | None = None
    exchanges: int = 1
    on_send: Callable[[list[Message]], None] | None = None

    def run(
        self,
        strategy: Strategy,
        result: Result,
        first_round: int,
        after_round: Callable[[int, bool], None],
    ) -> None:
        """Run rounds `first_round` to `num_rounds` on the model in `result`.

        Parameters
        ----------
        strategy : Strategy
            Trains and evaluates.
        result : Result
            The model, and the metrics of earlier rounds; it is changed in place.
        first_round : int
            1 for a new run, with which the initial model is evaluated.
        after_round : Callable[[int, bool], None]
            Called at the end of every round, with whether the run ends there; of
            round 0 if the initial model was evaluated.
        """
        started = time.monotonic()
        if first_round == 1:
            self._evaluate_at_server(0, result)
            if 0 in result.evaluate_metrics_serverapp:
                after_round(0, False)
        for server_round in range(first_round, self.num_rounds + 1):
            _log.info("")
            _log.info("[ROUND %s/%s]", server_round, self.num_rounds)
            for _ in range(self.exchanges):
                self._train(strategy, server_round, result)
            self.evaluate(strategy, server_round, result)
            stops = self.should_stop is not None and self.should_stop(
                server_round, result
            )
            after_round(server_round, stops or server_round == self.num_rounds)
            if stops:
                _log.info("Stopped after round %d, as asked", server_round)
                break
        _log.info("")
        _log.info("Strategy execution finished in %.2fs", time.monotonic() - started)

    def evaluate(self, strategy: Strategy, server_round: int, result: Result) -> None:
        """Evaluate a round's model, at the clients and then at the server."""
        self._evaluate_at_clients(strategy, server_round, result)
        self._evaluate_at_server(server_round, result)

    def _train(self, strategy: Strategy, server_round: int, result: Result) -> None:
        messages = strategy.configure_train(
            server_round, result.arrays, self.train_config, self.grid
        )
        messages = self._before_sending(messages)
        replies = self.grid.send_and_receive(messages, timeout=self.timeout)
        arrays, metrics = strategy.aggregate_train(
            server_round, [mark_packed(reply) for reply in replies]
        )
        if arrays is not None:
            result.arrays = arrays
        if metrics is not None:
            _log.info("\t└──> Aggregated MetricRecord: %s", metrics)
            result.train_metrics_clientapp[server_round] = metrics

    def _before_sending(self, messages: Iterable[Message]) -> list[Message]:
        messages = list(messages)
        if self.on_send is not None:
            self.on_send(messages)
        return messages

    def _evaluate_at_clients(
        self, strategy: Strategy, server_round: int, result: Result
    ) -> None:
        messages = strategy.configure_evaluate(
            server_round, result.arrays, self.evaluate_config, self.grid
        )
        messages = self._before_sending(messages)
        replies = self.grid.send_and_receive(messages, timeout=self.timeout)
        metrics = strategy.aggregate_evaluate(server_round, replies)
        if metrics is not None:
            _log.info("\t└──> Aggregated MetricRecord: %s", metrics)
            result.evaluate_metrics_clientapp[server_round] = metrics

    def _evaluate_at_server(self, server_round: int, result: Result) -> None:
        if self.evaluate_fn is None:
            return
        metrics = self.evaluate_fn(server_round, result.arrays)
        _log.info("Global evaluation of round %d: %s", server_round, metrics)
        if metrics is not None:
            result.evaluate_metrics_serverapp[server_round] = metrics
