"""Metrics that a strategy adds to those of its clients."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger

from flwr.app import MetricRecord

__all__ = ["add_own"]

_log = getLogger("flwr")


def add_own(
    metrics: MetricRecord, own: Mapping[str, int | float], told: set[str]
) -> None:
    """Add a strategy's own metrics, and warn once of each name that is taken.

    Parameters
    ----------
    metrics : MetricRecord
        The clients', which is changed.
    own : Mapping[str, int | float]
        What is added; it replaces what has its name.
    told : set[str]
        The names of which this has warned in the run.
    """
    for name in own.keys() & metrics.keys() - told:
        told.add(name)
        _log.warning(
            "the clients' metric %r is replaced by the strategy's own of that name: "
            "give theirs another",
            name,
        )
    metrics.update(own)
