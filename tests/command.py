"""The command line, called in this process: one of its own imports for seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def simulate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return what ends and prints as ``python -m simulations``, called with words."""

    def call(*words: str, **environment: str) -> CompletedProcess[str]:
        from simulations.cli import main

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
