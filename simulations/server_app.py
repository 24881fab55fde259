"""The server app of ``flwr run .``."""

from __future__ import annotations

import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from flower_compress.errors import ConfigurationError
from flower_compress.strategies import many_clients

from .engines import run_and_report, set_pull_interval
from .experiment import Experiment
from .flower_log import log_to
from .progress import make_console
from .settings import convert, from_config

__all__ = ["app"]

_WAIT_SECONDS = 60.0
_STABLE_SECONDS = 1.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one algorithm with the settings of the run config."""
    set_pull_interval(grid)
    config = dict(context.run_config)
    per_node = convert("clients-per-node", config.get("clients-per-node", 1), int)
    clients = convert("clients", config.get("clients", 0), int)
    clients = clients or per_node * _count_nodes(grid)
    if per_node != 1:
        grid = many_clients(grid, per_node, clients)
    settings = from_config(config, clients=clients)
    experiment = Experiment(
        [settings],
        Path(str(config.get("out") or f"runs/{settings.algorithm}")),
        # Flower carries the output to wherever the run was started: no bars there.
        console=make_console(terminal=False),
        checkpoint_every=convert(
            "checkpoint-every", config.get("checkpoint-every", 0), int
        ),
        resume=convert("resume", config.get("resume", False), bool),
    )
    with experiment, log_to(experiment.log):
        run_and_report(grid, settings, experiment.report, experiment.checkpointing)
    experiment.finish()


def _count_nodes(grid: Grid) -> int:
    """Return the number of connected nodes, once it stays the same for a while."""
    deadline = time.monotonic() + _WAIT_SECONDS
    count, since = 0, time.monotonic()
    while time.monotonic() < deadline:
        seen = len(list(grid.get_node_ids()))
        if seen != count:
            count, since = seen, time.monotonic()
        elif count and time.monotonic() - since >= _STABLE_SECONDS:
            return count
        time.sleep(0.05)
    raise ConfigurationError(
        f"no node connected within {_WAIT_SECONDS:.0f} seconds: start SuperNodes, or "
        "set the run config's `clients` to the number to wait for"
    )
