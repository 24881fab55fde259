"""The server's end of a link that many receivers share.

Every payload is final: the memory moves on with it whether or not a receiver heard
it. A receiver that is behind gets the payloads it missed or a snapshot, whichever is
fewer bytes, so the log need never hold more bytes than one snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ..compressors import Compressor, Parts, RandK, Tied, Vector
from ..errors import ConfigurationError
from .base import Link, ReceiverState, SenderState, accept, commit
from .payload import Channel, Payload

__all__ = ["Broadcast", "Carries", "CatchUp"]

Carries = Literal["model", "update"]
"""What a downlink carries: the model, or the update that clients add to theirs."""

_MOST_BRIDGED = 64
"""Most versions that zero payloads stand for."""

_INITIAL = 1
"""Version of the state that all receivers begin with."""

_LENGTH_BYTES = 4
"""In a packet, every payload but the last has its length in front."""


@dataclass(frozen=True, slots=True, eq=False)
class CatchUp:
    """What brings one receiver up to date.

    Parameters
    ----------
    base, version : int
        The version on which the payloads build, and that of the last one.
    payloads : tuple[Payload, ...]
        Payloads base + 1, ..., version; for a link without memory just the last.
    snapshot : NDArray[np.float32], optional
        The receivers' state at version `base`.
    begins : bool (default: False)
        Whether they build on the initial state, which the receiver has by other means.
    """

    base: int
    version: int
    payloads: tuple[Payload, ...]
    snapshot: Vector | None = None
    begins: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Broadcast:
    """A link's sender, what an up-to-date receiver holds, and the recent payloads.

    Build it with :meth:`begin`; :meth:`publish` returns the next state.

    Parameters
    ----------
    link : Link
        The link.
    rate : float, optional
        Rate of the receivers' memory; 1 where the link carries updates, which the
        receivers add to their model; None where they hold nothing.
    sender : SenderState
        The link's own end.
    replica : ReceiverState
        An up-to-date receiver's end.
    log : tuple[Payload, ...]
        The latest payloads, unbroken, the newest last.
    unsure : tuple[int, int, int]
        Versions up to the first number, and those after the second up to the third,
        may have been sent by servers that died.
    """

    link: Link
    rate: float | None
    sender: SenderState
    replica: ReceiverState
    log: tuple[Payload, ...] = field(default=())
    unsure: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def begin(cls, link: Link, carries: Carries, initial: Vector) -> Broadcast:
        """Start with receivers that hold `initial` (version 1, sent as a snapshot)."""
        if carries == "update":
            if link.memory_rate(initial.size) is not None:
                raise ConfigurationError(
                    "a Memory link carries the model, not the update: expected "
                    "Direct or ErrorFeedback for updates"
                )
            return cls(link, 1.0, SenderState(), ReceiverState(1, initial))
        rate = link.memory_rate(initial.size)
        held = None if rate is None else link.start(initial)
        return cls(link, rate, SenderState(1, held), ReceiverState(1, held))

    @property
    def version(self) -> int:
        """Version of the newest payload, 1 before the first."""
        return self.replica.newest

    @property
    def value(self) -> Vector | None:
        """What an up-to-date receiver received last; None before anything was sent."""
        return self.replica.value(self.rate)

    def publish(self, x: Vector, channel: Channel) -> Broadcast:
        """Send `x` to everyone."""
        version = self.version + 1
        sender = self.sender
        if sender.pending is not None:
            # Final means acknowledged: nobody can take the last payload back.
            sender = self.link.acknowledge(sender, sender.pending_version)
        replica = self.replica
        if sender.vector is not None and self.link.memory_rate(x.size) is not None:
            # What up-to-date receivers hold is the sender's memory: share, do not fold.
            replica = ReceiverState(replica.newest, sender.vector)
        sender, payload = self.link.send(sender, x, version, channel.at(version))
        following = replace(self, sender=sender, replica=replica)
        return following._append(payload)

    def pause(self, dim: int, channel: Channel) -> Broadcast:
        """Send a zero update past the link's own state, so that nothing moves.

        For a round without an update: every message needs a version of its own.
        """
        zeros, version = np.zeros(dim, dtype=np.float32), self.version + 1
        payload = Payload.encode(
            zeros, self.link.compressor, self.link.code, channel.at(version)
        )
        return self._append(payload)

    def skip_to(self, version: int, dim: int, channel: Channel) -> Broadcast:
        """Go on after a later version.

        For a server that comes back from a checkpoint: its receivers may hold later
        versions, of rounds that it knows nothing about. Where those are few, zero
        payloads stand for them, so that a receiver which holds none of them, or only
        the first, is still brought up to date by payloads; else every receiver needs a
        snapshot.
        """
        unsure = (self.unsure[2], self.version, version)
        gap = version - self.version
        if gap <= 0:
            return replace(self, unsure=unsure)
        sender = self.sender
        if sender.pending is not None:
            sender = self.link.acknowledge(sender, sender.pending_version)
        following = self
        can_bridge = dim > 0 and not isinstance(self.link.compressor, Tied)
        if self.rate is not None and gap <= _MOST_BRIDGED and can_bridge:
            for number in range(self.version + 1, version + 1):
                blank = _blank(self.link.compressor, dim, channel.at(number))
                following = following._append(blank)
        else:
            held = commit(self.replica, self.rate).vector
            following = replace(self, replica=ReceiverState(version, held), log=())
        held = sender.vector
        if self.link.memory_rate(dim) is not None:
            # Not its own: a zero payload turns -0.0 into 0.0.
            held = commit(following.replica, self.rate).vector
        return replace(following, sender=SenderState(version, held), unsure=unsure)

    def is_sent(self, version: int, crc: int) -> bool:
        """Whether the payload of a version, of those kept, has that CRC-32."""
        age = self.version - version
        return 0 <= age < len(self.log) and self.log[-1 - age].crc == crc

    def is_sure(self, version: int) -> bool:
        """Whether whoever holds a version holds what this end has sent as that.

        Not if another server, which died, may have sent it.
        """
        oldest, first, last = self.unsure
        return oldest < version <= self.version and not first < version <= last

    def _append(self, payload: Payload) -> Broadcast:
        version = self.version + 1
        replica = accept(
            self.replica,
            base=version - 1,
            version=version,
            payloads=(payload,),
            final=True,
            rate=self.rate,
        )
        return replace(self, replica=replica, log=self._extend(payload))

    def catch_up(self, held: int | None) -> CatchUp:
        """Return what a receiver needs that holds version `held` (None: nothing)."""
        version = self.version
        if held is not None and held >= version:
            return CatchUp(version, version, ())
        if self.rate is None:
            return CatchUp(version - 1, version, self.log[-1:])
        missed = version - held if held is not None else version
        newest = self.log[-1:]
        snapshot = CatchUp(self.replica.version, version, newest, self.replica.vector)
        if held is None or held < 1 or missed > len(self.log):
            return snapshot
        payloads = self.log[-missed:]
        if _num_bytes(payloads) > 4 * payloads[-1].dim + len(payloads[-1].data):
            return snapshot
        return CatchUp(version - missed, version, payloads)

    def from_beginning(self, num_bytes: int) -> CatchUp | None:
        """Return what a receiver needs that can have the initial state by other means.

        None if a snapshot is fewer bytes, or not every payload is kept.

        Parameters
        ----------
        num_bytes : int
            What the initial state costs by those means.
        """
        count = self.version - _INITIAL
        if self.rate is None or self.replica.vector is None or len(self.log) < count:
            return None
        payloads = self.log[len(self.log) - count :]
        newest = len(payloads[-1].data) if payloads else 0
        if num_bytes + _num_bytes(payloads) > self.replica.vector.nbytes + newest:
            return None
        return CatchUp(_INITIAL, self.version, payloads, begins=True)

    def _extend(self, payload: Payload) -> tuple[Payload, ...]:
        if self.rate is None:
            return (payload,)
        earlier = self.log[:-1] + tuple(entry.compact() for entry in self.log[-1:])
        log = (*earlier, payload)
        size = _num_bytes(log)
        first = 0
        while first < len(log) - 1 and size > 4 * payload.dim + len(payload.data):
            size -= _LENGTH_BYTES + len(log[first].data)
            first += 1
        return log[first:]


def _blank(compressor: Compressor, dim: int, channel: Channel) -> Payload:
    """Return a zero payload that no link has sent, of a few bytes."""
    single: Compressor = RandK(k=1)
    if isinstance(compressor, Parts):
        single = replace(compressor, operators=(single,) * len(compressor.operators))
    return Payload.encode(np.zeros(dim, dtype=np.float32), single, "auto", channel)


def _num_bytes(payloads: tuple[Payload, ...]) -> int:
    """Bytes of a chain in a packet, lengths included."""
    total = sum(_LENGTH_BYTES + len(payload.data) for payload in payloads)
    return total - _LENGTH_BYTES
