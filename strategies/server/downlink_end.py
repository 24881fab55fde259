"""The server's end of one client's downlink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flower_compress.links import Channel, SenderState

from ..run.checkpoint import Arrays, Checkpoint
from .saved_links import restore_payload, save_payload
from .vector_store import Slot

__all__ = ["DOWNLINK_COLUMNS", "SENDER_COLUMNS", "DownlinkEnd"]

DOWNLINK_COLUMNS = {
    "held": "i8",
    "sent": "u4",
    "epoch": "u4",
    "sent_epoch": "u4",
    "joined": "i8",
    "begins": "?",
}
SENDER_COLUMNS = {"version": "u4", "pending_version": "u4"}
"""What a checkpoint holds of every end, and of its `sender`; see
:func:`~..run.columns.save_rows`."""

_NOTHING = SenderState()


@dataclass(slots=True)
class DownlinkEnd:
    """The server's end of one client's downlink.

    Attributes
    ----------
    memory : Slot
        H_i where each client has its own; empty as long as it is the initial model.
    held : int, optional
        Newest version that the client is known to hold, None if it holds nothing.
    sent : int
        Version sent to it last.
    sender : SenderState
        The rest of the link's state where each client has its own.
    epoch, sent_epoch : int
        The reset of an averaged memory that the client took part in last, and that of
        the message sent to it last.
    joined : int, optional
        The reset after which the client joined, if that memory had moved by then.
    begins : bool
        Whether the client can begin with a first model that is not dense.
    is_beginning : bool
        Whether it was sent such a one last.
    """

    memory: Slot
    held: int | None = None
    sent: int = 0
    sender: SenderState = _NOTHING
    epoch: int = 0
    sent_epoch: int = 0
    joined: int | None = None
    begins: bool = False
    is_beginning: bool = False

    def save(self, arrays: Arrays, name: str) -> None:
        """Add memory and pending payload to `arrays`, which are no columns."""
        self.memory.save(arrays, name)
        save_payload(arrays, f"{name}/pending", self.sender.pending)

    def restore(
        self,
        saved: tuple[Any, ...],
        sender: tuple[int, int],
        checkpoint: Checkpoint,
        name: str,
        dim: int,
        channel: Callable[[], Channel],
    ) -> None:
        """Take over the columns, and what :meth:`save` gave."""
        for attribute, value in zip(DOWNLINK_COLUMNS, saved, strict=True):
            setattr(self, attribute, value)
        self.memory.restore(checkpoint, name)
        version, pending_version = sender
        if not (version or pending_version):
            return
        pending = restore_payload(
            checkpoint, f"{name}/pending", dim, channel(), pending_version
        )
        self.sender = SenderState(version, None, pending, pending_version)
