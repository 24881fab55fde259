"""How the names of two sets of arrays differ, in one line whatever their number."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["name_difference"]


def name_difference(expected: Iterable[str], got: Iterable[str]) -> str:
    """Return what distinguishes the names that came from those that were expected.

    A prefix that every name has too much or lacks (as ``"module."`` of torch's
    wrappers); numbers in the place of names, which an ArrayRecord gives to a list; or
    the first name that is missing or unknown, and how many there are.
    """
    expected, got = list(expected), list(got)
    prefix = _common_prefix(expected, got)
    if prefix:
        return f"each of the {len(got)} names has the prefix {prefix!r} too much"
    prefix = _common_prefix(got, expected)
    if prefix:
        return f"each of the {len(got)} names lacks the prefix {prefix!r}"
    if _are_numbers(got) and len(got) == len(expected):
        return (
            f"expected the names {_some(expected)}, got {_some(got)}, as of a list of "
            "arrays: give them with their names, ArrayRecord(dict(zip(names, arrays)))"
        )
    known, there = set(expected), set(got)
    missing = [name for name in expected if name not in there]
    unknown = [name for name in got if name not in known]
    parts = [f"expected {len(expected)} arrays, got {len(got)}"]
    if missing:
        parts.append(_first("missing", missing))
    if unknown:
        parts.append(_first("unknown", unknown))
    return ": ".join((parts[0], "; ".join(parts[1:])))


def _common_prefix(short: list[str], long: list[str]) -> str:
    """Return p if the names in `long` are p and those in `short`, else nothing."""
    if not short or len(short) != len(long):
        return ""
    first, longer = min(short), min(long)  # A prefix for all leaves their order.
    prefix = longer.removesuffix(first) if longer.endswith(first) else ""
    return prefix if {prefix + name for name in short} == set(long) else ""


def _are_numbers(names: list[str]) -> bool:
    return bool(names) and names == [str(number) for number in range(len(names))]


def _some(names: list[str]) -> str:
    return f"{names[0]!r}, ..." if len(names) > 1 else repr(names[0])


def _first(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{what} {names[0]!r}{more}"
