"""The server's end of all downlinks: whom to send what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from flower_compress.compressors import Vector
from flower_compress.errors import ConfigurationError
from flower_compress.links import (
    Broadcast,
    Carries,
    CatchUp,
    Channel,
    Link,
    SenderState,
)

__all__ = ["DownlinkEnd", "Downlinks", "Groups"]

Groups = int | Literal["client"]


@dataclass(slots=True)
class DownlinkEnd:
    """The server's end of one client's downlink.

    Attributes
    ----------
    held : int, optional
        Newest version that the client is known to hold, None if it holds nothing.
    sent : int
        Version sent to it last.
    sender : SenderState
        The link's state where each client has its own.
    """

    held: int | None = None
    sent: int = 0
    sender: SenderState = field(default_factory=SenderState)


class Downlinks:
    """Links from the server to its clients, one for all, per group or per client.

    Clients of a group share one memory and one draw, so they receive the same bytes;
    every payload is final. A client with a link of its own (Rand-MCM) has its own
    memory, which moves on only when the client says that it heard.

    Parameters
    ----------
    link : Link
        The downlink.
    carries : {"model", "update"}
        Whether payloads compress the model, or the update that receivers add to it.
    groups : int or "client"
        Number of groups (client i is in group i mod G), or a link for each client.
    channel : Callable[[int], Channel]
        The channel of the client with that identity, which is its group's.
    initial : NDArray[np.float32]
        The model that every memory starts from, shape (d,).
    """

    def __init__(
        self,
        link: Link,
        carries: Carries,
        groups: Groups,
        channel: Callable[[int], Channel],
        initial: Vector,
    ) -> None:
        self._link, self._carries, self._channel = link, carries, channel
        self._dim = initial.size
        self._initial = initial
        self._shared: list[Broadcast] | None = None
        if groups != "client":
            self._shared = [
                Broadcast.begin(link, carries, initial) for _ in range(groups)
            ]

    @staticmethod
    def check(link: Link, carries: Carries, groups: Groups, preserved: bool) -> None:
        """Raise ConfigurationError for a combination that cannot work."""
        if carries not in ("model", "update"):
            raise ConfigurationError(
                f'downlink_carries must be "model" or "update", got {carries!r}'
            )
        if groups != "client" and not (isinstance(groups, int) and groups >= 1):
            raise ConfigurationError(
                f'groups must be a positive number or "client", got {groups!r}'
            )
        if carries == "update" and groups == "client":
            raise ConfigurationError(
                "updates add up at the receivers, so none may be dropped: expected "
                'groups to be a number, got "client"'
            )
        if not preserved and (carries != "update" or groups != 1):
            raise ConfigurationError(
                "a degraded model takes the update that all clients receive: expected "
                f'downlink_carries="update" and groups=1, got {carries!r} and '
                f"{groups!r}"
            )
        if carries == "model" and link.kind == "error-feedback":
            raise ConfigurationError(
                "with ErrorFeedback what is left out of one model would be added to "
                'the next: expected downlink_carries="update"'
            )
        if carries == "update" and link.kind == "memory":
            raise ConfigurationError(
                "a Memory link carries the model: expected Direct or ErrorFeedback "
                'with downlink_carries="update"'
            )

    @property
    def receiver_rate(self) -> float | None:
        """Rate of the memory that receivers keep; see Contract.downlink_rate."""
        if self._carries == "update":
            return 1.0
        return self._link.memory_rate(self._dim)

    @property
    def degraded_model(self) -> Vector | None:
        """The model that every client of the one group holds."""
        return self._shared[0].value if self._shared else None

    def begin(self) -> DownlinkEnd:
        """Return the end of a client that was never heard of."""
        held = None if self.receiver_rate is None else self._initial
        return DownlinkEnd(sender=SenderState(0, held))

    def publish(self, x: Vector, identities: list[int]) -> None:
        """Send `x` to the groups of those clients; private links wait for `send`."""
        if self._shared is None:
            return
        for group in sorted({self.group(identity) for identity in identities}):
            channel = self._channel(group)
            self._shared[group] = self._shared[group].publish(x, channel)

    def publish_update(self, update: Vector | None) -> None:
        """Send an update to every group; None if the round made none."""
        shared = self._shared or []
        for group, broadcast in enumerate(shared):
            channel = self._channel(group)
            if update is None:
                shared[group] = broadcast.pause(self._dim, channel)
            else:
                shared[group] = broadcast.publish(update, channel)

    def send(self, identity: int, end: DownlinkEnd, model: Vector) -> CatchUp:
        """Return what the client needs now, and note that it was sent."""
        if self._shared is not None:
            needed = self._shared[self.group(identity)].catch_up(end.held)
            end.sent = needed.version
            return needed
        version = max(end.sent, 1) + 1
        channel = self._channel(identity).at(version)
        end.sender, payload = self._link.send(end.sender, model, version, channel)
        end.sent = version
        snapshot = None
        if end.held is None and self.receiver_rate is not None:
            snapshot = end.sender.vector
        return CatchUp(end.sender.version, version, (payload,), snapshot)

    def is_final(self) -> bool:
        """Whether payloads are never taken back."""
        return self._shared is not None

    def acknowledge(self, end: DownlinkEnd, version: int) -> None:
        """Note that the client holds `version`."""
        end.held = version
        if self._shared is None:
            end.sender = self._link.acknowledge(end.sender, version)

    @staticmethod
    def forget(end: DownlinkEnd) -> None:
        """Note that the client holds nothing."""
        end.held = None

    def group(self, identity: int) -> int:
        """Return the group of a client."""
        return identity % len(self._shared or [None])
