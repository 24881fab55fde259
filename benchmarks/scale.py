"""A server of very many clients, one in a thousand of which takes part in a round.

Each row is a process of its own. Nobody trains: the grid answers every message with
bytes made beforehand, in objects as cheap as can be, and its own time is taken off, so
that what is measured is the server. In every round another hundredth of the nodes is
not connected.
"""

from __future__ import annotations

import contextlib
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from flower_compress.wire.agreement import PROTOCOL
from flower_compress.wire.packet import Packet, find_packet, packet_record

from .markdown import Column, columns
from .measure import Row, forget_peak, resident
from .own_process import lacks, measure_alone, print_row, strategy_of
from .suite import Settings, Suite

SHARE, AWAY, DIM, ROUNDS = 0.001, 0.01, 1_000, 10
_MEBI = 1 << 20
_FIRST_NODE = 1001
ROWS: list[dict[str, Any]] = [
    {"algorithm": "mcm", "options": {}, "num_clients": 10_000},
    {"algorithm": "mcm", "options": {}, "num_clients": 100_000},
    {"algorithm": "mcm", "options": {}, "num_clients": 1_000_000},
    {
        "algorithm": "rand-mcm",
        "options": {"uplink_memory": "mean", "memory": "average"},
        "num_clients": 100_000,
    },
    {
        "algorithm": "rand-mcm",
        "options": {"uplink_memory": "sampled", "groups": 10},
        "num_clients": 100_000,
    },
    {"algorithm": "rand-mcm", "options": {}, "num_clients": 100_000},
]


def _measure(_: Settings, row: dict[str, Any]) -> list[Row]:
    return [measure_alone("benchmarks.scale", row)]


