"""Prints the final models of every algorithm: ``python -m tests.golden.print_models``.

One line for each run: algorithm, seed, SHA-256 of the model. A change that must not
change a number leaves every line as it was on the same machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from flower_compress.strategies import ALGORITHMS, DECENTRALIZED

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("--task", "parity", "--rounds", "50", "--seeds", "2", "--workers", "1")


def main() -> None:
    with TemporaryDirectory() as folder:
        for algorithms in (ALGORITHMS, DECENTRALIZED):
            print_models(list(algorithms), Path(folder))


def print_models(algorithms: list[str], out: Path) -> None:
    names = ["--algorithms", ",".join(algorithms)]
    command = [sys.executable, "-m", "simulations", "compare", *OPTIONS, *names]
    subprocess.run(
        [*command, "--out", str(out)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    summary = json.loads((out / "summary.json").read_text())
    for name, entry in summary["algorithms"].items():
        for seed, digest in entry["model_sha256"].items():
            print(name, seed, digest)


if __name__ == "__main__":
    main()
