"""Memory of a server with many clients, few of which take part in a round.

Each row is a process of its own, whose peak resident memory is read in the end. The
clients are stubs that answer with payloads made beforehand, so that what is measured
is the server.
"""

from __future__ import annotations

import logging
import sys
import time
from itertools import cycle
from typing import Any

from .markdown import Column, columns
from .measure import Row, resident
from .own_process import lacks, measure_alone, print_row, strategy_of
from .suite import Settings, Suite

NUM_CLIENTS, FRACTION, DIM, ROUNDS = 10_000, 0.01, 62_000, 300
_MEBI = 1 << 20
ROWS: list[dict[str, Any]] = [
    {"algorithm": "diana", "options": {}, "budget": 256 * _MEBI},
    {"algorithm": "rand-mcm", "options": {}, "budget": 256 * _MEBI},
    {"algorithm": "rand-mcm", "options": {"groups": 10}, "budget": 256 * _MEBI},
    {
        "algorithm": "rand-mcm",
        "options": {"uplink_memory": "mean", "memory": "average"},
        "budget": 256 * _MEBI,
    },
    {"algorithm": "diana", "options": {}, "budget": None},
]


def _measure(_: Settings, row: dict[str, Any]) -> list[Row]:
    return [measure_alone("benchmarks.server_memory", row)]


def measure(algorithm: str, options: dict[str, Any], budget: int | None) -> Row:
    """Run one row in this process."""
    import numpy as np
    from flwr.app import Array, ArrayRecord

    from flower_compress.strategies import ALGORITHMS

    logging.getLogger("flwr").setLevel(logging.ERROR)
    strategy = ALGORITHMS[algorithm](
        step_size=1e-3,
        weighted_by_key=None,
        memory_budget=budget,
        fraction_train=FRACTION,
        fraction_evaluate=0.0,
        min_train_nodes=1,
        min_available_nodes=NUM_CLIENTS,
        **options,
    )
    grid = _stub_grid()
    model = ArrayRecord({"w": Array(np.zeros(DIM, dtype=np.float32))})
    before, started = resident("VmRSS"), time.monotonic()
    strategy.start(grid, model, ROUNDS)
    seconds = time.monotonic() - started
    store = strategy._running.uplinks._store
    return {
        "algorithm": algorithm,
        "options": options,
        "budget_mib": None if budget is None else budget / _MEBI,
        "num_clients": NUM_CLIENTS,
        "dim": DIM,
        "rounds": ROUNDS,
        "heard_of": sum(end.uplink.version > 0 for end in strategy._running.roster),
        "before_mib": before / _MEBI,
        "peak_mib": resident("VmHWM") / _MEBI,
        "memories_mib": (store.num_bytes_in_ram + store.num_bytes_on_disk) / _MEBI,
        "seconds_a_round": seconds / ROUNDS,
    }


def _stub_grid() -> Any:
    """Return a grid of NUM_CLIENTS nodes that answer with ready-made payloads."""
    from flwr.app import Message, MetricRecord, RecordDict

    from flower_compress import CompressionMod
    from flower_compress.links import Payload
    from flower_compress.strategies.server.defaults import DEFAULT_COMPRESSOR
    from flower_compress.testing import InProcessGrid
    from flower_compress.wire.packet import Packet, find_packet, packet_record

    from .subjects import CHANNEL
    from .vectors import random_vector

    x = random_vector("gaussian", DIM)
    payloads = cycle(
        Payload.encode(x, DEFAULT_COMPRESSOR, "auto", CHANNEL.at(version)).compact()
        for version in range(1, 9)
    )
    mod = CompressionMod()

    def answer(msg: Message, context: Any) -> Message:
        found = find_packet(msg.content)
        assert found is not None
        packet = Packet.parse(found[1])
        if packet.greeting:
            return mod(msg, context, lambda _, __: msg)
        reply = Packet(
            session=packet.session,
            base=packet.acked,
            version=packet.version,
            acked=packet.version,
            dim=packet.dim,
            payloads=(next(payloads),),
        )
        content = RecordDict(
            {"arrays": packet_record(reply), "metrics": MetricRecord()}
        )
        return Message(content, reply_to=msg)

    return InProcessGrid(answer, NUM_CLIENTS)


def _budget(row: Row) -> str:
    return "none" if row["budget_mib"] is None else f"{row['budget_mib']:.0f}"


SUITE = Suite(
    "server-memory",
    lambda _: [(row,) for row in ROWS],
    _measure,
    columns(
        1,
        Column("strategy", strategy_of),
        Column("budget, MiB", _budget),
        Column("clients heard of", "heard_of", ","),
        Column("their memories, MiB", "memories_mib", ",.0f"),
        Column("process before, MiB", "before_mib", ".0f"),
        Column("at most, MiB", "peak_mib", ",.0f"),
        Column("s a round", "seconds_a_round", ".2f"),
    ),
    lacks=lacks,
    repeated=False,
)


if __name__ == "__main__":
    print_row(measure, sys.argv[1:])
