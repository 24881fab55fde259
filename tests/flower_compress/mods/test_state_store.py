"""Where a client keeps its bytes: in its context, or in a file, whichever is newer."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from flower_compress.errors import WrongTypeError
from flower_compress.mods import state_store
from flower_compress.mods.state_file import StateFile, tidy
from flower_compress.mods.state_store import ENVIRONMENT_VARIABLE, StateStore

RUN, OTHER = 0xABC, 0xDEF
DAY = 86400.0


def make_context(**node_config: Any) -> Context:
    return Context(
        run_id=1, node_id=7, node_config=node_config, state=RecordDict(), run_config={}
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def aged(path: Path, seconds: float, content: bytes = b"x") -> Path:
    """Return a file that was written so long ago."""
    path.write_bytes(content)
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))
    return path


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Take this for the process of a SuperNode, with a small bound; return its home."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/flwr-clientapp"])
    monkeypatch.setattr(state_store, "_SAFE_BYTES", 10)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "flower-compress"


def test_what_memory_held_does_not_outlive_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder may fail once, and the context keeps what was then saved there."""
    folder, context = tmp_path / "state", make_context()
    store = StateStore("key", folder)
    folder.write_bytes(b"in the way")
    with caplog.at_level(logging.WARNING, "flwr"):
        store.save(context, 3, RUN, b"first")
    assert "kept in memory only" in caplog.text
    assert store.load(context, 3, RUN) == b"first"
    folder.unlink()
    stale = context.state["key"]
    store.save(context, 3, RUN, b"second")
    assert store.load(context, 3, RUN) == b"second"
    assert store.load(make_context(), 3, RUN) == b"second"
    # A SuperNode may bring back a context that the file has overtaken.
    context.state["key"] = stale
    assert store.load(context, 3, RUN) == b"second"


def test_no_clock_says_which_is_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device without a battery starts in 1970, and learns the time later."""
    store, context = StateStore("key", tmp_path), make_context()
    store.save(context, 3, RUN, b"first")
    (path,) = tmp_path.iterdir()
    os.utime(path, (4e9, 4e9))  # Written before the clock was set back.
    with monkeypatch.context() as disk:

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        disk.setattr(StateFile, "write", fail)
        for content in (b"second", b"third"):
            store.save(context, 3, RUN, content)
            assert store.load(context, 3, RUN) == content
    stale = context.state["key"]
    store.save(context, 3, RUN, b"fourth")
    context.state["key"] = stale
    assert store.load(context, 3, RUN) == b"fourth"


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell has looked into ``--node-config 'state-dir="~/state"'``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    context = make_context(**{"state-dir": "~/state"})
    StateStore("key").save(context, 3, RUN, b"bytes")
    assert names(tmp_path) == ["state"]
    assert StateStore("key").load(make_context(**{"state-dir": "~/state"}), 3, RUN)


def test_runs_at_once_do_not_evict_each_other(tmp_path: Path) -> None:
    store, context = StateStore("key", tmp_path), make_context()
    for turn in range(3):
        for session in (RUN, OTHER):
            store.save(context, 3, session, b"%d of %d" % (turn, session))
    assert store.load(context, 3, RUN) == b"2 of %d" % RUN
    assert store.load(context, 3, OTHER) == b"2 of %d" % OTHER
    assert store.load(context, 4, RUN) is None
    assert names(tmp_path) == ["client-3-00000abc.state", "client-3-00000def.state"]


def test_a_folder_that_fails_is_told_of_ever_more_rarely(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By each message's process, which remembers nothing but the context."""
    (tmp_path / "state").write_bytes(b"in the way")
    context = make_context()
    for _ in range(20):
        StateStore("key", tmp_path / "state").save(context, 3, RUN, b"bytes")
    assert caplog.text.count("kept in memory only") == 5  # 1, 2, 4, 8, 16


