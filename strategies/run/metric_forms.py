"""The form of a metric: whether it is a number or a list, and finite."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import TypeVar

__all__ = ["Form", "form_of", "is_finite", "most_common"]

_H = TypeVar("_H", bound=Hashable)
Form = tuple[int | None, bool]
"""The length of a list, None for a number; whether all of it is finite."""


def form_of(value: object) -> Form:
    """Return the form of a metric's value."""
    if isinstance(value, list):
        return len(value), all(map(is_finite, value))
    return None, is_finite(value)


def is_finite(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def most_common(items: Iterable[_H]) -> _H:
    """Return the item that is there most often; of several a finite form, the first."""
    counts = Counter(items)

    def rank(item: _H) -> tuple[int, bool]:
        return counts[item], isinstance(item, tuple) and bool(item[-1])

    return max(counts, key=rank)
