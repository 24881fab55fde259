"""Runs a Flower app on a deployed fleet, once, to its end.

    python train.py APP [CONNECTION] [OPTION OF FLWR RUN ...]

Exits 0 when the run has completed or an operator has stopped it, 1 when it failed, for
a unit or a loop that then calls it again: an app with `resume` goes on from its
checkpoint.

A run of the same app that the SuperLink still calls running is stopped first. Its
ServerApp may be gone: Flower notices that a minute later, and never starts it again.
For the same reason a run ends here when the SuperLink comes back after it was
unreachable twice in a row, since its ServerApps end with it, or comes back without its
database. Once is no proof: a SuperLink that is busy for half a minute looks the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_LOOKS = 5.0
GONE = "unavailable"
"""In what `flwr` says where nobody listens, or answers within half a minute."""
LOST = "Run ID not found"
"""In what it says where the SuperLink has lost its database, and so the run."""


def flwr(*words: str) -> dict[str, Any]:
    """Return what a command answers as JSON, with `success` and `error-message`."""
    done = subprocess.run(
        ["flwr", *words, "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        answer = {}
    if done.returncode == 0 and answer.get("success"):
        return dict(answer)
    reason = " ".join(str(answer.get("error-message") or done.stdout).split())
    say(f"flwr {words[0]} failed: {reason[-300:]}")
    return {"success": False, "error-message": reason}


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def main(app: str, connection: str = "", *options: str) -> int:
    """Run the app and return the exit code."""
    project = tomllib.loads((Path(app) / "pyproject.toml").read_text())["project"]
    where = [connection] if connection else []
    listed = flwr("list", *where)
    if not listed["success"]:
        return 1
    for run in listed["runs"]:
        same = run["fab-name"] == project["name"]
        if same and not run["status"].startswith("finished"):
            say(f"Run {run['run-id']} is {run['status']}: stopped, to begin anew")
            flwr("stop", run["run-id"], *where)

    started = flwr("run", app, *where, *options)
    if not started["success"]:
        return 1
    run_id, status, num_gone = started["run-id"], "", 0
    say(f"Run {run_id} started")
    while True:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        listed = flwr("list", *where, "--run-id", run_id)
        if not listed["success"]:
            if LOST in listed["error-message"]:
                say("The SuperLink does not know the run any more")
                return 1
            num_gone += GONE in listed["error-message"]
            continue
        (run,) = listed["runs"]
        if run["status"] != status:
            status = run["status"]
            say(f"Run {run_id} is {status}: {run['status-details']}")
        if status.startswith("finished"):
            return 0 if status in ("finished:completed", "finished:stopped") else 1
        if num_gone > 1:
            say("The SuperLink was gone, and with it the ServerApp")
            return 1
        num_gone = 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(str(__doc__))
    sys.exit(main(*sys.argv[1:]))
