"""Where runs save themselves, and the rows that come back with a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flwr.app import MetricRecord

from flower_compress.errors import ConfigurationError
from flower_compress.strategies.run.checkpoint import Checkpoint, Checkpoints
from flower_compress.strategies.run.metrics_log import MetricsLog

from .records import Nodes, RoundRecord
from .settings import Settings

__all__ = ["Checkpointing", "to_metrics"]

_KEY = ("algorithm", "seed", "round")
_NODES = "node-"


@dataclass(frozen=True)
class Checkpointing:
    """How the runs of an experiment are saved, and whether they go on.

    Parameters
    ----------
    root : Path
        The folder ``checkpoints`` of the experiment; each run has one of its own there.
    every : int
        Rounds between checkpoints; 0 for none, but the last round's of a resumed run.
    resume : bool
        Go on from each run's newest checkpoint, where it has one.
    """

    root: Path
    every: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ConfigurationError(
                f"checkpoint-every must be at least 0, got {self.every}"
            )

    def folder(self, job: Settings) -> Path:
        """Return the run's own folder."""
        return self.root / f"{job.label}-seed{job.seed}"

    def is_empty(self) -> bool:
        """Whether no run has a checkpoint."""
        return not any(self.root.glob("*/*.ckpt"))

    def options(self, job: Settings) -> dict[str, Any]:
        """Return the arguments of the run's strategy."""
        if not (self.every or self.resume):
            return {}
        return {
            "checkpoint_dir": self.folder(job),
            "checkpoint_every": self.every or job.rounds,
            "resume": self.resume,
        }

    def earlier_round(self, job: Settings) -> int:
        """Return the round of the checkpoint from which the run goes on, 0 for none.

        Raises
        ------
        CheckpointError
            If there are checkpoints, and none is intact.
        """
        saved = self._latest(job)
        return 0 if saved is None else saved.server_round

    def earlier_rows(self, job: Settings) -> list[RoundRecord]:
        """Return the rows up to the checkpoint from which the run goes on.

        They are saved with the checkpoint, so that they belong to it whatever became
        of ``rounds.csv`` when the run was interrupted.

        Raises
        ------
        CheckpointError
            If there are checkpoints, and none is intact.
        """
        saved = self._latest(job)
        if saved is None:
            return []
        rows = MetricsLog(self.folder(job)).read(saved.meta["metrics"])
        return [
            _to_record(job, number, values)
            for kind, number, values in rows
            if kind == "evaluate_at_server"
        ]

    def _latest(self, job: Settings) -> Checkpoint | None:
        return Checkpoints(self.folder(job)).latest() if self.resume else None


def to_metrics(record: RoundRecord) -> MetricRecord:
    """Return a row as metrics of the server, which its checkpoints keep."""
    values = asdict(record)
    nodes = values.pop("nodes")
    del values["seconds"]  # Those of another run would be others.
    if nodes is not None:
        values |= {f"{_NODES}{name}": list(column) for name, column in nodes.items()}
    return MetricRecord(
        {
            name: value
            for name, value in values.items()
            if name not in _KEY and value is not None
        }
    )


def _to_record(job: Settings, number: int, values: dict[str, Any]) -> RoundRecord:
    """Return the row of which :func:`to_metrics` made metrics."""
    columns = {
        name.removeprefix(_NODES): tuple(value)
        for name, value in values.items()
        if name.startswith(_NODES)
    }
    rest = {name: v for name, v in values.items() if not name.startswith(_NODES)}
    return RoundRecord(
        job.label,
        job.seed,
        number,
        **{"excess_loss": None, **rest},
        nodes=Nodes(**columns) if columns else None,
    )
