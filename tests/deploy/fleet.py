"""A SuperLink and SuperNodes on this machine, set up as ``docs/deploy.md`` says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.deploy.processes import Processes

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
APP = DEPLOY / "app"
BIN = Path(sys.executable).parent
T = TypeVar("T")


class Fleet:
    """Starts, kills and watches; all files are in one folder.

    ``within`` says what a host's commands begin with, as ``ip netns exec NAME``: host 0
    is the SuperLink's, 1 and on are those of SuperNodes 0 and on.
    """

    def __init__(
        self,
        folder: Path,
        devices: int,
        address: str = "127.0.0.1",
        within: Callable[[int], Sequence[str]] = lambda host: (),
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.devices, self.say = folder, devices, say
        self.address, self._within = address, within
        self._ports = free_ports(1 + devices)
        self._begun = time.monotonic()
        (folder / "superlink").mkdir(parents=True)
        (folder / "home").mkdir()
        self.processes = Processes(
            {
                **os.environ,
                "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
                "FLWR_HOME": str(folder / "home"),
                "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
                "FLWR_DISABLE_UPDATE_CHECK": "1",
                "FLWR_TELEMETRY_ENABLED": "0",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            }
        )
        self._run([DEPLOY / "make-certs.sh", folder / "certs", address])
        (folder / "home" / "config.toml").write_text(
            '[superlink]\ndefault = "fleet"\n\n[superlink.fleet]\n'
            f'address = "{address}:{self._ports[0]}"\n'
            f'root-certificates = "{folder}/certs/ca.crt"\n'
        )

    def start_superlink(self) -> None:
        """Start it with TLS, authentication and a database; wait until it answers."""
        certs = self.folder / "certs"
        self.processes.start(
            "superlink",
            [
                *self._within(0),
                *(BIN / "flower-superlink", "--host", self.address),
                *("--port", str(self._ports[0])),
                *("--ssl-ca-certfile", certs / "ca.crt"),
                *("--ssl-certfile", certs / "server.crt"),
                *("--ssl-keyfile", certs / "server.key"),
                *("--enable-supernode-auth", "--database", "state.db"),
            ],
            self.folder / "superlink.log",
            self.folder / "superlink",
        )

        def answers() -> bool:
            ended = self.processes.exit_code("superlink")
            assert ended is None, self.log("superlink")
            return bool(self.flwr("list").get("success"))

        self.wait("the SuperLink answers", answers, 90)

    def add_device(self, device: int) -> int:
        """Make a device's key, register it, and return its node id."""
        key = self.folder / "keys" / f"device-{device}"
        self._run([DEPLOY / "make-device-key.sh", key])
        answer = self.flwr("supernode", "register", f"{key}.pub")
        assert answer.get("success"), answer
        return int(answer["node-id"])

    def start_supernode(self, device: int) -> None:
        """Start the SuperNode of a device, which keeps its state in a folder."""
        state = self.folder / f"device-{device}"
        state.mkdir(exist_ok=True)
        self.processes.start(
            supernode(device),
            [
                *self._within(1 + device),
                *(BIN / "flower-supernode", "--port", str(self._ports[1 + device])),
                *("--superlink", f"{self.address}:{self._ports[0]}"),
                *("--root-certificates", self.folder / "certs" / "ca.crt"),
                "--auth-supernode-private-key",
                self.folder / "keys" / f"device-{device}",
                "--node-config",
                f'partition-id={device} state-dir="{state}"',
            ],
            self.folder / f"{supernode(device)}.log",
            state,
        )

    def connections(self, device: int) -> int:
        """Return how often the SuperLink has let a device in."""
        log = self.folder / f"{supernode(device)}.log"
        return log.read_text(errors="replace").count("SuperNode ID:")

    def online(self) -> int:
        """Return how many SuperNodes are online, for the SuperLink."""
        nodes = self.flwr("supernode", "list").get("nodes", [])
        return sum(node["status"] == "online" for node in nodes)

    def train(self, **config: str | int) -> None:
        """Start ``train.py`` with the app, as the unit does."""
        run_config = " ".join(f"{k}={json.dumps(v)}" for k, v in config.items())
        self.processes.start(
            "train",
            [
                *(*self._within(0), sys.executable, DEPLOY / "train.py", APP, "fleet"),
                *("--run-config", run_config) * bool(config),
            ],
            self.folder / "train.log",
            self.folder,
        )

    def rounds(self) -> list[dict[str, Any]]:
        """Return what the ServerApp has written of its rounds so far."""
        path = self.folder / "superlink" / "fleet-check" / "rounds.jsonl"
        if not path.exists():
            return []
        lines = path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def flwr(self, *words: str | Path) -> dict[str, Any]:
        """Return what ``flwr`` answers as JSON, nothing if it has failed."""
        command = [*self._within(0), BIN / "flwr", *words, "--format", "json"]
        printed = self._run(command, check=False)
        try:
            return dict(json.loads(printed[printed.index("{") :]))
        except ValueError:
            return {}

    def wait(
        self, what: str, done: Callable[[], T], seconds: float, pause: float = 0.5
    ) -> T:
        """Wait until something is true; return it, or tell what the logs say."""
        begun = time.monotonic()
        while not (value := done()):
            if time.monotonic() - begun > seconds:
                raise TimeoutError(
                    f"not within {seconds:.0f} s: {what}\n"
                    + "\n".join(self.log(path.stem) for path in self._logs())
                )
            time.sleep(pause)
        self.tell(f"{what} ({time.monotonic() - begun:.0f} s)")
        return value

    def tell(self, text: str) -> None:
        """Say something, and when."""
        self.say(f"{time.monotonic() - self._begun:6.0f} s  {text}")

    def log(self, name: str) -> str:
        """Return the end of a program's log."""
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        return f"--- {name}\n{text[-3000:]}"

    def _logs(self) -> Iterator[Path]:
        return self.folder.glob("*.log")

    def _run(self, command: Sequence[str | Path], check: bool = True) -> str:
        done = subprocess.run(
            [str(word) for word in command],
            env=self.processes.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, done.stdout
        return done.stdout


@contextmanager
def running(fleet: Fleet) -> Iterator[Fleet]:
    """Start everything; end everything."""
    try:
        fleet.start_superlink()
        for device in range(fleet.devices):
            fleet.add_device(device)
            fleet.start_supernode(device)
        fleet.wait(
            f"{fleet.devices} SuperNodes are online",
            lambda: fleet.online() == fleet.devices,
            90,
        )
        yield fleet
    finally:
        fleet.processes.end()


def supernode(device: int) -> str:
    """Return the name of a device's SuperNode."""
    return f"supernode-{device}"


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
