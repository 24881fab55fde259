"""The file of the clients' memories fails: both ends stay where they were, in step."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from flower_compress.strategies import Artemis, RandMCM
from flower_compress.strategies.server import vector_store
from tests.protocol.lockstep import EVERYONE, Case, LockStep, TinyApp, run

CASES = [
    Case(partial(RandMCM, memory_budget=0)),
    Case(partial(RandMCM, memory_budget=0), "weights"),
    Case(partial(Artemis, memory_budget=0, uplink_memory="sampled")),
]
ROUNDS = 3
_repeat = vector_store._repeat


class FailingDisk:
    """Writes part of a vector and then fails, the writes that `fails` tells."""

    def __init__(self, fails: Callable[[int], bool]) -> None:
        self.fails, self.num_writes, self.num_failed = fails, 0, 0

    def __call__(self, transfer: Callable[..., Any], vector: Any) -> None:
        if transfer.__name__ == "write":
            self.num_writes += 1
            if self.fails(self.num_writes):
                self.num_failed += 1
                transfer(vector.view("u1").data[:9])
                raise OSError(errno.ENOSPC, "No space left on device")
        _repeat(transfer, vector)


def run_on(
    monkeypatch: pytest.MonkeyPatch, case: Case, fails: Callable[[int], bool]
) -> FailingDisk:
    """Run; whatever happens, the two ends are compared after each round."""
    disk = FailingDisk(fails)
    monkeypatch.setattr(vector_store, "_repeat", disk)
    grid = TinyApp(case.returns).grid(2)
    strategy = case.strategy(**EVERYONE)
    with monkeypatch.context() as patch:
        patch.setattr(LockStep, "memories_may_fail", True)
        _, lock_step = run(strategy, grid, ROUNDS + 2, ROUNDS)
    assert lock_step.in_step() == {0, 1} or disk.num_failed > 1
    assert strategy.refused.total() == 0
    return disk


@pytest.mark.parametrize("case", CASES, ids=["rand-mcm", "weights", "artemis"])
def test_each_write_may_fail(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    num_writes = run_on(monkeypatch, case, lambda _: False).num_writes
    assert num_writes >= 2 * (ROUNDS + 2)
    for failing in range(1, num_writes - 4 + 1):  # not in the last round
        assert run_on(monkeypatch, case, failing.__eq__).num_failed == 1
    assert run_on(monkeypatch, case, lambda n: n % 3 > 0).num_failed > 2


def test_a_full_disk_is_said_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("flwr").setLevel(logging.WARNING)
    disk = run_on(monkeypatch, CASES[0], lambda _: True)
    said = [r.getMessage() for r in caplog.records if "stays as it was" in r.message]
    assert len(said) == disk.num_failed.bit_length() > 2
    assert "No space left" in said[0] and "give another folder" in said[0]
