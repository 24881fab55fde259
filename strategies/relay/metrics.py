"""The nodes' metrics: of each the mean over the nodes that give it as most do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from logging import getLogger

from flwr.app import MetricRecord, RecordDict

from flower_compress.wire.records import records_of, uniform_mean

__all__ = ["mean_metrics"]

_log = getLogger("flwr")

_Value = int | float | list[int] | list[float]
_Form = tuple[int | None, bool]
"""The length of a list, None for a number; whether all of it is finite."""


def mean_metrics(contents: Iterable[RecordDict]) -> MetricRecord:
    """Return the mean of each metric, unweighted; empty without any.

    One node ends no run, and spoils no mean: where its metric is a list of another
    length than those of most others, or NaN where they are numbers, it is left out.
    That is logged.
    """
    columns: dict[str, list[_Value]] = {}
    for content in contents:
        for record in records_of(content, MetricRecord):
            for name, value in record.items():
                columns.setdefault(name, []).append(value)
    means = MetricRecord()
    for name, values in columns.items():
        forms = [_form(value) for value in values]
        usual = _most_common(forms)
        kept = [v for v, form in zip(values, forms, strict=True) if form == usual]
        means[name] = uniform_mean(
            [RecordDict({"metrics": MetricRecord({name: value})}) for value in kept], ""
        )[name]
        if len(kept) < len(values):
            _log.warning(
                "metric %r of %d of %d nodes is left out of the mean: unlike that of "
                "most others it is no number, or a list of another length",
                name,
                len(values) - len(kept),
                len(values),
            )
    return means


def _form(value: _Value) -> _Form:
    if isinstance(value, list):
        return len(value), all(map(math.isfinite, value))
    return None, math.isfinite(value)


def _most_common(forms: list[_Form]) -> _Form:
    """Return the form that is there most often; of several a finite one, the first."""
    counts = Counter(forms)
    return max(counts, key=lambda form: (counts[form], form[1]))