def test_a_device_names_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app's own argument counts before the node's, that before the machine's."""
    folders = [tmp_path / name for name in ("argument", "node", "machine")]
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(folders[2]))
    node = make_context(**{"state-dir": str(folders[1])})
    for store, context, folder in (
        (StateStore("key", folders[0]), node, folders[0]),
        (StateStore("key"), node, folders[1]),
        (StateStore("key"), make_context(), folders[2]),
    ):
        store.save(context, 3, RUN, folder.name.encode())
        assert not context.state
        assert store.load(context, 3, RUN) == folder.name.encode()
        assert names(folder) == ["client-3-00000abc.state"]
    with pytest.raises(WrongTypeError, match=r"state-dir of --node-config must be the"):
        StateStore("key").load(make_context(**{"state-dir": 3}), 3, RUN)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "")
    context = make_context()
    StateStore("key").save(context, 3, RUN, b"bytes")
    assert context.state


def test_a_supernode_keeps_large_states_in_a_file(
    deployed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It drops a large context when its process is slow to leave."""
    store, context = StateStore("key"), make_context()
    store.save(context, 3, RUN, b"0123456789")
    assert context.state
    assert not deployed.exists()
    stale = context.state["key"]
    for content in (b"0123456789a", b"short", b"0123456789b"):
        StateStore("key").save(context, 3, RUN, content)
        assert not context.state
        context.state["key"] = stale  # It was slow to leave.
        assert StateStore("key").load(context, 3, RUN) == content
    assert names(deployed) == ["client-3-00000abc.state"]
    assert caplog.text.count("is kept in") == 1
    assert "state-dir=" in caplog.text


def test_an_engine_that_simulates_keeps_large_states_in_the_context(
    deployed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["default_worker.py"])
    store, context = StateStore("key"), make_context()
    store.save(context, 3, RUN, b"0123456789a")
    assert store.load(context, 3, RUN) == b"0123456789a"
    assert context.state
    assert not deployed.exists()


def test_states_of_runs_that_are_over_go(tmp_path: Path) -> None:
    """30 days old, or one day and not among a client's newest four."""
    store = StateStore("key", tmp_path)
    for place, days in enumerate((0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 29)):
        aged(tmp_path / f"client-3-{place:08x}.state", days * DAY)
    for name, days in (("client-4-00000001", 29), ("client-4-00000002", 31)):
        aged(tmp_path / f"{name}.state", days * DAY)
    aged(tmp_path / "client-5.state", 31 * DAY)  # As they were named once.
    aged(tmp_path / "node--5-00000001.state", 31 * DAY)
    aged(tmp_path / "notes-7.state", 31 * DAY)
    store.save(make_context(), 9, RUN, b"bytes")
    assert names(tmp_path) == [
        *(f"client-3-{place:08x}.state" for place in range(5)),
        "client-4-00000001.state",
        "client-9-00000abc.state",
        "notes-7.state",
    ]
    # The one of this run stays, whatever the clock says.
    kept = aged(tmp_path / "client-9-00000abc.state", 400 * DAY)
    tidy(tmp_path, kept)
    assert kept.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such locks")
def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    """Not what a process still writes to: that one has it locked."""
    import fcntl

    for place in range(26):
        aged(tmp_path / f"client-3-00000abc.state.{place}.tmp", 60)
    aged(tmp_path / "client-3.stateab12_xyz", 60)  # As they were named once.
    writing = aged(tmp_path / "client-4-00000abc.state.a.tmp", 60)
    begun = aged(tmp_path / "client-5-00000abc.state.b.tmp", 0)
    with writing.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        StateStore("key", tmp_path).save(make_context(), 9, RUN, b"bytes")
        assert names(tmp_path) == [
            writing.name,
            begun.name,
            "client-9-00000abc.state",
        ]
        tidy(tmp_path, writing)
        assert writing.exists()
    tidy(tmp_path, begun)
    assert names(tmp_path) == [begun.name, "client-9-00000abc.state"]


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such locks")
def test_a_file_is_locked_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    fsync = os.fsync

    def slow(handle: int) -> None:
        """A minute has gone by, and another process tidies up."""
        fsync(handle)
        (path,) = tmp_path.glob("*.tmp")
        then = path.stat().st_mtime - 60
        os.utime(path, (then, then))
        tidy(tmp_path, tmp_path / "other")
        seen.append(names(tmp_path))

    monkeypatch.setattr(os, "fsync", slow)
    file = StateFile(tmp_path, 3, RUN)
    file.write(b"bytes")
    assert [len(each) for each in seen] == [1]
    assert file.read() == b"bytes"
    assert names(tmp_path) == [file.path.name]
