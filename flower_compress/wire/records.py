"""Reading Flower's records without the copies that their properties make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from ..errors import LayoutMismatchError

__all__ = [
    "array_bytes",
    "bytes_record",
    "find_bytes",
    "model_record",
    "num_objects",
    "plain_record",
    "records_of",
    "uniform_mean",
]

AnyRecord = ArrayRecord | ConfigRecord | MetricRecord
_OURS = "flower_compress"
"""What the serialisation types of packets and mail begin with."""
_CHUNK_BYTES = 5 << 20
"""Of an array Flower makes objects of so many bytes."""

_Record = TypeVar("_Record", ArrayRecord, ConfigRecord, MetricRecord)


def records_of(content: RecordDict, kind: type[_Record]) -> Iterator[_Record]:
    """Yield the records of one kind; ``content.array_records`` would copy them."""
    for record in content.values():
        if isinstance(record, kind):
            yield record


def array_bytes(content: RecordDict, *, beside: str | None = None) -> int:
    """Return the size of all arrays and packets in a message, in bytes.

    With `beside`, of those that are not in the record of that key.
    """
    return sum(_num_bytes(record) for key, record in content.items() if key != beside)


def _num_bytes(record: AnyRecord) -> int:
    if isinstance(record, ArrayRecord):
        return sum(len(array.data) for array in record.values())
    if isinstance(record, ConfigRecord):
        return sum(
            len(value)
            for key, value in record.items()
            if isinstance(value, bytes) and key.startswith(_OURS)
        )
    return 0


def num_objects(content: Mapping[str, AnyRecord]) -> int:
    """Return how many objects Flower stores and fetches for a message.

    The message, its RecordDict, each record, and of each array itself and its chunks.
    """
    return 2 + sum(
        1
        + sum(
            1 + max(1, -(-len(array.data) // _CHUNK_BYTES)) for array in record.values()
        )
        if isinstance(record, ArrayRecord)
        else 1
        for record in content.values()
    )


def bytes_record(name: str, stype: str, data: bytes) -> ArrayRecord:
    """Return a record with one array of that name and stype, which holds `data`."""
    return ArrayRecord({name: Array("uint8", (len(data),), stype, data)})


def plain_record(stype: str, data: bytes) -> ConfigRecord | None:
    """Return a record that holds `data` under that stype, two objects less.

    None if the data are longer than what Flower sends as one object.
    """
    return ConfigRecord({stype: data}) if len(data) <= _CHUNK_BYTES else None


def find_bytes(content: RecordDict, name: str, stype: str) -> tuple[str, bytes] | None:
    """Return key and data of the record of either kind that holds them, if any."""
    for key, record in content.items():
        if isinstance(record, ArrayRecord) and name in record:
            array = record[name]
            if array.stype == stype:
                return key, array.data
        elif isinstance(record, ConfigRecord):
            data = record.get(stype)
            if isinstance(data, bytes):
                return key, data
    return None


def model_record(content: RecordDict, key: str, where: str) -> tuple[str, ArrayRecord]:
    """Return the ArrayRecord under `key`, or the only one, and its key.

    Raises
    ------
    LayoutMismatchError
        If there is none, or several of which none is under `key`.
    """
    found = {
        name: record
        for name, record in content.items()
        if isinstance(record, ArrayRecord)
    }
    if key not in found and len(found) == 1:
        (key,) = found
    if key not in found:
        hint = f", none under {key!r}: put the model's arrays there" if found else ""
        raise LayoutMismatchError(
            f"expected one ArrayRecord in {where}, got {len(found)}{hint}"
        )
    return key, found[key]


def uniform_mean(contents: list[RecordDict], _: str) -> MetricRecord:
    """Return the mean of each metric over the clients that report it, unweighted."""
    columns: dict[str, list[int | float | list[int] | list[float]]] = {}
    for content in contents:
        for record in records_of(content, MetricRecord):
            for key, value in record.items():
                columns.setdefault(key, []).append(value)
    mean = MetricRecord()
    for key, values in columns.items():
        lists = [value for value in values if isinstance(value, list)]
        if not lists:
            numbers = [value for value in values if not isinstance(value, list)]
            mean[key] = sum(numbers) / len(numbers)
        elif len(lists) == len(values) and len({len(value) for value in lists}) == 1:
            entries = zip(*lists, strict=True)
            mean[key] = [sum(entry) / len(lists) for entry in entries]
        else:
            raise LayoutMismatchError(
                f"metric {key!r} differs in form between clients: expected numbers, or "
                "lists of one length"
            )
    return mean
