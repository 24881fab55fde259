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
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from logging import getLogger
from time import sleep
from typing import Any, ClassVar

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from flwr.serverapp.strategy.strategy_utils import log_strategy_start_info
from numpy.typing import ArrayLike

from flower_compress.coding import CODE_NAMES
from flower_compress.compressors import Compressor, Vector
from flower_compress.errors import (
    ConfigurationError,
    FlowerCompressError,
    MissingModError,
    OutOfSyncError,
    StalePacketError,
    UnknownNameError,
)
from flower_compress.wire.gossip_contract import GossipContract, Peers
from flower_compress.wire.layout import EXACT_PATTERN, Layout
from flower_compress.wire.ledger import EdgeLedger, Ledger
from flower_compress.wire.mail import (
    ZEROS_METRIC,
    Delivery,
    Posting,
    find_mail,
    mail_record,
)
from flower_compress.wire.records import array_bytes, records_of, uniform_mean

from ..run.checkpoint import Arrays, Checkpoint
from ..run.greetings import Greeted, Greetings
from ..run.rounds import EvaluateFn, Rounds
from ..run.saving import (
    VERSIONS_A_RESUME,
    Failures,
    KeepsClients,
    Saving,
    check_same_run,
    restore_metrics,
    save_metrics,
)
from ..run.step_size import StepSize, check_step_size, step_size_of
from ..topology import Schedule, Topology, from_matrix
from .post_office import PostOffice

__all__ = ["Relay"]

_log = getLogger("flwr")
_RETRY_SECONDS = 0.5
_KEY = "arrays"
_CONFIG_KEY = "config"


