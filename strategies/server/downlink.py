"""The server's end of all downlinks: whom to send what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

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

from ..run.checkpoint import Arrays, Checkpoint
from .averaged_memory import AveragedMemory
from .saved_links import (
    restore_broadcast,
    restore_payload,
    save_broadcast,
    save_payload,
)
from .vector_store import Slot, VectorStore

__all__ = ["DownlinkEnd", "DownlinkMemory", "Downlinks", "Groups", "ResetEvery"]

Groups = int | Literal["client"]
DownlinkMemory = Literal["each", "average"]
ResetEvery = int | Literal["auto"] | None


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
    """

    memory: Slot
    held: int | None = None
    sent: int = 0
    sender: SenderState = field(default_factory=SenderState)
    epoch: int = 0
    sent_epoch: int = 0
    joined: int | None = None

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
        self.held, self.sent = meta["held"], meta["sent"]
        self.epoch, self.sent_epoch = meta["epoch"], meta["sent_epoch"]
        self.joined = meta.get("joined")
        self.memory.restore(checkpoint, name)
        version = meta["pending_version"]
        pending = restore_payload(checkpoint, f"{name}/pending", dim, channel, version)
        self.sender = SenderState(meta["version"], None, pending, version)


class Downlinks:
    """Links from the server to its clients, one for all, per group or per client.

    Clients of a group share one memory and one draw, so they receive the same bytes;
    every payload is final. A client with a link of its own (Rand-MCM) has its own
    memory, which moves on only when the client says that it heard.

    With ``memory="average"`` the server keeps only the mean of those memories,

        Hbar += alpha / N sum_i C_i(w - Hbar),   H_i += alpha C_i(w - Hbar) at client i

    over the clients i that heard, which receive H_i + C_i(w - Hbar) (Philippenko &
    Dieuleveut 2021, eq. (S1)). The two ends differ until the next reset, when every
    client receives Hbar, dense, with its next message. A client that is met late, or
    was away at a reset, starts from what Hbar was at the reset, at first the initial
    model: it has no part in what Hbar has moved by since, and else Hbar would not be
    the mean of the H_i any more.

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
    store : VectorStore
        Where the clients' own memories are kept.
    memory : {"each", "average"}
        Whether each client's own memory is kept, or their mean.
    reset_every : int, "auto" or None
        Rounds between resets of an averaged memory; ``"auto"`` is 4 sqrt(d), None
        never.
    """

    def __init__(
        self,
        link: Link,
        carries: Carries,
        groups: Groups,
        channel: Callable[[int], Channel],
        initial: Vector,
        store: VectorStore,
        memory: DownlinkMemory = "each",
        reset_every: ResetEvery = "auto",
    ) -> None:
        self._link, self._carries, self._channel = link, carries, channel
        self._dim = initial.size
        if carries == "model":
            initial = link.start(initial)
        self._initial, self._store = initial, store
        self._used = 1  # Version 1 is the initial model.
        self._outstanding: dict[int, DownlinkEnd] = {}
        # Groups, or clients with links of their own, that were sent the model as it is
        # to evaluate it, and no training since.
        self._ahead: set[int] = set()
        self._averaged: AveragedMemory | None = None
        if memory == "average":
            auto = max(1, round(4 * self._dim**0.5))
            resets = auto if reset_every == "auto" else reset_every
            self._averaged = AveragedMemory(initial, resets)
        self._shared: list[Broadcast] | None = None
        if groups != "client":
            self._shared = [
                Broadcast.begin(link, carries, initial) for _ in range(groups)
            ]

    @staticmethod
    def check(
        link: Link,
        carries: Carries,
        groups: Groups,
        preserved: bool,
        memory: DownlinkMemory,
        reset_every: ResetEvery,
    ) -> None:
        """Raise ConfigurationError for a combination that cannot work."""
        if memory not in ("each", "average"):
            raise ConfigurationError(
                f'downlink_memory must be "each" or "average", got {memory!r}'
            )
        if memory == "average" and (groups != "client" or link.kind != "memory"):
            raise ConfigurationError(
                "only memories of the clients' own can be averaged: expected "
                f'groups="client" and a Memory link, got {groups!r} and '
                f"{type(link).__name__}"
            )
        if not (
            reset_every is None
            or reset_every == "auto"
            or (isinstance(reset_every, int) and reset_every >= 1)
        ):
            raise ConfigurationError(
                'reset_every must be a positive number of rounds, "auto" or None, got '
                f"{reset_every!r}"
            )
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
        joined = None if self._averaged is None else self._averaged.joining
        return DownlinkEnd(self._store.slot(), joined=joined)

    def publish(
        self, x: Vector, identities: list[int], server_round: int, *, trains: bool
    ) -> None:
        """Send `x` to the groups of those clients; private links wait for `send`.

        Parameters
        ----------
        x : NDArray[np.float32]
            The model, shape (d,).
        identities : list[int]
            Those clients.
        server_round : int
            The round that trains on `x`.
        trains : bool
            Whether they are to train on it. What was published to evaluate `x` is what
            they then train on: it is not published again.
        """
        if self._averaged is not None:
            self._averaged.begin_round(server_round)
        if self._shared is None:
            return
        groups = {self.group(identity) for identity in identities}
        for group in sorted(groups - self._ahead):
            channel = self._channel(group)
            self._shared[group] = self._shared[group].publish(x, channel)
        self._ahead = self._ahead - groups if trains else self._ahead | groups

    def outdate(self) -> None:
        """Note that the model is not the one any more that clients have evaluated."""
        self._ahead.clear()

    def publish_update(self, update: Vector | None) -> None:
        """Send an update to every group; None if the round made none."""
        shared = self._shared or []
        for group, broadcast in enumerate(shared):
            channel = self._channel(group)
            if update is None:
                shared[group] = broadcast.pause(self._dim, channel)
            else:
                shared[group] = broadcast.publish(update, channel)

    def send(
        self, identity: int, end: DownlinkEnd, model: Vector, *, trains: bool
    ) -> CatchUp:
        """Return what the client needs now, and note that it was sent.

        A client that has evaluated the model needs nothing to train on it. If nobody
        knows whether it received it, it is sent the same payload again.
        """
        if self._shared is not None:
            needed = self._shared[self.group(identity)].catch_up(end.held)
            end.sent = needed.version
            return needed
        was_sent = identity in self._ahead
        (self._ahead.discard if trains else self._ahead.add)(identity)
        if was_sent and end.held == end.sent:
            return CatchUp(end.sent, end.sent, ())
        version = end.sent if was_sent else max(end.sent, self._used) + 1
        memory = self._memory(end)
        sender, payload = self._link.send(
            replace(end.sender, vector=memory),
            model,
            version,
            self._channel(identity).at(version),
        )
        end.sender, end.sent = replace(sender, vector=None), version
        self._outstanding[identity] = end
        begins, snapshot = end.held is None, memory
        if self._averaged is not None:
            epoch = self._averaged.epoch
            end.sent_epoch, begins = epoch, begins or end.epoch != epoch
            had_part = end.sender.version > 0 and end.epoch == epoch
            if begins:
                snapshot = self._averaged.beginning(
                    had_part=had_part or end.joined == epoch
                )
        return CatchUp(
            sender.version, version, (payload,), snapshot if begins else None
        )

    def _memory(self, end: DownlinkEnd) -> Vector | None:
        """Return H_i, or what stands for it; None for a link without memory."""
        if self.receiver_rate is None:
            return None
        if self._averaged is not None:
            return self._averaged.vector
        own = end.memory.vector
        return self._initial if own is None else own

    def is_final(self) -> bool:
        """Whether payloads are never taken back."""
        return self._shared is not None

    def acknowledge(self, identity: int, end: DownlinkEnd, version: int) -> None:
        """Note that the client holds `version`."""
        end.held, end.epoch = version, end.sent_epoch
        if self._shared is not None:
            return
        if self._averaged is not None:
            if end.sender.is_pending(version) and end.sender.pending is not None:
                self._averaged.hear(identity, version, end.sender.pending)
            end.sender = SenderState(version)
            return
        sender = replace(end.sender, vector=self._memory(end))
        sender = self._link.acknowledge(sender, version)
        if sender.vector is not None:
            end.memory.vector = sender.vector
        end.sender = replace(sender, vector=None)

    def settle(self, num_clients: int) -> None:
        """Finish a training: move an averaged memory; the model is about to move."""
        rate = self.receiver_rate
        if self._averaged is not None and rate is not None:
            self._averaged.settle(rate, num_clients)
        self.outdate()
        self.pack()

    def pack(self) -> None:
        """Finish an exchange: pack what nobody answered to."""
        for end in self._outstanding.values():
            pending = end.sender.pending
            if pending is not None:
                end.sender = replace(end.sender, pending=pending.compact())
        self._outstanding.clear()

    def restore_end(
        self,
        identity: int,
        end: DownlinkEnd,
        meta: dict[str, Any],
        checkpoint: Checkpoint,
        name: str,
    ) -> None:
        """Let a client's end take over what its `save` gave."""
        end.restore(meta, checkpoint, name, self._dim, self._channel(identity))

    def save(self, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold; add the shared ends to `arrays`."""
        arrays["downlink/initial"] = self._initial
        groups = [
            save_broadcast(arrays, f"group/{group}", broadcast)
            for group, broadcast in enumerate(self._shared or [])
        ]
        averaged = self._averaged
        return {
            "groups": groups,
            "epoch": 0 if averaged is None else averaged.epoch,
            "ahead": sorted(self._ahead),
            "heard": [] if averaged is None else averaged.save(arrays),
        }

    def restore(self, meta: dict[str, Any], checkpoint: Checkpoint) -> None:
        """Take over what :meth:`save` gave."""
        self._ahead = set(meta.get("ahead", ()))
        self._initial = checkpoint.array("downlink/initial")
        if self._averaged is not None:
            heard = [(i, v, self._channel(i)) for i, v in meta.get("heard", ())]
            self._averaged.restore(heard, meta["epoch"], checkpoint)
        if self._shared is not None:
            groups = zip(self._shared, meta["groups"], strict=True)
            self._shared = [
                restore_broadcast(
                    before, row, checkpoint, f"group/{i}", self._dim, self._channel(i)
                )
                for i, (before, row) in enumerate(groups)
            ]

    def skip_to(self, version: int) -> None:
        """Leave out versions that a server which was killed may have used.

        Receivers of a shared link with memory are brought up to date with a snapshot.
        """
        self._used = version
        self.outdate()
        self._shared = self._shared and [b.skip_to(version) for b in self._shared]

    def confirm(self, identity: int, end: DownlinkEnd, held: int) -> None:
        """Compare what a client says it holds with what it was sent (0: nothing)."""
        if held not in (end.held, end.sent):
            self.forget(identity, end)

    def forget(self, identity: int, end: DownlinkEnd) -> None:
        """Note that the client holds nothing."""
        end.held = None
        if self._shared is None:
            self._ahead.discard(identity)

    def group(self, identity: int) -> int:
        """Return the group of a client."""
        return identity % len(self._shared or [None])
