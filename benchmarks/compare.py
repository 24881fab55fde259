"""What takes longer than in the committed results, by more than the noise.

Timings are the fields of a row whose names have a unit of time (``encode_us``,
``us_a_client``) or of speed (``encode_mb_per_s``). What seems slower is measured twice
more: the noise is how far the three measurements are apart, and only what is slower in
the fastest of them is told. A machine that is slower as a whole, or busy, is no news
either: a suite's timings are compared after division by the median of their ratios.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .measure import Row

__all__ = ["Slower", "committed", "slower"]

LEAST = 0.05
"""What is slower by less is not looked at."""
_AGAIN = 2
_FEWEST = 8
_TIME = re.compile(r"(^|_)(ns|us|ms|seconds)(_|$)")
_SPEED = re.compile(r"_per_s$")
_SAME = ("processor", "python", "numpy")

Cases = list[list[Row]]
"""The rows of each case of a suite."""


@dataclass(frozen=True)
class Slower:
    """A timing that has grown.

    Attributes
    ----------
    what : str
        The row, and the field.
    before, now : float
        The committed value, and the best of those measured.
    factor : float
        How many times as long it takes, beyond what all of the suite do.
    noise : float
        How far the measurements are apart, relative to the least.
    """

    what: str
    before: float
    now: float
    factor: float
    noise: float

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.before:.4g} before, {self.now:.4g} now, "
            f"{self.factor:.2f} times as long (noise {self.noise:.0%})"
        )


def committed(path: Path, machine: Row) -> list[Row] | None:
    """Return the rows of a file of results as they are committed.

    As they are in the file where there is no git; None if there are none, or they were
    measured on another machine.
    """
    command = ["git", "show", f"HEAD:./{path.name}"]
    try:
        text = subprocess.run(
            command, cwd=path.parent, check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        if not path.exists():
            return None
        text = path.read_text()
    result = json.loads(text)
    then = result["machine"]
    if any(then.get(name) != machine.get(name) for name in _SAME):
        return None
    rows: list[Row] = result["rows"]
    return rows


def slower(
    before: list[Row], cases: Cases, again: Callable[[int], list[Row]]
) -> list[Slower]:
    """Return the timings that are slower.

    Parameters
    ----------
    before : list[Row]
        The committed rows; those that none of today's resembles are left out.
    cases : list[list[Row]]
        Today's.
    again : Callable[[int], list[Row]]
        Measures a case once more.
    """
    then = _costs([before])
    now = _costs(cases)
    ratios = {key: cost / then[key][0] for key, (cost, _) in now.items() if key in then}
    common = max(1.0, median(ratios.values())) if len(ratios) >= _FEWEST else 1.0
    suspected = [key for key, ratio in ratios.items() if ratio / common > 1.0 + LEAST]
    places = sorted({now[key][1] for key in suspected})
    further: dict[int, list[dict[_Key, float]]] = {
        place: [_of_case(again(place), cases, place) for _ in range(_AGAIN)]
        for place in places
    }
    found = []
    for key in suspected:
        cost, place = now[key]
        measured = [cost, *(each[key] for each in further[place] if key in each)]
        least, noise = min(measured), max(measured) / min(measured) - 1.0
        factor = least / then[key][0] / common
        if factor > 1.0 + max(LEAST, noise):
            is_speed = bool(_SPEED.search(key[1]))
            was = 1.0 / then[key][0] if is_speed else then[key][0]
            is_now = 1.0 / least if is_speed else least
            what = f"{_named(key[0])}, {key[1]}"
            found.append(Slower(what, was, is_now, factor, noise))
    return found


_Key = tuple[tuple[Any, ...], str]
"""What tells a row from others, and a field."""


def _costs(cases: Cases) -> dict[_Key, tuple[float, int]]:
    """Return each timing, more is worse, and its case."""
    seen: Counter[tuple[Any, ...]] = Counter()
    costs: dict[_Key, tuple[float, int]] = {}
    for place, rows in enumerate(cases):
        for row in rows:
            identity = _identity(row)
            seen[identity] += 1
            for field, cost in _timings(row).items():
                costs[(*identity, seen[identity]), field] = cost, place
    return costs


def _of_case(rows: list[Row], cases: Cases, place: int) -> dict[_Key, float]:
    """Return the timings of a case that was measured once more."""
    replaced = [*cases[:place], rows, *cases[place + 1 :]]
    return {k: cost for k, (cost, where) in _costs(replaced).items() if where == place}


def _timings(row: Row) -> dict[str, float]:
    timings = {}
    for field, value in row.items():
        if isinstance(value, float) and value > 0:
            if _SPEED.search(field):
                timings[field] = 1.0 / value
            elif _TIME.search(field):
                timings[field] = value
    return timings


def _identity(row: Row) -> tuple[Any, ...]:
    return tuple(
        (field, value) for field, value in row.items() if isinstance(value, str | int)
    )


def _named(identity: tuple[Any, ...]) -> str:
    return ", ".join(f"{field}={value}" for field, value in identity[:-1])
