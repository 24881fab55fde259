"""How much each client counts, in the model and in the metrics."""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger

from flwr.app import Message, MetricRecord, RecordDict

from flower_compress.errors import ConfigurationError
from flower_compress.wire.records import records_of

__all__ = ["UNIFORM", "mean_metrics", "weight_of"]

UNIFORM = "(all alike)"
"""The key that stands for no key: every client has weight 1."""

_log = getLogger("flwr")


def weight_of(msg: Message, key: str) -> float:
    """Return the weight that a reply's metrics hold under `key`; 0 for no say.

    Raises
    ------
    ConfigurationError
        If they hold no finite number >= 0 there.
    """
    if key == UNIFORM:
        return 1.0
    for metrics in records_of(msg.content, MetricRecord):
        weight = metrics.get(key)
        if isinstance(weight, (int, float)) and 0 <= weight < float("inf"):
            return float(weight)
    raise ConfigurationError(
        f"the client's metrics hold no number >= 0 as {key!r}: "
        "add it to the reply's MetricRecord, or set weighted_by_key=None"
    )


def mean_metrics(
    replies: list[Message],
    key: str,
    mean: Callable[[list[RecordDict], str], MetricRecord],
) -> MetricRecord | None:
    """Return `mean` of the replies' metrics, None if one lacks them, or the weight."""
    contents = [msg.content for msg in replies]
    keys = {key} - {UNIFORM}
    for content in contents:
        metrics = next(records_of(content, MetricRecord), None)
        if metrics is None or not keys <= metrics.keys():
            _log.warning("no mean of the metrics: a reply lacks them, or %s", keys)
            return None
    try:
        return mean(contents, key) if contents else None
    except ZeroDivisionError:
        _log.warning("no mean of the metrics: %s is 0 in every reply", key)
        return None
