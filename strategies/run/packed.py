"""Replies as a strategy's own methods see them: packed, which they are told."""

from __future__ import annotations

from typing import Any

from flwr.app import Array, ArrayRecord, Message, RecordDict
from numpy.typing import NDArray

from flower_compress.errors import ConfigurationError
from flower_compress.wire.building import (
    new_array,
    new_array_record,
    with_record,
)
from flower_compress.wire.mail import find_mail
from flower_compress.wire.packet import array_of, find_packet
from flower_compress.wire.records import bytes_objects, num_objects, records_of

__all__ = ["PackedArrays", "mark_packed", "objects_of"]

_PACKET = (
    "the reply's arrays are compressed, it holds a packet: take the aggregate that "
    "super().aggregate_train(server_round, replies) returns, or build on "
    "compress(FedAvg(...)), whose strategy sees every client's arrays"
)
_MAIL = (
    "the reply holds mail for a node's neighbours, and the relay sees no model: give "
    "collect_every=1 and read node_models after a round"
)


class PackedArrays(ArrayRecord):
    """The record of a packet, which says so where it is read as the model's arrays."""

    remedy = ""
    """What its error says."""
    saved = 0
    """How many objects less it travelled in, without an array around the packet."""

    @classmethod
    def of(cls, record: ArrayRecord, remedy: str, saved: int = 0) -> ArrayRecord:
        """Return the record as such a one."""
        arrays = {name: _Packed.of(array, remedy) for name, array in record.items()}
        packed = new_array_record(arrays, cls)
        packed.__dict__.update(remedy=remedy, saved=saved)
        return packed

    def __getitem__(self, name: str) -> Array:
        if name not in self:
            raise ConfigurationError(f"no array {name!r}: {self.remedy}")
        return super().__getitem__(name)


class _Packed(Array):
    """An array of such a record, which has no entries to give."""

    remedy = ""

    @classmethod
    def of(cls, array: Array, remedy: str) -> Array:
        shape = tuple(array.shape)
        packed = new_array(array.dtype, shape, array.stype, array.data, cls)
        packed.__dict__["remedy"] = remedy
        return packed

    def numpy(self) -> NDArray[Any]:
        """Raise ConfigurationError."""
        raise ConfigurationError(self.remedy)


def mark_packed(reply: Message) -> Message:
    """Return the reply, whose packet (or mail) is a :class:`PackedArrays` from now."""
    if not reply.has_content():
        return reply
    found, remedy = find_packet(reply.content), _PACKET
    if found is None:
        found, remedy = find_mail(reply.content), _MAIL
    if found is None:
        return reply
    key, data = found
    record, saved = reply.content[key], 0
    if isinstance(record, PackedArrays):
        return reply
    if not isinstance(record, ArrayRecord):
        record = array_of(data)
        saved = bytes_objects(len(data), plain=False) - 1
    return with_record(reply, key, PackedArrays.of(record, remedy, saved))


def objects_of(content: RecordDict) -> int:
    """Return of how many objects a reply was made, marked or not."""
    count = num_objects(content)
    for record in records_of(content, ArrayRecord):
        if isinstance(record, PackedArrays):
            count -= record.saved
    return count
