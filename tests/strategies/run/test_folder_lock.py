"""One run at a time in a folder, whatever became of the last one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flower_compress.errors import CheckpointError
from flower_compress.strategies.run.folder_lock import FolderLock

pytest.importorskip("fcntl")

HOLDS = """
import sys
from pathlib import Path

from flower_compress.strategies.run.folder_lock import FolderLock

lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_one_processs_until_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        holder = f"process {other.pid} on {socket.gethostname()}: expected one run"
        with pytest.raises(CheckpointError, match=holder):
            FolderLock(tmp_path)
        other.send_signal(signal.SIGKILL)
    FolderLock(tmp_path).release()
    assert (tmp_path / "run.lock").stat().st_mode & 0o777 == 0o600


def test_a_process_holds_it_once_and_its_children_never(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(CheckpointError, match=f"process {os.getpid()} "):
        FolderLock(tmp_path)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:  # Lives on when the lock is released here.
        os.close(writes)
        os.read(reads, 1)
        os._exit(0)
    lock.release()
    FolderLock(tmp_path).release()
    os.close(writes)
    os.close(reads)
    os.waitpid(child, 0)


def test_a_lock_of_another_user_is_told_of(tmp_path: Path) -> None:
    # Simulated: permissions do not stop the superuser.
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot open .*run\.lock.* belong to"):
        FolderLock(tmp_path)
