"""What runs had sent when they first reached an accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import TypedDict

import numpy as np

from .record import RoundRecord

__all__ = ["CutOff", "cut_off"]


class CutOff(TypedDict):
    """What each run had sent when it first reached an accuracy.

    ``rounds`` and ``gigabits`` are means over the seeds that reached it, None if not
    all of them did; ``paper`` is the source's number for it, in the source's unit.
    """

    accuracy: float
    rows: dict[str, dict[str, float | None]]


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
