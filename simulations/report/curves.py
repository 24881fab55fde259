"""What is drawn, as numbers: means and deviations over seeds, against costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import ConfigurationError

from ..network import Network, round_seconds
from ..records import Nodes, RoundRecord, Summary, is_decentralized

__all__ = [
    "Axis",
    "Band",
    "Curve",
    "Loss",
    "NodeCurve",
    "axes_of",
    "curves_of",
    "grouped",
    "loss_of",
    "node_curves_of",
]


@dataclass(frozen=True)
class Axis:
    """A horizontal axis: cost of a run so far."""

    title: str
    label: str
    log: bool


_ROUNDS: Final = Axis("Rounds", "rounds", log=False)
_UP: Final = Axis("Bits up", "payload bits up, all clients", log=True)
_DOWN: Final = Axis("Bits down", "payload bits down, all clients", log=True)
_TOTAL: Final = Axis("Bits up and down", "payload bits, both directions", log=True)
_EDGES: Final = Axis("Bits", "payload bits, over all edges", log=True)


@dataclass(frozen=True)
class Band:
    """A curve with what lies one standard deviation over seeds around it, (rounds,)."""

    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One algorithm over its seeds."""

    algorithm: str
    num_seeds: int
    costs: dict[Axis, NDArray[np.float64]]
    loss: Band
    accuracy: Band


@dataclass(frozen=True)
class NodeCurve:
    """The nodes of one algorithm, means over nodes and seeds, each of shape (rounds,).

    `bits` are those that a node sent a round since the one logged before.
    """

    algorithm: str
    rounds: NDArray[np.float64]
    distance: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    zeros: NDArray[np.float64]
    bits: NDArray[np.float64]


@dataclass(frozen=True)
class Loss:
    """How the loss of a comparison is drawn."""

    label: str
    log: bool
    of: Callable[[RoundRecord], float]


def loss_of(records: Sequence[RoundRecord]) -> Loss:
    """Return the excess loss where it is known for all records, else the loss."""
    if all(record.excess_loss is not None for record in records):
        return Loss(
            "excess loss F(w) - F*", True, lambda record: record.known_excess_loss
        )
    # A loss of zero or below has no place on a logarithmic axis.
    positive = all(not record.loss <= 0.0 for record in records)
    return Loss("loss F(w)", positive, lambda record: record.loss)


def axes_of(summary: Summary, link: Network | None) -> list[Axis]:
    """Return what the curves are drawn against: rounds, bits and, on `link`, time."""
    bits = [_EDGES] if is_decentralized(summary) else [_UP, _DOWN, _TOTAL]
    return [_ROUNDS, *bits, *([] if link is None else [_time_on(link)])]


def curves_of(
    records: Iterable[RoundRecord],
    summary: Summary,
    loss: Loss,
    link: Network | None,
) -> list[Curve]:
    """Return a curve for each algorithm, means over its seeds.

    Parameters
    ----------
    records : Iterable[RoundRecord]
        Of all algorithms and seeds, in any order of rounds.
    summary : Summary
        Whose settings tell how many clients share the bytes of a round.
    loss : Loss
        What is drawn as the loss.
    link : Network, optional
        Network for the estimated time.

    Raises
    ------
    ConfigurationError
        `link` is given, and the settings have no number of clients.
    """
    runs: dict[str, dict[int, list[RoundRecord]]] = {}
    for record in records:
        runs.setdefault(record.algorithm, {}).setdefault(record.seed, []).append(record)
    curves = []
    for algorithm, seeds in runs.items():
        costs: dict[Axis, dict[int, list[float]]] = {}
        losses: dict[int, list[float]] = {}
        accuracies: dict[int, list[float]] = {}
        for rows in seeds.values():
            rows.sort(key=lambda record: record.round)
            for row in rows:
                losses.setdefault(row.round, []).append(loss.of(row))
                accuracies.setdefault(row.round, []).append(row.accuracy)
            for axis, values in _costs(rows, summary, link).items():
                of_axis = costs.setdefault(axis, {})
                for row, cost in zip(rows, values, strict=True):
                    of_axis.setdefault(row.round, []).append(cost)
        curves.append(
            Curve(
                algorithm,
                len(seeds),
                {axis: _band(cost, log=False).middle for axis, cost in costs.items()},
                _band(losses, log=loss.log),
                _band(accuracies, log=False),
            )
        )
    return curves


