"""Bars in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from simulations import progress
from simulations.progress import Bars, Lines, duration, make_console, make_display

TOTALS = {"sgd": 100, "mcm": 200}


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def lines_after(clock: Clock, seconds: int) -> list[str]:
    """Return the lines of a run that reports once a second."""
    out = io.StringIO()
    display = make_display(Console(file=out, width=40), TOTALS)
    assert isinstance(display, Lines)
    for second in range(1, seconds + 1):
        clock.now = float(second)
        display.update("mcm", second, f"loss {second}, and what else is of interest")
    display.stop()
    return out.getvalue().splitlines()


def test_a_line_every_ten_seconds_and_one_at_the_end(clock: Clock) -> None:
    assert lines_after(clock, 25) == [
        "0:00:10  10 of 300 rounds; mcm: loss 10, and what else is of interest",
        "0:00:20  20 of 300 rounds; mcm: loss 20, and what else is of interest",
        "0:00:25  25 of 300 rounds; mcm: loss 25, and what else is of interest",
    ]


def test_the_end_is_said_once(clock: Clock) -> None:
    assert len(lines_after(clock, 20)) == 2


def test_a_long_run_does_not_fill_the_screen(clock: Clock) -> None:
    assert len(lines_after(clock, 600)) < 40
    clock.now = 0.0
    assert len(lines_after(clock, 24 * 3600)) < 100


def test_rounds_without_a_record_leave_what_is_said(clock: Clock) -> None:
    out = io.StringIO()
    display = make_display(Console(file=out), TOTALS)
    display.update("sgd", 1, "loss 1")
    display.update("mcm", 2, None)
    display.stop()
    assert out.getvalue() == "0:00:00  3 of 300 rounds; sgd: loss 1\n"


def test_a_terminal_has_a_bar_for_each_run() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    display = make_display(console, TOTALS)
    assert isinstance(display, Bars)
    display.update("sgd", 100, "loss 0.5")
    display.update("mcm", 50, "loss 0.7")
    display.stop()
    last = out.getvalue().splitlines()[-3:]
    assert any("sgd" in row and "100/100 loss 0.5" in row for row in last)
    assert any("mcm" in row and " 50/200 loss 0.7" in row for row in last)


def test_a_pipe_is_as_wide_as_the_tables() -> None:
    assert make_console(terminal=False).width == 120
    assert not make_console().is_terminal
    assert make_console(terminal=True).is_terminal


def test_a_time_is_hours_minutes_and_seconds() -> None:
    assert [duration(s) for s in (0.4, 59.6, 3725)] == ["0:00:00", "0:01:00", "1:02:05"]
