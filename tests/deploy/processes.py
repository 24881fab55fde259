"""Processes that end with the test, whatever happens, and whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_MARK = "FLEET_OF_A_TEST"


class Processes:
    """Starts programs under names; finds all that descend from them by their mark.

    Flower's programs start others in sessions of their own, which a process group would
    miss. All of them inherit the environment.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._mark = uuid.uuid4().hex
        self.environment = {**environment, _MARK: self._mark}
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, command: Sequence[str | Path], log: Path, cwd: Path
    ) -> None:
        """Start a program, what it prints appended to a file."""
        with log.open("ab") as out:
            self._started[name] = subprocess.Popen(
                [str(word) for word in command],
                env=self.environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def exit_code(self, name: str) -> int | None:
        """Return how a program ended, None as long as it runs."""
        return self._started[name].poll()

    def kill(self, name: str) -> None:
        """Kill one program with SIGKILL, none of those that it has started."""
        self._started[name].kill()
        self._started[name].wait()

    def find(self, program: str, parent: str | None = None) -> list[int]:
        """Return the ids of our processes whose command line has a program's name."""
        return [
            pid
            for pid in self._ours()
            if program.encode() in _read(pid, "cmdline")
            and (parent is None or _parent(pid) == self._started[parent].pid)
        ]

    def memory_kib(self, name: str) -> int:
        """Return the resident memory of a program and of those it has started."""
        wanted, total = {self._started[name].pid}, 0
        for pid in sorted(self._ours()):
            if pid in wanted or _parent(pid) in wanted:
                wanted.add(pid)
                for line in _read(pid, "status").splitlines():
                    if line.startswith(b"VmRSS:"):
                        total += int(line.split()[1])
        return total

    def end(self) -> None:
        """Kill everything that has the mark, until nothing is left."""
        for _ in range(50):
            pids = list(self._ours())
            for pid in pids:
                _kill(pid)
            for process in self._started.values():
                process.poll()
            if not pids:
                return
            time.sleep(0.1)

    def _ours(self) -> Iterator[int]:
        mark = f"{_MARK}={self._mark}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and mark in _read(int(entry.name), "environ"):
                yield int(entry.name)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except OSError:
        return b""


def _parent(pid: int) -> int:
    after_name = _read(pid, "stat").rpartition(b")")[2].split()
    return int(after_name[1]) if after_name else 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
