"""How runs ended, over their seeds: what ``summary.json`` holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NotRequired, TypedDict

import numpy as np

from .claims import Verdicts
from .cutoff import CutOff
from .json_file import to_json
from .level import log10_level
from .record import Nodes, RoundRecord

__all__ = [
    "AlgorithmSummary",
    "NodesSummary",
    "Spread",
    "Summary",
    "is_decentralized",
    "round_seconds",
    "summarise",
]

_MEASURED: Final = (
    "uplink_entropy_bits",
    "downlink_entropy_bits",
    "uplink_formula_bits",
    "downlink_formula_bits",
)
_BASELINES: Final = ("sgd", "dpsgd")


class Spread(TypedDict):
    """Mean and sample standard deviation over seeds.

    The mean is None where it is not finite (a seed diverged) or not known, the
    standard deviation also where there is one seed only.
    """

    mean: float | None
    std: float | None


class AlgorithmSummary(TypedDict):
    """One algorithm at the end of its runs, over seeds.

    ``log10_excess_loss`` is of each seed the mean of log10(F(w) - min F) over the
    logged rounds of the last tenth of its run; the other spreads are of the last
    logged round, and not known where a seed diverged, whose run ended early.
    ``bits_fraction_of_sgd`` is the mean of the payload bits in both directions, over
    SGD's (DPSGD's); None without it. Entropy and formula bits are those of
    :mod:`flower_compress.wire.measures`. ``nodes`` is there for decentralized runs.
    """

    seeds: list[int]
    rounds: int
    final_loss: Spread
    log10_excess_loss: Spread
    accuracy: Spread
    uplink_bytes: Spread
    downlink_bytes: Spread
    uplink_bits: Spread
    downlink_bits: Spread
    uplink_entropy_bits: NotRequired[Spread]
    downlink_entropy_bits: NotRequired[Spread]
    uplink_formula_bits: NotRequired[Spread]
    downlink_formula_bits: NotRequired[Spread]
    bits_fraction_of_sgd: float | None
    model_sha256: dict[str, str]
    nodes: NotRequired[NodesSummary]


class NodesSummary(TypedDict):
    """The nodes of a decentralized algorithm at the end, over seeds.

    ``accuracy`` is the mean over the nodes of their own models' accuracy, and
    ``least_accuracy`` the worst node's; bits of a node and of an edge are the means
    over nodes and edges.
    """

    accuracy: Spread
    least_accuracy: Spread
    consensus_distance: Spread
    zeros: Spread
    bits_a_node: Spread
    bits_an_edge: Spread


class Summary(TypedDict):
    """A comparison of algorithms: what was run, and how each ended.

    ``paper`` has the source's log10 excess loss of some of the runs, ``round_seconds``
    the processor time of a round where that is what is shown.
    """

    settings: dict[str, Any]
    algorithms: dict[str, AlgorithmSummary]
    cutoff: NotRequired[CutOff]
    claims: NotRequired[Verdicts]
    paper: NotRequired[dict[str, float]]
    round_seconds: NotRequired[dict[str, Spread]]


def round_seconds(records: Iterable[RoundRecord]) -> dict[str, Spread]:
    """Return by run the processor time of a round, the last median of each seed."""
    last: dict[str, dict[int, RoundRecord]] = {}
    for record in sorted(records, key=attrgetter("round")):
        last.setdefault(record.algorithm, {})[record.seed] = record
    return {
        name: _spread(
            [math.nan if (s := each.seconds) is None else s for each in seeds.values()]
        )
        for name, seeds in last.items()
    }


def summarise(
    records: Iterable[RoundRecord],
    model_sha256: Mapping[tuple[str, int], str],
    settings: Mapping[str, Any],
) -> Summary:
    """Summarise runs over their seeds, algorithms in order of appearance.

    Parameters
    ----------
    records : Iterable[RoundRecord]
        Of any number of algorithms and seeds, in any order of rounds.
    model_sha256 : Mapping[tuple[str, int], str]
        (algorithm, seed) -> hex digest of the final model.
    settings : Mapping[str, Any]
        What was run. Kept as it is, made fit for JSON.
    """
    runs: dict[str, dict[int, list[RoundRecord]]] = {}
    for record in records:
        seeds = runs.setdefault(record.algorithm, {})
        seeds.setdefault(record.seed, []).append(record)
    algorithms = {
        algorithm: _summarise_algorithm(
            {
                seed: sorted(rows, key=attrgetter("round"))
                for seed, rows in sorted(seeds.items())
            },
            {s: d for (a, s), d in sorted(model_sha256.items()) if a == algorithm},
        )
        for algorithm, seeds in runs.items()
    }
    for label, entry in algorithms.items():
        baseline = _baseline(label, algorithms, settings)
        entry["bits_fraction_of_sgd"] = _fraction(entry, baseline)
    return {"settings": to_json(settings), "algorithms": algorithms}


def _baseline(
    label: str,
    algorithms: Mapping[str, AlgorithmSummary],
    settings: Mapping[str, Any],
) -> AlgorithmSummary | None:
    """Return the run of SGD, or DPSGD, on the task of the run of that name."""
    runs = settings.get("runs")
    own: Mapping[str, Any] = runs if isinstance(runs, Mapping) else {}

    def value(name: str, key: str, default: str) -> str:
        return str(own.get(name, {}).get(key, default))

    for name, entry in algorithms.items():
        same = value(name, "task", "") == value(label, "task", "")
        if same and value(name, "algorithm", name).lower() in _BASELINES:
            return entry
    return None


def is_decentralized(summary: Summary) -> bool:
    """Return whether all runs have nodes and no server."""
    algorithms = summary["algorithms"].values()
    return bool(algorithms) and all("nodes" in entry for entry in algorithms)


def _summarise_algorithm(
    runs: dict[int, list[RoundRecord]], digests: dict[int, str]
) -> AlgorithmSummary:
    last = [rows[-1] for rows in runs.values()]

    def at_end(name: str) -> Spread:
        return _spread([_known(record, name) for record in last])

    summary: AlgorithmSummary = {
        "seeds": list(runs),
        "rounds": max(record.round for record in last),
        "final_loss": _spread([record.loss for record in last]),
        "log10_excess_loss": _spread([log10_level(rows) for rows in runs.values()]),
        "accuracy": at_end("accuracy"),
        "uplink_bytes": at_end("uplink_bytes"),
        "downlink_bytes": at_end("downlink_bytes"),
        "uplink_bits": at_end("uplink_bits"),
        "downlink_bits": at_end("downlink_bits"),
        "bits_fraction_of_sgd": None,
        "model_sha256": {str(seed): digest for seed, digest in digests.items()},
    }
    measured: dict[str, Spread] = {}
    for name in _MEASURED:
        if None not in [getattr(record, name) for record in last]:
            measured[name] = at_end(name)
    summary |= measured  # type: ignore[typeddict-item]
    nodes = [record.nodes for record in last if record.nodes is not None]
    if nodes:
        summary["nodes"] = _summarise_nodes(nodes)
    return summary


def _known(record: RoundRecord, name: str) -> float:
    """Return a value of a run's last round, NaN if the run diverged."""
    return float(getattr(record, name)) if math.isfinite(record.loss) else math.nan


