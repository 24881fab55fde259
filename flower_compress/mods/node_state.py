"""What the clients of one node keep, in the state of the node that they share."""

from __future__ import annotations

from collections.abc import Mapping
from pickle import PickleBuffer
from typing import Any, SupportsIndex

from flwr.app import ConfigRecord, RecordDict

from ..wire.building import entries, new_config_record, new_record_dict
from ..wire.bundle import copied, unshared

__all__ = ["NodeState"]

_PREFIX = "flower-compress.clients/"
_IN_BLOCKS = "flower-compress.blocks/"
_BLOCK_BYTES = 1 << 17
_LONG = 2 * _BLOCK_BYTES
_MARK_BYTES = 64


class NodeState:
    """States of clients within that of their node.

    Long bytes are kept in blocks, and a block that another client has at the same place
    is kept once: the memory of a downlink that all share.

    Parameters
    ----------
    state : RecordDict
        The node's, which is changed.
    """

    def __init__(self, state: RecordDict) -> None:
        self._state = state
        self._held: dict[str, dict[str, Any]] = {}
        self._blocks: dict[tuple[str, int, bytes], bytes] = {}
        for name, record in entries(state).items():
            if name.startswith(_PREFIX):
                client, _, key = name[len(_PREFIX) :].partition(":")
                self._held.setdefault(client, {})[key] = record

    def read(self, client: str) -> RecordDict:
        """Return what a client keeps, to be changed as it likes."""
        held = self._held.get(_name(client), {})
        return new_record_dict({key: _joined(record) for key, record in held.items()})

    def keep(self, client: str, state: RecordDict) -> None:
        """Keep what a client has now."""
        client = _name(client)
        before = self._held.get(client, {})
        after = {
            key: self._parted(key, record) for key, record in entries(state).items()
        }
        for key in before.keys() - after.keys():
            del self._state[f"{_PREFIX}{client}:{key}"]
        for key, record in after.items():
            self._state[f"{_PREFIX}{client}:{key}"] = record
        self._held[client] = after

    def _parted(self, key: str, record: Any) -> Any:
        if not isinstance(record, ConfigRecord):
            return record
        values = entries(record)
        if not any(_is_long(value) for value in values.values()):
            return record
        return new_config_record(
            {
                f"{_IN_BLOCKS}{name}" if _is_long(value) else name: (
                    self._in_blocks(f"{key}:{name}", value)
                    if _is_long(value)
                    else value
                )
                for name, value in values.items()
            }
        )

    def _in_blocks(self, place: str, value: bytes) -> list[bytes]:
        blocks: list[bytes] = []
        view = memoryview(value)
        for start in range(0, len(value), _BLOCK_BYTES):
            block = _Block(view[start : start + _BLOCK_BYTES])
            # Its first bytes tell in most cases that it is another one.
            mark = place, start, bytes(view[start : start + _MARK_BYTES])
            known = self._blocks.setdefault(mark, block)
            blocks.append(known if known == block else block)
        return blocks


class _Block(bytes):
    """Bytes that pickle need not copy: a simulation hands states on by the megabyte."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        if protocol.__index__() < 5:
            return bytes, (bytes(self),)
        return _Block, (PickleBuffer(self),)


def _name(client: str) -> str:
    """Return a client without a colon, which ends it in a key."""
    return client.replace("%", "%25").replace(":", "%3A")


def _is_long(value: object) -> bool:
    return type(value) is bytes and len(value) >= _LONG


def _joined(record: Any) -> Any:
    if not isinstance(record, ConfigRecord):
        return copied(record)
    values: Mapping[str, Any] = entries(record)
    return new_config_record(
        {
            name.removeprefix(_IN_BLOCKS): (
                b"".join(value) if name.startswith(_IN_BLOCKS) else unshared(value)
            )
            for name, value in values.items()
        }
    )
