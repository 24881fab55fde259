"""A suite of measurements: one file of results, and one table of the docs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .measure import Row, machine
from .vectors import DIMS

Case = tuple[Any, ...]


@dataclass(frozen=True)
class Settings:
    """Lengths of the long vectors, runs of which the median is taken, and a device.

    The device, as torch names it, is for the suite that computes on one; without a name
    it is CUDA's.
    """

    dims: tuple[int, ...] = DIMS
    repeats: int = 7
    device: str = ""


def _this_machine(_: Settings) -> Row:
    return machine()


@dataclass(frozen=True)
class Suite:
    """What is measured, and how its results are shown.

    `measure` is called with the settings and a case, and returns its rows. `lacks` says
    what a machine lacks that cannot run the suite. Timings are compared with the
    committed ones if they are `repeated`, or medians within one run (`is_median`).
    `cores` says how many are used; `figure` draws a PNG of the rows, for
    ``docs/figures/``.
    `machine` is what the figures were measured on; with a `device` among it, there is a
    file for each device (``device-nvidia-h200.json``), and the table is printed.
    """

    name: str
    cases: Callable[[Settings], Iterable[Case]]
    measure: Callable[..., list[Row]]
    table: Callable[[list[Row]], str]
    lacks: Callable[[Settings], str | None] = lambda _: None
    repeated: bool = True
    is_median: bool = False
    cores: str = "one core"
    figure: Callable[[list[Row]], bytes] | None = None
    machine: Callable[[Settings], Row] = _this_machine

    def file(self, machine: Row) -> str:
        """Return the name of the file of what was measured on such a machine."""
        if "device" not in machine:
            return f"{self.name}.json"
        words = "".join(c if c.isalnum() else " " for c in machine["device"].lower())
        return f"{self.name}-{'-'.join(words.split())}.json"

    def files(self, results: Path) -> list[Path]:
        """Return the files of results that there are."""
        return sorted((*results.glob(f"{self.name}.json"), *self._of_devices(results)))

    def _of_devices(self, results: Path) -> Iterable[Path]:
        if self.machine is _this_machine:
            return ()
        return results.glob(f"{self.name}-*.json")
