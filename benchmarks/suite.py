"""A suite of measurements: one file of results, and one table of the docs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .measure import Row
from .vectors import DIMS

Case = tuple[Any, ...]


@dataclass(frozen=True)
class Settings:
    """Lengths of the long vectors, and runs of which the median is taken."""

    dims: tuple[int, ...] = DIMS
    repeats: int = 7


@dataclass(frozen=True)
class Suite:
    """What is measured, and how its results are shown.

    `measure` is called with the settings and a case, and returns its rows. `lacks` says
    what a machine lacks that cannot run the suite. Timings are compared with the
    committed ones if they are `repeated`, or medians within one run (`is_median`).
    `cores` says how many are used; `figure` draws a PNG of the rows, for
    ``docs/figures/``.
    """

    name: str
    cases: Callable[[Settings], Iterable[Case]]
    measure: Callable[..., list[Row]]
    table: Callable[[list[Row]], str]
    lacks: Callable[[], str | None] = lambda: None
    repeated: bool = True
    is_median: bool = False
    cores: str = "one core"
    figure: Callable[[list[Row]], bytes] | None = None
