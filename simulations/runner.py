"""One run on a grid, whatever the engine behind it."""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from flower_compress.clients import Arrays
from flower_compress.errors import NonFiniteError
from flower_compress.strategies import Relay
from flower_compress.wire.arrays import read_array, write_array
from flower_compress.wire.ledger import Traffic
from flower_compress.wire.measures import measuring

from .averaging import AveragedIterates
from .checkpointing import Checkpointing, to_metrics
from .records import Nodes, RoundRecord
from .settings import Server, Settings
from .tasks import Evaluation, Task

__all__ = ["RunResult", "run_on_grid"]

OnRound = Callable[[int, RoundRecord | None], None]
"""Called after every round, with its record where the round is logged."""


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves.

    Attributes
    ----------
    arrays : dict[str, NDArray[np.float32]]
        The final model.
    model_sha256 : str
        SHA-256 of its arrays' bytes, in the order of their names in the model.
    """

    arrays: Arrays
    model_sha256: str


def run_on_grid(
    grid: Grid, settings: Settings, on_round: OnRound, checkpointing: Checkpointing
) -> RunResult:
    """Run `settings` on `grid`, reporting every round that is computed.

    Raises
    ------
    NonFiniteError
        If the run has diverged, after a row that says so.
    """
    task = settings.task
    strategy = settings.strategy(**checkpointing.options(settings))
    optimum, interval = task.optimum(), settings.evaluation_interval
    averaged = None
    if isinstance(settings.part, Server) and settings.part.average:
        averaged = AveragedIterates(
            settings.steps(), checkpointing.folder(settings), checkpointing.every
        )

    clock = _Clock()

    def evaluate(server_round: int, record: ArrayRecord) -> MetricRecord | None:
        clock.stop(server_round)
        try:
            return measure(server_round, record)
        finally:
            clock.start()

    reached, nodes = 0, None

    def measure(server_round: int, record: ArrayRecord) -> MetricRecord | None:
        nonlocal reached, nodes
        reached = server_round
        is_logged = server_round % interval == 0 or server_round == settings.rounds
        if averaged is None and not is_logged:
            on_round(server_round, None)
            return None
        arrays = _to_numpy(record)
        if averaged is not None:
            arrays = averaged.take(server_round, arrays)
        if not is_logged:
            on_round(server_round, None)
            return None
        if isinstance(strategy, Relay) and server_round > 0:
            nodes = _nodes(strategy, task, last=server_round == settings.rounds)
        row = to_row(server_round, task.evaluate(arrays))
        on_round(server_round, row)
        return to_metrics(row)

    def to_row(server_round: int, values: Evaluation) -> RoundRecord:
        if isinstance(strategy, Relay):
            uplink, downlink = strategy.edges.total, Traffic()
        else:
            uplink, downlink = strategy.ledger.uplink, strategy.ledger.downlink
        return RoundRecord(
            algorithm=settings.label,
            seed=settings.seed,
            round=server_round,
            loss=values.loss,
            excess_loss=None if optimum is None else values.loss - optimum,
            accuracy=values.accuracy,
            uplink_bytes=uplink.num_bytes,
            downlink_bytes=downlink.num_bytes,
            uplink_bits=uplink.payload_bits,
            downlink_bits=downlink.payload_bits,
            uplink_entropy_bits=uplink.entropy_bits,
            downlink_entropy_bits=downlink.entropy_bits,
            uplink_formula_bits=uplink.formula_bits,
            downlink_formula_bits=downlink.formula_bits,
            nodes=nodes,
            seconds=clock.median(),
        )

    initial = ArrayRecord(
        {name: write_array(array) for name, array in task.initial_arrays().items()}
    )
    with measuring():
        try:
            result = strategy.start(
                grid,
                initial,
                num_rounds=settings.rounds,
                train_config=settings.train_config(),
                evaluate_fn=evaluate,
            )
        except NonFiniteError:
            # A resumed run may diverge before it has measured anything.
            ended = 1 + (reached or checkpointing.earlier_round(settings))
            on_round(ended, to_row(ended, Evaluation(loss=math.inf, accuracy=0.0)))
            raise
    arrays = _to_numpy(result.arrays)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays.values()))
    return RunResult(arrays, digest.hexdigest())


class _Clock:
    """Times the rounds of a run, without what is measured between them.

    Of the processor, since what else the machine does is no part of it.
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.process_time()

    def stop(self, server_round: int) -> None:
        """Note the time since the start; the first round sends the model dense."""
        if self._since is not None and server_round > 1:
            self._seconds.append(time.process_time() - self._since)

    def median(self) -> float | None:
        """Return the median of a round, None before the second."""
        return statistics.median(self._seconds) if self._seconds else None


def _nodes(relay: Relay, task: Task, *, last: bool) -> Nodes:
    """Measure the models that the relay has collected, and what each node sent."""
    nodes = tuple(relay.node_models)
    zeros = [relay.zeros[node] for node in nodes if node in relay.zeros]
    sent = [relay.edges.sent_by(node) for node in nodes]
    edges: tuple[int, ...] = ()
    if last:
        for (sender, receiver), traffic in sorted(relay.edges.edges.items()):
            edges += (sender, receiver, traffic.num_bytes, traffic.payload_bits)
    return Nodes(
        node=nodes,
        accuracy=tuple(
            task.accuracy(_to_numpy(relay.node_models[node])) for node in nodes
        ),
        distance=tuple(relay.distances[node] for node in nodes),
        zeros=tuple(zeros) if len(zeros) == len(nodes) else (),
        sent_bytes=tuple(traffic.num_bytes for traffic in sent),
        sent_bits=tuple(traffic.payload_bits for traffic in sent),
        edges=edges,
    )


def _to_numpy(record: ArrayRecord) -> Arrays:
    return {name: read_array(array) for name, array in record.items()}
