"""What takes seconds and is not what a test is about: imports, and a report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from simulations import experiment
from simulations.cli import main

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def with_report() -> None:
    """Let an experiment draw its report."""


@pytest.fixture(autouse=True)
def _without_report(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leave the report out: it takes longer than the runs."""
    if "with_report" not in request.fixturenames:
        monkeypatch.setattr(
            experiment, "write_report", lambda out, *_, **__: Path(out, "report.html")
        )


@pytest.fixture
def simulate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return what ends and prints as ``python -m simulations``, called with words."""

    def call(*words: str, **environment: str) -> CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["simulations", *words])
            for name, value in environment.items():
                patch.setenv(name, value)
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return CompletedProcess(words, code or 0, *capsys.readouterr())

    return call
