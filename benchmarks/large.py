"""One exchange of a large model with two clients, beside FedAvg's.

Every run is a process of its own that holds the server and both clients, so that its
memory is theirs together. Messages are written to bytes and read again on their way,
both ways, once: any transport does that, Flower's own more than once. Nobody trains: a
client subtracts a vector from what it received. What is measured is processor time, and
the most memory that a round takes; the first round, in which the model goes out dense
and memory is touched for the first time, is left out.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from .markdown import Column, columns
from .measure import Row, forget_peak, resident
from .own_process import lacks, measure_alone, print_row
from .suite import Settings, Suite

DIMS = (10_000_000, 100_000_000)
ROUNDS = {10_000_000: 8, 100_000_000: 3}
NUM_CLIENTS, NUM_ARRAYS = 2, 4
_MEBI = 1 << 20
_STEP = 1 << 20


def _measure(_: Settings, dim: int) -> list[Row]:
    row: Row = {"dim": dim, "rounds": ROUNDS[dim]}
    ways = {"fedavg": ("fedavg", False), "numpy": ("mcm", False)}
    if find_spec("numba") is not None:
        ways["compiled"] = ("mcm", True)
    for name, (algorithm, compiled) in ways.items():
        run = {
            "algorithm": algorithm,
            "compiled": compiled,
            "dim": dim,
            "rounds": ROUNDS[dim],
        }
        measured = measure_alone("benchmarks.large", run)
        row |= {f"{name}_{key}": value for key, value in measured.items()}
    return [row]


def measure(algorithm: str, compiled: bool, dim: int, rounds: int) -> Row:
    """Run one strategy in this process."""
    import numpy as np
    from flwr.app import Array, ArrayRecord

    import flower_compress.compiled
    from flower_compress.strategies import MCM

    logging.getLogger("flwr").setLevel(logging.ERROR)
    flower_compress.compiled.switch(on=compiled)
    generator = np.random.default_rng(0)
    size = dim // NUM_ARRAYS
    model = ArrayRecord(
        {
            f"w{number}": Array(generator.standard_normal(size, dtype=np.float32))
            for number in range(NUM_ARRAYS)
        }
    )
    step = 1e-3 * generator.standard_normal(_STEP, dtype=np.float32)
    times: list[float] = []
    peaks: list[int] = []

    def after_round(_: int, __: ArrayRecord) -> None:
        times.append(time.process_time())
        peaks.append(resident("VmHWM"))
        forget_peak()

    strategy: Any = MCM(fraction_evaluate=0.0)
    if algorithm == "fedavg":
        from flwr.serverapp.strategy import FedAvg

        strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(_grid(step), model, 1 + rounds, evaluate_fn=after_round)
    seconds = [end - start for start, end in pairwise(times[1:])]
    return {
        "seconds_a_round": statistics.median(seconds),
        "peak_mib": max(peaks[2:]) / _MEBI,
    }


def _grid(step: Any) -> Any:
    """Return a grid of clients that subtract `step`, over and over along an array."""
    import numpy as np
    from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    from flower_compress import CompressionMod
    from flower_compress.testing import InProcessGrid

    app = ClientApp(mods=[CompressionMod()])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        (received,) = msg.content.array_records.values()
        arrays = {}
        for name, array in received.items():
            w = np.array(array.numpy())
            for start in range(0, w.size, step.size):
                part = w[start : start + step.size]
                part -= step[: part.size]
            arrays[name] = Array(w)
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
        return Message(content, reply_to=msg)

    def carried(message: Message, context: Context) -> Message:
        _carry(message)
        reply = app(message, context)
        _carry(reply)
        return reply

    return InProcessGrid(carried, NUM_CLIENTS)


def _carry(message: Any) -> None:
    """Write a message's content to bytes, and read them."""
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
    from flwr.proto.recorddict_pb2 import RecordDict

    data = recorddict_to_proto(message.content).SerializeToString()
    message.content = recorddict_from_proto(RecordDict.FromString(data))


def _times(way: str, what: str) -> Callable[[Row], object]:
    def show(row: Row) -> str:
        value = row.get(f"{way}_{what}")
        return "" if value is None else f"{value / row[f'fedavg_{what}']:.2f}"

    return show


SUITE = Suite(
    "large",
    lambda _: [(dim,) for dim in DIMS],
    _measure,
    columns(
        0,
        Column("d", "dim", ","),
        Column("FedAvg, CPU s a round", "fedavg_seconds_a_round", ".1f"),
        Column("MCM, times that", _times("numpy", "seconds_a_round")),
        Column("compiled, times that", _times("compiled", "seconds_a_round")),
        Column("FedAvg, MiB at most", "fedavg_peak_mib", ",.0f"),
        Column("MCM, times that", _times("numpy", "peak_mib")),
        Column("compiled, times that", _times("compiled", "peak_mib")),
    ),
    lacks=lacks,
    repeated=False,
    is_median=True,
)


if __name__ == "__main__":
    print_row(measure, sys.argv[1:])
