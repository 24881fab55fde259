"""A run that is begun by another loop than ours says that it saves nothing."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)

from flower_compress.strategies import MCM
from flower_compress.testing import InProcessGrid
from tests.strategies.problem import INITIAL, NUM_CLIENTS, make_app, to_record

TOLD = "saves no checkpoints, and resumes from none"
GOES_INSIDE = "they go inside, as compress(Wrapper(FedAvg(), ...))"


class OwnLoop(MCM):
    """Flower's loop in place of ours."""

    def start(self, grid: Grid, initial_arrays: ArrayRecord, *args: Any) -> Any:
        return Strategy.start(self, grid, initial_arrays, *args)


class CallsOurs(MCM):
    """What to do instead."""

    def start(self, *args: Any, **keywords: Any) -> Any:
        return super().start(*args, **keywords)


def run(strategy: Strategy) -> None:
    grid = InProcessGrid(make_app("weights"), NUM_CLIENTS)
    strategy.start(grid, to_record(INITIAL), 2)


def test_a_subclass_with_its_own_loop_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(OwnLoop(checkpoint_dir=tmp_path))
    assert caplog.text.count(TOLD) == 1
    assert "Let it call super().start()" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_wrapper_with_its_own_loop_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inner = MCM(checkpoint_dir=tmp_path)
    wrapped = DifferentialPrivacyServerSideFixedClipping(inner, 0.0, 1.0, NUM_CLIENTS)
    with suppress(Exception):  # Whether the two go together is not the question.
        run(wrapped)
    assert caplog.text.count(TOLD) == 1
    assert caplog.text.count(GOES_INSIDE) == 1


@pytest.mark.parametrize("strategy", [OwnLoop, CallsOurs])
def test_nothing_is_said_where_nothing_is_amiss(
    strategy: type[MCM], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path if strategy is CallsOurs else None
    run(strategy(checkpoint_dir=folder))
    assert TOLD not in caplog.text
    assert GOES_INSIDE not in caplog.text
    assert len(list(tmp_path.glob("*.ckpt"))) == (strategy is CallsOurs)
