"""The server's end of one client's uplink, and what it is to take in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from flower_compress.compressors import Vector
from flower_compress.links import Payload, ReceiverState

from ..run.checkpoint import Arrays, Checkpoint
from .sketch import Sketched
from .vector_store import Slot

__all__ = ["UPLINK_COLUMNS", "Contribution", "UplinkEnd"]

UPLINK_COLUMNS = {
    "version": "u4",
    "crc": "u4",
    "weight": "f8",
    "epoch": "u4",
    "refused": "?",
    "asked": "u4",
    "bound": "f8",
    "anew": "?",
}
"""What a checkpoint holds of every end; see :func:`~..run.columns.save_rows`."""


@dataclass(slots=True)
class UplinkEnd:
    """The server's end of one client's uplink.

    Attributes
    ----------
    memory : Slot
        h_i, empty where it is zero or not kept.
    version : int
        Newest version accepted, 0 if there is none.
    crc : int
        CRC-32 of that payload.
    weight : float
        The client's weight w_i in the sum of the memories.
    epoch : int
        The epoch of the client's memory, with ``"mean"``.
    refused : bool
        Whether the client's last update was refused, and it was not told yet.
    asked : int
        How often it was asked since its last update was taken in.
    bound : float
        Of ||h_i||, where it is kept.
    sketch : NDArray[np.float64], optional
        S h_i, where its length is all that is kept of the memory; None for zero.
    holder : int
        The node that the client runs on.
    owner : int
        The node whose payloads the memory is made of, 0 if there is none, or two.
    anew : bool
        Whether the client was told to start from zero, and has not done so yet.
    """

    memory: Slot
    version: int = 0
    crc: int = 0
    weight: float = 0.0
    epoch: int = 0
    refused: bool = False
    asked: int = 0
    bound: float = 0.0
    sketch: Sketched | None = None
    holder: int = 0
    owner: int = 0
    anew: bool = False

    @property
    def weighted_bound(self) -> float:
        """Of ||w_i h_i||."""
        return self.weight * self.bound

    def save(self, arrays: Arrays, name: str) -> None:
        """Add the memory to `arrays`, which is no column."""
        self.memory.save(arrays, name)
        if self.sketch is not None:
            arrays[f"{name}/sketch"] = self.sketch

    def restore(
        self, saved: tuple[Any, ...], checkpoint: Checkpoint, name: str
    ) -> None:
        """Take over the columns, and what :meth:`save` gave."""
        for attribute, value in zip(UPLINK_COLUMNS, saved, strict=True):
            setattr(self, attribute, value)
        self.memory.restore(checkpoint, name)
        self.sketch = checkpoint.find(f"{name}/sketch")


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """One client's part in a round, checked but not taken in yet.

    Attributes
    ----------
    end : UplinkEnd
        The client's end.
    base : int
        The version that the payload builds on.
    payload : Payload
        q_i, decoded or not.
    has_memory : bool
        Whether it builds on the h_i that is kept.
    weight : float
        w_i.
    version : int
        The payload's version.
    is_new : bool
        Whether the payload builds on no memory.
    num_inputs : int
        How many of the client's gradients the payload carries.
    norm : float
        ||h_i + q_i|| for each of them.
    """

    end: UplinkEnd
    base: int
    payload: Payload
    has_memory: bool
    weight: float
    version: int
    is_new: bool
    num_inputs: int
    norm: float = 0.0

    @property
    def memory(self) -> Vector | None:
        """h_i, shape (d,), where it is kept: perhaps read from a file each time."""
        return self.end.memory.vector if self.has_memory else None

    @property
    def state(self) -> ReceiverState:
        """h_i, where it is kept, and the payload."""
        return ReceiverState(self.base, self.memory, self.payload, self.version)

    def opened(self) -> Contribution:
        """Return one to be used once: unless q_i is decoded by now, it goes with it."""
        if self.payload.is_decoded:
            return self
        return replace(self, payload=self.payload.compact())
