"""Trains, says after each round how far the optimum is, and what it cost."""

from __future__ import annotations

import json
import time
from logging import INFO, WARNING
from pathlib import Path

import numpy as np
from flower_compress import StochasticQuantizer
from flower_compress.strategies import MCM, SGD, CompressedStrategy, Diana, RandMCM
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid, ServerApp

from fleet_check.task import optimum

STRATEGIES: dict[str, type[CompressedStrategy]] = {
    "fedavg": SGD,
    "diana": Diana,
    "mcm": MCM,
    "rand-mcm": RandMCM,
}
TOLERANCE = 1e-2
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train with a checkpoint each round; go on from it if there is one."""
    config = context.run_config
    devices, entries = int(config["devices"]), int(config["entries"])
    folder = Path(str(config["folder"]))
    folder.mkdir(parents=True, exist_ok=True)
    best = optimum(devices, entries)

    def distance(arrays: ArrayRecord) -> float:
        error = np.linalg.norm(arrays["w"].numpy() - best) / np.linalg.norm(best)
        return float(error)

    def after_round(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        up, down = strategy.ledger.round_uplink, strategy.ledger.round_downlink
        row = {
            "round": server_round,
            "time": time.time(),
            "error": distance(arrays),
            "replies": up.messages,
            "uplink-bytes": up.num_bytes,
            "downlink-bytes": down.num_bytes,
            "dense-bytes": up.snapshot_bytes + down.snapshot_bytes,
        }
        with (folder / "rounds.jsonl").open("a") as rounds:
            rounds.write(json.dumps(row) + "\n")
        log(INFO, "fleet-check: %s", json.dumps(row))
        return MetricRecord({"error": row["error"]})

    levels = int(config["levels"])
    operators = [StochasticQuantizer(levels, bucket_size=512)] if levels else []
    strategy = STRATEGIES[str(config["strategy"])](
        *operators,
        identities="node",  # A device is its key.
        fraction_evaluate=0.0,
        min_available_nodes=int(config["min-devices"]),
        min_train_nodes=int(config["min-devices"]),
        checkpoint_dir=folder / "checkpoints",
        checkpoint_every=1,
        resume=True,
    )
    result = strategy.start(
        grid,
        ArrayRecord({"w": Array(np.zeros(entries, dtype=np.float32))}),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=after_round,
    )
    error = distance(result.arrays)
    (folder / "result.json").write_text(json.dumps({"error": error}) + "\n")
    if error < TOLERANCE:
        log(INFO, "fleet-check: at the optimum, to %.1e", error)
    else:
        log(
            WARNING,
            "fleet-check: %.1e from the optimum, expected %.0e",
            error,
            TOLERANCE,
        )
