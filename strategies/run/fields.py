"""What a checkpoint must hold beside its arrays: fields, each of a kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "COUNT",
    "COUNTS",
    "FLAG",
    "INTEGER",
    "NUMBER",
    "OPTIONAL_COUNT",
    "OPTIONAL_INTEGER",
    "OPTIONAL_NUMBER",
    "ROWS",
    "TABLE",
    "Kind",
    "fields",
]

_LARGEST = 1 << 32


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value, and what errors call it."""

    name: str
    fits: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


COUNT = Kind("a number from 0 below 2^32", _is_count)
OPTIONAL_COUNT = Kind("such a number, or null", lambda v: v is None or _is_count(v))
INTEGER = Kind("a whole number", _is_integer)
OPTIONAL_INTEGER = Kind(
    "a whole number, or null", lambda v: v is None or _is_integer(v)
)
NUMBER = Kind("a finite number", lambda v: type(v) in (int, float) and math.isfinite(v))
OPTIONAL_NUMBER = Kind("such a number, or null", lambda v: v is None or NUMBER.fits(v))
FLAG = Kind("true or false", lambda v: type(v) is bool)
TABLE = Kind("an object", lambda v: type(v) is dict)
ROWS = Kind("a list", lambda v: type(v) is list)
COUNTS = Kind(
    "a list of such numbers",
    lambda v: type(v) is list and all(map(_is_count, v)),
)


def fields(saved: object, **kinds: Kind) -> dict[str, Any]:
    """Return the fields of a JSON object by name; others are left out.

    Parameters
    ----------
    saved : object
        What should be an object that has them.
    **kinds : Kind
        The kind of each.

    Raises
    ------
    ValueError
        If one is missing, or of another kind.
    """
    if not isinstance(saved, dict):
        raise ValueError(
            f"expected an object with {', '.join(kinds)}, got {saved!r:.60}"
        )
    for name, kind in kinds.items():
        if name not in saved:
            raise ValueError(f"expected a field {name!r}, {kind.name}; there is none")
        if not kind.fits(saved[name]):
            raise ValueError(
                f"expected {name!r} to be {kind.name}, got {saved[name]!r:.60}"
            )
    return {name: saved[name] for name in kinds}