class Relay(Strategy):
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
    checkpoint_dir, checkpoint_every, resume
        As for :class:`~flower_compress.strategies.CompressedStrategy`.
    greeting_timeout : float (default: 60.0)
        Seconds that a new node is given to answer its greeting.
    max_failed_rounds : int (default: 3)
        After that many exchanges in a row in which nodes answered, and every answer was
        an error, the run stops with :class:`RoundFailedError`.

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
    """

    name: ClassVar[str] = "Relay"

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
        rate: float | None = None,
        residual: bool = True,
        seed: int = 0,
        exact_pattern: str = EXACT_PATTERN,
        collect_every: int | None = 0,
        evaluate_at_nodes: bool = False,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10,
        resume: bool = False,
        greeting_timeout: float = 60.0,
        max_failed_rounds: int = 3,
    ) -> None:
        if not isinstance(topology, Topology | Schedule):
            topology = from_matrix(topology)
        if code not in CODE_NAMES:
            raise UnknownNameError("code", code, CODE_NAMES)
        if not callable(step_size):
            check_step_size(step_size)
        for label, value in (("consensus_step", consensus_step), ("rate", rate)):
            if value is not None and not 0.0 < value <= 1.0:
                raise ConfigurationError(f"{label} must lie in (0, 1], got {value}")
        for label, least, number in (
            ("collect_every", 0, collect_every),
            ("max_failed_rounds", 1, max_failed_rounds),
        ):
            if number is not None and number < least:
                raise ConfigurationError(
                    f"{label} must be at least {least}, got {number}"
                )
        for label, parameter in parameters.items():
            if not (parameter >= 0 and math.isfinite(parameter)):
                raise ConfigurationError(
                    f"{label} must be a number >= 0, got {parameter}"
                )
        if isinstance(topology, Schedule) and not (residual or compressor.lossless):
            raise ConfigurationError(
                "a topology that changes needs estimates for its edges: expected "
                "residual=True, or a lossless operator"
            )
        self.topology, self.residual = topology, residual
        self.algorithm, self.parameters = algorithm, dict(parameters)
        self.num_phases = num_phases
        self.compressor, self.code = compressor, code
        self.step_size, self.consensus_step, self.rate = step_size, consensus_step, rate
        self.seed, self.exact_pattern = seed, exact_pattern
        self.collect_every = collect_every
        self.evaluate_at_nodes = evaluate_at_nodes
        self.saving = Saving(checkpoint_dir, checkpoint_every, resume)
        self.greeting_timeout = greeting_timeout
        self._greeting_timeout = greeting_timeout
        self.max_failed_rounds = max_failed_rounds
        self.ledger, self.collections, self.edges = Ledger(), Ledger(), EdgeLedger()
        self.node_models: dict[int, ArrayRecord] = {}
        self.distances: dict[int, float] = {}
        self.zeros: dict[int, float] = {}
        self.resumed_from = 0
        self._layout: Layout | None = None

    # -- a run ---------------------------------------------------------------------

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Run decentralized learning; see :meth:`CompressedStrategy.start`.

        `evaluate_fn` is given the mean of the models that were collected last. A
        resumed relay whose nodes are not brought back with it asks every node for a
        snapshot of its estimates.

        Raises
        ------
        CheckpointError
            If no checkpoint can be written, or none of those found is intact.
        ConfigurationError
            If nodes are numbered otherwise than in the topology, or a grid of this
            process has fewer (on any other, nodes are waited for); if the folder holds
            checkpoints and the run is not to be resumed, or they are of another run.
        """
        self._greeting_timeout = min(self.greeting_timeout, timeout)
        saved = self.saving.begin()
        self._begin(initial_arrays)
        self._num_rounds = num_rounds
        result = Result(arrays=initial_arrays)
        if saved is not None:
            self._restore(saved, grid, result)
            _log.info("Resuming after round %d (%s)", saved.server_round, saved.path)
        _log.info("Starting %s strategy:", self.name)
        log_strategy_start_info(
            num_rounds, result.arrays, train_config, evaluate_config
        )
        self.summary()
        _log.info("")

        def evaluate(server_round: int, _: ArrayRecord) -> MetricRecord | None:
            result.arrays = self._mean
            return (
                None if evaluate_fn is None else evaluate_fn(server_round, self._mean)
            )

        rounds = Rounds(
            grid,
            num_rounds,
            timeout,
            ConfigRecord() if train_config is None else train_config,
            ConfigRecord() if evaluate_config is None else evaluate_config,
            evaluate,
            self.num_phases,
        )

        def save(server_round: int, result: Result) -> None:
            self.saving.after_round(
                server_round, num_rounds, lambda into: self._save(result, grid, into)
            )

        return rounds.run(self, result, self.resumed_from + 1, save)

    def _begin(self, arrays: ArrayRecord) -> None:
        layout = Layout.of(arrays, self.exact_pattern)
        model, exact = layout.flatten(arrays)
        layout.check_finite(model, "the initial model")
        layout.check_exact(exact, "the initial model")
        self._layout, self._initial, self._exact = layout, model, exact
        self._mean = arrays
        self._session = secrets.randbits(32) or 1
        self.ledger, self.collections, self.edges = Ledger(), Ledger(), EdgeLedger()
        self.node_models, self.distances, self.zeros = {}, {}, {}
        self.resumed_from = self._number = self._num_resumes = self._num_rounds = 0
        self._phase, self._round_metrics = 0, MetricRecord()
        self._failures = Failures(self.max_failed_rounds)
        sends, receives = self._peers()
        self._contracts = [
            GossipContract(
                layout=layout,
                node=node,
                algorithm=self.algorithm,
                parameters=self.parameters,
                compressor=self.compressor,
                code=self.code,
                rate=self._rate(layout.dim),
                residual=self.residual,
                consensus_step=self.consensus_step,
                seed=self.seed,
                receives=receives[node],
                sends=sends[node],
            )
            for node in range(self.topology.num_nodes)
        ]
        self._begin_mail()

    def _begin_mail(self) -> None:
        contracts = self._contracts
        self._office = PostOffice(
            [tuple(contract.sources) for contract in contracts],
            contracts[0].layout.dim,
            self.num_phases,
            keeps_estimates=contracts[0].keeps_estimates,
        )
        greeting = Delivery(session=self._session, number=0)
        self._greetings = Greetings(
            mail_record(greeting.data), self._read_greeting, "GossipMod", self.ledger
        )

    def _read_greeting(self, content: RecordDict) -> Greeted:
        """Read a node's answer to the greeting."""
        found = find_mail(content)
        if found is None:
            raise MissingModError("it answered with a reply that holds no mail")
        posting = Posting.parse(found[1])
        if posting.number or posting.session != self._session:
            raise OutOfSyncError("it answered an earlier delivery, late")
        if len(posting.letters) != 1:
            raise MissingModError(
                "it answered with mail that is no answer to a greeting"
            )
        about = posting.letters[0]
        return Greeted(about.node, about.version, about.phase)

    def _peers(self) -> tuple[list[tuple[Peers, ...]], list[tuple[Peers, ...]]]:
        topology, nodes = self.topology, range(self.topology.num_nodes)
        if isinstance(topology, Topology):
            same: list[tuple[Peers, ...]] = [
                (topology.neighbours(node),) for node in nodes
            ]
            return same, same
        rounds = range(topology.period)
        return (
            [tuple(topology.sends_to(t, node) for t in rounds) for node in nodes],
            [tuple(topology.receives_from(t, node) for t in rounds) for node in nodes],
        )

    def _rate(self, dim: int) -> float:
        if self.rate is not None:
            return self.rate
        if self.compressor.unbiased:
            return 1.0 / (self.compressor.omega(dim) + 1.0)
        return 1.0

    # -- exchanges -----------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask all nodes that are there for a step, and give them what is theirs."""
        if self._phase == 0:
            self.ledger.begin_round()
        config["server-round"] = server_round
        delivery = Delivery(
            self._session,
            self._next_number(),
            round=server_round,
            phase=self._phase,
            step_size=step_size_of(self.step_size, server_round),
            train=True,
        )
        return self._messages(delivery, config, grid, MessageType.TRAIN)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _messages(
        self, delivery: Delivery, config: ConfigRecord, grid: Grid, message_type: str
    ) -> list[Message]:
        nodes = self._online(grid, config)
        there, layout = set(nodes), self._contracts[0].layout
        if self._office.is_lost:
            _log.warning("No node has a model any more: all begin with their last mean")
            self._initial, self._exact = layout.flatten(self._mean)
            self._office.begin_anew()
        delivery = replace(delivery, dim=layout.dim)
        messages = []
        for node in nodes:
            box = self._office.boxes[node]
            own = delivery
            if box.contract:
                contract = self._contracts[node].to_bytes()
                own = replace(own, contract=contract, exact=self._exact)
                if box.model:
                    own = replace(own, model=self._initial)
            own = self._office.deliver(node, own, there)
            self._bill(node, own)
            content = RecordDict(
                {
                    _KEY: mail_record(own.data),
                    _CONFIG_KEY: ConfigRecord(dict(config)),
                }
            )
            messages.append(
                Message(content, self._greetings.node_id(node), message_type)
            )
        return messages

    def _bill(self, node: int, delivery: Delivery) -> None:
        """Count a delivery: its letters on their edges, all of it as Flower's."""
        bits = snapshot_bytes = 0
        for letter in delivery.letters:
            size = len(letter.data)
            dense = size if letter.snapshot else 0
            self.edges.record(letter.node, node, size, letter.num_bits, dense)
            bits += letter.num_bits
            snapshot_bytes += dense
        model_bytes = len(delivery.exact)
        if delivery.model is not None:
            model_bytes += delivery.model.nbytes
        bits += 8 * model_bytes
        snapshot_bytes += model_bytes
        self.ledger.record_bytes("downlink", len(delivery.data), bits, snapshot_bytes)

    def _online(self, grid: Grid, config: ConfigRecord) -> list[int]:
        """Return the nodes that are there; all of them before the first exchange."""
        n = self.topology.num_nodes
        while True:
            node_ids = list(grid.get_node_ids())
            arrived = self._greetings.greet(
                grid, node_ids, _KEY, config, _CONFIG_KEY, self._greeting_timeout
            )
            for identity, held, _ in arrived:
                if not 0 <= identity < n:
                    raise ConfigurationError(
                        f"a node says that it is number {identity}, and the topology "
                        f"has nodes 0 to {n - 1}: start as many nodes as it has, each "
                        "with its own partition-id"
                    )
                if not held:
                    self._office.lose(identity)
            online = self._greetings.online(node_ids)
            started = self._number > 1 or self.resumed_from
            if len(online) == n or (online and started):
                return online
            if len(node_ids) < n and isinstance(grid, KeepsClients):
                raise ConfigurationError(
                    f"expected {n} nodes, as the topology has, got {len(node_ids)} in "
                    "this process, where no more will come"
                )
            _log.info("Waiting for nodes: %d of %d are there.", len(online), n)
            sleep(_RETRY_SECONDS)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the nodes' payloads in, to be handed on with the next exchange."""
        accepted = self._accept(replies, self.ledger)
        earlier = self._round_metrics if self._phase else MetricRecord()
        self._phase = (self._phase + 1) % self.num_phases
        contents = [msg.content for _, msg in accepted.values()]
        for node, (_, msg) in accepted.items():
            for row in records_of(msg.content, MetricRecord):
                share = row.get(ZEROS_METRIC)
                if isinstance(share, float):
                    self.zeros[node] = share
        with_metrics = [c for c in contents if any(records_of(c, MetricRecord))]
        metrics = uniform_mean(with_metrics, "") if with_metrics else MetricRecord()
        # Result keeps one record a round, and the first exchange may be what trains.
        metrics = MetricRecord({**earlier, **metrics})
        self._round_metrics = metrics
        metrics["uplink-bytes"] = self.ledger.round_uplink.num_bytes
        metrics["downlink-bytes"] = self.ledger.round_downlink.num_bytes
        return None, metrics

    def _accept(
        self, replies: Iterable[Message], ledger: Ledger
    ) -> dict[int, tuple[Posting, Message]]:
        """Return the usable postings by node, in the order of the nodes."""
        found: dict[int, tuple[Posting, Message]] = {}
        reasons, layout = [], self._contracts[0].layout
        for msg in replies:
            if msg.has_error():
                reasons.append(str(msg.error.reason))
                _log.warning("node %d: %s", msg.metadata.src_node_id, reasons[-1])
                continue
            try:
                node, posting = self._open(msg, ledger)
                if node in found:
                    raise StalePacketError("a second answer of the same node")
                self._office.check(node, posting)
                if posting.model is not None:
                    layout.check_exact(posting.exact, f"the model of node {node}")
            except FlowerCompressError as error:
                reasons.append(f"{type(error).__name__}: {error}")
                _log.warning("node %d: %s", msg.metadata.src_node_id, reasons[-1])
                continue
            found[node] = posting, msg
        found = dict(sorted(found.items()))
        for node, (posting, _) in found.items():
            if posting.resync:
                _log.info("node %d asks to be synchronised", node)
            self._office.take_in(node, posting)
        if any(posting.letters for posting, _ in found.values()):
            self._failures.count(len(found), [])
        elif not found:
            self._failures.count(0, reasons)
        # Else nodes answered, and made no step: no reason to stop, or to begin to count
        # anew, if every step of an earlier exchange has failed.
        return found

    def _open(self, msg: Message, ledger: Ledger) -> tuple[int, Posting]:
        """Read a reply, and bill it."""
        num_bytes, bits, snapshot_bytes = array_bytes(msg.content), 0, 0
        try:
            node = self._greetings.identity(msg.metadata.src_node_id)
            mail = find_mail(msg.content)
            if node is None:
                raise OutOfSyncError("a reply of a node that is no node of the run")
            if mail is None:
                raise OutOfSyncError(
                    "the reply holds no mail: is GossipMod in the client app's mods?"
                )
            posting = Posting.parse(mail[1])
            bits = sum(letter.num_bits for letter in posting.letters)
            snapshot_bytes = sum(len(a.data) for a in posting.letters if a.snapshot)
            if posting.model is not None:
                model_bytes = posting.model.nbytes + len(posting.exact)
                bits += 8 * model_bytes
                snapshot_bytes += model_bytes
        finally:
            ledger.record_bytes("uplink", num_bytes, bits, snapshot_bytes)
        return node, posting

    # -- evaluation ----------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nodes for their models, or to evaluate them, where it is time."""
        collect = self._is_due(server_round)
        if not (collect or self.evaluate_at_nodes):
            return []
        config["server-round"] = server_round
        delivery = Delivery(
            self._session,
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
        accepted = self._accept(replies, self.collections)
        metrics = MetricRecord()
        if self.evaluate_at_nodes:
            contents = [msg.content for _, msg in accepted.values()]
            metrics = uniform_mean(contents, "") if contents else metrics
        if self._collect({node: posting for node, (posting, _) in accepted.items()}):
            distances = self.distances.values()
            metrics["consensus-distance"] = sum(distances) / len(distances)
        return metrics

    def _collect(self, postings: Mapping[int, Posting]) -> bool:
        """Take the models over that postings hold, and say whether there are any."""
        layout = self._contracts[0].layout
        vectors: dict[int, Vector] = {
            node: posting.model
            for node, posting in postings.items()
            if posting.model is not None and not posting.resync
        }
        if not vectors:
            return False
        exacts = {node: postings[node].exact for node in vectors}
        self.node_models = {
            node: layout.unflatten(vector, exacts[node])
            for node, vector in vectors.items()
        }
        mean = np.zeros(layout.dim)
        for vector in vectors.values():
            mean += vector
        mean /= len(vectors)
        self.distances = {
            node: float(np.square(vector - mean).sum())
            for node, vector in vectors.items()
        }
        exact = b""
        if self._exact:
            exact = layout.average_exact([*exacts.values()], [1.0] * len(exacts))
        self._mean = layout.unflatten(mean.astype(np.float32), exact)
        return True

    # -- checkpoints ---------------------------------------------------------------

    def _save(self, result: Result, grid: Grid, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold of the run's state; add the rest to `arrays`."""
        arrays["mean"], exact = self._contracts[0].layout.flatten(self._mean)
        arrays["exact"] = np.frombuffer(exact, dtype=np.uint8)
        if any(box.model for box in self._office.boxes):
            arrays["initial"] = self._initial
            arrays["initial/exact"] = np.frombuffer(self._exact, dtype=np.uint8)
        if isinstance(grid, KeepsClients):
            arrays["clients"] = np.frombuffer(grid.save_clients(), dtype=np.uint8)
        return {
            "run": self._fingerprint(),
            "session": self._session,
            "number": self._number,
            "num_resumes": self._num_resumes,
            "failed_rounds": self._failures.in_a_row,
            "ledger": self.ledger.as_dict(),
            "collections": self.collections.as_dict(),
            "edges": self.edges.as_rows(),
            "boxes": self._office.save(arrays),
            "greetings": self._greetings.save(),
            "metrics": save_metrics(result),
        }

    def _restore(self, saved: Checkpoint, grid: Grid, result: Result) -> None:
        """Take over a checkpoint."""
        meta, layout = saved.meta, self._contracts[0].layout
        check_same_run(self._fingerprint(), saved)
        self._session, self._number = meta["session"], meta["number"]
        self.ledger = Ledger.from_dict(meta["ledger"])
        self.collections = Ledger.from_dict(meta["collections"])
        self.edges = EdgeLedger.from_rows(meta["edges"])
        self._failures.in_a_row = meta["failed_rounds"]
        self._num_resumes = meta["num_resumes"]
        self._begin_mail()
        self._office.restore(meta["boxes"], saved)
        clients = saved.find("clients")
        if clients is not None and isinstance(grid, KeepsClients):
            grid.load_clients(clients.tobytes())
            self._greetings.restore(meta["greetings"])
        else:
            self._num_resumes = self.saving.count_resume(saved, self._num_resumes)
            self._number = max(self._number, self._num_resumes * VERSIONS_A_RESUME)
            self._office.lose_track()
        initial = saved.find("initial")
        if initial is not None:
            # Nodes that have yet to begin do so from what their neighbours began with.
            self._initial = initial
            self._exact = saved.array("initial/exact").tobytes()
        self.resumed_from = saved.server_round
        self._mean = layout.unflatten(
            saved.array("mean"), saved.array("exact").tobytes()
        )
        result.arrays = self._mean
        restore_metrics(result, meta["metrics"])

    def _fingerprint(self) -> dict[str, Any]:
        """Return what must not change when a run goes on."""
        return {"contracts": [c.to_bytes().decode() for c in self._contracts]}

    # -- what a user sees ----------------------------------------------------------

    def summary(self) -> None:
        """Log topology, operator and parameters."""
        dim = "unknown before the start" if self._layout is None else self._layout.dim
        given = {**self.parameters, "consensus step": self.consensus_step}
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
