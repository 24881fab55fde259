"""README's table: strategies as constructed without arguments, against FedAvg."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from statistics import mean
from typing import Any

from .digits import run_digits
from .markdown import Column, columns
from .measure import Row
from .suite import Settings, Suite

STRATEGIES = {"sgd": "FedAvg", "diana": "Diana", "mcm": "MCM", "rand-mcm": "Rand-MCM"}
EPOCHS_AND_ROUNDS = ((1, 60), (10, 20), (50, 5))
SEEDS = 2


def _cases(_: Settings) -> Iterator[tuple[Any, ...]]:
    yield from product(EPOCHS_AND_ROUNDS, range(SEEDS), STRATEGIES)


def _measure(
    _: Settings, length: tuple[int, int], seed: int, strategy: str
) -> list[Row]:
    from simulations.flower_log import quiet_flower

    epochs, rounds = length
    with quiet_flower():
        ended = run_digits(strategy, "mlp", "dirichlet", epochs, rounds, seed)
    return [
        {
            "strategy": strategy,
            "epochs": epochs,
            "rounds": rounds,
            "seed": seed,
            **ended._asdict(),
        }
    ]


def _table(rows: list[Row]) -> str:
    summaries: list[Row] = []
    for strategy, label in STRATEGIES.items():
        summary: Row = {"strategy": label}
        for epochs, rounds in EPOCHS_AND_ROUNDS:
            own = [row for row in rows if row["epochs"] == epochs]
            of = [row for row in own if row["strategy"] == strategy]
            dense = [row for row in own if row["strategy"] == "sgd"]
            share = _bytes(of) / _bytes(dense)
            accuracy = mean(row["accuracy"] for row in of)
            summary[_heading(epochs, rounds)] = f"{accuracy:.3f}, {share:.1%}"
        summaries.append(summary)
    headings = (_heading(*length) for length in EPOCHS_AND_ROUNDS)
    return columns(
        1,
        Column("accuracy, bytes", "strategy"),
        *(Column(heading, heading) for heading in headings),
    )(summaries)


def _heading(epochs: int, rounds: int) -> str:
    return f"{epochs} local epoch{'s' * (epochs > 1)}, {rounds} rounds"


def _bytes(rows: list[Row]) -> int:
    return sum(row["up"] + row["down"] for row in rows)


SUITE = Suite("local-epochs", _cases, _measure, _table, repeated=False)
