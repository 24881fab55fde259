"""Averages the clients' logistic regressions."""

from __future__ import annotations

import numpy as np
from flower_compress.strategies import MCM
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from digits_sklearn.task import initial_weights

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and keep the final model."""
    strategy = MCM()
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(initial_weights()),
        num_rounds=context.run_config["num-server-rounds"],
    )
    np.savez("model.npz", *result.arrays.to_numpy_ndarrays())
