"""Checks of users' arguments that several parts share."""

from __future__ import annotations

import os
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from .errors import ConfigurationError, WrongTypeError, shown

__all__ = ["check_callable", "check_number", "folder_of"]


def check_number(
    name: str, value: object, expected: str, holds: Callable[[Any], bool]
) -> None:
    """Raise ConfigurationError unless `value` is a number for which `holds`.

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
    if not isinstance(value, Real) or not holds(value):
        raise ConfigurationError(f"{name} must {expected}, got {shown(value)}")


def check_callable(name: str, value: object, expected: str) -> None:
    """Raise WrongTypeError unless `value` can be called; `expected` says what it is."""
    if not callable(value):
        raise WrongTypeError(name, expected, value)


def folder_of(name: str, value: str | os.PathLike[str] | None) -> Path | None:
    """Return a path argument as a Path, or None; raise WrongTypeError if neither."""
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise WrongTypeError(name, "the path of a folder", value)
    return Path(value)
