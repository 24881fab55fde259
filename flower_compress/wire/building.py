"""Flower's records, of parts that are known to be what they have to be.

Flower checks every entry of a record, and copies every array of one that is made from a
dictionary. Where a simulation hands on thousands of small messages a second, that takes
longer than all arithmetic. What is made here holds the same as what the constructors
make; where a release of Flower keeps something else in its objects, the constructors do
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)

__all__ = [
    "addressed",
    "entries",
    "new_array",
    "new_array_record",
    "new_config_record",
    "new_metric_record",
    "new_record_dict",
    "new_reply",
    "with_content",
    "with_record",
]

Record = ArrayRecord | ConfigRecord | MetricRecord
_Dict = TypeVar("_Dict", ArrayRecord, ConfigRecord, MetricRecord, RecordDict)

_OF_ARRAYS = {"dtype", "shape", "stype", "data"}
_OF_RECORDS = {"_check_key_fn", "_check_value_fn", "_data"}
_OF_METADATA = {
    "_run_id",
    "_message_id",
    "_src_node_id",
    "_dst_node_id",
    "_src_task_id",
    "_dst_task_id",
    "_reply_to_message_id",
    "_group_id",
    "_created_at",
    "_ttl",
    "_message_type",
    "_delivered_at",
}
_NOTES = {"_is_dirty"}
"""What Flower notes of an object when it first asks."""


def new_array(
    dtype: str,
    shape: tuple[int, ...],
    stype: str,
    data: bytes,
    cls: type[Array] = Array,
) -> Array:
    """Return ``cls(dtype, shape, stype, data)``."""
    if not _ARRAYS_AS_KNOWN:
        return cls(dtype, shape, stype, data)
    array: Array = object.__new__(cls)
    array.__dict__.update(dtype=dtype, shape=shape, stype=stype, data=data)
    return array


def new_array_record(
    arrays: Mapping[str, Array], cls: type[ArrayRecord] = ArrayRecord
) -> ArrayRecord:
    """Return a record of these very arrays, which nobody else may change."""
    return _filled(cls, _EMPTY_ARRAYS, arrays)


def new_config_record(values: Mapping[str, Any]) -> ConfigRecord:
    """Return ``ConfigRecord(values)``; they are of types that it takes."""
    return _filled(ConfigRecord, _EMPTY_CONFIG, values)


def new_metric_record(values: Mapping[str, int | float]) -> MetricRecord:
    """Return ``MetricRecord(values)``, which checks what is no plain number."""
    for value in values.values():
        if type(value) is not float and type(value) is not int:
            return MetricRecord({**values})
    return _filled(MetricRecord, _EMPTY_METRICS, values)


def new_record_dict(records: Mapping[str, Record]) -> RecordDict:
    """Return ``RecordDict(records)``."""
    return _filled(RecordDict, _EMPTY_RECORDS, records)


def entries(record: Record | RecordDict) -> Mapping[str, Any]:
    """Return the entries of a record, to be read: its own methods take longer."""
    held: Mapping[str, Any] | None = record.__dict__.get("_data")
    return dict(record.items()) if held is None else held


def new_reply(msg: Message, content: RecordDict) -> Message:
    """Return ``Message(content, reply_to=msg)``."""
    asked = msg.metadata.__dict__
    if asked.keys() != _OF_METADATA or type(content) is not RecordDict:
        return Message(content, reply_to=msg)
    now = datetime.now(UTC).timestamp()
    metadata: Metadata = object.__new__(Metadata)
    metadata.__dict__.update(
        asked,
        _message_id="",
        _src_node_id=asked["_dst_node_id"],
        _dst_node_id=asked["_src_node_id"],
        _src_task_id=asked["_dst_task_id"],
        _dst_task_id=asked["_src_task_id"],
        _reply_to_message_id=asked["_message_id"],
        _created_at=now,
        _ttl=asked["_created_at"] + asked["_ttl"] - now,
        _delivered_at="",
    )
    reply: Message = object.__new__(Message)
    reply.__dict__.update(_metadata=metadata, _content=content, _error=None)
    return reply


def with_content(msg: Message, content: RecordDict) -> Message:
    """Return the message with another content; the original stays as it is."""
    changed: Message = object.__new__(type(msg))
    changed.__dict__.update(msg.__dict__)
    changed.content = content
    return changed


def addressed(msg: Message, node_id: int, content: RecordDict) -> Message:
    """Return the message to another node, with another content."""
    metadata: Metadata = object.__new__(Metadata)
    metadata.__dict__.update(msg.metadata.__dict__)
    metadata.dst_node_id = node_id
    changed: Message = object.__new__(Message)
    changed.__dict__.update(msg.__dict__, _metadata=metadata)
    changed.content = content
    return changed


def with_record(msg: Message, key: str, record: Record) -> Message:
    """Return the message with one record replaced; the original stays as it is."""
    content = new_record_dict({**entries(msg.content), key: record})
    return with_content(msg, content)


def _filled(
    cls: type[_Dict], empty: dict[str, Any] | None, values: Mapping[str, Any]
) -> _Dict:
    if empty is None:
        filled = cls()
        for key, value in values.items():
            filled[key] = value
        return filled
    made: _Dict = object.__new__(cls)
    made.__dict__.update(empty, _data={**values})
    return made


def _attributes(cls: type[_Dict]) -> dict[str, Any] | None:
    """Return what an empty record holds; None if that is not what is known."""
    held = vars(cls())
    return dict(held) if held.keys() - _NOTES == _OF_RECORDS else None


_ARRAYS_AS_KNOWN = vars(Array("", (), "", b"")).keys() - _NOTES == _OF_ARRAYS
_EMPTY_ARRAYS = _attributes(ArrayRecord)
_EMPTY_CONFIG = _attributes(ConfigRecord)
_EMPTY_METRICS = _attributes(MetricRecord)
_EMPTY_RECORDS = _attributes(RecordDict)
