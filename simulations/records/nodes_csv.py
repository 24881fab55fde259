"""``nodes.csv`` and ``edges.csv`` of decentralized runs."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .csv_field import to_field
from .record import RoundRecord

__all__ = ["write_nodes"]

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
        nodes += [[*key, str(record.round), *map(to_field, row)] for row in columns]
        edges += [[*key, *map(str, row)] for row in record.nodes.edge_rows()]
    for name, header, rows in (
        ("nodes.csv", _NODES_HEADER, nodes),
        ("edges.csv", _EDGES_HEADER, edges),
    ):
        if rows:
            with (folder / name).open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([header, *rows])
