"""Which node is which client: an identity is a claim, and belongs to one node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from logging import getLogger
from typing import NamedTuple

__all__ = ["NOWHERE", "Claims", "Greeted"]

_log = getLogger("flwr")
NOWHERE = 0
"""No node's id."""


class Ends(NamedTuple):
    """Where a client's ends of its two links stand."""

    crc: int
    """CRC-32 of the payload that it received last, 0 for none."""
    base: int
    """The version before, to which it can go back."""
    sent: tuple[int, int]
    """The version of its own that it has folded, and that of its last payload."""


class Greeted(NamedTuple):
    """What a node says of itself."""

    identity: int
    """Its own number."""
    held: int
    """The newest version that it holds of this session, 0 for none."""
    protocol: int
    """The version of the protocol that it speaks."""
    ends: Ends | None = None
    """More of what it holds; None from an older release, and from a node of a relay."""
    builds: bool = False
    """Whether it can make the first model by itself."""
    plain: bool = False
    """Whether it knows a packet without an array around it."""


class Claims:
    """Who holds which identity.

    An identity is a node's own word. It belongs to the node that had it first, while
    that node is connected; another one that claims it *waits*, and takes no part. Once
    the holder is gone, whoever waits longest takes its place, and else whoever comes
    first. Of those that claim it in the same call the one of lower node id does.

    Parameters
    ----------
    trusted : bool
        Whether a later claim is believed at once: it is the same device under a new
        node id, whose former one the SuperLink still lists. The former one waits.
    """

    def __init__(self, *, trusted: bool = False) -> None:
        self._trusted = trusted
        self._holders: dict[int, int] = {}
        self._identities: dict[int, int] = {}
        self._waiting: dict[int, Greeted] = {}
        # Those of them whose client was believed to have moved to another node.
        self._former: set[int] = set()
        # Nodes that had an identity before the run was resumed, and did not repeat it.
        self._unheard: set[int] = set()
        self._connected: set[int] = set()

    @property
    def is_empty(self) -> bool:
        """Whether no node is known by its identity."""
        return len(self._identities) == len(self._unheard)

    def identity(self, node_id: int) -> int | None:
        """Return the identity of a node, None if it holds none, or waits for one."""
        return None if node_id in self._unheard else self._identities.get(node_id)

    def holder(self, identity: int) -> int:
        """Return the node that holds an identity, 0 if it has to be heard first."""
        node_id = self._holders.get(identity, NOWHERE)
        return NOWHERE if node_id in self._unheard else node_id

    def identities(self, node_ids: Iterable[int]) -> list[int]:
        """Return the identities of those nodes that hold one, ascending."""
        if self._unheard:
            node_ids = [node for node in node_ids if node not in self._unheard]
        found = map(self._identities.get, node_ids)
        return sorted(identity for identity in found if identity is not None)

    def new(self) -> set[int]:
        """Return the connected nodes that have yet to say who they are."""
        unheard = self._connected & self._unheard
        return (self._connected.difference(self._identities) | unheard).difference(
            self._waiting
        )

    @property
    def connected(self) -> Set[int]:
        """The nodes that are connected."""
        return self._connected

    def waiting(self) -> list[int]:
        """Return the nodes that claim what others hold, the first one first."""
        return list(self._waiting)

    def connect(self, node_ids: Iterable[int]) -> None:
        """Note which nodes are connected: all others are gone, until they come back."""
        self._connected = set(node_ids)
        for node_id in self._waiting.keys() - self._connected:
            del self._waiting[node_id]
        self._former &= self._waiting.keys()

    def take(self, answers: Mapping[int, Greeted]) -> list[Greeted]:
        """Take in what nodes say, by node id, and those whose turn it is.

        Returns
        -------
        list[Greeted]
            Of the nodes that came, or moved: of each identity no more than one.
        """
        arrived: dict[int, Greeted] = {}
        claims = [*self._waiting.items(), *sorted(answers.items())]
        for node_id, greeted in claims:
            identity = greeted.identity
            if self.identity(node_id) is not None:
                continue  # A second answer, perhaps late.
            holder = self._holders.get(identity, NOWHERE)
            if self._may_move(node_id, holder, is_first=identity not in arrived):
                self._move(node_id, identity, holder)
                arrived[identity] = greeted
            elif node_id not in self._waiting:
                self._waiting[node_id] = greeted
                self.tell(node_id)
        return list(arrived.values())

    def _may_move(self, node_id: int, holder: int, *, is_first: bool) -> bool:
        if holder in (NOWHERE, node_id) or holder not in self._connected:
            return True
        return self._trusted and is_first and node_id not in self._waiting

    def _move(self, node_id: int, identity: int, holder: int) -> None:
        self.release(self._identities.get(node_id))  # It may have been another client.
        self._waiting.pop(node_id, None)
        self._former.discard(node_id)
        if holder not in (NOWHERE, node_id):
            _log.warning(
                "client %d moves from node %d to node %d", identity, holder, node_id
            )
            self._identities.pop(holder, None)
            self._unheard.discard(holder)
            if holder in self._connected:
                # Asked again, it would take it back; what it holds then is not known.
                self._waiting[holder] = Greeted(identity, 0, 0)
                self._former.add(holder)
        self._identities[node_id] = identity
        self._holders[identity] = node_id

    def release(self, identity: int | None) -> None:
        """Let an identity belong to nobody."""
        if identity is not None:
            node_id = self._holders.pop(identity, NOWHERE)
            self._identities.pop(node_id, None)
            self._unheard.discard(node_id)

    def tell(self, node_id: int) -> None:
        """Log that a node waits, and what can be done about it.

        Not of one whose client has moved, as it was allowed to: that was said.
        """
        if node_id in self._former:
            return
        _log.warning(
            "%s. A device that restarted is taken in once its former node is gone",
            self.why(node_id),
        )

    def why(self, node_id: int) -> str:
        """Return why a node waits, and what can be done about it."""
        identity = self._waiting[node_id].identity
        holder = self._holders.get(identity, NOWHERE)
        return (
            f"node {node_id} is left out: it says that it is client {identity}, as "
            f"node {holder} does. Give each SuperNode its own partition-id, or the mod "
            "an `identity` function"
        )

    # -- checkpoints ---------------------------------------------------------------

    def save(self) -> list[tuple[int, int]]:
        """Return who holds which identity, for JSON."""
        return list(self._holders.items())

    def restore(self, saved: Iterable[tuple[int, int]], *, heard: bool) -> None:
        """Take over what :meth:`save` gave.

        Parameters
        ----------
        saved : Iterable[tuple[int, int]]
            Identities, each with its holder.
        heard : bool
            Whether the nodes are where they were then. If not, they have to say again
            who they are, and each has the first claim to what it was.
        """
        self._holders = dict(saved)
        self._identities = {node: i for i, node in self._holders.items()}
        self._unheard = set() if heard else set(self._identities)
