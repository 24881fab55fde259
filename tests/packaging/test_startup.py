"""What an import loads: nothing heavy that Flower and NumPy have not loaded before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Measured: 50 ms and 5 MB for a client, 90 ms and 8 MB for a server, of which most is
# what dataclasses and modules of Python take.
MOST_MEGABYTES = 20
PROGRAM = """
import sys
import flwr.app, flwr.clientapp, flwr.serverapp, numpy.random

def megabytes():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6
    except OSError:  # Not Linux.
        return 0.0

before, loaded = set(sys.modules), megabytes()
import flower_compress, flower_compress.mods, flower_compress.clients
import flower_compress.strategies, flower_compress.testing
print(megabytes() - loaded)
print(*sorted(set(sys.modules) - before))
"""


def test_an_import_loads_nothing_but_this_package_and_python() -> None:
    """A device starts the process anew for each message: torch alone takes seconds."""
    megabytes, modules = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    roots = {module.split(".")[0] for module in modules.split()}
    assert "flower_compress" in roots
    assert roots - {"flower_compress"} <= sys.stdlib_module_names
    assert float(megabytes) < MOST_MEGABYTES
