"""The server's end of a compressed run: any mixture of links."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import fields
from functools import partial
from logging import getLogger
from typing import Any, get_args

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flower_compress.arguments import check_count, folder_of
from flower_compress.errors import ConfigurationError, UnknownNameError
from flower_compress.links import Carries, Link
from flower_compress.wire.layout import EXACT_PATTERN
from flower_compress.wire.records import array_bytes, uniform_mean

from ..run.step_size import StepSize
from .arrays import SmallArrays
from .bounds import DEFAULT_NORM_RATIO, DEFAULT_WEIGHT_RATIO
from .composition import Composition
from .departures import FORGET_AFTER
from .downlink_rules import DownlinkMemory, Groups, ResetEvery
from .evaluation import EvaluateOn, evaluate_messages, read_evaluations
from .first_model import FirstModel
from .inbox import Accepted, Inbox
from .metrics import mean_metrics, mean_of_evaluations
from .optimizers import GradientDescent, ServerOptimizer
from .outbox import Keys, messages_with_model
from .participants import Participants, check_participation
from .recovery import OnDivergence
from .roster import Identities
from .sampling import Sampling
from .session import Session
from .session_strategy import SessionStrategy
from .uplink_memories import UplinkMemory
from .weighting import UNIFORM, check_weight_key, weight_of
from .wrappable import require_unclipped

__all__ = ["CompressedStrategy"]

_log = getLogger("flwr")


class CompressedStrategy(SessionStrategy, FedAvg):
    """Federated learning over two compressed links, chosen freely.

    Each round the server sends its model (or the model's last update) over the
    downlink, every client answers over the uplink with a gradient, or with the
    difference that its local training made, and the server steps with the estimate g:

        u = optimizer(g),    w += u                  (preserved central model)
                             w += what arrives of u  (degraded)

    Arrays that are equal in the initial model, as those of layers that share their
    weights, are compressed once as long as they are, and so stay equal; what travels
    dense holds them all.

    The clients need :class:`~flower_compress.CompressionMod` and no configuration.
    The algorithms of this package are this class with their links filled in.

    Parameters
    ----------
    uplink : Link
        Carries gradients or updates to the server.
    downlink : Link
        Carries the model to the clients.
    downlink_carries : {"model", "update"} (default: "model")
        Whether the downlink compresses the model itself, or the update u, which
        clients add to the model that they hold.
    preserved : bool (default: True)
        Whether the central model takes the whole update. If not, it takes what the
        clients receive of it; only with ``downlink_carries="update"``.
    groups : int or "client" (default: 1)
        Number of groups of clients that share a downlink, its memory and its draws;
        ``"client"`` gives every client its own.
    step_size : float or Callable[[int], float] (default: 1.0)
        gamma of ``w -= gamma g``, or a function of the round. 1 is right for clients
        that return weights (federated averaging).
    optimizer : ServerOptimizer, optional
        Instead of plain gradient descent with `step_size`.
    seed : int (default: 0)
        Fixes sampling and every draw of the compressors.
    exact_pattern : str
        Regular expression for names of arrays that are never compressed: they are
        averaged as they are, with no step, and are no part of the vector.
    small_arrays : {"dense", "compressed"} (default: "dense")
        Arrays of one dimension (norm layers, biases, statistics under any name) travel
        as float32, without the noise of an operator, and take part in the step as all
        others: a variance with noise may turn negative. They do as long as all of them
        are no more than 2 % of the entries, or 10 % and 1024; else the longest are
        compressed. Rules of a :class:`~flower_compress.PerArray` come first. Or all
        are compressed, as in the papers.
    evaluate_on : {"received", "global", "held"} (default: "received")
        Which model the clients evaluate. That of the round as they receive it: it
        comes over the downlink with the evaluation, and is not sent again to train on
        it in the next round. Or the server's own, which is sent dense beside that. Or
        the one that they were sent to train on last, at best that of the round before;
        nothing is sent then, and clients are left out that have not trained.
    uplink_memory : {"each", "mean", "sampled"} (default: "each")
        What the server keeps of the memories of a Memory uplink: every client's;
        their mean only, O(d) for any number of clients; or every client's, of which a
        round uses those of the clients that took part. See :class:`Uplinks`.
    downlink_memory : {"each", "average"} (default: "each")
        With ``groups="client"`` and a Memory downlink: keep every client's memory, or
        their mean only. See :class:`Downlinks`.
    reset_every : int, "auto" or None (default: "auto")
        With ``downlink_memory="average"``: rounds between resets, which send the mean
        to every client, dense; ``"auto"`` is 4 sqrt(d), None never.
    memory_budget : int or None (default: 2^28)
        Bytes of clients' memories that are kept in RAM; what is more goes to a
        temporary file. None for no limit.
    spill_dir : path, optional
        Folder of that file; the system's temporary folder by default.
    sampling : {"fixed", "bernoulli"} (default: "fixed")
        A round draws a fixed share of the clients, ``fraction_train``, or every client
        with that probability.
    max_update_norm : float, optional
        An update of larger Euclidean norm is refused, as one with NaN or infinity
        always is: counted, logged, and the client is told with the next message. With
        ``uplink_memory="mean"`` lengths are known to about a tenth, and up to half as
        much again is taken in.
    max_norm_ratio : float or None (default: 250)
        So is an update that many times longer than the median client's, times what the
        operator's own noise makes of it (:class:`~.bounds.NormBound`), as soon as three
        clients were heard; and exact arrays as far from the model's
        (:class:`~.bounds.ExactBounds`). None for neither.
    max_weight_ratio : float or None (default: 1000)
        A client counts with no more than that many times the median of the clients'
        weights, and what is more is logged. None for no cap.
    forget_after : int or None (default: 50)
        A client that took no part in so many rounds in a row in which it could have,
        since it was not connected, or was asked and gave no usable answer, is gone: its
        memory leaves the mean, and all that is kept of it is freed. If it comes back it
        begins as a new one. None to keep all for ever. See :class:`Departures`, and
        :meth:`forget`.
    identities : {"claimed", "trusted", "node"} (default: "claimed")
        What it is worth that a client says who it is (its ``partition-id``, or what the
        mod's `identity` gives). A claim: an identity belongs to the node that had it
        first as long as that is connected, another one that claims it is left out, and
        a client's uplink memory is sent to the node that built it only; on another one
        the client begins with none, which costs a few noisy rounds. Trusted: who claims
        an identity takes it over at once, with its memory. Or none: a client is what
        its node id says, which Flower's node authentication ties to a key and keeps
        over restarts; without that, a SuperNode that restarts is a new client.
    first_model : {"dense", "seed"} or int (default: "dense")
        How a client comes by the model that its memory of the downlink begins with.
        Dense; or it makes the model by itself from `seed`
        (``CompressionMod(first_model=...)``) and only a digest travels; or quantized to
        so many bits an entry, 2 to 16, which the downlink then makes good. A client
        that cannot is sent it dense. For downlinks that keep a memory, or carry
        updates.
    min_replies : int (default: 1)
        A round with fewer usable replies leaves the model as it is.
    on_divergence : {"warn", "repair"} (default: "warn")
        What happens when the noise of compression feeds itself, so that updates grow
        exponentially, or every answer of a round is NaN or infinite: it is logged, with
        what to change; or the server also goes back to an earlier model, sends it
        dense, and takes smaller steps from there on, half of what the links bear.
    weighted_by_key : str or None (default: "num-examples")
        Key in the clients' metrics that holds their weight, a number >= 0, of which a
        client with 0 has no say; None weights all alike, as the papers do.
    **kwargs
        Every argument of :class:`~flower_compress.strategies.run.RunStrategy`
        (``checkpoint_dir``, ``checkpoint_every``, ``resume``, ``greeting_timeout``,
        ``max_failed_rounds``) and every other one of
        :class:`flwr.serverapp.strategy.FedAvg` (``fraction_train``,
        ``min_train_nodes``, ``min_available_nodes``, ...).

    Attributes
    ----------
    ledger : Ledger
        What was sent, in bytes and bits.
    refused : Counter[int]
        How many updates were refused, here or by the client's own mod, by the client's
        identity.
    odd_metrics : Counter[int]
        How many replies' metrics were left out, since they are unlike those of most
        others or hold no weight, by the client's identity.
    resumed_from : int
        The round of the checkpoint that the run went on from, 0 for a new run.
    """

    def __init__(
        self,
        uplink: Link,
        downlink: Link,
        *,
        downlink_carries: Carries = "model",
        preserved: bool = True,
        groups: Groups = 1,
        step_size: StepSize = 1.0,
        optimizer: ServerOptimizer | None = None,
        seed: int = 0,
        exact_pattern: str = EXACT_PATTERN,
        small_arrays: SmallArrays = "dense",
        evaluate_on: EvaluateOn = "received",
        uplink_memory: UplinkMemory = "each",
        downlink_memory: DownlinkMemory = "each",
        reset_every: ResetEvery = "auto",
        memory_budget: int | None = 1 << 28,
        spill_dir: str | os.PathLike[str] | None = None,
        sampling: Sampling = "fixed",
        max_update_norm: float | None = None,
        forget_after: int | None = FORGET_AFTER,
        max_norm_ratio: float | None = DEFAULT_NORM_RATIO,
        max_weight_ratio: float | None = DEFAULT_WEIGHT_RATIO,
        identities: Identities = "claimed",
        first_model: FirstModel = "dense",
        min_replies: int = 1,
        on_divergence: OnDivergence = "warn",
        weighted_by_key: str | None = "num-examples",
        **kwargs: Any,
    ) -> None:
        self.uplink, self.downlink = uplink, downlink
        self.downlink_carries, self.preserved = downlink_carries, preserved
        self.groups = groups
        self.optimizer = optimizer or GradientDescent(step_size)
        self.seed, self.exact_pattern = seed, exact_pattern
        self.small_arrays: SmallArrays = small_arrays
        self.uplink_memory, self.downlink_memory = uplink_memory, downlink_memory
        self.reset_every: ResetEvery = reset_every
        self.memory_budget = memory_budget
        self.spill_dir = folder_of("spill_dir", spill_dir)
        self.forget_after = forget_after
        self.max_update_norm, self.max_norm_ratio = max_update_norm, max_norm_ratio
        self.max_weight_ratio = max_weight_ratio
        self.identities: Identities = identities
        self.first_model: FirstModel = first_model
        self._compose()  # Refuses what cannot work together.
        if sampling not in get_args(Sampling):
            raise UnknownNameError("sampling", sampling, get_args(Sampling))
        check_count("min_replies", min_replies, 1)
        check_weight_key(weighted_by_key)
        if weighted_by_key is None:
            for key in ("train_metrics_aggr_fn", "evaluate_metrics_aggr_fn"):
                kwargs[key] = kwargs.get(key) or uniform_mean
        super().__init__(
            evaluate_on=evaluate_on,
            on_divergence=on_divergence,
            weighted_by_key=UNIFORM if weighted_by_key is None else weighted_by_key,
            **kwargs,
        )
        check_participation(self)
        if evaluate_on == "held" and not self.fraction_train and self.fraction_evaluate:
            raise ConfigurationError(
                'evaluate_on="held" is of the model that a client was sent to train '
                'on; fraction_train=0 sends none: expected evaluate_on="received"'
            )
        self.min_replies = min_replies
        self.sampling: Sampling = sampling
        self._refused_before, self._told_of_min_replies = 0, False
        self._evaluating: frozenset[int] = frozenset()

    _not_begun = "no run has begun: call start, or configure_train with the model"

    # -- a run -----------------------------------------------------------------------

    def _compose(self) -> Composition:
        given = {each.name: getattr(self, each.name) for each in fields(Composition)}
        return Composition(**given)

    def _begin(self, arrays: ArrayRecord) -> None:
        self._begin_session(self._compose(), arrays, self.weighted_by_key)
        self._refused_before = 0

    def _of(self, arrays: ArrayRecord) -> Session:
        """Return the session, with a model that may not be the last round's."""
        if self._session is None:
            self._begin_without_start(arrays)
            self._running.roster.in_arrays = True
        elif arrays is not self._session.arrays:
            self._session.require_unchanged()
            self._session.follow(arrays)
        return self._running

    @property
    def _keys(self) -> Keys:
        return Keys(self.arrayrecord_key, self.configrecord_key)

    def _participants(
        self, fraction: float, min_nodes: int, sampling: Sampling = "fixed"
    ) -> Participants:
        least = self.min_available_nodes
        return Participants(fraction, min_nodes, least, sampling, self.seed)

    # -- training --------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients and send each the model over its downlink."""
        self._observers.begin_round(server_round)
        self.ledger.begin_round()
        if self.fraction_train == 0.0:
            return []
        require_unclipped(config)
        session = self._of(arrays)
        config["server-round"] = server_round
        participants = self._participants(
            self.fraction_train, self.min_train_nodes, self.sampling
        )
        clients = participants.gather(
            session.roster, grid, config, self._keys, self._greeting_timeout
        )
        num_clients = len(clients)
        session.begin_training(client.identity for client in clients)
        clients = participants.draw(clients, server_round)
        if len(clients) < self.min_replies and not self._told_of_min_replies:
            self._told_of_min_replies = True
            _log.warning(
                "round %d asks %d of %d clients, and min_replies=%d: so few leave the "
                "model as it is. Give a larger fraction_train, or fewer min_replies.",
                *(server_round, len(clients), num_clients, self.min_replies),
            )
        session.departures.ask(client.identity for client in clients)
        self._watch.begin(num_clients, participants.usual(num_clients))
        self._refused_before = self.refused.total()
        return messages_with_model(
            session, clients, config, self._keys, server_round, trains=True
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Estimate the gradient from the replies and step."""
        session = self._session
        if session is None:
            return None, None
        if self.fraction_train == 0.0:  # Nobody was asked.
            session.pause()
            return session.arrays, None
        valid, errors = self._check_and_log_replies(
            list(replies), is_train=True, validate=False
        )
        inbox = Inbox(session, lambda msg: weight_of(msg, self.weighted_by_key))
        accepted, reasons = inbox.read(valid, errors)
        session.departures.end(entry.identity for entry in accepted)
        self._failures.count(len(accepted), reasons)
        if len(accepted) < self.min_replies:
            _log.warning(
                "round %d skipped: %d usable replies, expected at least %d",
                server_round,
                len(accepted),
                self.min_replies,
            )
            session.pause()
            if not accepted:
                session = self._session = self._step.without_replies(
                    session, server_round, reasons
                )
            return session.arrays, None
        parts = [entry.part for entry in accepted]
        exact = [entry.exact for entry in accepted]
        step = partial(session.step, parts, exact, server_round)
        session = self._session = self._step.take(session, server_round, step)
        return session.arrays, self._train_metrics(session, accepted)

    def _train_metrics(
        self, session: Session, accepted: list[Accepted]
    ) -> MetricRecord:
        metrics = mean_metrics(
            session,
            [entry.message for entry in accepted],
            [entry.part.weight for entry in accepted],
            self.weighted_by_key,
            self.train_metrics_aggr_fn,
        )
        metrics = MetricRecord() if metrics is None else metrics
        self._add_counts(metrics, self._refused_before)
        return metrics

    def _on_send(self, messages: list[Message]) -> None:
        # The packets were counted when they were made; subclasses may have added more.
        for msg in messages:
            num_bytes = array_bytes(msg.content, beside=self.arrayrecord_key)
            evaluation = msg.metadata.message_type == MessageType.EVALUATE
            self.ledger.record_extra("downlink", num_bytes, evaluation=evaluation)
            if num_bytes:
                self._running.tell_of_others("down", num_bytes)

    # -- evaluation ------------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients and ask each to evaluate the model."""
        if self.fraction_evaluate == 0.0:
            return []
        session = self._of(arrays)
        config["server-round"] = server_round
        participants = self._participants(
            self.fraction_evaluate, self.min_evaluate_nodes
        )
        clients = participants.gather(
            session.roster, grid, config, self._keys, self._greeting_timeout
        )
        if self.evaluate_on == "held":
            clients = [client for client in clients if client.downlink.held is not None]
        clients = participants.draw(clients, -server_round)
        self._evaluating = frozenset(client.identity for client in clients)
        return evaluate_messages(
            session, clients, config, self._keys, server_round, self.evaluate_on
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average the clients' metrics."""
        session = self._session
        if session is None:
            return None
        replies = list(replies)
        self._tell_of_errors(replies)
        valid, _ = self._check_and_log_replies(replies, is_train=False, validate=False)
        answers = read_evaluations(session, valid, self.evaluate_on, self._evaluating)
        metrics = mean_of_evaluations(
            session, answers, self.weighted_by_key, self.evaluate_metrics_aggr_fn
        )
        return self._with_sent(metrics)

    # -- what a user sees ------------------------------------------------------------

    def summary(self) -> None:
        """Log the links with their omega and alpha, and Flower's own settings."""
        self._log_links(self._compose(), self.min_available_nodes)
        super().summary()
