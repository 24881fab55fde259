"""The relay of a decentralized run: it hands payloads on, and sees no model.

Nodes hold the models. In each exchange the relay asks every node for a payload and
gives it those of its neighbours; what a node does with them is in
``clients/gossip/``, what the relay keeps until it has arrived in
``post_office.py``. The order is that of MALCOM-PSGD's algorithm 1: a node
steps, compresses, and averages with the estimates that the payloads of the same round
have made:

    z_i = step(x_i)
    q_i = C(z_i - y_i),   y_i += q_i              at node i and at its neighbours
    x_i = z_i + gamma sum_j w_ij (y_j - y_i)      eq. (8)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from logging import getLogger
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from numpy.typing import ArrayLike

from flower_compress.arguments import check_count, check_number
from flower_compress.compressors import Compressor
from flower_compress.compressors.checks import plain_number
from flower_compress.errors import ConfigurationError, WrongTypeError
from flower_compress.wire.layout import EXACT_PATTERN, Layout
from flower_compress.wire.ledger import EdgeLedger, Ledger
from flower_compress.wire.mail import ZEROS_METRIC, Delivery, Posting
from flower_compress.wire.records import records_of

from ..run.checkpoint import Arrays, Checkpoint
from ..run.model_arrays import check_arrays
from ..run.own_metrics import add_own
from ..run.rounds import EvaluateFn, Rounds
from ..run.step_size import StepSize, check_step_size, step_size_of
from ..run.strategy import RunStrategy
from ..topology import Schedule, Topology
from .checks import check_operator, topology_of
from .contracts import Agreement
from .departures import FORGET_AFTER
from .metrics import mean_metrics
from .session import RelaySession

__all__ = ["Relay"]

_log = getLogger("flwr")


class Relay(RunStrategy):
    """Decentralized learning over compressed links between neighbours.

    The client apps need :class:`~flower_compress.clients.GossipMod` and no
    configuration. The algorithms of this package are this class with what follows
    filled in; each takes any operator and any code.

    Parameters
    ----------
    topology : Topology, Schedule or array
        Who talks to whom, and the mixing matrix W; see
        :mod:`flower_compress.strategies.topology`. With a Schedule, which changes from
        round to round, every edge has estimates of its own, and a payload goes to one
        neighbour.
    algorithm : str
        Name of the nodes' step: ``"malcom"``, ``"choco"``, ``"cdprox-sgt"``,
        ``"dpsgd"``.
    parameters : Mapping[str, float]
        Of that step.
    num_phases : int
        Exchanges that it makes in a round.
    compressor : Compressor
        C. With a lossless one vectors travel as they are, and no estimates are kept.
    code : str
        Name of the code for its symbols.
    step_size : float or Callable[[int], float]
        eta, or a function of the round.
    consensus_step : float
        gamma, in (0, 1].
    consensus_power : float (default: 0)
        p >= 0: in round k, from 1, gamma / k^p takes gamma's place.
    rate : float, optional
        Of the estimates, y += rate q; default 1 for a contraction, 1 / (omega + 1) for
        an unbiased operator, which is a contraction when scaled so.
    residual : bool (default: True)
        Whether what is compressed is the difference to an estimate. If not, C(z) itself
        takes the estimate's place, with all its noise: for comparisons.
    seed : int (default: 0)
        Fixes every draw of the compressor.
    exact_pattern : str
        Regular expression for names of arrays that are never exchanged.
    collect_every : int or None (default: 0)
        Rounds between collections of the nodes' models, for evaluation; 0 for one after
        the last round, None for none ever: then nothing that the relay sees is a model,
        and the result is the initial one. Collections are billed apart.
    evaluate_at_nodes : bool (default: False)
        Whether each node evaluates its own model every round, with its app's evaluate
        function.
    forget_after : int or None (default: 50)
        Rounds in a row in which a node was not connected, or gave no answer that could
        be used, until it is set apart: its neighbours forget what they hold of it, its
        edges' weights go to both ends' own, and its model is no part of the mean, until
        it answers again. None never to do so: then what the neighbours hold of it
        pulls them there for ever.
    **kwargs
        Every argument of :class:`~flower_compress.strategies.run.RunStrategy`:
        ``checkpoint_dir``, ``checkpoint_every``, ``resume``, ``greeting_timeout``, and
        ``max_failed_rounds``, which counts exchanges.

    Attributes
    ----------
    edges : EdgeLedger
        What went from node to node.
    ledger : Ledger
        What went through Flower for that: each payload once up, and down to every
        neighbour.
    collections : Ledger
        What collecting models took.
    node_models : dict[int, ArrayRecord]
        The models collected last, by node.
    distances : dict[int, float]
        ||x_i - mean x||^2 of those, by node.
    zeros : dict[int, float]
        Share of zeros in what each node posted last, in [0, 1].
    resumed_from : int
        The round of the checkpoint that the run went on from, 0 for a new run.

    Notes
    -----
    What :meth:`start` evaluates at the server, and returns, is the mean of the models
    that were collected last. A resumed relay whose nodes are not brought back with it
    asks every node for a snapshot of its estimates.
    """

    name = "Relay"

    def __init__(
        self,
        topology: Topology | Schedule | ArrayLike,
        *,
        algorithm: str,
        parameters: Mapping[str, float],
        compressor: Compressor,
        step_size: StepSize,
        num_phases: int = 1,
        code: str = "auto",
        consensus_step: float = 1.0,
        consensus_power: float = 0.0,
        rate: float | None = None,
        residual: bool = True,
        seed: int = 0,
        exact_pattern: str = EXACT_PATTERN,
        collect_every: int | None = 0,
        evaluate_at_nodes: bool = False,
        forget_after: int | None = FORGET_AFTER,
        **kwargs: Any,
    ) -> None:
        topology = topology_of(topology)
        rate, seed = plain_number(rate), plain_number(seed)
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise WrongTypeError("seed", "an integer", seed)
        check_operator(compressor, code, topology, residual=residual)
        check_step_size(step_size)
        for label, value in (("consensus_step", consensus_step), ("rate", rate)):
            if value is not None:
                check_number(label, value, "lie in (0, 1]", lambda a: 0 < a <= 1)
        check_count("collect_every", collect_every, 0, or_none=True)
        check_count("forget_after", forget_after, 1, or_none=True)
        powers = {"consensus_power": consensus_power}
        for label, parameter in {**parameters, **powers}.items():
            check_number(
                label, parameter, "be a number >= 0", lambda a: 0 <= a < math.inf
            )
        super().__init__(**kwargs)
        self.topology, self.residual = topology, residual
        self.algorithm = algorithm
        self.parameters = {name: plain_number(p) for name, p in parameters.items()}
        self.num_phases = num_phases
        self.compressor, self.code = compressor, code
        self.step_size, self.rate = step_size, rate
        self.consensus_step = plain_number(consensus_step)
        self.consensus_power = plain_number(consensus_power)
        self.seed, self.exact_pattern = seed, exact_pattern
        self.collect_every = collect_every
        self.evaluate_at_nodes = evaluate_at_nodes
        self.forget_after = forget_after
        self.zeros: dict[int, float] = {}
        self._session: RelaySession | None = None
        self._taken_names: set[str] = set()

    @property
    def ledger(self) -> Ledger:
        """What went through Flower for the exchanges."""
        return Ledger() if self._session is None else self._session.ledger

    @property
    def collections(self) -> Ledger:
        """What collecting models took."""
        return Ledger() if self._session is None else self._session.collections

    @property
    def edges(self) -> EdgeLedger:
        """What went from node to node."""
        return EdgeLedger() if self._session is None else self._session.edges

    @property
    def node_models(self) -> dict[int, ArrayRecord]:
        """The models collected last, by node."""
        return {} if self._session is None else self._session.collection.models

    @property
    def distances(self) -> dict[int, float]:
        """||x_i - mean x||^2 of those, by node."""
        return {} if self._session is None else self._session.collection.distances

    def forget(self, node: int) -> None:
        """Set a node apart at once, as if it had missed `forget_after` rounds.

        To be called between rounds, as from an ``evaluate_fn``. Its neighbours forget
        what they hold of it, and are sent snapshots of the others' estimates. A node
        that is connected takes part again when it has answered once.

        Raises
        ------
        ConfigurationError
            If no run has begun, or the topology has no such node.
        """
        self._running.departures.forget(node)

    # -- a run -----------------------------------------------------------------------

    def _begin(self, arrays: ArrayRecord) -> None:
        layout = Layout.of(arrays, self.exact_pattern)
        check_arrays(layout, self.compressor)
        agreement = Agreement(
            self.topology,
            self.algorithm,
            self.parameters,
            self.compressor,
            self.code,
            self.rate,
            self.residual,
            self.consensus_step,
            self.seed,
            self.consensus_power,
        )
        contracts = agreement.contracts(layout)
        self._session = RelaySession(
            contracts, arrays, self.num_phases, self.forget_after, self._observers
        )
        self.zeros = {}
        self._phase, self._round_metrics = 0, MetricRecord()
        self._taken_names = set()

    @property
    def _running(self) -> RelaySession:
        if self._session is None:
            raise ConfigurationError("no run has begun: call start")
        return self._session

    @property
    def _session_id(self) -> int:
        return self._running.id

    def _fingerprint(self) -> dict[str, Any]:
        return self._running.fingerprint()

    def _save(self, arrays: Arrays) -> dict[str, Any]:
        return self._running.save(arrays)

    def _restore(self, saved: Checkpoint, skip_to: int | None) -> ArrayRecord:
        self._running.restore(saved, skip_to)
        return self._running.collection.mean

    def _newest_version(self) -> int:
        return self._running.number

    def _evaluation(self, result: Result, evaluate_fn: EvaluateFn | None) -> EvaluateFn:
        """Return what evaluates the mean of the models that were collected last."""

        def evaluate(server_round: int, _: ArrayRecord) -> MetricRecord | None:
            result.arrays = mean = self._running.collection.mean
            return None if evaluate_fn is None else evaluate_fn(server_round, mean)

        return evaluate

    def _end_early(self, server_round: int, rounds: Rounds, result: Result) -> None:
        """Collect the models that the last round ends with, and evaluate their mean."""
        if self.collect_every is None or self._is_due(server_round):
            return
        self._num_rounds = server_round
        rounds.evaluate(self, server_round, result)

    # -- exchanges -------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask all nodes that are there for a step, and give them what is theirs."""
        session = self._running
        self._observers.begin_round(server_round)
        if self._phase == 0:
            session.ledger.begin_round()
        config["server-round"] = server_round
        delivery = Delivery(
            session.id,
            self._next_number(),
            round=server_round,
            phase=self._phase,
            step_size=step_size_of(self.step_size, server_round),
            train=True,
        )
        return self._messages(delivery, config, grid, MessageType.TRAIN)

    def _next_number(self) -> int:
        self._running.number += 1
        return self._running.number

    def _messages(
        self, delivery: Delivery, config: ConfigRecord, grid: Grid, message_type: str
    ) -> list[Message]:
        session = self._running
        begins = session.number == 1 and not self.resumed_from
        nodes = session.online(grid, config, self._greeting_timeout, begins=begins)
        return session.messages(nodes, delivery, config, message_type)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the nodes' payloads in, to be handed on with the next exchange."""
        session = self._running
        accepted = session.accept(replies, session.ledger, self._failures)
        postings = {node: posting for node, (posting, _) in accepted.items()}
        session.departures.note(server_round, postings)
        earlier = self._round_metrics if self._phase else MetricRecord()
        self._phase = (self._phase + 1) % self.num_phases
        if self._phase == 0:
            session.departures.end_round()
        contents = [msg.content for _, msg in accepted.values()]
        self.zeros |= _shares_of_zeros(accepted)
        metrics = mean_metrics(contents)
        # Result keeps one record a round, and the first exchange may be what trains.
        own = {
            "uplink-bytes": session.ledger.round_uplink.num_bytes,
            "downlink-bytes": session.ledger.round_downlink.num_bytes,
        }
        add_own(metrics, own, self._taken_names)
        self._round_metrics = MetricRecord({**earlier, **metrics})
        return None, self._round_metrics

    # -- evaluation ------------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nodes for their models, or to evaluate them, where it is time."""
        collect = self._is_due(server_round)
        if not (collect or self.evaluate_at_nodes):
            return []
        config["server-round"] = server_round
        delivery = Delivery(
            self._running.id,
            self._next_number(),
            round=server_round,
            collect=collect,
            evaluate=self.evaluate_at_nodes,
        )
        # The mod answers a collection by itself, and an app need not evaluate.
        kind = MessageType.EVALUATE if self.evaluate_at_nodes else MessageType.TRAIN
        return self._messages(delivery, config, grid, kind)

    def _is_due(self, server_round: int) -> bool:
        if self.collect_every is None:
            return False
        if server_round == self._num_rounds:
            return True
        return bool(self.collect_every) and server_round % self.collect_every == 0

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average the models that were collected, and the nodes' metrics."""
        replies = list(replies)
        if not replies:
            return None
        session = self._running
        accepted = session.accept(replies, session.collections, self._failures)
        metrics = MetricRecord()
        if self.evaluate_at_nodes:
            contents = [msg.content for _, msg in accepted.values()]
            metrics = mean_metrics(contents)
        postings = {
            node: posting
            for node, (posting, _) in accepted.items()
            if not session.office.is_apart(node)
        }
        if session.collection.take(postings):
            metrics["consensus-distance"] = session.collection.mean_distance
        return metrics

    # -- what a user sees ------------------------------------------------------------

    def summary(self) -> None:
        """Log topology, operator and parameters."""
        dim: int | str = "unknown before the start"
        if self._session is not None:
            dim = self._session.layout.dim
        given = {**self.parameters, "consensus step": self.consensus_step}
        if self.consensus_power:
            given["consensus power"] = self.consensus_power
        described = ", ".join(f"{name} {value:g}" for name, value in given.items())
        collect = {None: "never", 0: "after the last round"}.get(
            self.collect_every, f"every {self.collect_every} rounds"
        )
        lines = [
            "├──> Decentralized:",
            f"│\t├── Topology: {self.topology.summary()}",
            f"│\t├── Nodes' step: {self.algorithm} ({described})",
            f"│\t├── Operator: {self.compressor}, code {self.code}",
            f"│\t├── Dimension: {dim}",
            f"│\t├── Models are collected {collect}",
            f"│\t└── Seed: {self.seed}",
        ]
        for line in lines:
            _log.info("\t%s", line)


def _shares_of_zeros(
    accepted: Mapping[int, tuple[Posting, Message]],
) -> dict[int, float]:
    """Return what nodes tell of the zeros in their vectors."""
    return {
        node: share
        for node, (_, msg) in accepted.items()
        for row in records_of(msg.content, MetricRecord)
        if isinstance(share := row.get(ZEROS_METRIC), float)
    }
