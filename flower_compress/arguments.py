"""Checks of users' arguments that several parts share."""

from __future__ import annotations

import os
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from .errors import ConfigurationError, WrongTypeError, shown

__all__ = [
    "check_callable",
    "check_count",
    "check_number",
    "folder_of",
]


def check_number(
    name: str, value: object, expected: str, holds: Callable[[Any], bool]
) -> None:
    """Raise ConfigurationError unless `value` is a number for which `holds`.

    True and False are none: they would count as 1 and 0.

    Parameters
    ----------
    name : str
        The argument.
    value : object
        What came.
    expected : str
        What the error says of it after "must", as ``"be positive"``.
    holds : Callable[[float], bool]
        Whether a number will do; False for NaN.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not holds(value):
        raise ConfigurationError(f"{name} must {expected}, got {shown(value)}")


def check_count(name: str, value: object, least: int, or_none: bool = False) -> None:
    """Raise ConfigurationError unless `value` is a whole number from `least` on.

    Or None, where that is allowed.
    """
    if value is None and or_none:
        return
    expected = f"be a whole number >= {least}" + (" or None" if or_none else "")
    check_number(name, value, expected, lambda n: n >= least and n % 1 == 0)


def check_callable(name: str, value: object, expected: str) -> None:
    """Raise WrongTypeError unless `value` can be called; `expected` says what it is."""
    if not callable(value):
        raise WrongTypeError(name, expected, value)


def folder_of(name: str, value: str | os.PathLike[str] | None) -> Path | None:
    """Return a path argument as a Path, or None; raise WrongTypeError if neither.

    A ``~`` at its beginning is somebody's home: no shell looks into a node's
    configuration.
    """
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise WrongTypeError(name, "the path of a folder", value)
    return Path(os.path.expanduser(value))
