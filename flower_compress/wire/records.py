"""Reading Flower's records without the copies that their properties make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from ..errors import LayoutMismatchError
from .building import entries, new_array, new_array_record, new_config_record

__all__ = [
    "array_bytes",
    "bytes_objects",
    "bytes_record",
    "find_bytes",
    "first_config",
    "is_record",
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
_OF_KIND: dict[tuple[type, type], bool] = {}
"""Whether the second class is of the first."""

_Record = TypeVar("_Record", ArrayRecord, ConfigRecord, MetricRecord)


def is_record(record: object, kind: type) -> bool:
    """Return ``isinstance(record, kind)``, which takes long where it is not so."""
    try:
        return _OF_KIND[kind, type(record)]
    except KeyError:
        known = _OF_KIND[kind, type(record)] = isinstance(record, kind)
        return known


def first_config(content: RecordDict) -> ConfigRecord:
    """Return the first ConfigRecord that holds no packet, an empty one if all do."""
    for record in records_of(content, ConfigRecord):
        if not any(key.startswith(_OURS) for key in entries(record)):
            return record
    return ConfigRecord()


def records_of(content: RecordDict, kind: type[_Record]) -> Iterator[_Record]:
    """Yield the records of one kind; ``content.array_records`` would copy them."""
    for record in entries(content).values():
        if is_record(record, kind):
            yield record


def array_bytes(content: RecordDict, *, beside: str | None = None) -> int:
    """Return the size of all arrays and packets in a message, in bytes.

    With `beside`, of those that are not in the record of that key.
    """
    num_bytes = 0
    for key, record in entries(content).items():
        if key != beside:
            num_bytes += _num_bytes(record)
    return num_bytes


def _num_bytes(record: AnyRecord) -> int:
    num_bytes = 0
    if is_record(record, ArrayRecord):
        for array in entries(record).values():
            num_bytes += len(array.data)
    elif is_record(record, ConfigRecord):
        for key, value in entries(record).items():
            if type(value) is bytes and key.startswith(_OURS):
                num_bytes += len(value)
    return num_bytes


def num_objects(content: Mapping[str, AnyRecord]) -> int:
    """Return how many objects Flower stores and fetches for a message.

    The message, its RecordDict, each record, and of each array itself and its chunks.
    """
    if isinstance(content, RecordDict):
        content = entries(content)
    count = 2 + len(content)
    for record in content.values():
        if is_record(record, ArrayRecord):
            for array in entries(record).values():
                count += 1 + max(1, -(-len(array.data) // _CHUNK_BYTES))
    return count


def bytes_objects(num_bytes: int, *, plain: bool) -> int:
    """Return how many objects a record of so many bytes is, `plain` or in an array."""
    if plain and num_bytes <= _CHUNK_BYTES:
        return 1
    return 2 + max(1, -(-num_bytes // _CHUNK_BYTES))


def bytes_record(name: str, stype: str, data: bytes) -> ArrayRecord:
    """Return a record with one array of that name and stype, which holds `data`."""
    return new_array_record({name: new_array("uint8", (len(data),), stype, data)})


def plain_record(stype: str, data: bytes) -> ConfigRecord | None:
    """Return a record that holds `data` under that stype, two objects less.

    None if the data are longer than what Flower sends as one object.
    """
    return new_config_record({stype: data}) if len(data) <= _CHUNK_BYTES else None


def find_bytes(content: RecordDict, name: str, stype: str) -> tuple[str, bytes] | None:
    """Return key and data of the record of either kind that holds them, if any."""
    for key, record in entries(content).items():
        if is_record(record, ArrayRecord):
            array = entries(record).get(name)
            if array is not None and array.stype == stype:
                return key, array.data
        elif is_record(record, ConfigRecord):
            data = entries(record).get(stype)
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
        for name, record in entries(content).items()
        if is_record(record, ArrayRecord)
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
            for key, value in entries(record).items():
                columns.setdefault(key, []).append(value)
    mean = MetricRecord()
    for key, values in columns.items():
        lists = [value for value in values if isinstance(value, list)]
        if not lists:
            numbers = [value for value in values if not isinstance(value, list)]
            mean[key] = sum(numbers) / len(numbers)
        elif len(lists) == len(values) and len({len(value) for value in lists}) == 1:
            rows = zip(*lists, strict=True)
            mean[key] = [sum(entry) / len(lists) for entry in rows]
        else:
            raise LayoutMismatchError(
                f"metric {key!r} differs in form between clients: expected numbers, or "
                "lists of one length"
            )
    return mean
