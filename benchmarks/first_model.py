"""What the first model costs, dense, packed and made by the clients.

A network that learns scikit-learn's digits for one local epoch a round; of one run of
the most rounds, what it was after fewer.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from statistics import mean
from typing import Any

from .digits import BATCH, CLIENTS
from .markdown import Column, columns
from .measure import Row
from .suite import Settings, Suite

STRATEGIES = {"mcm": "MCM", "rand-mcm": "Rand-MCM"}
FIRST: dict[str | int, str] = {
    "dense": "dense",
    16: "16 bits",
    8: "8 bits",
    4: "4 bits",
    "seed": "made by the clients",
}
ROUNDS, SEEDS = (4, 20, 60), 3


def _cases(_: Settings) -> Iterator[tuple[Any, ...]]:
    kinds = [("sgd", "dense"), *product(STRATEGIES, FIRST)]
    for seed, (strategy, first) in product(range(SEEDS), kinds):
        yield strategy, first, seed


def _measure(_: Settings, name: str, first: str | int, seed: int) -> list[Row]:
    from flwr.app import ArrayRecord, MetricRecord

    from flower_compress.clients import local_steps_client
    from flower_compress.strategies import get_algorithm
    from flower_compress.testing import InProcessGrid
    from flower_compress.wire.arrays import read_array, write_array
    from simulations.client_app import _objective
    from simulations.flower_log import quiet_flower
    from simulations.settings import Settings as Run

    problem: dict[str, Any] = {
        "task": "digits",
        "model": "mlp",
        "partition": "dirichlet",
        "clients": CLIENTS,
        "batch_size": BATCH,
        "client": "local-steps",
        "seed": seed,
    }
    task = Run.of("sgd", **problem).task
    local_steps = -(-task.objective(0).num_examples // BATCH)
    run = Run.of("sgd", local_steps=local_steps, **problem)

    def initial(_: int) -> ArrayRecord:
        arrays = task.initial_arrays()
        return ArrayRecord({key: write_array(array) for key, array in arrays.items()})

    options: dict[str, Any] = {} if name == "sgd" else {"first_model": first}
    strategy: Any = get_algorithm(name)(fraction_evaluate=0.0, seed=seed, **options)
    rows: list[Row] = []

    def look(server_round: int, record: ArrayRecord) -> MetricRecord | None:
        if server_round in ROUNDS:
            arrays = {key: read_array(array) for key, array in record.items()}
            values, ledger = task.evaluate(arrays), strategy.ledger
            rows.append(
                {
                    "strategy": name,
                    "first": first,
                    "seed": seed,
                    "rounds": server_round,
                    "loss": values.loss,
                    "accuracy": task.accuracy(arrays),
                    "bytes": ledger.uplink.num_bytes + ledger.downlink.num_bytes,
                }
            )
        return None

    app = local_steps_client(_objective, first_model=initial)
    with quiet_flower():
        strategy.start(
            InProcessGrid(app, CLIENTS),
            initial(0),
            max(ROUNDS),
            train_config=run.train_config(),
            evaluate_fn=look,
        )
    return rows


def _table(rows: list[Row]) -> str:
    summaries: list[Row] = []
    for strategy, first in product(STRATEGIES, FIRST):
        summary: Row = {"strategy": STRATEGIES[strategy], "first": FIRST[first]}
        for rounds in ROUNDS:
            own = [row for row in rows if row["rounds"] == rounds]
            of = [
                row
                for row in own
                if row["strategy"] == strategy and row["first"] == first
            ]
            plain = [row for row in own if row["strategy"] == "sgd"]
            size = mean(row["bytes"] for row in of)
            share = size / mean(row["bytes"] for row in plain)
            loss = mean(row["loss"] for row in of)
            summary[_heading(rounds)] = f"{size / 1e3:,.0f} kB, {share:.1%}, {loss:.4f}"
        summaries.append(summary)
    shown = (Column(_heading(rounds), _heading(rounds)) for rounds in ROUNDS)
    return columns(
        2, Column("strategy", "strategy"), Column("first model", "first"), *shown
    )(summaries)


def _heading(rounds: int) -> str:
    return f"{rounds} rounds"


SUITE = Suite("first-model", _cases, _measure, _table, repeated=False)
