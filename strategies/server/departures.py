"""Clients that are gone: noticed, told of, and forgotten after a while."""

from __future__ import annotations

from collections.abc import Iterable
from logging import getLogger
from typing import Any

from ..callbacks.observers import Observers
from ..run.fields import COUNT, FLAG, fields
from .roster import Client, Roster
from .uplink_memories import UplinkMemories

__all__ = ["FORGET_AFTER", "Departures"]

_log = getLogger("flwr")
FORGET_AFTER = 50
"""Rounds. Where half of the messages are lost each way, a client is silent so often in
a row once in two million times; and one that is forgotten wrongly costs a dense model
and about 1 / alpha noisy answers, three with the default operators."""
_UNNAMED_AFTER = 1
_SILENT_AFTER = 2
_LARGE_SHARE = 0.25
_ORPHANED_SHARE = 0.1


class Departures:
    """Counts for each client the rounds in which it could have taken part, and did not.

    Those are the rounds in which it was not connected, or was asked and gave no update
    that could be used: it was silent, reported an error, was refused. A client that is
    connected and was not drawn has missed nothing, so that the count means the same
    whatever share is sampled. An update that is taken in sets it to 0. At
    `forget_after` the client is forgotten: its memory leaves the mean, it leaves the
    number of clients, and all that is kept of it is freed. If it comes back it begins
    as a new client, with memories from zero at both ends.

    A client without a number of its own (no ``partition-id``, so that its identity is
    its node id) begins as a new one whenever its SuperNode restarts. What it was before
    would count beside what it is, so it is forgotten as soon as it is not connected.

    With ``uplink_memory="mean"`` nobody knows what part of the mean a client's memory
    is, so that it stays there when the client is forgotten. Once such parts have more
    than a tenth of the weight, or after `forget_after` rounds, a new epoch begins: the
    mean is 0, and every client starts from zero when it next hears of the server.

    Parameters
    ----------
    roster : Roster
        The clients.
    memories : UplinkMemories
        Those of their uplinks.
    forget_after : int, optional
        Rounds; None never to forget.
    observers : Observers
        Who is told of clients that are away, silent or forgotten.
    """

    def __init__(
        self,
        roster: Roster,
        memories: UplinkMemories,
        forget_after: int | None,
        observers: Observers,
    ) -> None:
        self._roster, self._memories = roster, memories
        self._observers = observers
        self._connected: frozenset[int] = frozenset()
        self._forget_after = forget_after
        self._asked: frozenset[int] = frozenset()
        self._share: float | None = None
        self._since_epoch = self._in_a_row = 0
        self._has_told = False

    @property
    def share(self) -> float | None:
        """Share of the mean memory, by weight, of clients that are away or silent.

        Not connected, or not heard since it missed two rounds or more in a row. In the
        round that began last; None where no memory of an absent client is used.
        """
        return self._share

    def begin(self, there: Iterable[int]) -> list[int]:
        """Begin a training; return whom it forgot.

        To be called before any message of the round is made.

        Parameters
        ----------
        there : Iterable[int]
            Identities of the clients that are connected.
        """
        self._observers.begin_exchange()
        connected, self._asked = frozenset(there), frozenset()
        away = self._roster.others(connected)
        gone = []
        for client in away:
            client.missed += 1
            if client.identity in self._connected:
                self._lose(client, "not connected any more")
            if self._is_gone(client):
                gone.append(client.identity)
        self._connected = connected
        self._forget(gone)
        self._begin_epoch_if_due()
        if self._memories.has_mean:
            forgotten = frozenset(gone)
            online = self._roster.some(sorted(connected))
            silent = (c for c in online if c.missed >= _SILENT_AFTER)
            self._share = self._share_of(
                c for c in (*away, *silent) if c.identity not in forgotten
            )
        self._tell_unnamed()
        self._tell_share()
        return gone

    def ask(self, identities: Iterable[int]) -> None:
        """Note who is asked for an update in this round."""
        self._asked = frozenset(identities)

    def end(self, heard: Iterable[int]) -> None:
        """Take note of the answers, before they are folded.

        Nobody is forgotten in a round in which nobody answered: that says more of the
        server than of its clients.

        Parameters
        ----------
        heard : Iterable[int]
            Identities of the clients whose updates are taken in.
        """
        answered, gone = frozenset(heard), set()
        for client in self._roster.some(answered):
            client.missed = 0
        for client in self._roster.some(sorted(self._asked - answered)):
            client.missed += 1
            if not self._observers.is_noted(client.identity):
                self._lose(client, "no answer in time")
            if answered and self._is_gone(client, is_connected=True):
                gone.add(client.identity)
        self._asked = frozenset()
        if gone:  # In the order in which they came.
            self._forget([c.identity for c in self._roster if c.identity in gone])

    def _lose(self, client: Client, reason: str) -> None:
        reason = f"{reason}, {client.missed} rounds in a row"
        self._observers.note("lost", client.identity, client.node_id, reason)

    def _is_gone(self, client: Client, *, is_connected: bool = False) -> bool:
        if self._forget_after is None:
            return False
        limit = self._forget_after
        if client.is_unnamed and not is_connected:
            limit = min(limit, _UNNAMED_AFTER)
        return client.missed >= limit

    def _forget(self, gone: list[int]) -> None:
        if not gone:
            return
        self._roster.forget(
            gone, "it is gone: its memory leaves the mean; it would begin as a new one"
        )

    # -- memories of clients that are gone, or away ----------------------------------

    def _begin_epoch_if_due(self) -> None:
        self._since_epoch += 1
        orphaned = self._memories.orphaned_weight
        if not orphaned:
            return
        window = self._forget_after or FORGET_AFTER
        if self._since_epoch > window or self._share_of(()) > _ORPHANED_SHARE:
            self._memories.begin_epoch()
            self._since_epoch = 0
            _log.info("all memories start from zero: the mean held forgotten clients'")

    def _share_of(self, away: Iterable[Client]) -> float:
        """Return the share of the mean, by weight, of those, and of forgotten ones."""
        orphaned = self._memories.orphaned_weight
        total = orphaned + self._memories.total_in_mean()
        part = orphaned + sum(self._weight(client) for client in away)
        return min(1.0, part / total) if total > 0 else 0.0

    def _weight(self, client: Client) -> float:
        return self._memories.weight_in_mean(client.uplink)

    def _tell_share(self) -> None:
        """Warn of a large share, in the 1st, 2nd, 4th, 8th, ... round in a row."""
        if self._share is None or self._share <= _LARGE_SHARE:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row & (self._in_a_row - 1):
            return
        after = self._forget_after
        _log.warning(
            "%.0f %% of the mean of the clients' memories, by weight, belong to "
            "clients that are not connected, or were asked twice without an update "
            "in time, and pull the model to where they were: %s. Slow clients need a "
            'longer timeout, or uplink_memory="sampled"',
            100 * self._share,
            "give forget_after a number of rounds"
            if after is None
            else f"they are forgotten when they have missed {after} rounds "
            "(forget_after), and at once with strategy.forget(identity)",
        )

    def _tell_unnamed(self) -> None:
        """Say once that clients have no number of their own."""
        if self._has_told:
            return
        unnamed = self._roster.num_unnamed
        if not unnamed:
            return
        self._has_told = True
        _log.warning(
            "%d of %d clients have no partition-id, so that their identity is their "
            "node id: a SuperNode that restarts under another one begins as a new "
            "client, and is forgotten as soon as it is not connected. Give each one "
            "its own: flower-supernode --node-config 'partition-id=7'",
            unnamed,
            len(self._roster),
        )

    # -- checkpoints -----------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Return everything that is not the clients' own, for JSON."""
        return {"since_epoch": self._since_epoch, "has_told": self._has_told}

    def restore(self, meta: dict[str, Any]) -> None:
        """Take over what :meth:`save` gave."""
        meta = fields(meta, since_epoch=COUNT, has_told=FLAG)
        self._since_epoch, self._has_told = meta["since_epoch"], meta["has_told"]
