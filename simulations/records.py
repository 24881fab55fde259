"""What a run leaves behind: one CSV row per logged round, and a JSON summary.

``rounds.csv`` grows while the run goes on, so an interrupted run keeps its rows.
``settings.json``, with which an experiment begins, and ``summary.json``, with which it
ends, are written whole or not at all.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NotRequired, Self, TextIO, TypedDict

import numpy as np

from flower_compress.errors import ConfigurationError, FlowerCompressError

__all__ = [
    "AlgorithmSummary",
    "CutOff",
    "Nodes",
    "RecordsError",
    "RoundRecord",
    "RoundsCsv",
    "Spread",
    "Summary",
    "cut_off",
    "read_rounds",
    "summarise",
    "write_json",
    "write_nodes",
]

_BASELINES: Final = ("sgd", "dpsgd")
# What a float64 loss near one resolves: an excess loss below it is not known.
_MIN_EXCESS_LOSS: Final = float(np.finfo(np.float64).eps)


class RecordsError(FlowerCompressError, ValueError):
    """A rounds file that cannot be read."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a decentralized run after a round, each list in their order.

    Attributes
    ----------
    node : tuple[int, ...]
        Numbers of the nodes whose models were collected.
    accuracy : tuple[float, ...]
        Of each node's own model, in [0, 1].
    distance : tuple[float, ...]
        ||x_i - mean x||^2; their mean is the consensus distance.
    zeros : tuple[float, ...]
        Share of zeros in z_i, what the node posted last, in [0, 1]; empty if one is
        not known.
    sent_bytes, sent_bits : tuple[int, ...]
        Since the start, on all edges that leave the node: bytes of the letters, and
        the exact bits that they carry.
    edges : tuple[int, ...]
        Of the last round only: sender, receiver, bytes and bits of each edge, in a row.
    """

    node: tuple[int, ...]
    accuracy: tuple[float, ...]
    distance: tuple[float, ...]
    zeros: tuple[float, ...]
    sent_bytes: tuple[int, ...]
    sent_bits: tuple[int, ...]
    edges: tuple[int, ...] = ()

    def edge_rows(self) -> list[tuple[int, ...]]:
        """Return sender, receiver, bytes and bits of each edge."""
        return [self.edges[k : k + 4] for k in range(0, len(self.edges), 4)]


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One algorithm, with one seed, after one round.

    Attributes
    ----------
    algorithm : str
        Name of the run: its algorithm's, unless it has one of its own.
    seed : int
        Seed of the run.
    round : int
        Number of rounds done; 0 is the initial model.
    loss : float
        F(w).
    excess_loss : float or None
        F(w) - min F, None where the minimum is not known.
    accuracy : float
        In [0, 1].
    uplink_bytes, downlink_bytes : int
        Bytes sent since the start, over all clients: everything that travels. In a
        decentralized run the first is what nodes sent to neighbours, summed over the
        edges, the second is 0, and loss and accuracy are of the mean model.
    uplink_bits, downlink_bits : int
        Payload bits sent since the start, over all clients, without framing.
    nodes : Nodes, optional
        Of a decentralized run. Not in ``rounds.csv``, but in ``nodes.csv``.
    """

    algorithm: str
    seed: int
    round: int
    loss: float
    excess_loss: float | None
    accuracy: float
    uplink_bytes: int
    downlink_bytes: int
    uplink_bits: int
    downlink_bits: int
    nodes: Nodes | None = None


_HEADER: Final = tuple(f.name for f in fields(RoundRecord) if f.name != "nodes")
_NODES_HEADER: Final = (
    "algorithm",
    "seed",
    "round",
    "node",
    "accuracy",
    "distance",
    "zeros",
    "sent_bytes",
    "sent_bits",
)
_EDGES_HEADER: Final = (
    "algorithm",
    "seed",
    "sender",
    "receiver",
    "num_bytes",
    "payload_bits",
)
_FLOATS: Final = ("loss", "accuracy")
_INTEGERS: Final = (
    "seed",
    "round",
    "uplink_bytes",
    "downlink_bytes",
    "uplink_bits",
    "downlink_bits",
)


