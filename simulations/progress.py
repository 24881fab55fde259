"""How far an experiment is: bars in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

__all__ = ["Bars", "Display", "Lines", "duration", "make_console", "make_display"]

_WIDTH: Final = 120
_BARS_SECONDS: Final = 0.2
_LINES_SECONDS: Final = 10.0
# Later lines are further apart, so that a run of a day leaves a hundred.
_LINES_SHARE: Final = 0.1


def make_console(*, terminal: bool | None = None) -> Console:
    """Return the console of the standard output.

    Parameters
    ----------
    terminal : bool, optional
        Whether that is a terminal, if it is known better. Elsewhere lines are as wide
        as the tables.
    """
    console = Console(force_terminal=terminal)
    if console.is_terminal:
        return console
    return Console(force_terminal=False, width=_WIDTH)


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


class Display(ABC):
    """Shows how many rounds of each run are done.

    Parameters
    ----------
    console : Console
        Where.
    totals : Mapping[str, int]
        Number of rounds of each run, over all seeds.
    """

    def __init__(self, console: Console, totals: Mapping[str, int]) -> None:
        self.console, self.totals = console, totals
        self.done = dict.fromkeys(totals, 0)
        self._shown_at = self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the display was made."""
        return time.monotonic() - self._started

    def update(self, run: str, done: int, status: str | None) -> None:
        """Take in how far a run is, and show it if it is time."""
        self.done[run] = done
        if status is not None:
            self._say(run, status)
        now = time.monotonic()
        if now - self._shown_at >= self._interval():
            self._shown_at = now
            self._show()

    @abstractmethod
    def stop(self) -> None:
        """Show the last state."""

    @abstractmethod
    def _interval(self) -> float:
        """Return the seconds between two looks."""

    @abstractmethod
    def _say(self, run: str, status: str) -> None: ...

    @abstractmethod
    def _show(self) -> None: ...


class Bars(Display):
    """A bar for each run."""

    def __init__(self, console: Console, totals: Mapping[str, int]) -> None:
        super().__init__(console, totals)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._bars: dict[str, TaskID] = {
            run: self._progress.add_task(run, total=total, status="")
            for run, total in totals.items()
        }
        self._progress.start()

    def stop(self) -> None:
        self._show()
        self._progress.stop()

    def _interval(self) -> float:
        return _BARS_SECONDS

    def _say(self, run: str, status: str) -> None:
        self._progress.update(self._bars[run], status=status)

    def _show(self) -> None:
        for run, bar in self._bars.items():
            self._progress.update(bar, completed=self.done[run])


class Lines(Display):
    """A line for all runs, for files and pipes."""

    _latest = ""
    _shown = -1

    def stop(self) -> None:
        if self._shown != sum(self.done.values()):
            self._show()

    def _interval(self) -> float:
        return max(_LINES_SECONDS, _LINES_SHARE * self.seconds)

    def _say(self, run: str, status: str) -> None:
        self._latest = f"; {run}: {status}"

    def _show(self) -> None:
        self._shown, total = sum(self.done.values()), sum(self.totals.values())
        progress = f"{self._shown} of {total} rounds{self._latest}"
        text = f"{duration(self.seconds)}  {progress}"
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def make_display(console: Console, totals: Mapping[str, int]) -> Display:
    """Return what suits the console."""
    return (Bars if console.is_terminal else Lines)(console, totals)
