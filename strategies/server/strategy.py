"""The server's end of a compressed run: any mixture of links."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from logging import INFO, getLogger
from pathlib import Path
from time import sleep
from typing import Any, Literal, get_args

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
from flwr.serverapp.strategy import FedAvg, Result
from flwr.serverapp.strategy.strategy_utils import log_strategy_start_info

from flower_compress.compressors import Vector
from flower_compress.errors import (
    ConfigurationError,
    CorruptPacket,
    FlowerCompressError,
    LayoutMismatchError,
    NonFiniteError,
    OutOfSyncError,
    RefusedUpdateError,
    StalePacketError,
    UnknownNameError,
)
from flower_compress.links import Carries, Link
from flower_compress.wire.contract import Contract
from flower_compress.wire.layout import EXACT_PATTERN, Layout
from flower_compress.wire.ledger import Ledger
from flower_compress.wire.packet import SESSION_KEY, Packet, find_packet, packet_record
from flower_compress.wire.records import array_bytes, records_of, uniform_mean

from ..run.checkpoint import Arrays, Checkpoint
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
from ..run.step_size import StepSize
from .downlink import DownlinkMemory, Downlinks, Groups, ResetEvery
from .optimizers import GradientDescent, ServerOptimizer
from .roster import Client, Roster
from .sampling import Sampling, sample
from .uplink import Contribution, UplinkMemory, Uplinks
from .vector_store import VectorStore

__all__ = ["CompressedStrategy"]

_log = getLogger("flwr")
UNIFORM = "(all alike)"
_RETRY_SECONDS = 0.5
_SPOILT = (NonFiniteError.__name__, LayoutMismatchError.__name__)
EvaluateOn = Literal["held", "global"]


class CompressedStrategy(FedAvg):
    """Federated learning over two compressed links, chosen freely.

    Each round the server sends its model (or the model's last update) over the
    downlink, every client answers over the uplink with a gradient, or with the
    difference that its local training made, and the server steps with the estimate g:

        u = optimizer(g),    w += u                  (preserved central model)
                             w += what arrives of u  (degraded)

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
        Regular expression for names of arrays that are never compressed.
    evaluate_on : {"held", "global"} (default: "held")
        Clients evaluate the model that they hold, and nothing is sent; or the
        server's, which is sent dense and billed.
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
        always is: counted, logged, and the client is told with the next message.
    checkpoint_dir : path, optional
        Folder for checkpoints, of this run only. See :meth:`start`.
    checkpoint_every : int (default: 10)
        Rounds between checkpoints; the last round is always saved.
    resume : bool (default: False)
        Go on from the newest intact checkpoint, if there is one.
    min_replies : int (default: 1)
        A round with fewer usable replies leaves the model as it is.
    greeting_timeout : float (default: 60.0)
        Seconds that a new node is given to answer its greeting, at most the timeout
        of :meth:`start`.
    max_failed_rounds : int (default: 3)
        After that many rounds in a row in which clients answered, and every answer
        was an error, the run stops with :class:`RoundFailedError`.
    weighted_by_key : str or None (default: "num-examples")
        Key in the clients' metrics that holds their weight; None weights all alike,
        as the papers do.
    **kwargs
        Every other argument of :class:`flwr.serverapp.strategy.FedAvg`
        (``fraction_train``, ``min_train_nodes``, ``min_available_nodes``, ...).

    Attributes
    ----------
    ledger : Ledger
        What was sent, in bytes and bits.
    refused : Counter[int]
        How many updates were refused, here or by the client's own mod, by the client's
        identity.
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
        evaluate_on: EvaluateOn = "held",
        uplink_memory: UplinkMemory = "each",
        downlink_memory: DownlinkMemory = "each",
        reset_every: ResetEvery = "auto",
        memory_budget: int | None = 1 << 28,
        spill_dir: str | os.PathLike[str] | None = None,
        sampling: Sampling = "fixed",
        max_update_norm: float | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10,
        resume: bool = False,
        min_replies: int = 1,
        greeting_timeout: float = 60.0,
        max_failed_rounds: int = 3,
        weighted_by_key: str | None = "num-examples",
        **kwargs: Any,
    ) -> None:
        Downlinks.check(
            downlink, downlink_carries, groups, preserved, downlink_memory, reset_every
        )
        for name, value, choices in (
            ("evaluate_on", evaluate_on, get_args(EvaluateOn)),
            ("uplink_memory", uplink_memory, get_args(UplinkMemory)),
            ("sampling", sampling, get_args(Sampling)),
        ):
            if value not in choices:
                raise UnknownNameError(name, value, choices)
        for name, number in (
            ("min_replies", min_replies),
            ("max_failed_rounds", max_failed_rounds),
            ("max_update_norm", max_update_norm),
        ):
            if number is not None and not number > 0:
                raise ConfigurationError(f"{name} must be positive, got {number}")
        self.saving = Saving(checkpoint_dir, checkpoint_every, resume)
        if weighted_by_key is None:
            for key in ("train_metrics_aggr_fn", "evaluate_metrics_aggr_fn"):
                kwargs[key] = kwargs.get(key) or uniform_mean
        super().__init__(weighted_by_key=weighted_by_key or UNIFORM, **kwargs)
        self.uplink, self.downlink = uplink, downlink
        self.downlink_carries, self.preserved = downlink_carries, preserved
        self.groups = groups
        self.optimizer = optimizer or GradientDescent(step_size)
        self.seed = seed
        self.exact_pattern = exact_pattern
        self.evaluate_on = evaluate_on
        self.min_replies, self.max_failed_rounds = min_replies, max_failed_rounds
        self.uplink_memory, self.downlink_memory = uplink_memory, downlink_memory
        self.reset_every: ResetEvery = reset_every
        self.memory_budget = memory_budget
        self.spill_dir = None if spill_dir is None else Path(spill_dir)
        self.sampling: Sampling = sampling
        self.max_update_norm = max_update_norm
        self.ledger = Ledger()
        self.refused: Counter[int] = Counter()
        self.resumed_from = 0
        self.greeting_timeout = greeting_timeout
        self._greeting_timeout = greeting_timeout
        self._arrays: ArrayRecord | None = None

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
        """Run federated learning; see :meth:`flwr.serverapp.strategy.Strategy.start`.

        Each call is a session of its own: clients drop what they remember of others.
        Only a resumed run goes on with the session of its checkpoint, with the model,
        the optimizer, both links' ends, the ledger and the metrics of that round. If
        the grid can bring its clients back to that round too (an ``InProcessGrid``
        can), the run ends as if it had never stopped, byte for byte. Else what clients
        remember is brought in line as they are met, with a dense model and, where the
        uplink has a memory, that memory.

        Raises
        ------
        CheckpointError
            If no checkpoint can be written, or none of those found is intact.
        ConfigurationError
            If the folder holds checkpoints and the run is not to be resumed, or they
            are of a run with another model or other links.
        """
        self._greeting_timeout = min(self.greeting_timeout, timeout)
        saved = self.saving.begin()
        self._begin(initial_arrays)
        result = Result(arrays=initial_arrays)
        if saved is not None:
            result = self._restore(saved, grid)
            _log.info("Resuming after round %d (%s)", saved.server_round, saved.path)
        _log.info("Starting %s strategy:", type(self).__name__)
        log_strategy_start_info(
            num_rounds, result.arrays, train_config, evaluate_config
        )
        self.summary()
        _log.info("")

        def save(server_round: int, result: Result) -> None:
            self.saving.after_round(
                server_round, num_rounds, lambda into: self._save(result, grid, into)
            )

        rounds = Rounds(
            grid,
            num_rounds,
            timeout,
            ConfigRecord() if train_config is None else train_config,
            ConfigRecord() if evaluate_config is None else evaluate_config,
            evaluate_fn,
        )
        return rounds.run(self, result, self.resumed_from + 1, save)

    def _begin(self, arrays: ArrayRecord) -> None:
        layout = Layout.of(arrays, self.exact_pattern)
        model, exact = layout.flatten(arrays)
        layout.check_finite(model, "the initial model")
        layout.check_exact(exact, "the initial model")
        self._arrays, self._layout, self._exact = arrays, layout, exact
        self._model = model.copy()
        self._session = secrets.randbits(32) or 1
        self.ledger, self.refused, self.resumed_from = Ledger(), Counter(), 0
        self._begin_ends()
        self._optimizer_state = self.optimizer.init(layout.dim)
        self._contract = Contract(
            layout,
            self.uplink,
            self._downlinks.receiver_rate,
            self.seed,
            self.groups,
        )
        self._contract_bytes = self._contract.to_bytes()
        self._failures = Failures(self.max_failed_rounds)
        self._num_resumes = self._refused_before = 0

    def _begin_ends(self) -> None:
        store = VectorStore(self._layout.dim, self.memory_budget, self.spill_dir)
        self._downlinks = Downlinks(
            self.downlink,
            self.downlink_carries,
            self.groups,
            lambda identity: self._contract.downlink_channel(identity),
            self._model,
            store,
            self.downlink_memory,
            self.reset_every,
        )
        self._uplinks = Uplinks(
            self.uplink,
            self._layout.dim,
            self.uplink_memory,
            store,
            self.max_update_norm,
        )
        self._roster = Roster(
            self._session, self._downlinks, self._uplinks, self.ledger
        )

    # -- checkpoints ---------------------------------------------------------------

    def _save(self, result: Result, grid: Grid, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold of the run's state; add the rest to `arrays`."""
        arrays["model"] = self._model
        arrays["exact"] = np.frombuffer(self._exact, dtype=np.uint8)
        for name, vector in self._optimizer_state.items():
            arrays[f"optimizer/{name}"] = vector
        if isinstance(grid, KeepsClients):
            arrays["clients"] = np.frombuffer(grid.save_clients(), dtype=np.uint8)
        return {
            "run": self._fingerprint(),
            "session": self._session,
            "num_resumes": self._num_resumes,
            "failed_rounds": self._failures.in_a_row,
            "ledger": self.ledger.as_dict(),
            "refused": list(self.refused.items()),
            "optimizer": list(self._optimizer_state),
            "downlinks": self._downlinks.save(arrays),
            "uplinks": self._uplinks.save(arrays),
            "roster": self._roster.save(arrays),
            "metrics": save_metrics(result),
        }

    def _restore(self, saved: Checkpoint, grid: Grid) -> Result:
        """Take over a checkpoint."""
        meta = saved.meta
        check_same_run(self._fingerprint(), saved)
        self._session = meta["session"]
        self._model = saved.array("model")
        self._exact = saved.array("exact").tobytes()
        self._optimizer_state = {
            name: saved.array(f"optimizer/{name}") for name in meta["optimizer"]
        }
        self.ledger = Ledger.from_dict(meta["ledger"])
        self.refused = Counter(dict(meta["refused"]))
        self._failures.in_a_row = meta["failed_rounds"]
        self._num_resumes = meta["num_resumes"]
        self._begin_ends()
        self._downlinks.restore(meta["downlinks"], saved)
        self._uplinks.restore(meta["uplinks"], saved)
        clients = saved.find("clients")
        clients_too = clients is not None and isinstance(grid, KeepsClients)
        if clients is not None and isinstance(grid, KeepsClients):
            grid.load_clients(clients.tobytes())
        self._roster.restore(meta["roster"], saved, clients_too=clients_too)
        if not clients_too:
            self._num_resumes = self.saving.count_resume(saved, self._num_resumes)
            self._downlinks.skip_to(self._num_resumes * VERSIONS_A_RESUME)
        self.resumed_from = saved.server_round
        self._arrays = self._layout.unflatten(self._model, self._exact)
        result = Result(arrays=self._arrays)
        restore_metrics(result, meta["metrics"])
        return result

    def _fingerprint(self) -> dict[str, Any]:
        """Return what must not change when a run goes on."""
        return {
            "contract": self._contract_bytes.decode(),
            "downlink": self.downlink.config(),
            "downlink_carries": self.downlink_carries,
            "preserved": self.preserved,
            "uplink_memory": self.uplink_memory,
            "downlink_memory": self.downlink_memory,
            "optimizer": sorted(self._optimizer_state),
        }

    def _follow(self, arrays: ArrayRecord) -> None:
        """Take over a model that is not the one the last round returned."""
        if self._arrays is None:
            self._begin(arrays)
        elif arrays is not self._arrays:
            if self.downlink_carries == "update":
                raise ConfigurationError(
                    "the downlink carries updates, so the arrays must be those that "
                    "the last round returned: expected them unchanged"
                )
            model, self._exact = self._layout.flatten(arrays)
            self._layout.check_finite(model, "the model")
            self._layout.check_exact(self._exact, "the model")
            self._arrays, self._model = arrays, model.copy()

    # -- training ------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients and send each the model over its downlink."""
        if self.fraction_train == 0.0:
            return []
        self._follow(arrays)
        self.ledger.begin_round()
        config["server-round"] = server_round
        clients = self._sample(
            grid,
            config,
            server_round,
            self.fraction_train,
            self.min_train_nodes,
            sampling=self.sampling,
        )
        self._refused_before = self.refused.total()
        if self.downlink_carries == "model":
            self._downlinks.publish(
                self._model, [client.identity for client in clients], server_round
            )
        # Clients that need the same get the same bytes, held in memory once.
        shared: dict[tuple[int, ...], Packet] = {}
        return [self._train_message(client, config, shared) for client in clients]

    def _train_message(
        self,
        client: Client,
        config: ConfigRecord,
        shared: dict[tuple[int, ...], Packet],
    ) -> Message:
        end = client.downlink
        is_new = end.held is None
        needed = self._downlinks.send(client.identity, end, self._model)
        acked, crc = self._uplinks.acked(client.uplink)
        client.uplink.asked += 1
        packet = Packet(
            session=self._session,
            base=needed.base,
            version=needed.version,
            acked=acked,
            detail=crc,
            dim=self._layout.dim,
            payloads=needed.payloads,
            final=self._downlinks.is_final(),
            snapshot=needed.snapshot,
            contract=self._contract_bytes if is_new else None,
            exact=self._exact or None,
            refused=client.uplink.refused,
            memory=self._uplinks.memory(client.uplink) if is_new else None,
        )
        if packet.final and packet.memory is None:
            group = self._downlinks.group(client.identity)
            rest = (packet.acked, packet.detail, int(is_new), int(packet.refused))
            key = (group, needed.base, needed.version, *rest)
            packet = shared.setdefault(key, packet)
        self.ledger.record("downlink", packet)
        # One RecordDict a node: messages that share one would share its mutations.
        content = RecordDict(
            {
                self.arrayrecord_key: packet_record(packet),
                self.configrecord_key: ConfigRecord(dict(config)),
            }
        )
        return Message(content, client.node_id, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Estimate the gradient from the replies and step."""
        if self._arrays is None:
            return None, None
        valid, errors = self._check_and_log_replies(
            list(replies), is_train=True, validate=False
        )
        reasons = [f"{msg.error.reason}" for msg in errors]
        for msg, reason in zip(errors, reasons, strict=True):
            if reason.startswith(_SPOILT):  # The client's own mod refused it.
                self._count_refused(msg)
        accepted: dict[int, tuple[Contribution, bytes, Message]] = {}
        for msg in valid:
            try:
                client, packet = self._open_reply(msg)
                if packet.resync:
                    # A second answer to a message that reached it twice says nothing
                    # new; if it has lost its state since, it will say so again.
                    if client.identity not in accepted:
                        _log.info("client %d asks to be synchronised", client.identity)
                        self._downlinks.forget(client.downlink)
                    continue
                if client.identity in accepted:
                    raise StalePacketError("a second answer of the same client")
                part, exact = self._check_reply(msg, client, packet)
            except FlowerCompressError as error:
                reasons.append(f"{type(error).__name__}: {error}")
                _log.warning("node %d: %s", msg.metadata.src_node_id, reasons[-1])
                if not isinstance(error, OutOfSyncError):
                    self._count_refused(msg)
                continue
            accepted[client.identity] = (part, exact, msg)
        self._downlinks.settle(len(self._roster))
        self._failures.count(len(accepted), reasons)
        if len(accepted) < self.min_replies:
            _log.warning(
                "round %d skipped: %d usable replies, expected at least %d",
                server_round,
                len(accepted),
                self.min_replies,
            )
            if self.downlink_carries == "update":
                self._downlinks.publish_update(None)
            return self._arrays, None
        entries = [accepted[identity] for identity in sorted(accepted)]
        parts = [part for part, _, _ in entries]
        # A run that diverges overflows here, and check_finite says so.
        with np.errstate(over="ignore", invalid="ignore"):
            gradient = self._uplinks.fold(parts, len(self._roster))
            self._optimizer_state, update = self.optimizer.step(
                self._optimizer_state, gradient, server_round
            )
            self._take_update(update)
        if self._exact:
            self._exact = self._layout.average_exact(
                [exact for _, exact, _ in entries], [part.weight for part in parts]
            )
        self._arrays = self._layout.unflatten(self._model, self._exact)
        return self._arrays, self._train_metrics([msg for *_, msg in entries])

    def _take_update(self, update: Vector) -> None:
        self._layout.check_finite(update, "the server's update")
        if self.downlink_carries == "update":
            self._downlinks.publish_update(update)
        degraded = None if self.preserved else self._downlinks.degraded_model
        model = self._model + update if degraded is None else degraded
        self._layout.check_finite(model, "the model after the server's step")
        self._model = model

    def _open_reply(self, msg: Message) -> tuple[Client, Packet]:
        """Read a reply's packet, bill it, and note what the client holds."""
        num_bytes, payload_bits = array_bytes(msg.content), 0
        try:
            client = self._roster.find(msg.metadata.src_node_id)
            found = find_packet(msg.content)
            if client is None:
                raise OutOfSyncError("a reply of a node that is no client any more")
            if found is None:
                raise OutOfSyncError(
                    "the reply holds no packet: is CompressionMod in the client app's "
                    "mods?"
                )
            packet = Packet.parse(found[1])
            # Before anything is decoded: it bounds what decoding may allocate. A client
            # that asks to be synchronised sends no vectors.
            packet.require_dim(0 if packet.resync else self._layout.dim)
            packet = packet.on(self._contract.uplink_channel(client.identity))
            payload_bits = packet.payload_bits
        finally:
            self.ledger.record_bytes("uplink", num_bytes, payload_bits)
        if packet.session != self._session:
            raise OutOfSyncError("the reply belongs to another session")
        if packet.version != client.downlink.sent:
            raise OutOfSyncError(
                f"expected an answer to version {client.downlink.sent}, got one to "
                f"{packet.version}: late"
            )
        if not packet.resync:
            self._downlinks.acknowledge(
                client.identity, client.downlink, packet.version
            )
        return client, packet

    def _check_reply(
        self, msg: Message, client: Client, packet: Packet
    ) -> tuple[Contribution, bytes]:
        """Decode what a client contributes, and take nothing in yet."""
        exact, weight = packet.exact or b"", self._weight(msg)
        client.uplink.refused = False  # It answers the message that said so.
        try:
            self._layout.check_exact(exact, "the client's reply")
            return self._uplinks.check(client.uplink, packet, weight), exact
        except (RefusedUpdateError, NonFiniteError, CorruptPacket):
            client.uplink.refused = True
            raise

    def _count_refused(self, msg: Message) -> None:
        client = self._roster.find(msg.metadata.src_node_id)
        if client is not None:
            self.refused[client.identity] += 1

    def _weight(self, msg: Message) -> float:
        if self.weighted_by_key == UNIFORM:
            return 1.0
        for metrics in records_of(msg.content, MetricRecord):
            weight = metrics.get(self.weighted_by_key)
            if isinstance(weight, (int, float)) and 0 < weight < float("inf"):
                return float(weight)
        raise ConfigurationError(
            f"the client's metrics hold no positive number {self.weighted_by_key!r}: "
            "add it to the reply's MetricRecord, or set weighted_by_key=None"
        )

    def _train_metrics(self, replies: list[Message]) -> MetricRecord | None:
        metrics = self._mean_metrics(replies, self.train_metrics_aggr_fn)
        metrics = MetricRecord() if metrics is None else metrics
        metrics["refused-updates"] = self.refused.total() - self._refused_before
        metrics["uplink-bytes"] = self.ledger.round_uplink.num_bytes
        metrics["downlink-bytes"] = self.ledger.round_downlink.num_bytes
        return metrics

    def _mean_metrics(
        self,
        replies: list[Message],
        mean: Callable[[list[RecordDict], str], MetricRecord],
    ) -> MetricRecord | None:
        contents = [msg.content for msg in replies]
        keys = {self.weighted_by_key} - {UNIFORM}
        for content in contents:
            metrics = next(records_of(content, MetricRecord), None)
            if metrics is None or not keys <= metrics.keys():
                _log.warning("no mean of the metrics: a reply lacks them, or %s", keys)
                return None
        return mean(contents, self.weighted_by_key) if contents else None

    # -- evaluation ----------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask clients to evaluate the model that they hold, or the server's."""
        if self.fraction_evaluate == 0.0:
            return []
        self._follow(arrays)
        config["server-round"] = server_round
        clients = self._sample(
            grid,
            config,
            -server_round,
            self.fraction_evaluate,
            self.min_evaluate_nodes,
            only_holders=self.evaluate_on == "held",
        )
        model = None
        if self.evaluate_on == "global":
            model = self._layout.unflatten(self._model, self._exact)
        return [self._evaluate_message(client, config, model) for client in clients]

    def _evaluate_message(
        self, client: Client, config: ConfigRecord, model: ArrayRecord | None
    ) -> Message:
        record = ConfigRecord(dict(config))
        content = RecordDict({self.configrecord_key: record})
        if model is None:
            record[SESSION_KEY] = self._session
            record["arrayrecord-key"] = self.arrayrecord_key
        else:
            content[self.arrayrecord_key] = ArrayRecord(dict(model.items()))
            self.ledger.record_bytes(
                "downlink", array_bytes(content), 8 * self._layout.num_bytes
            )
        return Message(content, client.node_id, MessageType.EVALUATE)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average the clients' metrics."""
        valid, _ = self._check_and_log_replies(
            list(replies), is_train=False, validate=False
        )
        for msg in valid:
            if num_bytes := array_bytes(msg.content):
                self.ledger.record_bytes("uplink", num_bytes, 0)
        return self._mean_metrics(valid, self.evaluate_metrics_aggr_fn)

    # -- sampling ------------------------------------------------------------------

    def _sample(
        self,
        grid: Grid,
        config: ConfigRecord,
        version: int,
        fraction: float,
        min_nodes: int,
        *,
        sampling: Sampling = "fixed",
        only_holders: bool = False,
    ) -> list[Client]:
        """Draw clients by their identity, from the run's seed."""
        while True:
            node_ids = list(grid.get_node_ids())
            size = max(int(len(node_ids) * fraction), min_nodes)
            required = max(self.min_available_nodes, size)
            if len(node_ids) >= required:
                self._roster.greet(
                    grid,
                    node_ids,
                    self.arrayrecord_key,
                    config,
                    self.configrecord_key,
                    self._greeting_timeout,
                )
                clients = self._roster.online(node_ids)
                if clients:
                    break
                _log.info("Waiting for the first client to answer its greeting.")
            else:
                _log.info(
                    "Waiting for nodes to connect: %d connected (minimum: %d).",
                    len(node_ids),
                    required,
                )
            sleep(_RETRY_SECONDS)
        if only_holders:
            clients = [client for client in clients if client.downlink.held is not None]
        clients = sample(clients, fraction, min_nodes, sampling, self.seed, version)
        _log.info("sampled %d nodes (out of %d)", len(clients), len(node_ids))
        return clients

    # -- what a user sees ----------------------------------------------------------

    def summary(self) -> None:
        """Log the links with their omega and alpha, and Flower's own settings."""
        dim = None if self._arrays is None else self._layout.dim
        carries = f"carries the {self.downlink_carries}"
        groups = "one per client" if self.groups == "client" else f"{self.groups} group"
        model = "preserved" if self.preserved else "degraded"
        lines = [
            "├──> Compression:",
            f"│\t├── Dimension: {'unknown before the start' if dim is None else dim}",
            f"│\t├── Uplink: {_describe(self.uplink, dim)}",
            f"│\t├── Downlink: {_describe(self.downlink, dim)}",
            f"│\t├── Downlink {carries} ({groups}), central model {model}",
            f"│\t├── Server step: {self.optimizer}",
            f"│\t└── Seed: {self.seed}",
        ]
        for line in lines:
            _log.log(INFO, "\t%s", line)
        super().summary()


def _describe(link: Link, dim: int | None) -> str:
    """One line on a link: its compressor, code, omega (or contraction) and alpha."""
    compressor = link.compressor
    text = f"{type(link).__name__}({compressor}), code {link.code}"
    if dim is None:
        return text
    if compressor.unbiased:
        text += f", omega {compressor.omega(dim):.4g}"
    else:
        text += f", contraction {compressor.contraction(dim):.4g}"
    rate = link.memory_rate(dim)
    return text if rate is None else f"{text}, alpha {rate:.4g}"
