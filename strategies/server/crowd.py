"""What is ordinary among clients: the median of a number that each of them gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median_low
from typing import Any

__all__ = ["Crowd", "median_of_some"]

_FEWEST = 3
_MOST = 1024


def median_of_some(numbers: Iterable[float]) -> float | None:
    """Return the lower median of the positive ones, None if they are fewer than three.

    Zeros say nothing (a client without data), and of two numbers neither is ordinary.
    """
    positive = [number for number in numbers if number > 0]
    return median_low(positive) if len(positive) >= _FEWEST else None


class Crowd:
    """The latest number of each of the 1024 clients that were heard of last.

    What a client gives is noted whether or not it is believed: each counts once, so a
    minority moves no median, and what most clients do is ordinary the round after.
    """

    def __init__(self) -> None:
        self._latest: dict[int, float] = {}

    def note(self, numbers: Mapping[int, float]) -> None:
        """Note numbers by the clients' identities."""
        for identity, number in numbers.items():
            self._latest.pop(identity, None)
            self._latest[identity] = number
        for identity in list(self._latest)[: -_MOST or None]:
            del self._latest[identity]

    def median(self) -> float | None:
        """Return the median of the positive ones, None if they are too few."""
        return median_of_some(self._latest.values())

    def save(self) -> list[Any]:
        """Return everything, for JSON."""
        return [list(pair) for pair in self._latest.items()]

    def restore(self, meta: list[Any]) -> None:
        """Take over what :meth:`save` gave."""
        self._latest = {int(identity): float(number) for identity, number in meta}
