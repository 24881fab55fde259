"""How often a client may ask for what costs all others something."""

from __future__ import annotations

from typing import Any

from ..run.fields import NUMBER

__all__ = ["SyncBudget"]

_FREE = 4.0
_REGAINED = 0.5
_DEEPEST = 6


class SyncBudget:
    """Requests of a client, each of which costs a dense model, or others' memories.

    A request is a debt of 1, an update that is taken in pays off half of it. A client
    with a debt of more than 4 is left out of 2, 4, 8, ... and at most 64 messages each
    time that it asks: so one that goes on asking costs no more than a dense model in 65
    of them, and one that restarts after every other update is never left out.

    Parameters
    ----------
    what : str
        What the log says that a client does too often.
    """

    def __init__(self, what: str = "asked too often to be synchronised") -> None:
        self._what = what
        self._debts: dict[int, float] = {}
        self._rests: dict[int, int] = {}
        self._asked: dict[int, int] = {}
        self._left_out: list[str] = []

    def ask(self, identity: int, version: int) -> None:
        """Note that a client asked in its answer to `version`, the second time too."""
        if self._asked.get(identity) == version:
            return  # One answer that arrived twice.
        self._asked[identity] = version
        debt = min(self._debts.get(identity, 0.0) + 1.0, _FREE + _DEEPEST)
        self._debts[identity] = debt
        if debt > _FREE:
            self._rests[identity] = 1 << int(debt - _FREE + 0.5)

    def pay(self, identity: int) -> None:
        """Note that an update of a client was taken in."""
        if identity not in self._debts:
            return
        self._debts[identity] -= _REGAINED
        if self._debts[identity] <= 0:
            self.forget(identity)

    def rests(self, identity: int) -> bool:
        """Whether a client is not to be sent its next message; call once for each."""
        left = self._rests.get(identity, 0)
        if not left:
            return False
        self._rests[identity] = left - 1
        self._left_out.append(
            f"client {identity} {self._what}: left out of {left} more messages"
        )
        return True

    def left_out(self) -> list[str]:
        """Return why clients were left out since the last call."""
        reasons, self._left_out = self._left_out, []
        return reasons

    def forget(self, identity: int) -> None:
        """Forget what a client has asked."""
        for kept in (self._debts, self._rests, self._asked):
            kept.pop(identity, None)

    def save(self) -> list[list[Any]]:
        """Return everything, for JSON."""
        return [
            [identity, debt, self._rests.get(identity, 0), self._asked[identity]]
            for identity, debt in self._debts.items()
        ]

    def restore(self, meta: list[list[Any]]) -> None:
        """Take over what :meth:`save` gave."""
        if not all(NUMBER.fits(number) for row in meta for number in row):
            raise ValueError(f"expected rows of numbers, got {meta!r:.60}")
        self._debts = {identity: debt for identity, debt, _, _ in meta}
        self._rests = {identity: rests for identity, _, rests, _ in meta if rests}
        self._asked = {identity: version for identity, _, _, version in meta}
