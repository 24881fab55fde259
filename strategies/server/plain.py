"""Between a plain strategy's messages and those that travel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MetricRecord,
    RecordDict,
)

from flower_compress.errors import ConfigurationError
from flower_compress.wire import building
from flower_compress.wire.arrays import kind_of, read_array, write_array
from flower_compress.wire.layout import Layout

__all__ = [
    "as_initial",
    "as_yielded",
    "clipped",
    "model_key",
    "same_arrays",
    "with_content",
]

Record = ArrayRecord | ConfigRecord | MetricRecord


def model_key(content: RecordDict, model: ArrayRecord) -> str | None:
    """Return the key of the record that holds the model, None if there is no array.

    Parameters
    ----------
    content : RecordDict
        What the strategy wants to send.
    model : ArrayRecord
        The model that the strategy was given.

    Raises
    ------
    ConfigurationError
        If it cannot be told from others.
    """
    records = {
        key: record
        for key, record in content.items()
        if isinstance(record, ArrayRecord)
    }
    for key, record in records.items():
        if same_arrays(record, model):
            return key
    if len(records) > 1:
        raise ConfigurationError(
            f"none of the ArrayRecords {', '.join(records)} that the strategy sends is "
            "the model that it was given: expected the model among them"
        )
    return next(iter(records), None)


def same_arrays(one: ArrayRecord, other: ArrayRecord) -> bool:
    """Whether two records hold the same bytes under the same names."""
    return one is other or (
        one.keys() == other.keys()
        and all(
            array.data == other[name].data and array.dtype == other[name].dtype
            for name, array in one.items()
        )
    )


def as_yielded(messages: Iterable[Message]) -> list[Message]:
    """Return the messages as they are when they are yielded.

    Flower's strategies put one content into all of them, which a generator of a
    subclass may change before each.
    """
    return [with_content(msg, None, None) for msg in messages]


def with_content(msg: Message, key: str | None, record: Record | None) -> Message:
    """Return the message with copies of its records, one of them replaced.

    The original stays as it is: a strategy may put one content into many messages. A
    ConfigRecord goes behind the others: whoever looks for one finds the strategy's.

    Parameters
    ----------
    msg : Message
        The message.
    key : str, optional
        Which record is replaced.
    record : ArrayRecord or ConfigRecord, optional
        By what; None leaves it out.
    """
    content: dict[str, Record] = {}
    for name, old in msg.content.items():
        if name != key:
            content[name] = _copy(old)
        elif record is not None:
            content[name] = record
    if key is not None and isinstance(record, ConfigRecord) and key in content:
        content[key] = content.pop(key)
    return building.with_content(msg, building.new_record_dict(content))


def _copy(record: Record) -> Record:
    if isinstance(record, ArrayRecord):
        return ArrayRecord(dict(record.items()))
    if isinstance(record, ConfigRecord):
        return ConfigRecord(dict(record))
    return MetricRecord(dict(record))


def as_initial(arrays: ArrayRecord, layout: Layout) -> ArrayRecord:
    """Return a model with the dtypes of the initial one; integers are rounded.

    A mean of integers is no integer, and NumPy makes float64 of a float32 that is
    multiplied with a float64: strategies return both.

    Raises
    ------
    LayoutMismatchError
        If names or shapes are not those of the layout.
    NonFiniteError
        If a value that is to be an integer is NaN or infinite, or does not fit.
    """
    whole: dict[str, Array] = dict(arrays.items())
    for tensor in layout.tensors:
        array = whole.get(tensor.name)
        if array is None or kind_of(tensor.dtype) == "f":
            continue
        entries = read_array(array)
        if entries.dtype.kind == "f":
            tensor.check_finite(entries, "the strategy's model")
            whole[tensor.name] = write_array(np.rint(entries))
    return layout.unflatten(*layout.flatten(whole))


def clipped(reply: ArrayRecord, model: ArrayRecord, norm: float) -> ArrayRecord:
    """Return w + (w_i - w) min(1, S / ||w_i - w||), over all floating arrays together.

    Integers (a counter of batches) are as they came: Flower's mod has counted them into
    the norm, and has not clipped them.

    Parameters
    ----------
    reply : ArrayRecord
        w_i.
    model : ArrayRecord
        w.
    norm : float
        S.
    """
    held = {name: read_array(array) for name, array in model.items()}
    changes: dict[str, Any] = {
        name: read_array(array).astype(np.float64) - held[name]
        for name, array in reply.items()
        if kind_of(array.dtype) == "f"
    }
    length = sum(float(np.sum(np.square(change))) for change in changes.values()) ** 0.5
    if length <= norm:
        return reply
    arrays: dict[str, Array] = dict(reply.items())
    for name, change in changes.items():
        entries = held[name] + change * (norm / length)
        arrays[name] = write_array(entries.astype(reply[name].dtype))
    return ArrayRecord(arrays)
