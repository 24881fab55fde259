"""Replies as a strategy's own methods see them: packed, which they are told."""

from __future__ import annotations

from typing import Any

from flwr.app import Array, ArrayRecord, Message, RecordDict
from numpy.typing import NDArray

from flower_compress.errors import ConfigurationError
from flower_compress.wire.mail import find_mail
from flower_compress.wire.packet import array_of, find_packet
from flower_compress.wire.records import num_objects

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
    """The record of a packet, which says so where it is read as the model's arrays.

    Parameters
    ----------
    record : ArrayRecord
        The record.
    remedy : str
        What its error says.
    saved : int (default: 0)
        How many objects less it travelled in, without an array around the packet.

    Attributes
    ----------
    saved : int
        See above.
    """

    def __init__(self, record: ArrayRecord, remedy: str, saved: int = 0) -> None:
        super().__init__()
        self._remedy, self.saved = remedy, saved
        for name, array in record.items():
            self[name] = _Packed(array, remedy)

    def __getitem__(self, name: str) -> Array:
        if name not in self:
            raise ConfigurationError(f"no array {name!r}: {self._remedy}")
        return super().__getitem__(name)


class _Packed(Array):
    """An array of such a record, which has no entries to give."""

    def __init__(self, array: Array, remedy: str) -> None:
        super().__init__(array.dtype, tuple(array.shape), array.stype, array.data)
        self._remedy = remedy

    def numpy(self) -> NDArray[Any]:
        """Raise ConfigurationError."""
        raise ConfigurationError(self._remedy)


def mark_packed(reply: Message) -> Message:
    """Return the reply, whose packet (or mail) is a :class:`PackedArrays` from now."""
    if reply.has_content():
        for find, remedy in ((find_packet, _PACKET), (find_mail, _MAIL)):
            found = find(reply.content)
            if found is not None:
                key, data = found
                record, saved = reply.content[key], 0
                if isinstance(record, PackedArrays):
                    continue
                if not isinstance(record, ArrayRecord):
                    record, before = array_of(data), num_objects({key: record})
                    saved = num_objects({key: record}) - before
                packed = PackedArrays(record, remedy, saved)
                # Anew: Flower warns of a record that takes the place of another kind.
                entries = {**dict(reply.content.items()), key: packed}
                reply.content = RecordDict(entries)
    return reply


def objects_of(content: RecordDict) -> int:
    """Return of how many objects a reply was made, marked or not."""
    packed = (r for r in content.values() if isinstance(r, PackedArrays))
    return num_objects(content) - sum(record.saved for record in packed)
