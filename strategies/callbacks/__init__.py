"""Who looks on at a run: observers beside the loop of rounds.

A strategy takes ``callbacks=[JsonLines("run.jsonl"), TensorBoard("logs")]``, or any
:class:`Callback` of one's own. Each is told when the run begins, of every round, of
what happens to clients, and of the end. One that raises is logged, once, and told no
more: none ends a run, or changes it.
"""

from __future__ import annotations

from .base import Callback, ClientEvent, EventKind, RoundMetrics, RunInfo
from .json_lines import JsonLines
from .mlflow import MLflow
from .tensorboard import TensorBoard

__all__ = [
    "Callback",
    "ClientEvent",
    "EventKind",
    "JsonLines",
    "MLflow",
    "RoundMetrics",
    "RunInfo",
    "TensorBoard",
]