def grouped(curves: Sequence[Curve], summary: Summary) -> list[tuple[str, list[Curve]]]:
    """Return the curves of each task with its name, which is empty if there is one.

    Losses of several problems have no place in one figure.
    """
    runs = summary["settings"].get("runs")
    own: Mapping[str, Any] = runs if isinstance(runs, Mapping) else {}
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        task = own.get(curve.algorithm, {}).get("task", "")
        groups.setdefault(str(task), []).append(curve)
    return [*groups.items()]


def _costs(
    rows: Sequence[RoundRecord], summary: Summary, link: Network | None
) -> dict[Axis, list[float]]:
    """Return what one run had cost at each of its rows, by axis."""
    costs: dict[Axis, list[float]] = {
        _ROUNDS: [row.round for row in rows],
        _UP: [row.uplink_bits for row in rows],
        _DOWN: [row.downlink_bits for row in rows],
        _TOTAL: [row.uplink_bits + row.downlink_bits for row in rows],
        _EDGES: [row.uplink_bits for row in rows],
    }
    if link is not None:
        clients = _clients_per_round(summary["settings"])
        costs[_time_on(link)] = _seconds(rows, link, clients)
    return costs


def _time_on(link: Network) -> Axis:
    return Axis("Estimated time", f"seconds on {link}", log=True)


def _band(values: Mapping[int, Sequence[float]], *, log: bool) -> Band:
    """Return mean and deviation over the seeds that logged a round, by round.

    Seeds of an interrupted run end early: the curve goes on with the others.
    """
    middle, deviation = [], []
    with np.errstate(invalid="ignore", divide="ignore"):
        for _, row in sorted(values.items()):
            numbers = np.log10(row) if log else np.asarray(row, dtype=np.float64)
            middle.append(np.mean(numbers))
            deviation.append(np.std(numbers, ddof=1) if len(row) > 1 else 0.0)
        mid, dev = np.array(middle), np.array(deviation)
        if log:
            return Band(10.0**mid, 10.0 ** (mid - dev), 10.0 ** (mid + dev))
        return Band(mid, mid - dev, mid + dev)


def _seconds(rows: Sequence[RoundRecord], link: Network, clients: float) -> list[float]:
    """Return the estimated seconds since the start at each logged round."""
    seconds, times = 0.0, []
    last_round = last_up = last_down = 0
    for row in rows:
        # Rounds may be logged every now and then: those between count as equal.
        rounds = max(row.round - last_round, 1)
        up, down = row.uplink_bytes - last_up, row.downlink_bytes - last_down
        if up or down:
            seconds += rounds * round_seconds(
                link,
                uplink_bytes=up / (rounds * clients),
                downlink_bytes=down / (rounds * clients),
            )
        times.append(seconds)
        last_round, last_up, last_down = row.round, row.uplink_bytes, row.downlink_bytes
    return times


def _clients_per_round(settings: Mapping[str, Any]) -> float:
    known = {str(key).replace("-", "_"): value for key, value in settings.items()}
    for key in ("clients_per_round", "num_clients"):
        value = known.get(key)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    raise ConfigurationError(
        f"expected 'clients_per_round' or 'num_clients' among the settings, to tell "
        f"the bytes of one client, came {sorted(known)}: add it to the settings of "
        f"the summary, or leave the link out"
    )


def node_curves_of(records: Sequence[RoundRecord]) -> list[NodeCurve]:
    """Return what the nodes of each algorithm did, means over the seeds."""
    runs: dict[str, dict[int, list[Nodes]]] = {}
    for record in records:
        if record.nodes is not None:
            of_round = runs.setdefault(record.algorithm, {})
            of_round.setdefault(record.round, []).append(record.nodes)
    curves = []
    for algorithm, rounds in runs.items():
        table = np.array(
            [
                (
                    number,
                    np.mean([np.mean(nodes.distance) for nodes in seeds]),
                    np.mean([np.mean(nodes.accuracy) for nodes in seeds]),
                    np.mean([np.mean(nodes.zeros or math.nan) for nodes in seeds]),
                    np.mean([np.mean(nodes.sent_bits) for nodes in seeds]),
                )
                for number, seeds in sorted(rounds.items())
            ]
        ).T
        # Bits since the row before, a round.
        bits = np.diff(table[4], prepend=0.0) / np.diff(table[0], prepend=0.0)
        curves.append(
            NodeCurve(algorithm, table[0], table[1], table[2], table[3], bits)
        )
    return curves