def _summarise_nodes(last: list[Nodes]) -> NodesSummary:
    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values)) if values else math.nan

    return {
        "accuracy": _spread([mean(nodes.accuracy) for nodes in last]),
        "least_accuracy": _spread([min(nodes.accuracy) for nodes in last]),
        "consensus_distance": _spread([mean(nodes.distance) for nodes in last]),
        "zeros": _spread([mean(nodes.zeros) for nodes in last]),
        "bits_a_node": _spread([mean(nodes.sent_bits) for nodes in last]),
        "bits_an_edge": _spread([mean(nodes.edges[3::4]) for nodes in last]),
    }


def _spread(values: Sequence[float]) -> Spread:
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(np.mean(values))
        std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return {"mean": _finite(mean), "std": _finite(std)}


def _fraction(
    entry: AlgorithmSummary, baseline: AlgorithmSummary | None
) -> float | None:
    """Return the payload bits both ways over the baseline's.

    None if either run has diverged: it may have ended early.
    """
    bits, reference = (
        None
        if side is None
        or side["final_loss"]["mean"] is None
        or side["uplink_bits"]["mean"] is None
        or side["downlink_bits"]["mean"] is None
        else side["uplink_bits"]["mean"] + side["downlink_bits"]["mean"]
        for side in (entry, baseline)
    )
    return bits / reference if bits is not None and reference else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
