"""Starts a fleet, kills each of its parts in turn, and sees whether it gets over it.

``python -m tests.deploy`` takes about ten minutes; ``--keep`` leaves the folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.deploy.crashes import (
    Operator,
    kill_server_app,
    kill_superlink,
    kill_supernode,
)
from tests.deploy.fleet import Fleet, running
from tests.deploy.verdict import check, table

DEVICES, ENTRIES, ROUNDS = 3, 20_000, 16


def main() -> int:
    """Return 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the files")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fleet-"))
    try:
        fleet = Fleet(folder / "fleet", DEVICES, say=partial(print, flush=True))
        with running(fleet):
            operator = Operator(
                fleet, **{"entries": ENTRIES, "num-server-rounds": given.rounds}
            )
            operator.train()
            operator.after_round(3, 240)
            for name in ("superlink", "supernode-0"):
                fleet.tell(f"{name}: {fleet.processes.memory_kib(name) >> 10} MiB")
            kill_supernode(operator, 1)
            kill_server_app(operator)
            kill_superlink(operator)
            fleet.wait("the training is over", operator.finished, 900)
            rounds = fleet.rounds()
        print(table(rounds))
        check(rounds, DEVICES, ENTRIES, given.rounds)
        print("All is well: the right model, and no dense vector after the first round")
        return 0
    finally:
        if given.keep:
            print(f"Left: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


sys.exit(main())
