"""Downlinks that groups of clients share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flower_compress.compressors import Vector
from flower_compress.links import Broadcast, Carries, CatchUp, Channel, Link

from ..run.checkpoint import Arrays, Checkpoint
from ..run.claims import Ends
from .downlink_end import DownlinkEnd
from .first_model import Beginning
from .saved_links import restore_broadcast, save_broadcast

__all__ = ["SharedDownlinks"]


class SharedDownlinks:
    """One memory and one draw for each group of clients; every payload is final.

    Parameters
    ----------
    link : Link
        The downlink.
    carries : {"model", "update"}
        Whether payloads compress the model, or the update that receivers add to it.
    num_groups : int
        Number of groups; client i is in group i mod G.
    channel : Callable[[int], Channel]
        The channel of a group.
    beginning : Beginning
        The model that every memory starts from.
    """

    def __init__(
        self,
        link: Link,
        carries: Carries,
        num_groups: int,
        channel: Callable[[int], Channel],
        beginning: Beginning,
    ) -> None:
        self._carries, self._channel, self._beginning = carries, channel, beginning
        initial = beginning.vector
        self._dim = initial.size
        self._groups = [
            Broadcast.begin(link, carries, initial) for _ in range(num_groups)
        ]

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def newest(self) -> int:
        """Newest version of any payload."""
        return max(broadcast.version for broadcast in self._groups)

    @property
    def value(self) -> Vector | None:
        """The model that every client of the one group holds."""
        return self._groups[0].value

    def group(self, identity: int) -> int:
        """Return the group of a client."""
        return identity % len(self._groups)

    def publish(self, x: Vector, groups: Iterable[int]) -> None:
        """Send `x` to those groups."""
        for group in groups:
            channel = self._channel(group)
            self._groups[group] = self._groups[group].publish(x, channel)

    def publish_update(self, update: Vector | None) -> None:
        """Send an update to every group; None if the round made none."""
        for group, broadcast in enumerate(self._groups):
            channel = self._channel(group)
            if update is None:
                self._groups[group] = broadcast.pause(self._dim, channel)
            else:
                self._groups[group] = broadcast.publish(update, channel)

    def send(self, identity: int, end: DownlinkEnd) -> CatchUp:
        """Return what the client needs now, and note that it was sent."""
        broadcast, needed = self._groups[self.group(identity)], None
        if end.held is None and end.begins:
            needed = broadcast.from_beginning(self._beginning.num_bytes)
        if needed is None:
            needed = broadcast.catch_up(end.held)
        end.sent, end.is_beginning = needed.version, needed.begins
        return needed

    def confirm(self, identity: int, end: DownlinkEnd, held: int, told: Ends) -> bool:
        """Return whether what a client holds beyond `end` was sent; note it if so."""
        broadcast = self._groups[self.group(identity)]
        if broadcast.is_sent(held, told.crc):
            end.held = held
        elif told.base and broadcast.is_sure(told.base):
            end.held = told.base
        else:
            return False
        return True

    def save(self, arrays: Arrays) -> list[dict[str, Any]]:
        """Return what JSON can hold; add the vectors to `arrays`."""
        return [
            save_broadcast(arrays, f"group/{group}", broadcast)
            for group, broadcast in enumerate(self._groups)
        ]

    def restore(self, rows: list[Any], checkpoint: Checkpoint) -> None:
        """Take over what :meth:`save` gave."""
        self._groups = [
            restore_broadcast(
                before, row, checkpoint, f"group/{i}", self._dim, self._channel(i)
            )
            for i, (before, row) in enumerate(zip(self._groups, rows, strict=True))
        ]

    def skip_to(self, version: int) -> None:
        """Leave out versions that a server which was killed may have used."""
        for group, broadcast in enumerate(self._groups):
            # Updates are made before they are sent, and trained on once.
            is_used = self._carries == "update" and broadcast.version <= version
            self._groups[group] = broadcast.skip_to(
                version + is_used, self._dim, self._channel(group)
            )
