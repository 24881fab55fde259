"""Several messages in one: those of all clients that run on one node.

A bundle's content has an index under :data:`BUNDLE_KEY`, and the records themselves
under ``"0"``, ``"1"``, ... One that several clients are sent, as a dense model or a
config, is there once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from flwr.app import ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict

from ..errors import CorruptPacket
from .building import (
    entries,
    new_array_record,
    new_config_record,
    new_metric_record,
    new_record_dict,
)

__all__ = [
    "BUNDLE_KEY",
    "Request",
    "answer_content",
    "asking_content",
    "copied",
    "find_request",
    "read_answers",
    "read_where",
    "request_content",
    "unshared",
    "where_content",
]

BUNDLE_KEY = "flower-compress.clients"
"""Key of a bundle's index, a ConfigRecord."""

_Record: TypeAlias = ArrayRecord | ConfigRecord | MetricRecord

_ASKS, _WHERE = "asks", "where"
_NODES, _NUMBERS, _PER_NODE, _TOTAL = "nodes", "numbers", "per-node", "total"
_KEYS, _RECORDS, _COUNTS = "keys", "records", "counts"
_CODES, _REASONS = "codes", "reasons"
_MOST_SHARED = 1 << 20
"""Entries that the records of an answer may have more than were sent: one that a few
bytes name again is copied each time."""
_SHORT = 1024
"""Of bytes that are compared; longer ones are the same if they are one object."""


class Request(NamedTuple):
    """What a server asks of the clients of a node.

    Parameters
    ----------
    nodes : tuple[int, ...]
        The clients, by the node ids under which the server knows them.
    numbers : tuple[int, ...]
        The number of each on its node, from 0.
    contents : tuple[RecordDict, ...]
        What each is sent.
    per_node : int
        How many clients a node has, at most.
    total : int
        How many there are on all nodes; 0 if nobody knows.
    """

    nodes: tuple[int, ...]
    numbers: tuple[int, ...]
    contents: tuple[RecordDict, ...]
    per_node: int
    total: int


def asking_content() -> RecordDict:
    """Return what asks a node where it stands among the others."""
    return _content({_ASKS: True})


def where_content(partition: object) -> RecordDict:
    """Return the answer: the node's ``partition-id``, None if it has none."""
    known = {} if partition is None else {_WHERE: partition}
    return _content({_ASKS: False, **known})


def read_where(content: RecordDict) -> int | str | None:
    """Return a node's ``partition-id`` of its answer.

    Raises
    ------
    CorruptPacket
        If it is no answer.
    """
    index = _index(content)
    where = None if index is None else index.get(_WHERE)
    is_one = where is None or type(where) in (int, str)
    # One that asks as well is the question, which an app without the mod gave back.
    if index is None or index.get(_ASKS) is not False or not is_one:
        raise CorruptPacket(
            "expected where the node stands among the others, got another answer"
        )
    return where  # type: ignore[return-value]


def request_content(request: Request) -> RecordDict:
    """Return the content of the message that carries a request."""
    index: dict[str, Any] = {
        _NODES: list(request.nodes),
        _NUMBERS: list(request.numbers),
        _PER_NODE: request.per_node,
        _TOTAL: request.total,
    }
    return _with_records(index, request.contents)


def find_request(content: RecordDict) -> Request | None:
    """Return the request of a message; None if it only asks where the node stands.

    Raises
    ------
    KeyError
        If the message is no bundle.
    CorruptPacket
        If it does not say of each record whose it is.
    """
    index = _index(content)
    if index is None:
        raise KeyError(BUNDLE_KEY)
    if index.get(_ASKS):
        return None
    nodes, numbers = _numbers(index, _NODES), _numbers(index, _NUMBERS)
    per_node, total = index.get(_PER_NODE), index.get(_TOTAL)
    if (
        type(per_node) is not int
        or type(total) is not int
        or len(numbers) != len(nodes)
        or not all(0 <= number < per_node for number in numbers)
    ):
        raise CorruptPacket(
            f"expected which of its clients a node is to ask, got {len(numbers)} "
            f"numbers for {len(nodes)} of {per_node!r}"
        )
    contents = _contents(index, content, len(nodes))
    return Request(tuple(nodes), tuple(numbers), tuple(contents), per_node, total)


def answer_content(answers: Sequence[RecordDict | Error]) -> RecordDict:
    """Return the content of the message with the answers of all clients asked."""
    errors = [each if isinstance(each, Error) else None for each in answers]
    index: dict[str, Any] = {
        _CODES: [0 if error is None else error.code for error in errors],
        _REASONS: ["" if error is None else _reason(error) for error in errors],
    }
    nothing = new_record_dict({})
    return _with_records(
        index, [nothing if isinstance(each, Error) else each for each in answers]
    )


