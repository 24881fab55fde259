"""The nodes' metrics: of each the mean over the nodes that give it as most do."""

from __future__ import annotations

from collections.abc import Iterable
from logging import getLogger

from flwr.app import MetricRecord, RecordDict

from flower_compress.wire.records import records_of, uniform_mean

from ..run.metric_forms import Form, form_of, most_common

__all__ = ["mean_metrics"]

_log = getLogger("flwr")


def mean_metrics(contents: Iterable[RecordDict]) -> MetricRecord:
    """Return the mean of each metric, unweighted; empty without any.

    One node ends no run, and spoils no mean: where its metric is a list of another
    length than those of most others, or NaN where they are numbers, it is left out.
    That is logged.
    """
    records = [
        record for content in contents for record in records_of(content, MetricRecord)
    ]
    columns: dict[str, list[Form]] = {}
    for record in records:
        for name, value in record.items():
            columns.setdefault(name, []).append(form_of(value))
    usual = {name: most_common(forms) for name, forms in columns.items()}
    for name, forms in columns.items():
        num_odd = len(forms) - forms.count(usual[name])
        if num_odd:
            _log.warning(
                "metric %r of %d of %d nodes is left out of the mean: unlike that of "
                "most others it is no number, or a list of another length",
                name,
                num_odd,
                len(forms),
            )
    kept = [
        {name: v for name, v in record.items() if form_of(v) == usual[name]}
        for record in records
    ]
    return uniform_mean([RecordDict({"": MetricRecord(each)}) for each in kept], "")
