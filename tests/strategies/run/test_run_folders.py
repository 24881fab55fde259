"""A command that is given again finds the run to go on with, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from flower_compress.errors import CheckpointError
from flower_compress.strategies.run import run_folders
from flower_compress.strategies.run.folder_lock import FolderLock
from flower_compress.strategies.run.run_folders import folder_to_use


@pytest.fixture
def running(tmp_path: Path) -> FolderLock:
    """Return the lock of a run in ``run-0001``."""
    lock, folder = folder_to_use(tmp_path)
    assert folder.name == "run-0001"
    return lock


def test_a_run_that_is_being_stopped_is_waited_for(
    running: FolderLock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else its rounds would be lost to the one that is to go on with it."""
    monkeypatch.setattr(run_folders, "sleep", lambda _: running.release())
    with caplog.at_level("INFO", "flwr"):
        lock, folder = folder_to_use(tmp_path)
    assert folder.name == "run-0001"
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "in use by process" in caplog.text and "up to 45 s" in caplog.text
    lock.release()


def test_a_run_that_goes_on_gets_another_beside_it(
    running: FolderLock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(run_folders, "_PATIENCE", 0.0)
    lock, folder = folder_to_use(tmp_path)
    assert folder.name == "run-0002"
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "from its first round" in caplog.text
    running.release()
    lock.release()


def test_a_lock_that_cannot_be_opened_begins_no_new_run(tmp_path: Path) -> None:
    # Simulated: permissions do not stop the superuser.
    (tmp_path / "run-0001" / "run.lock").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="cannot open"):
        folder_to_use(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run-0001"]
