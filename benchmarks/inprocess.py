"""Rounds in one process against a bare NumPy loop of the same algorithm.

MCM on the parity of digits, d = 65: the model is so small that what is left is all that
stands around the arithmetic. The engine makes, sends and reads every byte both ways, as
a deployed run does; the loop has no packets, no states and no Flower. A round of the
one follows a round of the other, in one process, so that noise meets both alike. What
is measured is processor time. What Flower's own objects take of it shows FedAvg on the
same engine, uncompressed, whose clients return what they received. Where numba is
installed the same is measured with the compiled path.

And MCM on a network, d = 20,490, one gradient of 128 examples a client, where the
engine may call several clients at a time: by the clock, against a loop of one thread.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_compress.testing.deliveries import num_cores

from .markdown import Column, columns
from .measure import Row, each_way
from .suite import Settings, Suite

NUM_CLIENTS = (20, 100, 1000)
_PARITY: dict[str, Any] = {"partition": "iid"}
_NETWORK = {
    "task": "digits28",
    "model": "cnn",
    "partition": "iid",
    "batch_size": 128,
    "step_size": "0.05",
}
_NETWORK_CLIENTS, _NETWORK_ROUNDS = 10, 15
_CLIENT_ROUNDS = 20_000
_FEWEST, _WARM_UP, _FEDAVG_ROUNDS = 20, 3, 100


class BareMCM:
    """MCM with QSGD of one level, as its equations read.

        w_hat = H + C(w - H),   H += alpha C(w - H)
        q_i = C(g_i(w_hat) - h_i),   h_i += alpha q_i
        w -= gamma (sum_i q_i / N + hbar),   hbar += alpha sum_i q_i / N

    Parameters
    ----------
    run : simulations.settings.Settings
        Task, batches and step size.
    """

    def __init__(self, run: Any) -> None:
        task = run.task
        self._objectives = [task.objective(i) for i in range(run.problem.clients)]
        arrays = task.initial_arrays()
        self._shapes = {name: array.shape for name, array in arrays.items()}
        initial = _flat(arrays)
        self._batch_size, self._seed = run.batch_size, run.seed
        self._gamma = np.float32(run.gamma())
        self._alpha = np.float32(0.5 / (1.0 + initial.size**0.5))
        self._generator = np.random.Generator(np.random.Philox(run.seed))
        self.w = initial.astype(np.float32)
        self._H, self._hbar = self.w.copy(), np.zeros(initial.size)
        self._h = np.zeros((len(self._objectives), initial.size), np.float32)

    def round(self, number: int) -> None:
        """Compute one round."""
        from flower_compress.clients import batches

        sent = self._compress(self.w - self._H)
        w_hat = self._named(self._H + sent)
        self._H += self._alpha * sent
        total = np.zeros(self.w.size)
        for client, objective in enumerate(self._objectives):
            (batch,) = batches(
                objective.num_examples,
                self._batch_size,
                seed=self._seed,
                client=client,
                server_round=number,
            )
            _, gradient = objective.gradient(w_hat, batch)
            h = self._h[client]
            q = self._compress(_flat(gradient) - h)
            h += self._alpha * q
            total += q
        total /= len(self._objectives)
        self.w -= self._gamma * (total + self._hbar).astype(np.float32)
        self._hbar += self._alpha * total

    def _named(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        sizes = [math.prod(shape) for shape in self._shapes.values()]
        parts = np.split(x, np.cumsum(sizes)[:-1])
        pairs = zip(self._shapes.items(), parts, strict=True)
        return {name: part.reshape(shape) for (name, shape), part in pairs}

    def _compress(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """C(x) = ||x|| floor(x / ||x|| + u)."""
        norm = np.sqrt(x.dot(x))
        if not norm:
            return np.zeros_like(x)
        uniforms = self._generator.random(x.size, dtype=np.float32)
        values: NDArray[np.float32] = norm * np.floor(x / norm + uniforms)
        return values


def _flat(arrays: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([array.reshape(-1) for array in arrays.values()])


def _measure(settings: Settings, num_clients: int, threads: int) -> list[Row]:
    from simulations.settings import Settings as Run

    if threads:
        clock, rounds = time.perf_counter, _NETWORK_ROUNDS
        return [_row(num_clients, rounds, threads, clock, Run, _NETWORK)]
    rounds = max(_FEWEST, _CLIENT_ROUNDS // num_clients)
    rows = []
    for on in each_way():
        row = _row(num_clients, rounds, 1, time.process_time, Run, _PARITY)
        rows.append({**row, "compiled": on})
    return rows


def _row(
    num_clients: int,
    rounds: int,
    threads: int,
    clock: Callable[[], float],
    settings: Any,
    problem: dict[str, Any],
) -> Row:
    from simulations.checkpointing import Checkpointing
    from simulations.engines import run_all

    run = settings.of(
        "mcm", clients=num_clients, rounds=rounds, log_every=rounds, **problem
    )
    bare = BareMCM(run)
    engine_seconds, bare_seconds = [], []
    began = 0.0

    def after_round(_: object, number: int, __: object, sha256: str | None) -> None:
        nonlocal began
        if sha256 is not None:
            return
        engine_seconds.append(clock() - began)
        began = clock()
        if number:
            bare.round(number)
        bare_seconds.append(clock() - began)
        began = clock()

    with TemporaryDirectory() as folder:
        checkpointing = Checkpointing(Path(folder))
        run_all(
            [run], "inprocess", after_round, checkpointing, workers=1, threads=threads
        )
    # The first rounds greet and fill caches, the last one evaluates.
    engine, plain = (
        median(seconds[_WARM_UP:-1]) for seconds in (engine_seconds, bare_seconds)
    )
    row = {
        "num_clients": num_clients,
        "dim": bare.w.size,
        "threads": threads,
        "rounds": rounds,
        "engine_ms": 1e3 * engine,
        "bare_ms": 1e3 * plain,
        "times_bare": engine / plain,
        "us_a_client": 1e6 * engine / num_clients,
    }
    if clock is time.process_time:
        seconds = _fedavg(num_clients, bare.w, min(rounds, _FEDAVG_ROUNDS), clock)
        row["fedavg_us_a_client"] = 1e6 * seconds / num_clients
    return row


def _fedavg(
    num_clients: int,
    w: NDArray[np.float32],
    rounds: int,
    clock: Callable[[], float],
) -> float:
    """Return the seconds of a round of Flower's FedAvg whose clients do nothing."""
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp.strategy import FedAvg

    from flower_compress.testing import InProcessGrid

    def answer(message: Message, _: Any) -> Message:
        arrays = {
            name: Array(array.numpy())
            for name, array in message.content.array_records["arrays"].items()
        }
        metrics = MetricRecord({"num-examples": 1, "loss": 0.0})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
        return Message(content, reply_to=message)

    logging.getLogger("flwr").setLevel(logging.ERROR)
    times: list[float] = []
    FedAvg(fraction_evaluate=0.0).start(
        InProcessGrid(answer, num_clients),
        ArrayRecord({"w": Array(w)}),
        rounds,
        evaluate_fn=lambda *_: times.append(clock()),
    )
    return median(end - start for start, end in pairwise(times[_WARM_UP:]))


def _cases(_: Settings) -> Iterator[tuple[int, int]]:
    for num_clients in NUM_CLIENTS:
        yield num_clients, 0
    for threads in sorted({1, num_cores()}):
        yield _NETWORK_CLIENTS, threads


def _fedavg_cell(row: Row) -> str:
    value = row.get("fedavg_us_a_client")
    return "" if value is None else f"{value:.0f}"


SUITE = Suite(
    "inprocess",
    _cases,
    _measure,
    columns(
        0,
        Column("N", "num_clients", ","),
        Column("d", "dim", ","),
        Column("threads", lambda row: row.get("threads", 1)),
        Column("compiled", lambda row: "yes" if row.get("compiled") else "no"),
        Column("engine, ms a round", "engine_ms", ".2f"),
        Column("bare loop, ms a round", "bare_ms", ".2f"),
        Column("engine / loop", "times_bare", ".2f"),
        Column("us a client", "us_a_client", ".0f"),
        Column("Flower's FedAvg, us a client", _fedavg_cell),
    ),
    repeated=False,
    is_median=True,
)
