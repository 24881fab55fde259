"""How much each client counts, in the model and in the metrics."""

from __future__ import annotations

from flwr.app import Message, MetricRecord

from flower_compress.errors import ConfigurationError, WrongTypeError
from flower_compress.wire.records import records_of

__all__ = ["UNIFORM", "check_weight_key", "weight_of"]

UNIFORM = "(all alike)"
"""The key that stands for no key: every client has weight 1."""

_LEAST, _MOST = 2.0**-100, 2.0**100
"""Of a sum of squares of such numbers nothing overflows, or is lost."""


def check_weight_key(key: object) -> None:
    """Raise WrongTypeError unless `key` is the name of a metric, or None."""
    if key is not None and not (isinstance(key, str) and key):
        raise WrongTypeError("weighted_by_key", "the name of a metric, or None", key)


def weight_of(msg: Message, key: str) -> float:
    """Return the weight that a reply's metrics hold under `key`; 0 for no say.

    Raises
    ------
    ConfigurationError
        If they hold no number there that is 0 or in [2^-100, 2^100].
    """
    if key == UNIFORM:
        return 1.0
    for metrics in records_of(msg.content, MetricRecord):
        weight = metrics.get(key)
        if (
            isinstance(weight, (int, float))
            and not isinstance(weight, bool)
            and (weight == 0 or _LEAST <= weight <= _MOST)
        ):
            return float(weight)
    raise ConfigurationError(
        f"the client's metrics hold no number >= 0 as {key!r}: "
        "add it to the reply's MetricRecord, or set weighted_by_key=None"
    )
