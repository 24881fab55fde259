"""Reading Flower's records without the copies that their properties make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from .errors import LayoutMismatchError

__all__ = ["array_bytes", "only_array_record", "records_of", "uniform_mean"]

_Record = TypeVar("_Record", ArrayRecord, ConfigRecord, MetricRecord)


def records_of(content: RecordDict, kind: type[_Record]) -> Iterator[_Record]:
    """Yield the records of one kind; ``content.array_records`` would copy them."""
    for record in content.values():
        if isinstance(record, kind):
            yield record


def array_bytes(content: RecordDict) -> int:
    """Return the size of all arrays in a message, in bytes."""
    return sum(
        len(array.data)
        for record in records_of(content, ArrayRecord)
        for array in record.values()
    )


def only_array_record(content: RecordDict, where: str) -> tuple[str, ArrayRecord]:
    """Return the one ArrayRecord of a message and its key.

    Raises
    ------
    LayoutMismatchError
        If there is none, or more than one.
    """
    found = [
        (key, record)
        for key, record in content.items()
        if isinstance(record, ArrayRecord)
    ]
    if len(found) != 1:
        raise LayoutMismatchError(
            f"expected one ArrayRecord in {where}, got {len(found)}"
        )
    return found[0]


def uniform_mean(contents: list[RecordDict], _: str) -> MetricRecord:
    """Return the mean of each metric, all clients weighing alike."""
    mean: dict[str, float | list[float]] = {}
    scale = 1.0 / len(contents)
    for content in contents:
        for record in records_of(content, MetricRecord):
            for key, value in record.items():
                if isinstance(value, list):
                    scaled = [entry * scale for entry in value]
                    before = mean.get(key, [0.0] * len(scaled))
                    if not isinstance(before, list) or len(before) != len(scaled):
                        raise LayoutMismatchError(
                            f"metric {key!r} differs in length between clients"
                        )
                    mean[key] = [a + b for a, b in zip(before, scaled, strict=True)]
                else:
                    total = mean.get(key, 0.0)
                    if isinstance(total, list):
                        raise LayoutMismatchError(
                            f"metric {key!r} is a list for some clients only"
                        )
                    mean[key] = total + value * scale
    return MetricRecord(dict(mean))
