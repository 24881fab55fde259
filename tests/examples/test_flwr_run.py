"""The examples as their users start them: with ``flwr run``."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.examples.apps import EXAMPLES, PACKAGES

BIN = Path(sys.executable).parent
SECONDS = 120


@contextmanager
def superlink(home: Path) -> Iterator[dict[str, str]]:
    """Start a SuperLink of our own; yield the environment in which `flwr` finds it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home.mkdir()
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "here"\n\n[superlink.here]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    command = ["flower-superlink", "--insecure", "--simulation", "--port", str(port)]
    with ExitStack() as stack:
        log = stack.enter_context((home / "superlink.log").open("w"))
        process = subprocess.Popen(
            [BIN / command[0], *command[1:]],
            env=environment,
            cwd=home,  # Where the server app leaves its model.
            stdout=log,
            stderr=log,
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        deadline = time.monotonic() + SECONDS
        while not healthy(port):
            assert process.poll() is None, (home / "superlink.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield environment


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            return True
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("example", PACKAGES)
def test_flwr_run_completes(example: str, tmp_path: Path) -> None:
    app = tmp_path / "app"
    shutil.copytree(EXAMPLES / example / "compressed", app)
    federation = "num-supernodes=4 client-resources-num-cpus=1 init-args-num-cpus=2"
    with superlink(tmp_path / "home") as environment:
        done = subprocess.run(
            [
                *("flwr", "run", str(app), "here", "--stream"),
                *("--federation-config", federation),
                *("--run-config", "num-server-rounds=3"),
            ],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        listed = subprocess.run(
            ["flwr", "list", "here", "--format", "json"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
    (run,) = json.loads(listed.stdout)["runs"]
    assert run["status"] == "finished:completed", done.stdout
    assert "[ROUND 3/3]" in done.stdout
