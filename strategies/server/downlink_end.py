"""The server's end of one client's downlink."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flower_compress.links import Channel, SenderState

from ..run.checkpoint import Arrays, Checkpoint
from ..run.fields import COUNT, FLAG, OPTIONAL_COUNT, fields
from .saved_links import restore_payload, save_payload
from .vector_store import Slot

__all__ = ["DownlinkEnd"]


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
    sender: SenderState = field(default_factory=SenderState)
    epoch: int = 0
    sent_epoch: int = 0
    joined: int | None = None
    begins: bool = False
    is_beginning: bool = False

    def save(self, arrays: Arrays, name: str) -> dict[str, Any]:
        """Return what JSON can hold; add memory and pending payload to `arrays`."""
        self.memory.save(arrays, name)
        save_payload(arrays, f"{name}/pending", self.sender.pending)
        return {
            "held": self.held,
            "sent": self.sent,
            "version": self.sender.version,
            "pending_version": self.sender.pending_version,
            "epoch": self.epoch,
            "sent_epoch": self.sent_epoch,
            "joined": self.joined,
            "begins": self.begins,
        }

    def restore(
        self,
        meta: dict[str, Any],
        checkpoint: Checkpoint,
        name: str,
        dim: int,
        channel: Channel,
    ) -> None:
        """Take over what :meth:`save` gave."""
        meta = fields(
            meta,
            held=OPTIONAL_COUNT,
            sent=COUNT,
            version=COUNT,
            pending_version=COUNT,
            epoch=COUNT,
            sent_epoch=COUNT,
            joined=OPTIONAL_COUNT,
            begins=FLAG,
        )
        self.held, self.sent = meta["held"], meta["sent"]
        self.epoch, self.sent_epoch = meta["epoch"], meta["sent_epoch"]
        self.joined, self.begins = meta["joined"], meta["begins"]
        self.memory.restore(checkpoint, name)
        version = meta["pending_version"]
        pending = restore_payload(checkpoint, f"{name}/pending", dim, channel, version)
        self.sender = SenderState(meta["version"], None, pending, version)
