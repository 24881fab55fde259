"""A run in MLflow."""

from __future__ import annotations

import math
import os
import re
import time
from importlib import import_module
from typing import Any, Final

from flwr.serverapp.strategy import Result

from flower_compress.errors import MissingExtraError, WrongTypeError

from .base import Callback, RoundMetrics, RunInfo

__all__ = ["MLflow"]

_SESSION = "flower-compress.session"
_BATCH: Final = 1000
"""Metrics in one request at most, of MLflow's REST API; it limits names as well."""
_LONGEST: Final = 250
_FORBIDDEN = re.compile(r"[^\w/. -]", re.ASCII)


class MLflow(Callback):
    """Logs every number of :meth:`RoundMetrics.scalars` as a metric, by round.

    Needs the extra ``mlflow``. The run is tagged with the strategy's session, by which
    a resumed one finds it again and goes on in it; rounds after its checkpoint come
    again, and MLflow keeps both. It ends as finished, or as failed.
    Events are counted in the metrics. Numbers that are not finite are left out. What
    MLflow does not take in a name becomes ``_``, as in ``"train/acc_1"`` of ``acc@1``.

    Parameters
    ----------
    experiment : str (default: "flower-compress")
        The experiment, made if it is not there.
    run_name : str, optional
        The run's name; the strategy's by default.
    tracking_uri : str, optional
        Where; by default what MLflow is set to (``MLFLOW_TRACKING_URI``).

    Raises
    ------
    MissingExtraError
        If ``mlflow`` is not installed.
    WrongTypeError
        If an argument is of another kind.
    """

    def __init__(
        self,
        experiment: str = "flower-compress",
        run_name: str | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        if not isinstance(experiment, str) or not experiment:
            raise WrongTypeError("experiment", "a name", experiment)
        if not isinstance(run_name, str | None):
            raise WrongTypeError("run_name", "a name or None", run_name)
        if not isinstance(tracking_uri, str | os.PathLike | None):
            raise WrongTypeError("tracking_uri", "a URI or None", tracking_uri)
        try:
            self._mlflow = import_module("mlflow")
        except ImportError as error:
            raise MissingExtraError("mlflow", "mlflow") from error
        self.experiment, self.run_name = experiment, run_name
        self.tracking_uri = tracking_uri

    def on_start(self, run: RunInfo) -> None:
        """Create the run, or find the one that goes on."""
        # A client and no mlflow.start_run: that one is global, and the app's own.
        self._client = self._mlflow.MlflowClient(self.tracking_uri)
        self._run_id = self._find_or_create(self._experiment_id(), run)

    def on_round(self, server_round: int, metrics: RoundMetrics) -> None:
        """Log the numbers of a round."""
        entities, now = self._mlflow.entities, int(1000 * time.time())
        batch = [
            entities.Metric(_name(name), number, now, server_round)
            for name, number in metrics.scalars()
            if math.isfinite(number)
        ]
        for i in range(0, len(batch), _BATCH):
            self._client.log_batch(self._run_id, metrics=batch[i : i + _BATCH])

    def on_end(self, result: Result, error: BaseException | None) -> None:
        """Set how the run ended."""
        status = "FINISHED" if error is None else "FAILED"
        self._client.set_terminated(self._run_id, status)

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            return str(self._client.create_experiment(self.experiment))
        return str(found.experiment_id)

    def _find_or_create(self, experiment: str, run: RunInfo) -> str:
        if run.resumed_from:
            tagged = f"tags.`{_SESSION}` = '{run.session}'"
            found: list[Any] = self._client.search_runs([experiment], tagged)
            if found:
                self._client.set_terminated(found[0].info.run_id, "RUNNING")
                return str(found[0].info.run_id)
        tags = {_SESSION: str(run.session)}
        name = self.run_name or run.name
        made = self._client.create_run(experiment, tags=tags, run_name=name)
        return str(made.info.run_id)


def _name(name: str) -> str:
    """Return a name as MLflow takes it, which reads it as a path without "..", too."""
    parts = _FORBIDDEN.sub("_", name)[:_LONGEST].split("/")
    return "/".join(part if part.strip(".") else "_" for part in parts)
