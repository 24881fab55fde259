"""Where a client keeps its bytes: in its context, or in a file, whichever is newer."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from flower_compress.mods.state_store import StateStore


def make_context() -> Context:
    return Context(
        run_id=1, node_id=7, node_config={}, state=RecordDict(), run_config={}
    )


def test_what_memory_held_does_not_outlive_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder may fail once, and the context keeps what was then saved there."""
    folder, context = tmp_path / "state", make_context()
    store = StateStore("key", folder)
    folder.write_bytes(b"in the way")
    with caplog.at_level(logging.WARNING, "flwr"):
        store.save(context, 3, b"first")
    assert "kept in memory only" in caplog.text
    assert store.load(context, 3) == b"first"
    folder.unlink()
    store.save(context, 3, b"second")
    assert store.load(context, 3) == b"second"
    assert store.load(make_context(), 3) == b"second"
