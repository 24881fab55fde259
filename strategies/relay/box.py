"""What the relay knows of one node, and how that is saved."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_compress.wire.mail import Delivery, Letter

from ..run.fields import COUNT, COUNTS, FLAG, ROWS, fields
from .letters import LETTER_BYTES

__all__ = ["Box"]

_SAVED = {
    "first": COUNT,
    "answered": COUNT,
    "acked": COUNT,
    "crc": COUNT,
    "rebuild": FLAG,
    "contract": FLAG,
    "model": FLAG,
    "begun": FLAG,
    "forget": FLAG,
    "missed": COUNT,
    "gone": FLAG,
}


@dataclass(slots=True)
class Box:
    """What the relay knows of one node.

    Attributes
    ----------
    letters : deque[Letter]
        For the node, not confirmed yet, in the order in which they count.
    first : int
        How many letters were confirmed before.
    answered : int
        The last delivery of which the answer was taken in.
    acked, crc : int
        The node's last payload that was taken in.
    broken : set[int]
        In-neighbours of which the node holds nothing.
    rebuild : bool
        Whether the node is still to be told to forget what it holds.
    contract : bool
        Whether it still needs the contract.
    model : bool
        Whether it still needs the initial model.
    begun : bool
        Whether it has a model, as it said last.
    forget : bool
        Whether the relay does not know what it took in of the node, or the node is to
        keep nothing but its model.
    unreadable : dict[int, int]
        How many letters of each in-neighbour the node could not read.
    cut : set[int]
        Neighbours whose edge to the node is left out, as its letters cannot be read.
    missed : int
        Rounds in a row in which the node made no step of which the relay knows.
    gone : bool
        Whether all its edges are left out, until it answers again.
    sent : Delivery, optional
        The last delivery, without its letters.
    """

    letters: deque[Letter] = field(default_factory=deque)
    first: int = 0
    answered: int = 0
    acked: int = 0
    crc: int = 0
    broken: set[int] = field(default_factory=set)
    rebuild: bool = False
    contract: bool = True
    model: bool = True
    begun: bool = False
    forget: bool = False
    unreadable: dict[int, int] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)
    missed: int = 0
    gone: bool = False
    sent: Delivery | None = None

    @property
    def num_bytes(self) -> int:
        """Size of the letters."""
        return sum(LETTER_BYTES + len(letter.data) for letter in self.letters)

    # -- checkpoints ---------------------------------------------------------------

    def letter_bytes(self) -> NDArray[np.uint8]:
        """Return the data of all letters, one after the other."""
        data = b"".join(letter.data for letter in self.letters)
        return np.frombuffer(data, dtype=np.uint8)

    def row(self) -> dict[str, Any]:
        """Return everything else, for JSON."""
        return {
            "letters": [
                (a.node, a.version, a.phase, len(a.data), a.num_bits, a.snapshot)
                for a in self.letters
            ],
            "broken": sorted(self.broken),
            "unreadable": list(self.unreadable.items()),
            "cut": sorted(self.cut),
            **{name: getattr(self, name) for name in _SAVED},
        }

    def restore(self, row: dict[str, Any], data: bytes) -> None:
        """Take over what :meth:`row` and :meth:`letter_bytes` gave."""
        row = fields(
            row, letters=ROWS, broken=COUNTS, unreadable=ROWS, cut=COUNTS, **_SAVED
        )
        place = 0
        for sender, version, phase, size, num_bits, snapshot in row["letters"]:
            part = data[place : place + size]
            place += size
            self.letters.append(
                Letter(sender, version, phase, part, num_bits, snapshot)
            )
        self.broken = set(row["broken"])
        self.unreadable, self.cut = dict(row["unreadable"]), set(row["cut"])
        for name in _SAVED:
            setattr(self, name, row[name])
