"""A link and the states of its two ends.

A link carries a vector from a sender to a receiver as bytes. Its two ends are pure
state transitions: every function takes a frozen state and returns the next one.

State is the fold of acknowledged payloads. Payloads carry a version, a number that is
never used twice. The sender's end holds what has been acknowledged and at most one
payload that has not; so does the receiver's end, since the sender may never hear that
it arrived. The next packet settles the matter: it names the version on which it
builds, and the receiver folds or forgets its pending payload accordingly. A packet
that builds on a version the receiver does not have is refused with
:class:`~flower_compress.errors.OutOfSyncError`; a snapshot, the sender's state as
plain floats, mends that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ..coding import CODE_NAMES
from ..compressors import Compressor, Parts, Tied, Vector
from ..compressors.checks import plain_fields
from ..errors import OutOfSyncError, StalePacketError, UnknownNameError
from ..streams import Stream
from .checks import require_compressor
from .payload import Channel, Payload

__all__ = ["Link", "ReceiverState", "SenderState", "accept", "commit", "fold"]


class SenderState(NamedTuple):
    """A sender's end.

    Attributes
    ----------
    version : int
        Version of the last acknowledged payload, 0 if there is none.
    vector : NDArray[np.float32], optional
        Memory: h. Error feedback: the corrected vector x + e, from which the pending
        payload is taken once it is acknowledged. None stands for zeros.
    pending : Payload, optional
        The payload sent last, not acknowledged yet.
    pending_version : int
        Its version.
    num_inputs : int
        Error feedback: how many inputs went into the vector since the last payload
        that arrived.
    """

    version: int = 0
    vector: Vector | None = None
    pending: Payload | None = None
    pending_version: int = 0
    num_inputs: int = 0

    @property
    def newest(self) -> int:
        """Version of the last payload, acknowledged or not."""
        return max(self.version, self.pending_version)

    def is_pending(self, version: int, crc: int | None = None) -> bool:
        """Whether the pending payload has that version, and that CRC-32 if given."""
        return (
            self.pending is not None
            and version == self.pending_version
            and (crc is None or crc == self.pending.crc)
        )


class ReceiverState(NamedTuple):
    """A receiver's end.

    Attributes
    ----------
    version : int
        Version of the last folded payload.
    vector : NDArray[np.float32], optional
        h, the sum of what was folded; None stands for zeros, and is all that a link
        without memory ever has.
    pending : Payload, optional
        The payload accepted last, not folded yet.
    pending_version : int
        Its version.
    final : bool
        Whether the sender never takes the pending payload back (a shared link).
    """

    version: int = 0
    vector: Vector | None = None
    pending: Payload | None = None
    pending_version: int = 0
    final: bool = False

    @property
    def newest(self) -> int:
        """Version of the last accepted payload."""
        return self.pending_version if self.pending is not None else self.version

    def value(self, rate: float | None) -> Vector | None:
        """Return the vector received last: h + q, or q without memory (rate None)."""
        if self.pending is None:
            return self.vector
        if rate is None or self.vector is None:
            return self.pending.vector
        return self.vector + self.pending.vector


@dataclass(frozen=True)
class Link(ABC):
    """Carries a vector from a sender to a receiver.

    Parameters
    ----------
    compressor : Compressor
        The operator C.
    code : str
        Name of the code for its symbols; ``"auto"`` takes the shortest.
    """

    compressor: Compressor
    code: str = "auto"

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        plain_fields(self)
        require_compressor(self.compressor)
        if self.code not in CODE_NAMES:
            raise UnknownNameError("code", self.code, CODE_NAMES)

    def bind(self, arrays: Sequence[tuple[str, tuple[int, ...]]]) -> Self:
        """Return the link for a vector made of arrays of these names and shapes."""
        return replace(self, compressor=self.compressor.bind(arrays))

    def channel(self, stream: Stream, sizes: tuple[int, ...] | None) -> Channel:
        """Return what both ends know of a payload on this link before it arrives."""
        compressor = self.compressor
        parts = compressor if isinstance(compressor, Parts | Tied) else None
        return Channel(stream, sizes, parts, self.forgotten)

    @property
    def forgotten(self) -> tuple[tuple[int, int], ...]:
        """Start and end of each stretch of which a memory holds nothing."""
        return ()

    def start(self, vector: Vector) -> Vector:
        """Return the memory of two ends that both know `vector`."""
        return zeroed(vector, self.forgotten) if self.forgotten else vector

    def operators(self, *, begins: bool) -> tuple[Compressor, ...]:
        """Return the operators of payloads, of which `begins` build on no memory."""
        return (self.compressor,)

    def memory_rate(self, dim: int) -> float | None:
        """Rate alpha of the memory that both ends keep, None if they keep none."""
        return None

    @abstractmethod
    def send(
        self, state: SenderState, x: Vector, version: int, channel: Channel
    ) -> tuple[SenderState, Payload]:
        """Compress `x` into a payload of that version.

        A payload still pending counts as lost.
        """

    @abstractmethod
    def acknowledge(
        self, state: SenderState, version: int, crc: int | None = None
    ) -> SenderState:
        """Return the state after the peer said which version it accepted last.

        The pending payload is folded if it is that one, and dropped otherwise. What is
        neither the pending nor the folded one means that the ends have lost each
        other: the state starts anew.

        Parameters
        ----------
        state : SenderState
            The sender's end.
        version : int
            The version that the peer accepted last; 0 if it holds nothing.
        crc : int, optional
            CRC-32 of the payload it accepted. A sender that lost its state between two
            answers to one message has sent two payloads of one version.
        """

    def refuse(self, state: SenderState) -> SenderState:
        """Return the state after the peer refused the pending payload."""
        return state._replace(pending=None)

    def config(self) -> dict[str, Any]:
        """Return the JSON-able configuration that rebuilds the link."""
        return {
            "kind": self.kind,
            "compressor": self.compressor.config(),
            "code": self.code,
        }


def fold(vector: Vector | None, payload: Payload, rate: float) -> Vector:
    """Return h + rate * q in float32, two roundings, the same at both ends.

    A lossless payload is folded whole, at rate 1: it has no noise to keep out. Of what
    a memory does not hold (`Channel.forgotten`) nothing is folded.
    """
    step, channel, is_own = payload.used_once(), payload.channel, False
    if rate != 1.0 and not payload.compressor.lossless:
        step, is_own = step * np.float32(rate), True
    if channel is not None and channel.forgotten:
        step, is_own = zeroed(step, channel.forgotten, in_place=is_own), True
    if vector is None:
        return step
    return np.add(vector, step, out=step if is_own else None)


def zeroed(
    vector: Vector, spans: tuple[tuple[int, int], ...], *, in_place: bool = False
) -> Vector:
    """Return a copy of `vector` that is zero there, or make it so itself."""
    copy = vector if in_place else vector.copy()
    for start, end in spans:
        copy[start:end] = 0.0
    return copy


def accept(
    state: ReceiverState,
    *,
    base: int,
    version: int,
    payloads: tuple[Payload, ...],
    final: bool,
    rate: float | None,
    snapshot: Vector | None = None,
) -> ReceiverState:
    """Take a packet in at the receiver's end.

    Parameters
    ----------
    state : ReceiverState
        The receiver's end.
    base, version : int
        The version on which the payloads build, and that of the last payload.
    payloads : tuple[Payload, ...]
        If `final`, payloads base + 1, ..., version: an unbroken chain, of which the
        receiver skips what it has; a pending one is dropped if the chain holds another
        in its place. Else at most one, which replaces a pending one.
    final : bool
        See :class:`ReceiverState`.
    rate : float, optional
        Rate of the memory, None for a link without.
    snapshot : NDArray[np.float32], optional
        The sender's state h at version `base`; replaces whatever the receiver holds.

    Raises
    ------
    OutOfSyncError
        If the packet builds on a version that the receiver does not hold.
    StalePacketError
        If it was taken in before.
    """
    if version <= state.newest:
        raise StalePacketError(
            f"version {version} is not newer than version {state.newest}, which was "
            "received before: a duplicate, or late"
        )
    if rate is None:
        if not payloads:
            raise OutOfSyncError("the packet holds no payload, and the link no memory")
        return ReceiverState(0, None, payloads[-1], version, final)
    if snapshot is not None:
        state = ReceiverState(base, snapshot)
    elif final:
        state = _in_line(state, base, payloads, rate)
    elif state.pending is not None and base == state.pending_version:
        state = commit(state, rate)
    else:
        state = ReceiverState(state.version, state.vector)
    if base > state.version or (base < state.version and not final):
        raise OutOfSyncError(
            f"the packet builds on version {base}, this end holds version "
            f"{state.version}: a snapshot is needed"
        )
    # Links that never take a payload back may repeat what the receiver has.
    payloads = payloads[state.version - base :]
    for payload in payloads[:-1]:
        vector = fold(state.vector, payload, rate)
        state = ReceiverState(state.version + 1, vector)
    if not payloads:
        return state
    return ReceiverState(state.version, state.vector, payloads[-1], version, final)


def _in_line(
    state: ReceiverState, base: int, payloads: tuple[Payload, ...], rate: float
) -> ReceiverState:
    """Fold the pending payload, which nobody takes back, before a chain goes on.

    If the chain holds another one in its place, its sender has died before that was
    saved, and the one that goes on knows nothing of it: it is dropped.
    """
    if state.pending is None:
        return state
    place = state.pending_version - base - 1
    others = payloads[place : place + 1] if place >= 0 else ()
    if not others or others[0].data == state.pending.data:
        return commit(state, rate)
    if base != state.version:
        raise OutOfSyncError(
            f"the packet holds another version {state.pending_version} than was "
            "received before, of a server that died: a snapshot is needed"
        )
    return ReceiverState(state.version, state.vector)


def commit(state: ReceiverState, rate: float | None) -> ReceiverState:
    """Fold the pending payload, where the receiver's word is the last one."""
    if state.pending is None:
        return state
    if rate is None:
        return ReceiverState(state.pending_version)
    vector = fold(state.vector, state.pending, rate)
    return ReceiverState(state.pending_version, vector)
