"""The relay's memory: who has been sent what, and who lacks what.

Payloads of a node go to its neighbours as letters. The office keeps a letter until its
receiver says that it has it. So a lost message, a slow node or a restarted one delays
letters, and none is ever skipped: what a node holds of a neighbour is always the fold
of all payloads of that neighbour up to some point.

An edge is *broken* where this cannot be kept up: the receiver lost its state, or was
away for so long that its letters took more room than a snapshot. Then the receiver
forgets what it holds (it keeps sums over neighbours only), the senders are asked for
snapshots of their estimates, and letters go on from there.

A node that could not read a letter says so. It is told to forget what it holds, and
the senders are asked for snapshots, as above. After a few such letters the edge is
*cut*, both ways: its ends forget each other, and none of its letters goes on. A node
leaves out of its average what it does not hold, so the edge's weight moves to w_ii and
w_jj, and the mixing matrix stays symmetric and doubly stochastic. A node that nobody
can read is set apart so, edge by edge, and one that says so of others cuts off itself
alone.

Nothing is decoded here, and nothing is a model.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from logging import getLogger
from typing import Any

import numpy as np

from flower_compress.errors import CorruptPacket, OutOfSyncError
from flower_compress.wire.mail import EVERYONE, Delivery, Letter, Posting

from ..run.checkpoint import Arrays, Checkpoint
from ..run.fields import COUNT, COUNTS, FLAG, ROWS, fields
from .letters import LETTER_BYTES, check_letters

__all__ = ["Box", "PostOffice"]

_log = getLogger("flwr")
_MOST_UNREADABLE = 3
_BYTES_A_FLOAT64 = 8
_LEAST_ROOM = 1 << 16
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
        Whether the relay does not know what it took in of the node.
    unreadable : dict[int, int]
        How many letters of each in-neighbour the node could not read.
    cut : set[int]
        Neighbours whose edge to the node is left out.
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
    sent: Delivery | None = None

    @property
    def num_bytes(self) -> int:
        """Size of the letters."""
        return sum(LETTER_BYTES + len(letter.data) for letter in self.letters)


class PostOffice:
    """Boxes for the letters of all nodes.

    Parameters
    ----------
    sources : list[tuple[int, ...]]
        For each node, from whom it ever hears.
    dim : int
        Length d of the vectors.
    num_phases : int
        Exchanges a round.
    keeps_estimates : bool
        Whether nodes hold estimates of their neighbours. If not, a letter is of use
        for one round only, and the last one of a neighbour replaces those before.
    """

    def __init__(
        self,
        sources: list[tuple[int, ...]],
        dim: int,
        num_phases: int,
        *,
        keeps_estimates: bool,
    ) -> None:
        self._sources = sources
        self._readers: list[list[int]] = [[] for _ in sources]
        for reader, known in enumerate(sources):
            for source in known:
                self._readers[source].append(reader)
        self._dim, self._num_phases = dim, num_phases
        self._keeps_estimates = keeps_estimates
        self.boxes = [Box() for _ in sources]

    def wants_snapshot(self, node: int, online: set[int]) -> bool:
        """Whether a node that is there holds nothing of `node`."""
        return any(
            reader in online and node in self.boxes[reader].broken
            for reader in self._readers[node]
        )

    def deliver(self, node: int, delivery: Delivery, online: set[int]) -> Delivery:
        """Return the delivery with all that the node still has to hear."""
        box = self.boxes[node]
        box.sent = replace(
            delivery,
            acked=box.acked,
            crc=box.crc,
            first=box.first,
            answered=box.answered,
            rebuild=box.rebuild,
            want_snapshot=self.wants_snapshot(node, online),
            forget=box.forget,
        )
        return replace(box.sent, letters=tuple(box.letters))

    def check(self, node: int, posting: Posting) -> None:
        """Raise an error unless the posting answers the node's last delivery.

        Raises
        ------
        OutOfSyncError
            If it is late, or of another session.
        CorruptPacket
            If it says what cannot be.
        """
        sent = self.boxes[node].sent
        if sent is None:
            raise OutOfSyncError(
                f"nothing is expected, got an answer to delivery {posting.number}: "
                "late, or a duplicate"
            )
        if posting.session != sent.session:
            raise OutOfSyncError("the posting belongs to another session")
        if posting.number != sent.number:
            raise OutOfSyncError(
                f"expected an answer to delivery {sent.number}, got one to "
                f"{posting.number}: late"
            )
        if posting.resync:
            return
        if posting.dim != self._dim:
            raise CorruptPacket(
                f"expected vectors of length {self._dim}, got {posting.dim}"
            )
        check_letters(
            node,
            posting,
            readers=self._readers[node],
            sources=self._sources[node],
            dim=self._dim,
            num_phases=self._num_phases,
        )

    def take_in(self, node: int, posting: Posting) -> None:
        """Take a checked posting in: what it confirms, and its letters."""
        box = self.boxes[node]
        if box.sent is None or posting.resync:
            self.lose(node)
            return
        while box.letters and box.first < posting.received:
            box.letters.popleft()
            box.first += 1
        # What the delivery said; a neighbour's loss may have changed it since.
        box.rebuild &= not box.sent.rebuild
        box.forget &= not box.sent.forget
        box.contract &= box.sent.contract is None
        box.model &= box.sent.model is None
        box.answered, box.begun = posting.number, not posting.empty
        box.sent = None  # A second answer to it would count once more.
        if not all(letter.kind for letter in posting.letters):
            box.acked, box.crc = posting.number, posting.crc
        for letter in posting.letters:
            if letter.notice and letter.node not in box.cut:
                self._note_unreadable(letter.node, node)
        for reader in self._readers[node]:
            if reader in box.cut:
                continue
            letters = [
                replace(letter, node=node)
                for letter in posting.letters
                if letter.node in (EVERYONE, reader) and not letter.notice
            ]
            broken = self.boxes[reader].broken
            if node in broken:
                phases = {letter.phase for letter in letters if letter.snapshot}
                if len(phases) < self._num_phases:
                    continue
                broken.discard(node)
            else:
                letters = [letter for letter in letters if not letter.snapshot]
            self._put(reader, letters)

    def _put(self, reader: int, letters: list[Letter]) -> None:
        box = self.boxes[reader]
        if not self._keeps_estimates and letters:
            while box.letters and box.letters[0].version < letters[0].version:
                box.letters.popleft()
                box.first += 1
        box.letters.extend(letters)
        room = _BYTES_A_FLOAT64 * self._dim * self._num_phases
        room = max(room * len(self._sources[reader]), _LEAST_ROOM)
        # Snapshots that came in a row take that much by themselves.
        if self._keeps_estimates and box.num_bytes > 2 * room:
            self._break(reader)

    def _note_unreadable(self, sender: int, reader: int) -> None:
        """Have what a node holds renewed; of a sender that fails again cut the edge."""
        box = self.boxes[reader]
        count = box.unreadable[sender] = box.unreadable.get(sender, 0) + 1
        if count < _MOST_UNREADABLE:
            _log.warning("Node %d could not read a letter of node %d", reader, sender)
        else:
            _log.warning(
                "Node %d could not read %d letters of node %d: their edge is left out "
                "from now on",
                reader,
                count,
                sender,
            )
            box.cut.add(sender)
            self.boxes[sender].cut.add(reader)
            if self.is_apart(sender):
                _log.warning("Node %d is set apart: nobody can read it", sender)
            if self._keeps_estimates:
                self._break(sender)
        if self._keeps_estimates:
            self._break(reader)

    def is_apart(self, node: int) -> bool:
        """Whether all who should hear a node could not read it."""
        readers = self._readers[node]
        return bool(readers) and all(
            self.boxes[reader].unreadable.get(node, 0) >= _MOST_UNREADABLE
            for reader in readers
        )

    def lose(self, node: int) -> None:
        """Note that a node has lost its state, or never had any."""
        box = self.boxes[node]
        if box.model and not box.acked:
            return  # It has yet to begin, and is sent what it needs for that.
        box.contract, box.model, box.begun, box.forget = True, False, False, False
        box.acked = box.crc = 0
        if self._keeps_estimates:
            self._break(node)
            for reader in self._readers[node]:
                if reader not in box.cut and node not in self.boxes[reader].broken:
                    self._break(reader)

    def lose_track(self) -> None:
        """Note that nodes may have gone on since: the relay came back without them."""
        for node, box in enumerate(self.boxes):
            box.forget = not box.contract
            box.sent = None
            self._break(node)

    @property
    def is_lost(self) -> bool:
        """Whether no node has a model any more from which another could begin."""
        return not any(box.model or box.begun for box in self.boxes)

    def begin_anew(self) -> None:
        """Let all nodes begin from a common model again."""
        for node, box in enumerate(self.boxes):
            self._break(node)
            box.broken.clear()
            box.contract, box.model = True, True
            box.unreadable.clear()
            box.cut.clear()
            box.rebuild, box.forget, box.sent = False, False, None

    def _break(self, node: int) -> None:
        """Let a node forget what it holds of its neighbours, to be told anew."""
        box = self.boxes[node]
        box.first += len(box.letters)
        box.letters.clear()
        box.rebuild = True
        if self._keeps_estimates:
            box.broken = set(self._sources[node]) - box.cut
        if box.sent is not None:
            # If that asked it to forget, its answer is about the time before.
            box.sent = replace(box.sent, rebuild=False)

    # -- checkpoints ---------------------------------------------------------------

    def save(self, arrays: Arrays) -> list[dict[str, Any]]:
        """Return what JSON can hold of the boxes; add the letters to `arrays`."""
        rows = []
        for node, box in enumerate(self.boxes):
            data = b"".join(letter.data for letter in box.letters)
            arrays[f"letters/{node}"] = np.frombuffer(data, dtype=np.uint8)
            rows.append(
                {
                    "letters": [
                        (
                            a.node,
                            a.version,
                            a.phase,
                            len(a.data),
                            a.num_bits,
                            a.snapshot,
                        )
                        for a in box.letters
                    ],
                    "broken": sorted(box.broken),
                    "unreadable": list(box.unreadable.items()),
                    "cut": sorted(box.cut),
                    **{name: getattr(box, name) for name in _SAVED},
                }
            )
        return rows

    def restore(self, rows: list[dict[str, Any]], checkpoint: Checkpoint) -> None:
        """Take over what :meth:`save` gave."""
        for node, (box, row) in enumerate(zip(self.boxes, rows, strict=True)):
            row = fields(
                row, letters=ROWS, broken=COUNTS, unreadable=ROWS, cut=COUNTS, **_SAVED
            )
            data, place = checkpoint.array(f"letters/{node}").tobytes(), 0
            for sender, version, phase, size, num_bits, snapshot in row["letters"]:
                part = data[place : place + size]
                place += size
                letter = Letter(sender, version, phase, part, num_bits, snapshot)
                box.letters.append(letter)
            box.broken = set(row["broken"])
            box.unreadable, box.cut = dict(row["unreadable"]), set(row["cut"])
            for name in _SAVED:
                setattr(box, name, row[name])