def read_answers(content: RecordDict, num_clients: int) -> list[RecordDict | Error]:
    """Return each client's answer, in the order in which they were asked.

    Raises
    ------
    CorruptPacket
        If they are not the answers of so many clients.
    """
    index = _index(content)
    if index is None:
        raise CorruptPacket(
            f"expected the answers of {num_clients} clients in one message, got that "
            "of one: put ManyClientsMod first in the client app, "
            "ClientApp(mods=[ManyClientsMod(), ...])"
        )
    codes, reasons = _numbers(index, _CODES), index.get(_REASONS)
    contents = _contents(index, content, num_clients, _MOST_SHARED)
    if (
        len(codes) != num_clients
        or not isinstance(reasons, list)
        or len(reasons) != num_clients
    ):
        raise CorruptPacket(
            f"expected the answers of {num_clients} clients, got {len(codes)}"
        )
    # Flower has an error of code 0 too, "unknown".
    return [
        Error(code, str(reason)) if code or reason else answer
        for answer, code, reason in zip(contents, codes, reasons, strict=True)
    ]


def copied(record: _Record) -> _Record:
    """Return a record of the same values, which whoever has it may change."""
    if type(record) is ArrayRecord:
        return new_array_record(entries(record))
    values = {key: unshared(value) for key, value in entries(record).items()}
    if type(record) is ConfigRecord:
        return new_config_record(values)
    if type(record) is MetricRecord:
        return new_metric_record(values)
    other: _Record = type(record)()
    for key, value in values.items():
        other[key] = value
    return other


def unshared(value: Any) -> Any:
    """Return a record's value, of a list another one: an app may change it in place."""
    return value.copy() if type(value) is list else value


def _reason(error: Error) -> str:
    """Return why; never nothing where only that tells an error from an answer."""
    return error.reason or ("" if error.code else "unknown")


# -- the table of records --------------------------------------------------------------


def _content(index: Mapping[str, Any]) -> RecordDict:
    return new_record_dict({BUNDLE_KEY: new_config_record(index)})


def _index(content: RecordDict) -> ConfigRecord | None:
    index = entries(content).get(BUNDLE_KEY)
    return index if isinstance(index, ConfigRecord) else None


def _with_records(index: dict[str, Any], contents: Sequence[RecordDict]) -> RecordDict:
    keys: list[str] = []
    numbers: list[int] = []
    table: dict[str, Any] = {}
    by_id: dict[int, int] = {}
    by_value: dict[Hashable, int] = {}
    for content in contents:
        for key, record in entries(content).items():
            number = by_id.get(id(record))
            if number is None:
                number = by_value.setdefault(_mark(record), len(by_value))
                by_id[id(record)] = number
                table.setdefault(str(number), record)
            keys.append(key)
            numbers.append(number)
    counts = [len(content) for content in contents]
    index |= {_KEYS: keys, _RECORDS: numbers, _COUNTS: counts}
    return new_record_dict({BUNDLE_KEY: new_config_record(index), **table})


def _contents(
    index: ConfigRecord,
    content: RecordDict,
    num_clients: int,
    most_shared: int | None = None,
) -> list[RecordDict]:
    """Return each client's content, of records of its own."""
    table = entries(content)
    room = None
    if most_shared is not None:
        room = most_shared + sum(map(len, table.values()))
    keys, numbers = index.get(_KEYS), _numbers(index, _RECORDS)
    counts = _numbers(index, _COUNTS)
    if (
        not isinstance(keys, list)
        or len(keys) != len(numbers)
        or len(counts) != num_clients
        or any(count < 0 for count in counts)
        or sum(counts) != len(numbers)
    ):
        raise CorruptPacket(
            f"expected the records of {num_clients} clients, got {len(numbers)} "
            f"records, of {len(counts)} clients"
        )
    contents, at = [], 0
    for count in counts:
        records: dict[str, Any] = {}
        for key, number in zip(
            keys[at : at + count], numbers[at : at + count], strict=True
        ):
            record: Any = table.get(str(number))
            if record is None:
                raise CorruptPacket(f"expected a record {number}, got none")
            if room is not None:
                room -= len(record)
                if room < 0:
                    raise CorruptPacket(
                        f"expected at most {most_shared} entries in records that "
                        "several clients answer with, got more"
                    )
            records[str(key)] = copied(record)
        contents.append(new_record_dict(records))
        at += count
    return contents


def _numbers(index: ConfigRecord, key: str) -> list[int]:
    held = index.get(key)
    if not isinstance(held, list) or any(type(each) is not int for each in held):
        raise CorruptPacket(f"expected whole numbers under {key!r}, got {held!r:.60}")
    return held  # type: ignore[return-value]


def _mark(record: _Record) -> Hashable:
    """Return what only a record of the same values has as well."""
    if isinstance(record, ArrayRecord):
        return ArrayRecord, tuple(
            (key, array.dtype, array.shape, array.stype, _mark_of(array.data))
            for key, array in entries(record).items()
        )
    return type(record), tuple(
        (key, _mark_of(value)) for key, value in entries(record).items()
    )


def _mark_of(value: Any) -> Hashable:
    # 1, 1.0 and True are equal, and so are 0.0 and -0.0.
    kind = type(value)
    if isinstance(value, float):  # NumPy's are such.
        return kind, value.hex()
    if kind is list:
        return kind, tuple(map(_mark_of, value))
    if kind is bytes and len(value) > _SHORT:
        return kind, id(value)
    return kind, value
