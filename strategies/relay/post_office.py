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

A node that is *gone* (``departures.py``) is set apart too: all its edges are cut, until
it answers again. Where nodes exchange more than the model, the trackers of all sum up
to something, and both times they begin anew.

Nothing is decoded here, and nothing is a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from logging import getLogger
from typing import Any

from flower_compress.errors import CorruptPacket, OutOfSyncError
from flower_compress.wire.mail import EVERYONE, Delivery, Letter, Posting

from ..run.checkpoint import Arrays, Checkpoint
from .box import Box
from .letters import check_letters

__all__ = ["PostOffice"]

_log = getLogger("flwr")
_MOST_UNREADABLE = 3
_BYTES_A_FLOAT64 = 8
_LEAST_ROOM = 1 << 16


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
        self._dim, self.num_phases = dim, num_phases
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
            num_phases=self.num_phases,
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
            if letter.notice and not self._is_cut(letter.node, node):
                self._note_unreadable(letter.node, node)
        for reader in self._readers[node]:
            if self._is_cut(node, reader):
                continue
            letters = [
                replace(letter, node=node)
                for letter in posting.letters
                if letter.node in (EVERYONE, reader) and not letter.notice
            ]
            broken = self.boxes[reader].broken
            if node in broken:
                phases = {letter.phase for letter in letters if letter.snapshot}
                if len(phases) < self.num_phases:
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
        room = _BYTES_A_FLOAT64 * self._dim * self.num_phases
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

    def _is_cut(self, node: int, other: int) -> bool:
        """Whether the edge of two neighbours is left out."""
        boxes = self.boxes
        return other in boxes[node].cut or boxes[node].gone or boxes[other].gone

    def _open_sources(self, node: int) -> set[int]:
        """Return of whom a node is to hold something."""
        return {j for j in self._sources[node] if not self._is_cut(node, j)}

    def is_apart(self, node: int) -> bool:
        """Whether a node is gone, or all who should hear it could not read it."""
        readers = self._readers[node]
        return self.boxes[node].gone or (
            bool(readers)
            and all(
                self.boxes[reader].unreadable.get(node, 0) >= _MOST_UNREADABLE
                for reader in readers
            )
        )

    def set_apart(self, nodes: Iterable[int]) -> None:
        """Cut all edges of nodes that are gone: nobody holds anything of them."""
        nodes = list(nodes)
        for node in nodes:
            self.boxes[node].gone = True
        for node in nodes:
            self._break(node)
            for reader in self._readers[node]:
                broken = self.boxes[reader].broken
                if reader in self.boxes[node].cut:
                    continue
                if node in broken:
                    broken.discard(node)  # It holds nothing of it.
                elif self._keeps_estimates and not self.boxes[reader].gone:
                    self._break(reader)
        self._begin_trackers_anew()

    def readmit(self, nodes: Iterable[int]) -> None:
        """Open the edges of nodes again that were gone; both ends begin anew."""
        nodes = list(nodes)
        for node in nodes:
            self.boxes[node].gone = False
        if not self._keeps_estimates:
            nodes = []
        for node in nodes:
            self.boxes[node].broken = self._open_sources(node)
            for reader in self._readers[node]:
                if not self._is_cut(node, reader):
                    self.boxes[reader].broken.add(node)
        self._begin_trackers_anew()

    def _begin_trackers_anew(self) -> None:
        """Have the sums of all nodes begin anew that someone has left, or joined."""
        if self.num_phases == 1:
            return
        for node, box in enumerate(self.boxes):
            box.forget = not box.contract
            self._break(node)
            if box.sent is not None:
                box.sent = replace(box.sent, forget=False)

    def parts(self) -> list[list[int]]:
        """Return the nodes that are not gone, by who hears of whom, the most first."""
        left = [node for node, box in enumerate(self.boxes) if not box.gone]
        found: list[list[int]] = []
        unseen = set(left)
        for start in left:
            part = [start] if start in unseen else []
            unseen.discard(start)
            for node in part:  # It grows.
                near = {*self._open_sources(node), *self._readers[node]} & unseen
                near = {j for j in near if not self._is_cut(node, j)}
                unseen -= near
                part += sorted(near)
            found += [part] if part else []
        return sorted(found, key=len, reverse=True)

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
                broken = self.boxes[reader].broken
                if not self._is_cut(node, reader) and node not in broken:
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
        left = [box for box in self.boxes if not box.gone] or self.boxes
        return not any(box.model or box.begun for box in left)

    def begin_anew(self) -> None:
        """Let all nodes begin from a common model again."""
        for node, box in enumerate(self.boxes):
            self._break(node)
            box.broken.clear()
            box.contract, box.model = True, True
            box.unreadable.clear()
            box.cut.clear()
            box.missed, box.gone = 0, False
            box.rebuild, box.forget, box.sent = False, False, None

    def _break(self, node: int) -> None:
        """Let a node forget what it holds of its neighbours, to be told anew."""
        box = self.boxes[node]
        box.first += len(box.letters)
        box.letters.clear()
        box.rebuild = True
        if self._keeps_estimates:
            box.broken = self._open_sources(node)
        if box.sent is not None:
            # If that asked it to forget, its answer is about the time before.
            box.sent = replace(box.sent, rebuild=False)

    # -- checkpoints ---------------------------------------------------------------

    def save(self, arrays: Arrays) -> list[dict[str, Any]]:
        """Return what JSON can hold of the boxes; add the letters to `arrays`."""
        for node, box in enumerate(self.boxes):
            arrays[f"letters/{node}"] = box.letter_bytes()
        return [box.row() for box in self.boxes]

    def restore(self, rows: list[dict[str, Any]], checkpoint: Checkpoint) -> None:
        """Take over what :meth:`save` gave."""
        for node, (box, row) in enumerate(zip(self.boxes, rows, strict=True)):
            box.restore(row, checkpoint.array(f"letters/{node}").tobytes())