def measure(
    algorithm: str, options: dict[str, Any], num_clients: int, rounds: int = ROUNDS
) -> Row:
    """Run one row in this process."""
    import numpy as np
    from flwr.app import Array

    from flower_compress.strategies import ALGORITHMS

    logging.getLogger("flwr").setLevel(logging.ERROR)
    payloads = _payloads()
    model = ArrayRecord({"w": Array(np.zeros(DIM, dtype=np.float32))})
    settings: dict[str, Any] = {
        "step_size": 1e-3,
        "weighted_by_key": None,
        "fraction_train": SHARE,
        "fraction_evaluate": 0.0,
        "min_train_nodes": 1,
        "min_available_nodes": 1,
        **options,
    }
    grid = FleetGrid(num_clients, payloads)
    watch = _Watch(grid)
    before = resident("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        settings |= {"checkpoint_dir": folder, "checkpoint_every": rounds}
        strategy = ALGORITHMS[algorithm](**settings)
        strategy.start(grid, model, rounds, evaluate_fn=watch.round_over)
        watch.saved()
        (path,) = Path(folder).glob("round-*.ckpt")
        num_bytes = path.stat().st_size
        assert len(strategy._running.roster) == num_clients
        del strategy
        resumed = ALGORITHMS[algorithm](**settings, resume=True)
        seconds_to_resume = _seconds_to_resume(resumed, model, rounds)
    greeting, *others = watch.rounds
    return {
        "algorithm": algorithm,
        "options": options,
        "num_clients": num_clients,
        "dim": DIM,
        "rounds": rounds,
        "clients_a_round": int(num_clients * SHARE),
        "seconds_to_greet": greeting - statistics.median(others),
        "seconds_a_round": statistics.median(others),
        "before_mib": before / _MEBI,
        "after_mib": watch.resident / _MEBI,
        "peak_mib": watch.peak / _MEBI,
        "peak_saving_mib": watch.peak_saving / _MEBI,
        "bytes_a_client": (watch.resident - before) / num_clients,
        "checkpoint_mib": num_bytes / _MEBI,
        "seconds_to_save": watch.seconds_to_save,
        "seconds_to_resume": seconds_to_resume,
    }


class FleetGrid(Grid):
    """Nodes that are a range of numbers, and answers that are no work.

    Parameters
    ----------
    num_nodes : int
        Number of nodes.
    payloads : Iterator[Any]
        What they answer with.

    Attributes
    ----------
    seconds : float
        What the grid itself has taken.
    on_round : Callable[[], None]
        Called when the nodes are asked for.
    """

    def __init__(self, num_nodes: int, payloads: Iterator[Any]) -> None:
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
        self._node_ids = list(range(_FIRST_NODE, _FIRST_NODE + num_nodes))
        self._payloads = payloads
        self._round = self._num_messages = 0
        self._waiting: dict[str, tuple[int, Packet]] = {}
        self._greeting: Packet | None = None
        self._metrics = MetricRecord()
        self.seconds = 0.0
        self.on_round: Callable[[], None] = lambda: None

    def set_run(self, run: Run) -> None:
        """Do nothing."""

    @property
    def run(self) -> Run:
        """Some run."""
        return Run.create_empty(1)

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Raise NotImplementedError: nobody calls it."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes but those that are away: none in the first round."""
        self.on_round()
        started = time.process_time()
        num_away = int(len(self._node_ids) * AWAY) if self._round else 0
        first = self._round * num_away % max(1, len(self._node_ids) - num_away)
        there = self._node_ids[:first] + self._node_ids[first + num_away :]
        self._round += 1
        self.seconds += time.process_time() - started
        return there

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer messages; the answers wait for `pull_messages`."""
        started = time.process_time()
        ids = []
        for message in messages:
            node_id, message_id, packet = self._read(message)
            self._waiting[message_id] = node_id, packet
            ids.append(message_id)
        self.seconds += time.process_time() - started
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers to those messages."""
        started = time.process_time()
        replies: list[Any] = [
            self._answer(node_id, message_id, packet)
            for message_id in message_ids
            for node_id, packet in [self._waiting.pop(message_id)]
        ]
        self.seconds += time.process_time() - started
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the answers."""
        started = time.process_time()
        replies: list[Any] = [self._answer(*self._read(each)) for each in messages]
        self.seconds += time.process_time() - started
        return replies

    def _read(self, msg: Message) -> tuple[int, str, Packet]:
        self._num_messages += 1
        metadata = msg.metadata
        message_id = metadata.__dict__["_message_id"] = str(self._num_messages)
        found = find_packet(msg.content)
        assert found is not None
        packet = Packet.parse(found[1])
        if packet.greeting:  # As all of them are: held once.
            packet = self._greeting = self._greeting or packet
        return metadata.dst_node_id, message_id, packet

    def _answer(self, node_id: int, message_id: str, packet: Packet) -> Any:
        if packet.greeting:
            about: dict[str, Any] = {"protocol": PROTOCOL, "held": 0, "sent": [0, 0]}
            about |= {"crc": 0, "base": 0, "identity": node_id - _FIRST_NODE}
            reply = Packet(
                packet.session, contract=json.dumps(about).encode(), greeting=True
            )
        else:
            reply = Packet(
                packet.session,
                base=packet.acked,
                version=packet.version,
                acked=packet.version,
                dim=packet.dim,
                payloads=(next(self._payloads),),
            )
        content = RecordDict({"arrays": packet_record(reply)})
        if not packet.greeting:
            content["metrics"] = self._metrics
        return _Reply(node_id, message_id, content)


class _Reply:
    """What the server asks of a reply."""

    def __init__(self, node_id: int, message_id: str, content: RecordDict) -> None:
        self.content = content
        self.metadata = SimpleNamespace(
            src_node_id=node_id, reply_to_message_id=message_id
        )

    def has_content(self) -> bool:
        return True

    def has_error(self) -> bool:
        return False


class _Watch:
    """The server's own time and memory, read where a run lets one in."""

    def __init__(self, grid: FleetGrid) -> None:
        self._grid = grid
        grid.on_round = self._begin
        self._started = self._ended = 0.0
        self.rounds: list[float] = []
        self.resident = self.peak = self.peak_saving = 0
        self.seconds_to_save = 0.0

    def _begin(self) -> None:
        self._grid.seconds, self._started = 0.0, time.process_time()

    def round_over(self, server_round: int, _: ArrayRecord) -> None:
        """Note a round: an `evaluate_fn`."""
        if not server_round:
            return
        self._ended = time.process_time()
        self.rounds.append(self._ended - self._started - self._grid.seconds)
        self.resident = resident("VmRSS")
        self.peak = max(self.peak, resident("VmHWM"))
        forget_peak()

    def saved(self) -> None:
        """Note that the last round was saved."""
        self.seconds_to_save = time.process_time() - self._ended
        self.peak_saving = resident("VmHWM")


class _ResumedError(Exception):
    """The run has gone on."""


def _seconds_to_resume(strategy: Any, model: ArrayRecord, rounds: int) -> float:
    def stop() -> None:
        raise _ResumedError

    grid = FleetGrid(1, cycle(()))
    grid.on_round = stop
    started = time.process_time()
    with contextlib.suppress(_ResumedError):
        strategy.start(grid, model, rounds + 1)
    return time.process_time() - started


def _payloads() -> Iterator[Any]:
    from flower_compress.links import Payload
    from flower_compress.strategies.server.defaults import DEFAULT_COMPRESSOR

    from .subjects import CHANNEL
    from .vectors import random_vector

    x = random_vector("gaussian", DIM)
    return cycle(
        Payload.encode(x, DEFAULT_COMPRESSOR, "auto", CHANNEL.at(version)).compact()
        for version in range(1, 9)
    )


SUITE = Suite(
    "scale",
    lambda _: [(row,) for row in ROWS],
    _measure,
    columns(
        1,
        Column("strategy", strategy_of),
        Column("clients", "num_clients", ","),
        Column("of them in a round", "clients_a_round", ","),
        Column("CPU s to greet all", "seconds_to_greet", ".1f"),
        Column("CPU s a round", "seconds_a_round", ".2f"),
        Column("bytes a client", "bytes_a_client", ",.0f"),
        Column("process at most, MiB", "peak_mib", ",.0f"),
        Column("checkpoint, MiB", "checkpoint_mib", ",.1f"),
        Column("CPU s to save", "seconds_to_save", ".2f"),
        Column("at most then, MiB", "peak_saving_mib", ",.0f"),
        Column("CPU s to resume", "seconds_to_resume", ".2f"),
    ),
    lacks=lacks,
    repeated=False,
)


if __name__ == "__main__":
    print_row(measure, sys.argv[1:])
