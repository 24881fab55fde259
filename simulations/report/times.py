"""Time to a goal on a network, from what was sent until then.

A synchronous round lasts Flower's own time T, which is that of an empty round, twice
the latency, and what one client receives and sends on its own link:

    seconds = rounds (T + 2 latency) + 8 down / down_rate + 8 up / up_rate

with the bytes of one client until the goal. Computation is left out. Where there is no
server each node sends, and receives, its share of what went over the edges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..network import Network
from ..records import RoundRecord
from .results import Result

__all__ = [
    "RATES",
    "ROUND_SECONDS",
    "Cost",
    "Goal",
    "costs_of",
    "fastest",
    "goals_of",
    "seconds",
]

RATES: Final = (1e5, 1e6, 1e7, 1e8, 1e9)
"""Bits per second of the table of winners."""
ROUND_SECONDS: Final = (0.0, 6.0, 15.0)
"""Seconds of an empty round in it: none, and what a SuperLink took, least and most."""

_SHARES: Final = (0.5, 0.75, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Goal:
    """A value to be reached: an accuracy, or else a log10 excess loss or a loss.

    Attributes
    ----------
    kind : {"accuracy", "log10 excess loss", "loss"}
        What is measured.
    value : float
        What it must reach.
    """

    kind: str
    value: float

    def __str__(self) -> str:
        return f"{self.kind} {self.value:.4g}"

    def is_reached(self, record: RoundRecord) -> bool:
        """Whether the model of that round is as good."""
        value = _value(record, self.kind)
        if self.kind == "accuracy":
            return value >= self.value
        return value <= self.value


@dataclass(frozen=True)
class Cost:
    """What a run took to a goal, means over seeds: rounds, and bytes of one client."""

    rounds: float
    uplink_bytes: float
    downlink_bytes: float


def goals_of(result: Result) -> list[Goal]:
    """Return goals at 50 to 99 % of the way of the run that gets furthest.

    Accuracies, where the excess loss is not known.
    """
    known = all(record.excess_loss is not None for record in result.records)
    kind = "log10 excess loss" if known else "accuracy"
    if not known and len({record.accuracy for record in result.records}) == 1:
        kind = "loss"
    ends = {}
    starts = []
    for record in sorted(result.records, key=lambda record: record.round):
        if record.round == 0:
            starts.append(_value(record, kind))
        ends[record.algorithm, record.seed] = _value(record, kind)
    means = []
    for name in result.summary["algorithms"]:
        values = [value for (label, _), value in ends.items() if label == name]
        if all(map(math.isfinite, values)):
            means.append(float(np.mean(values)))
    if not means or not starts:
        return []
    best = max(means) if kind == "accuracy" else min(means)
    start = float(np.mean(starts))
    return [Goal(kind, start + share * (best - start)) for share in _SHARES]


def costs_of(result: Result, goal: Goal) -> dict[str, Cost | None]:
    """Return each run's cost to the goal, None if a seed of it does not get there."""
    reached: dict[str, dict[int, RoundRecord | None]] = {}
    for record in sorted(result.records, key=lambda record: record.round):
        seeds = reached.setdefault(record.algorithm, {})
        if seeds.get(record.seed) is None:
            seeds[record.seed] = record if goal.is_reached(record) else None
    clients = result.clients_per_round
    costs: dict[str, Cost | None] = {}
    for name in result.summary["algorithms"]:
        records = [*reached.get(name, {0: None}).values()]
        found = [record for record in records if record is not None]
        costs[name] = None
        if len(found) == len(records):
            up = float(np.mean([record.uplink_bytes for record in found])) / clients
            down = float(np.mean([record.downlink_bytes for record in found])) / clients
            rounds = float(np.mean([record.round for record in found]))
            costs[name] = Cost(rounds, up, up if result.decentralized else down)
    return costs


def seconds(cost: Cost, network: Network, round_seconds: float) -> float:
    """Return the time to the goal; see the module."""
    return (
        cost.rounds * (round_seconds + 2.0 * network.latency)
        + 8.0 * cost.uplink_bytes / network.uplink_rate
        + 8.0 * cost.downlink_bytes / network.downlink_rate
    )


def fastest(
    costs: Sequence[tuple[str, Cost | None]], network: Network, round_seconds: float
) -> list[tuple[float, str]]:
    """Return the times of all runs that get there, the least first."""
    return sorted(
        (seconds(cost, network, round_seconds), name)
        for name, cost in costs
        if cost is not None
    )


def _value(record: RoundRecord, kind: str) -> float:
    if kind == "accuracy":
        return record.accuracy
    if kind == "loss":
        return record.loss
    with np.errstate(invalid="ignore"):
        return float(np.log10(record.known_excess_loss))