class RoundsCsv:
    """``rounds.csv``, written row by row. A context manager.

    The header is the names of :class:`RoundRecord`'s fields, in their order. Floats
    are written with the digits that give the same float back, an unknown excess loss
    is an empty field. Each row is on its way to the disk when :meth:`write` returns.

    Parameters
    ----------
    path : Path or str
        The file, replaced if it exists; missing folders are made.

    Examples
    --------
    >>> with RoundsCsv(out / "rounds.csv") as rounds:  # doctest: +SKIP
    ...     rounds.write(record)
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w", encoding="utf-8", newline="")
        self._write_row(_HEADER)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, record: RoundRecord) -> None:
        """Append one row.

        Raises
        ------
        ConfigurationError
            The file is not open.
        """
        self._write_row([_to_field(getattr(record, name)) for name in _HEADER])

    def _write_row(self, row: Sequence[str]) -> None:
        if self._file is None:
            raise ConfigurationError(
                f"{self._path} is not open: write inside `with RoundsCsv(path) as "
                f"rounds:`"
            )
        csv.writer(self._file, lineterminator="\n").writerow(row)
        self._file.flush()


def write_nodes(folder: Path, records: Iterable[RoundRecord]) -> None:
    """Write ``nodes.csv`` and ``edges.csv``, if a run was decentralized.

    One row for each node and logged round, and one for each edge; see :class:`Nodes`.
    """
    nodes: list[list[str]] = []
    edges: list[list[str]] = []
    for record in records:
        if record.nodes is None:
            continue
        key = [record.algorithm, str(record.seed)]
        columns = zip(
            record.nodes.node,
            record.nodes.accuracy,
            record.nodes.distance,
            record.nodes.zeros or (None,) * len(record.nodes.node),
            record.nodes.sent_bytes,
            record.nodes.sent_bits,
            strict=True,
        )
        nodes += [[*key, str(record.round), *map(_to_field, row)] for row in columns]
        edges += [[*key, *map(str, row)] for row in record.nodes.edge_rows()]
    for name, header, rows in (
        ("nodes.csv", _NODES_HEADER, nodes),
        ("edges.csv", _EDGES_HEADER, edges),
    ):
        if rows:
            with (folder / name).open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([header, *rows])


def read_rounds(path: Path | str) -> list[RoundRecord]:
    """Read the rows that :class:`RoundsCsv` wrote, in their order.

    A last row that an interrupted run left unfinished (no end of line) is dropped.

    Raises
    ------
    RecordsError
        The header or a row is not one of a rounds file.
    """
    text = Path(path).read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    if tuple(rows.fieldnames or ()) != _HEADER:
        raise RecordsError(
            f"{path}: expected the header {','.join(_HEADER)}, came "
            f"{','.join(rows.fieldnames or ())!r}: pass the rounds.csv of a run"
        )
    records = []
    for row in rows:
        try:
            records.append(_from_row(row))
        except (TypeError, ValueError) as error:
            raise RecordsError(
                f"{path}, line {rows.line_num}: expected numbers under "
                f"{','.join(_HEADER[1:])}, came {list(row.values())}: {error}"
            ) from error
    return records


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
    logged round. ``bits_fraction_of_sgd`` is the mean of the payload bits in both
    directions, over SGD's (DPSGD's); None without it. ``nodes`` is there for
    decentralized runs.
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


class CutOff(TypedDict):
    """What each run had sent when it first reached an accuracy.

    ``rounds`` and ``gigabits`` are means over the seeds that reached it, None if not
    all of them did; ``paper`` is the source's number for it, in the source's unit.
    """

    accuracy: float
    rows: dict[str, dict[str, float | None]]


class Summary(TypedDict):
    """A comparison of algorithms: what was run, and how each ended."""

    settings: dict[str, Any]
    algorithms: dict[str, AlgorithmSummary]
    cutoff: NotRequired[CutOff]


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
    baseline = next((s for a, s in algorithms.items() if a.lower() in _BASELINES), None)
    for entry in algorithms.values():
        entry["bits_fraction_of_sgd"] = _fraction(entry, baseline)
    return {"settings": _to_json(settings), "algorithms": algorithms}


def cut_off(
    records: Iterable[RoundRecord], accuracy: float, paper: Mapping[str, float]
) -> CutOff:
    """Return what was sent until the accuracy was first logged.

    Parameters
    ----------
    records : Iterable[RoundRecord]
        Of any number of algorithms and seeds.
    accuracy : float
        In [0, 1], of the mean model.
    paper : Mapping[str, float]
        A published number for some of the algorithms.
    """
    reached: dict[str, dict[int, RoundRecord | None]] = {}
    for record in sorted(records, key=attrgetter("round")):
        seeds = reached.setdefault(record.algorithm, {})
        if seeds.get(record.seed) is None:
            seeds[record.seed] = record if record.accuracy >= accuracy else None
    rows: dict[str, dict[str, float | None]] = {}
    for algorithm, seeds in reached.items():
        found = [record for record in seeds.values() if record is not None]
        every = len(found) == len(seeds)
        bits = [record.uplink_bits + record.downlink_bits for record in found]
        rows[algorithm] = {
            "rounds": float(np.mean([r.round for r in found])) if every else None,
            "gigabits": float(np.mean(bits)) / 1e9 if every else None,
            "paper": paper.get(algorithm),
        }
    return {"accuracy": accuracy, "rows": rows}


def write_json(path: Path | str, value: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all.

    The text goes to a temporary file beside `path`, which then takes its name. NaN
    and infinity, which JSON does not know, become null.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_to_json(value), indent=2, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _summarise_algorithm(
    runs: dict[int, list[RoundRecord]], digests: dict[int, str]
) -> AlgorithmSummary:
    last = [rows[-1] for rows in runs.values()]
    summary: AlgorithmSummary = {
        "seeds": list(runs),
        "rounds": max(record.round for record in last),
        "final_loss": _spread([record.loss for record in last]),
        "log10_excess_loss": _spread([_log10_excess(rows) for rows in runs.values()]),
        "accuracy": _spread([record.accuracy for record in last]),
        "uplink_bytes": _spread([record.uplink_bytes for record in last]),
        "downlink_bytes": _spread([record.downlink_bytes for record in last]),
        "uplink_bits": _spread([record.uplink_bits for record in last]),
        "downlink_bits": _spread([record.downlink_bits for record in last]),
        "bits_fraction_of_sgd": None,
        "model_sha256": {str(seed): digest for seed, digest in digests.items()},
    }
    nodes = [record.nodes for record in last if record.nodes is not None]
    if nodes:
        summary["nodes"] = _summarise_nodes(nodes)
    return summary


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


def _log10_excess(rows: list[RoundRecord]) -> float:
    """Return the mean log10 excess loss of the last tenth of a run, NaN if unknown."""
    last = rows[-1].round
    values = [
        math.nan if row.excess_loss is None else max(row.excess_loss, _MIN_EXCESS_LOSS)
        for row in rows
        if row is rows[-1] or 10 * (last - row.round) < last
    ]
    return float(np.mean(np.log10(values)))


def _spread(values: Sequence[float]) -> Spread:
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(np.mean(values))
        std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return {"mean": _finite(mean), "std": _finite(std)}


def _fraction(
    entry: AlgorithmSummary, baseline: AlgorithmSummary | None
) -> float | None:
    """Return the payload bits both ways over the baseline's."""
    bits, reference = (
        None
        if side is None
        or side["uplink_bits"]["mean"] is None
        or side["downlink_bits"]["mean"] is None
        else side["uplink_bits"]["mean"] + side["downlink_bits"]["mean"]
        for side in (entry, baseline)
    )
    return bits / reference if bits is not None and reference else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _to_json(value: Any) -> Any:
    """Return `value` in the types JSON knows; what it does not know, as text."""
    if isinstance(value, Mapping):
        return {str(key): _to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return _to_json(value.tolist())
    if isinstance(value, float):
        return _finite(value)
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _to_field(value: str | int | float | None) -> str:
    if value is None:
        return ""
    # float() first: the repr of a NumPy scalar names its type.
    return repr(float(value)) if isinstance(value, float) else str(value)


def _from_row(row: Mapping[str, str]) -> RoundRecord:
    values: dict[str, Any] = {name: int(row[name]) for name in _INTEGERS}
    values |= {name: float(row[name]) for name in _FLOATS}
    excess = row["excess_loss"]
    values["excess_loss"] = float(excess) if excess else None
    return RoundRecord(algorithm=row["algorithm"], **values)
