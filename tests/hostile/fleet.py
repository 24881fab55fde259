"""Clients that pull the model to targets of their own, some of which leave, or lie."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import LogRecord, StreamHandler, getLogger
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from flower_compress import CompressionMod
from flower_compress.strategies import CompressedStrategy
from flower_compress.testing import InProcessGrid

DIM = 400
STEP = 0.3
"""How far a client goes to its target in a round."""

Answer = Callable[[Message, Message, int], Message]
"""Makes another answer of a message, the honest answer and how many came before."""
Training = Callable[[NDArray[np.float32], int], NDArray[np.float32]]
"""Trained weights of a client that lies to its own mod: model, how often it trained."""


def targets(num_clients: int, dim: int = DIM) -> NDArray[np.float32]:
    """The clients' optima, shape (N, d): near each other, none of them near zero."""
    generator = np.random.Generator(np.random.Philox(7))
    common = 1.0 + 0.5 * generator.standard_normal(dim)
    own = 0.5 * generator.standard_normal((num_clients, dim))
    return (common + own).astype(np.float32)


def initial(dim: int = DIM) -> ArrayRecord:
    """A model of one matrix and the statistics of a norm layer."""
    return ArrayRecord(
        {
            "w": Array(np.zeros((dim // 20, 20), dtype=np.float32)),
            "norm.running_var": Array(np.ones(4, dtype=np.float32)),
            "norm.num_batches_tracked": Array(np.array(0, dtype=np.int64)),
        }
    )


@dataclass
class Liar:
    """What one client does instead of what it should.

    Parameters
    ----------
    answer : Answer, optional
        Makes another answer to a TRAIN message, after the mod.
    training : Training, optional
        Trains otherwise, before the mod.
    variance, batches
        What it says of the norm layer.
    metrics : Callable[[int], list[dict[str, Any]]]
        What it says beside, by how often it trained: the metrics of each record.
    evaluation : dict[str, Any]
        The metrics that it says when it evaluates.
    """

    answer: Answer | None = None
    training: Training | None = None
    variance: float = 1.0
    batches: int | None = None
    metrics: Callable[[int], list[dict[str, Any]]] = field(
        default=lambda _: [{"num-examples": 10, "loss": 1.0}]
    )
    evaluation: dict[str, Any] = field(
        default_factory=lambda: {"num-examples": 10, "loss": 1.0}
    )


class Fleet(InProcessGrid):
    """Nodes that can be away; those in `liars` lie.

    Attributes
    ----------
    away : set[int]
        Partition ids of the nodes that are not connected.
    on_message : Callable[[Message, Message], None], optional
        Called with every message and its answer.
    """

    def __init__(
        self,
        num_clients: int,
        liars: dict[int, Liar] | None = None,
        dim: int = DIM,
        mod: Callable[[], CompressionMod] = CompressionMod,
    ) -> None:
        self.liars = liars or {}
        self.away: set[int] = set()
        self._targets = targets(num_clients, dim)
        self._calls: dict[int, int] = {}
        self._app = ClientApp(mods=[mod()])
        self._app.train()(self._train)
        self._app.evaluate()(self._evaluate)
        self.on_message: Callable[[Message, Message], None] | None = None
        super().__init__(self._call, num_clients)

    def get_node_ids(self) -> Iterable[int]:
        """Return the connected nodes."""
        return [
            node_id
            for node_id, context in self.contexts.items()
            if context.node_config["partition-id"] not in self.away
        ]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver messages to the connected nodes; the others are silent."""
        there = set(self.get_node_ids())
        return super().send_and_receive(
            [m for m in messages if m.metadata.dst_node_id in there], timeout=timeout
        )

    def _call(self, msg: Message, context: Context) -> Message:
        reply = self._app(msg, context)
        if self.on_message is not None:
            self.on_message(msg, reply)
        number = int(context.node_config["partition-id"])
        liar = self.liars.get(number)
        if liar is not None and liar.answer is not None and not reply.has_error():
            return liar.answer(msg, reply, self._calls.get(number, 0))
        return reply

    def _train(self, msg: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        liar = self.liars.get(number, Liar())
        before = self._calls.get(number, 0)
        self._calls[number] = before + 1
        arrays = msg.content["arrays"]
        w = arrays["w"].numpy()
        if liar.training is not None:
            trained = liar.training(w, before)
        else:
            target = self._targets[number].reshape(w.shape)
            trained = w - np.float32(STEP) * (w - target)
        batches = arrays["norm.num_batches_tracked"].numpy()
        batches = batches + 5 if liar.batches is None else np.array(liar.batches)
        variance = np.full(4, liar.variance, dtype=np.float32)
        record = ArrayRecord(
            {
                "w": Array(trained.astype(np.float32)),
                "norm.running_var": Array(variance),
                "norm.num_batches_tracked": Array(np.asarray(batches, np.int64)),
            }
        )
        content = {"arrays": record}
        for i, metrics in enumerate(liar.metrics(before)):
            content[f"metrics{i or ''}"] = MetricRecord(metrics)
        return Message(RecordDict(content), reply_to=msg)

    def _evaluate(self, msg: Message, context: Context) -> Message:
        liar = self.liars.get(int(context.node_config["partition-id"]), Liar())
        content = RecordDict({"metrics": MetricRecord(liar.evaluation)})
        return Message(content, reply_to=msg)


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    model: NDArray[np.float32]
    variance: float
    batches: float
    error: str
    refused: dict[int, int]
    bytes_up: int
    bytes_down: int
    seconds: float
    loss: float
    log: list[str]


@contextmanager
def silenced() -> Iterator[list[str]]:
    """Keep Flower's log instead of printing it."""
    log, kept = getLogger("flwr"), _Kept()
    handlers, level = log.handlers[:], log.level
    log.handlers = [kept]
    try:
        yield kept.lines
    finally:
        log.handlers = handlers
        log.setLevel(level)


class _Kept(StreamHandler):  # type: ignore[type-arg]
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: LogRecord) -> None:
        self.lines.append(record.getMessage())


def run(
    strategy: CompressedStrategy,
    fleet: Fleet,
    num_rounds: int,
    at: dict[int, Callable[[], None]] | None = None,
    dim: int = DIM,
) -> Ended:
    """Let a strategy train a fleet; call what is to happen before some rounds."""
    happens = at or {}
    configure = strategy.configure_train

    def configure_train(server_round: int, *rest: Any) -> Iterable[Message]:
        happens.get(server_round, lambda: None)()
        return configure(server_round, *rest)

    strategy.configure_train = configure_train  # type: ignore[method-assign]
    started, arrays, loss, error = time.perf_counter(), initial(dim), 1.0, ""
    try:
        with silenced() as log:
            result = strategy.start(fleet, arrays, num_rounds=num_rounds)
        arrays = result.arrays
        for metrics in result.evaluate_metrics_clientapp.values():
            loss = float(metrics["loss"])  # type: ignore[arg-type]
    except Exception as raised:  # noqa: BLE001 - that is the outcome
        error = f"{type(raised).__name__}: {raised}"
    return Ended(
        model=arrays["w"].numpy().ravel(),
        variance=float(arrays["norm.running_var"].numpy()[0]),
        batches=float(arrays["norm.num_batches_tracked"].numpy()),
        error=error,
        refused=dict(strategy.refused),
        bytes_up=strategy.ledger.uplink.num_bytes,
        bytes_down=strategy.ledger.downlink.num_bytes,
        seconds=time.perf_counter() - started,
        loss=loss,
        log=log,
    )


def apart(model: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """||model - reference|| / ||reference||."""
    return float(np.linalg.norm(model - reference) / np.linalg.norm(reference))
