"""One run on a grid, whatever the engine behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from flower_compress.clients import Arrays
from flower_compress.layout import read_array, write_array

from .checkpointing import Checkpointing, to_metrics
from .records import RoundRecord
from .settings import Settings

__all__ = ["RunResult", "run_on_grid"]

OnRound = Callable[[int, RoundRecord | None], None]
"""Called after every round, with its record where the round is logged."""


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves.

    Attributes
    ----------
    arrays : dict[str, NDArray[np.float32]]
        The final model.
    model_sha256 : str
        SHA-256 of its arrays' bytes, in the order of their names in the model.
    """

    arrays: Arrays
    model_sha256: str


def run_on_grid(
    grid: Grid, settings: Settings, on_round: OnRound, checkpointing: Checkpointing
) -> RunResult:
    """Run `settings` on `grid`, reporting every round that is computed."""
    task = settings.problem
    strategy = settings.strategy(**checkpointing.options(settings))
    optimum, interval = task.optimum(), settings.evaluation_interval

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round % interval and server_round != settings.rounds:
            on_round(server_round, None)
            return None
        values = task.evaluate(_to_numpy(arrays))
        ledger = strategy.ledger
        record = RoundRecord(
            algorithm=settings.label,
            seed=settings.seed,
            round=server_round,
            loss=values.loss,
            excess_loss=None if optimum is None else values.loss - optimum,
            accuracy=values.accuracy,
            uplink_bytes=ledger.uplink.num_bytes,
            downlink_bytes=ledger.downlink.num_bytes,
            uplink_bits=ledger.uplink.payload_bits,
            downlink_bits=ledger.downlink.payload_bits,
        )
        on_round(server_round, record)
        return to_metrics(record)

    initial = ArrayRecord(
        {name: write_array(array) for name, array in task.initial_arrays().items()}
    )
    result = strategy.start(
        grid,
        initial,
        num_rounds=settings.rounds,
        train_config=settings.train_config(),
        evaluate_fn=evaluate,
    )
    arrays = _to_numpy(result.arrays)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays.values()))
    return RunResult(arrays, digest.hexdigest())


def _to_numpy(record: ArrayRecord) -> Arrays:
    return {name: read_array(array) for name, array in record.items()}
