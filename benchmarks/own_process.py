"""Rows measured in a process of their own: its memory is what they show."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .measure import STATUS, Row
from .suite import Settings

__all__ = ["lacks", "measure_alone", "print_row", "strategy_of"]


def measure_alone(module: str, row: dict[str, Any]) -> Row:
    """Return what ``python -m module`` prints for the row; see :func:`print_row`."""
    command = [sys.executable, "-m", module, json.dumps(row)]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: Row = json.loads(output.stdout.splitlines()[-1])
    return measured


def print_row(measure: Callable[..., Row], arguments: Sequence[str]) -> None:
    """Measure the one row that the arguments hold, and print it."""
    (row,) = arguments
    print(json.dumps(measure(**json.loads(row))))


def lacks(_: Settings) -> str | None:
    """Return where a process's memory would be, if it is not there."""
    return None if STATUS.exists() else str(STATUS)


def strategy_of(row: Row) -> str:
    """Name a row's algorithm and its options."""
    options = [f"{key}={value}" for key, value in row["options"].items()]
    return " ".join([row["algorithm"], *options])
