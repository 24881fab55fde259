"""The server dies too: another one goes on from its checkpoint, over the same clients.

They are further on than the checkpoint, and what the dead server has sent, and the
answers to it, still arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flower_compress.links import ReceiverState, base, commit
from flower_compress.strategies.server import sync_budget
from flower_compress.strategies.server.downlink import Downlinks
from flower_compress.strategies.server.uplink import Uplinks
from flower_compress.strategies.server.uplink_end import UPLINK_COLUMNS, UplinkEnd
from flower_compress.strategies.server.uplink_memories import UplinkMemories
from flower_compress.testing import Fault
from tests.protocol.faulty import DELAYS, DUPLICATES, RESTARTS, random_faults
from tests.protocol.lockstep import (
    CASES,
    EVERYONE,
    Case,
    TinyApp,
    of_each_kind,
    run_with_deaths,
)

EVERYBODY = {0, 1, 2}


@of_each_kind
def test_servers_that_die_stay_in_step(case: Case, tmp_path: Path) -> None:
    """The first before its first checkpoint, which makes the next one begin anew."""
    grid = TinyApp(case.returns).grid(3, random_faults(3, 0.08))
    lock_step = run_with_deaths(
        case, grid, 14, [1, 4, 6, 2], tmp_path, 3, fraction_evaluate=0.6
    )
    assert lock_step.num_sessions == 2
    assert lock_step.strategy.resumed_from > 0
    assert lock_step.in_step() == EVERYBODY
    assert lock_step.strategy.refused.total() == 0


@of_each_kind
def test_what_the_dead_server_has_sent_does_no_harm(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With so many restarts a client may ask more often than it may.
    monkeypatch.setattr(sync_budget, "_FREE", 100.0)
    faults = random_faults(5, 0.3, [*DELAYS, *DUPLICATES, *RESTARTS])
    grid = TinyApp(case.returns).grid(3, faults)
    lock_step = run_with_deaths(
        case, grid, 12, [2, 2, 3, 3], tmp_path, fraction_evaluate=1.0
    )
    assert lock_step.num_sessions == 1
    assert lock_step.in_step() == EVERYBODY


@pytest.mark.parametrize("name", ["diana-mean", "artemis", "rand-mcm", "mcm-topk"])
def test_clients_with_a_file_stay_in_step(name: str, tmp_path: Path) -> None:
    case, clients = CASES[name], tmp_path / "clients"
    for seed in range(3):
        app = TinyApp(case.returns, state_dir=clients / str(seed))
        grid = app.grid(3, random_faults(seed, 0.1))
        folder = tmp_path / f"server-{seed}"
        lock_step = run_with_deaths(case, grid, 12, [3, 5], folder, 2)
        assert lock_step.in_step() == EVERYBODY
        assert grid.happened[Fault.RESTART_BEFORE] > 0
        assert all(not context.state for context in grid.contexts.values())
        assert name == "diana-mean" or not lock_step.num_compared["anew"]


# -- the rules matter ------------------------------------------------------------------


def reuse_versions(self: Downlinks, version: int) -> None:
    """The resumed server counts on from its checkpoint."""


def believe_the_checkpoint(*args: Any) -> bool:
    """The greeting's answer goes unheard."""
    return True


def fold_whatever(state: ReceiverState, _: int, __: Any, rate: float) -> ReceiverState:
    """The client does not look for another payload in its last one's place."""
    return commit(state, rate)


def lose_the_crc(self: UplinkEnd, meta: Any, checkpoint: Any, name: str) -> None:
    """The checkpoint does not say which payload counted."""
    columns = dict(zip(UPLINK_COLUMNS, meta, strict=True))
    _restore_end(self, tuple({**columns, "crc": 0}.values()), checkpoint, name)


def lose_the_memories(self: UplinkEnd, meta: Any, checkpoint: Any, name: str) -> None:
    """The checkpoint does not hold the clients' memories."""
    _restore_end(self, meta, checkpoint, "nowhere")


def lose_the_sum(self: UplinkMemories, meta: Any, checkpoint: Any) -> None:
    """The checkpoint does not hold the sum of the memories."""
    _restore(self, meta, checkpoint)
    self._sum.clear()


_restore_end, _restore = UplinkEnd.restore, UplinkMemories.restore


@pytest.mark.parametrize(
    ("target", "name", "broken", "algorithm"),
    [
        (Downlinks, "skip_to", reuse_versions, "mcm"),
        (Downlinks, "skip_to", reuse_versions, "rand-mcm"),
        (Downlinks, "skip_to", reuse_versions, "double-squeeze"),
        (base, "_in_line", fold_whatever, "artemis"),
        (Uplinks, "confirm", believe_the_checkpoint, "diana"),
        (UplinkEnd, "restore", lose_the_crc, "diana"),
        (UplinkEnd, "restore", lose_the_memories, "artemis"),
        (UplinkMemories, "restore", lose_the_sum, "artemis"),
    ],
)
def test_a_broken_rule_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    target: Any,
    name: str,
    broken: Callable[..., Any],
    algorithm: str,
) -> None:
    def attempt(folder: str) -> None:
        grid = TinyApp().grid(3, random_faults(2, 0.1, [Fault.LOSE_REPLY]))
        lock_step = run_with_deaths(
            CASES[algorithm], grid, 10, [5, 5], tmp_path / folder, 3
        )
        is_mean = lock_step.strategy.uplink_memory == "mean"
        assert is_mean or not lock_step.num_compared["anew"], "nobody has restarted"

    attempt("right")
    monkeypatch.setattr(target, name, broken)
    with pytest.raises(AssertionError):
        attempt("wrong")


def test_training_goes_on(tmp_path: Path) -> None:
    """With a server that dies every third round the model gets where it should."""
    case = CASES["mcm"]
    grid = TinyApp().grid(3)
    lock_step = run_with_deaths(case, grid, 30, [3] * 12, tmp_path, **EVERYONE)
    # The mean of the clients' numbers, plus 2 or 0, as TinyApp has it.
    expected = np.repeat(np.float32([3, 1, 3]), [8, 3, 1])
    np.testing.assert_allclose(lock_step.strategy._running.model, expected, atol=0.1)


@pytest.mark.parametrize("name", ["topk", "artemis-weights", "mcm", "diana"])
def test_a_dead_servers_late_message_undoes_no_answer(
    name: str, tmp_path: Path
) -> None:
    """It replaces the client's state between two copies of one message.

    The answer to the one counts, the other one's request to be synchronised does not.
    """
    late = {Fault.DELAY_MESSAGE, Fault.DELAY_REPLY}
    twice = {Fault.DUPLICATE_MESSAGE, Fault.DUPLICATE_REPLY}
    faults = random_faults(seed=0, probability=0.08, faults=frozenset(late | twice))
    grid = TinyApp(CASES[name].returns).grid(2, faults)
    lock_step = run_with_deaths(CASES[name], grid, 4, [1], tmp_path, 1)
    assert lock_step.in_step() == {0, 1}
