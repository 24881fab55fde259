"""The server's end of all downlinks: whom to send what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from logging import getLogger
from operator import index
from typing import Any

import numpy as np

from flower_compress.compressors import Vector
from flower_compress.links import (
    Carries,
    CatchUp,
    Channel,
    Link,
    SenderState,
)

from ..run.checkpoint import Arrays, Checkpoint
from ..run.claims import Ends
from ..run.fields import COUNT, COUNTS, ROWS, fields
from .averaged_memory import AveragedMemory
from .downlink_end import DownlinkEnd
from .downlink_rules import DownlinkMemory, Groups, ResetEvery
from .first_model import Beginning
from .shared_downlinks import SharedDownlinks
from .vector_store import VectorStore

__all__ = ["Downlinks"]

_log = getLogger("flwr")

_INITIAL = 1
"""Version of the model that every memory starts from."""


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
    beginning : Beginning
        The model that every memory starts from.
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
        beginning: Beginning,
        store: VectorStore,
        memory: DownlinkMemory = "each",
        reset_every: ResetEvery = "auto",
    ) -> None:
        self._link, self._carries, self._channel = link, carries, channel
        self._beginning = beginning
        self._initial = initial = beginning.vector
        self._dim, self._store = initial.size, store
        self._num_ends, self._has_told = 0, False
        self._floor = 0  # Versions of clients that are forgotten lie below it.
        self._used = self._newest = _INITIAL
        self._outstanding: dict[int, DownlinkEnd] = {}
        # Groups, or clients with links of their own, that were sent the model as it is
        # to evaluate it, and no training since.
        self._ahead: set[int] = set()
        self._averaged: AveragedMemory | None = None
        if memory == "average":
            auto = max(1, round(4 * self._dim**0.5))
            resets = auto if reset_every == "auto" else reset_every
            self._averaged = AveragedMemory(initial, resets)
        self._shared: SharedDownlinks | None = None
        if groups != "client":
            self._shared = SharedDownlinks(link, carries, groups, channel, beginning)

    @property
    def receiver_rate(self) -> float | None:
        """Rate of the memory that receivers keep; see Contract.downlink_rate."""
        if self._carries == "update":
            return 1.0
        return self._link.memory_rate(self._dim)

    @property
    def newest(self) -> int:
        """Newest version of any payload."""
        return self._newest if self._shared is None else self._shared.newest

    @property
    def degraded_model(self) -> Vector | None:
        """The model that every client of the one group holds."""
        return None if self._shared is None else self._shared.value

    def begin(self) -> DownlinkEnd:
        """Return the end of a client that is not known, or not any more.

        It may remember versions from when it was: with a link of its own it goes on
        above them all, where a shared link goes on by itself.
        """
        self._num_ends += 1
        joined = None if self._averaged is None else self._averaged.joining
        end = DownlinkEnd(self._store.slot(), sent=self._floor, joined=joined)
        if self._beginning.term is not None and self._shared is None:
            # Whoever has not what it builds on must notice: 0 is what a client has
            # that holds nothing.
            end.sender = SenderState(_INITIAL)
        return end

    def expect(self, end: DownlinkEnd, *, builds: bool) -> None:
        """Note whether a client makes first models, as it says in its greeting."""
        end.begins = self._beginning.takes(builds)
        if self._beginning.term is not None and not (end.begins or self._has_told):
            self._has_told = True
            _log.warning(
                "clients without CompressionMod(first_model=...) are sent the first "
                'model dense, for all of first_model="seed" at the server'
            )

    def begin_dense(self, end: DownlinkEnd) -> bool:
        """Let a client have a snapshot; whether it was to begin without one."""
        was_to = end.begins and end.is_beginning
        end.begins = end.begins and not was_to
        return was_to

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
            self._averaged.begin_round(server_round, self._num_ends)
        if self._shared is None:
            return
        groups = {self.group(identity) for identity in identities}
        self._shared.publish(x, sorted(groups - self._ahead))
        self._ahead = self._ahead - groups if trains else self._ahead | groups

    def outdate(self) -> None:
        """Note that the model is not the one any more that clients have evaluated."""
        self._ahead.clear()

    def publish_update(self, update: Vector | None) -> None:
        """Send an update to every group; None if the round made none."""
        if self._shared is not None:
            self._shared.publish_update(update)

    def send(
        self, identity: int, end: DownlinkEnd, model: Vector, *, trains: bool
    ) -> CatchUp:
        """Return what the client needs now, and note that it was sent.

        A client that has evaluated the model needs nothing to train on it. If nobody
        knows whether it received it, it is sent the same payload again.
        """
        end.is_beginning = False
        if self._shared is not None:
            return self._shared.send(identity, end)
        was_sent = identity in self._ahead
        (self._ahead.discard if trains else self._ahead.add)(identity)
        if was_sent and end.held == end.sent:
            return CatchUp(end.sent, end.sent, ())
        version = end.sent if was_sent else max(end.sent, self._used) + 1
        memory = self._memory(end)
        sender, payload = self._link.send(
            end.sender._replace(vector=memory),
            model,
            version,
            self._channel(identity).at(version),
        )
        end.sender, end.sent = sender._replace(vector=None), version
        self._newest = max(self._newest, version)
        self._outstanding[identity] = end
        begins, snapshot = end.held is None, memory
        if self._averaged is not None:
            epoch = self._averaged.epoch
            end.sent_epoch, begins = epoch, begins or end.epoch != epoch
            had_part = end.sender.version > _INITIAL and end.epoch == epoch
            if begins:
                snapshot = self._averaged.beginning(
                    had_part=had_part or end.joined == epoch
                )
        can_begin = end.held is None and end.begins
        if can_begin and snapshot is self._initial and sender.version == _INITIAL:
            end.is_beginning = True
            return CatchUp(_INITIAL, version, (payload,), begins=True)
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
        if self._shared is None and not self._fold_heard(identity, end, version):
            return
        end.held, end.epoch = version, end.sent_epoch

    def _fold_heard(self, identity: int, end: DownlinkEnd, version: int) -> bool:
        """Let a client's own link move on; False if its memory cannot be kept.

        Then it stays where it was, as if the client had not been heard: the next
        payload builds on the version before, to which the client can go back.
        """
        if self._averaged is not None:
            if end.sender.is_pending(version) and end.sender.pending is not None:
                self._averaged.hear(identity, version, end.sender.pending)
            end.sender = SenderState(version)
            return True
        sender = end.sender._replace(vector=self._memory(end))
        sender = self._link.acknowledge(sender, version)
        if sender.vector is not None and not end.memory.keep(sender.vector):
            return False
        end.sender = sender._replace(vector=None)
        return True

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
                end.sender = end.sender._replace(pending=pending.compact())
        self._outstanding.clear()

    def restore_end(
        self,
        identity: int,
        end: DownlinkEnd,
        saved: tuple[Any, ...],
        sender: tuple[int, int],
        checkpoint: Checkpoint,
        name: str,
    ) -> None:
        """Let a client's end take over what was saved of it."""
        channel = partial(self._channel, identity)
        end.restore(saved, sender, checkpoint, name, self._dim, channel)
        self._newest = max(self._newest, end.sent)

    def save(self, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold; add the shared ends to `arrays`."""
        arrays["downlink/initial"] = self._initial
        averaged = self._averaged
        return {
            "groups": [] if self._shared is None else self._shared.save(arrays),
            "averaged": [] if averaged is None else averaged.counts,
            "ahead": sorted(self._ahead),
            "floor": self._floor,
            "heard": [] if averaged is None else averaged.save(arrays),
        }

    def restore(self, meta: dict[str, Any], checkpoint: Checkpoint) -> None:
        """Take over what :meth:`save` gave."""
        meta = fields(
            meta, averaged=COUNTS, floor=COUNT, ahead=ROWS, heard=ROWS, groups=ROWS
        )
        self._floor = meta["floor"]
        self._ahead = set(map(index, meta["ahead"]))
        shape = (self._dim,)
        initial = checkpoint.array("downlink/initial", shape, np.float32)
        if not np.array_equal(initial, self._initial):  # Else it is known by identity.
            self._initial = initial
        if self._averaged is not None:
            heard = [(i, v, self._channel(i)) for i, v in meta["heard"]]
            self._averaged.restore(heard, meta["averaged"], checkpoint)
        if self._shared is not None:
            self._shared.restore(meta["groups"], checkpoint)

    def skip_to(self, version: int) -> None:
        """Leave out versions that a server which was killed may have used.

        Parameters
        ----------
        version : int
            The newest of them.
        """
        if self._shared is not None:
            self._shared.skip_to(version)
        self._used = self._newest = version
        self.outdate()

    def confirm(
        self, identity: int, end: DownlinkEnd, held: int, told: Ends | None
    ) -> bool:
        """Return whether the next payload can build on what a client holds.

        If it can go back by one payload, that is enough.

        Parameters
        ----------
        identity, end
            The client.
        held : int
            The newest version that it says it holds, 0 for none.
        told : Ends, optional
            What else it says of its ends.
        """
        if held in (end.held, end.sent):
            return True
        if told is None or end.held is None or not held:
            return False
        if self.receiver_rate is None:
            return True  # A payload is the whole model.
        if self._shared is None:
            # A reset since then has put another memory in that version's place.
            return told.base == end.sender.version and self._averaged is None
        return self._shared.confirm(identity, end, held, told)

    def forget(self, identity: int, end: DownlinkEnd) -> None:
        """Note that the client holds nothing."""
        end.held = None
        if self._shared is None:
            self._ahead.discard(identity)

    def remove(self, identity: int, end: DownlinkEnd) -> None:
        """Free what is kept of a client that is forgotten."""
        self.forget(identity, end)
        self._num_ends -= 1
        end.memory.vector = None
        if self._shared is None:
            self._floor = max(self._floor, end.sent + 1)
            self._outstanding.pop(identity, None)
            if self._averaged is not None:
                self._averaged.forget(identity)

    def group(self, identity: int) -> int:
        """Return the group of a client."""
        return 0 if self._shared is None else self._shared.group(identity)
