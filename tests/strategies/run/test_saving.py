"""When a run ends itself, and which one it does not take for a new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from flower_compress.errors import CheckpointError, RoundFailedError
from flower_compress.strategies.run.saving import Failures, Saving


@pytest.mark.parametrize("between", [(1, []), (2, ["one of three"]), (0, [])])
def test_only_failures_in_a_row_end_a_run(between: tuple[int, list[str]]) -> None:
    """An answer that is taken in, or none at all, lets the counting begin anew."""
    failures = Failures(2)
    failures.count(0, ["a", "a"])
    failures.count(*between)
    failures.count(0, ["b"])
    with pytest.raises(
        RoundFailedError, match=r"^all 3 clients .* 2 rounds in a row: a \| b$"
    ):
        failures.count(0, ["a", "b", "a"])


def test_an_app_that_cannot_work_ends_the_run_at_once() -> None:
    reason = "ConfigurationError: no such thing"
    with pytest.raises(RoundFailedError, match=f"reported an error: {reason}$"):
        Failures(3).count(0, [reason, reason])
    mixed, begun = Failures(3), Failures(3)
    mixed.count(0, [reason, "it was tired"])
    begun.count(1, [reason])
    begun.count(0, [reason])
    assert mixed.in_a_row == begun.in_a_row == 1, "these may still mend themselves"


def test_a_folder_of_the_other_kind_is_no_new_run(tmp_path: Path) -> None:
    """Between resume=True and "auto" a run of weeks must not begin from round 0."""
    for name, resume in (("one", True), ("many", "auto")):
        saving = Saving(tmp_path / name, 1, resume)  # type: ignore[arg-type]
        assert saving.begin() is None
        assert saving._checkpoints is not None
        saving._checkpoints.save(7, {"finished": False}, {})
        saving.end()
    with pytest.raises(CheckpointError, match=r"one holds checkpoints itself.*=True"):
        Saving(tmp_path / "one", 1, "auto").begin()
    with pytest.raises(CheckpointError, match=r'resume="auto", or .*many/run-0001"$'):
        Saving(tmp_path / "many", 1, True).begin()
    for name, resume in (("one", True), ("many", "auto")):
        again = Saving(tmp_path / name, 1, resume)  # type: ignore[arg-type]
        saved = again.begin()
        assert saved is not None and saved.server_round == 7
        again.end()
