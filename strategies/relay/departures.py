"""Nodes that are gone: noticed, told of, and set apart until they answer again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from logging import getLogger

from flower_compress.errors import ConfigurationError
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.mail import Posting

from ..callbacks import EventKind
from .post_office import PostOffice

__all__ = ["FORGET_AFTER", "Departures"]

_log = getLogger("flwr")
FORGET_AFTER = 50
"""Rounds. Where 30 % of the messages are lost each way, a node misses so many in a row
less than once in 10^14 times (in 10^5 with two exchanges a round); and one that is set
apart wrongly costs two snapshots on each edge into its neighbours."""
_MOST_LISTED = 8


class Departures:
    """Counts for each node the rounds of which its neighbours have nothing.

    Those are the rounds in which it was not connected, was silent, reported an error,
    was refused, asked to be synchronised, or answered without a payload in one of the
    exchanges. What its neighbours hold of it stays as it was, and pulls their models
    there in each averaging. At `forget_after` it is set apart: see
    :meth:`PostOffice.set_apart`. A round in which no node made a step counts for
    nobody: it says more of the relay than of its nodes.

    Parameters
    ----------
    office : PostOffice
        The nodes' boxes.
    contracts : list[GossipContract]
        Of each node.
    forget_after : int, optional
        Rounds; None never to set a node apart.
    tell : Callable[[EventKind, int, str], None]
        Told of a node that is lost, set apart or there again, with the reason.
    """

    def __init__(
        self,
        office: PostOffice,
        contracts: list[GossipContract],
        forget_after: int | None,
        tell: Callable[[EventKind, int, str], None],
    ) -> None:
        self._tell = tell
        self._office, self._contracts = office, contracts
        self._forget_after = forget_after
        self._stepped: set[int] | None = None
        self._waiting: set[int] = set()
        self._told_of_sums = False

    def note(self, server_round: int, postings: Mapping[int, Posting]) -> None:
        """Note what was taken in of one exchange.

        Parameters
        ----------
        server_round : int
            The round.
        postings : Mapping[int, Posting]
            By node.
        """
        stepped = set()
        for node, posting in postings.items():
            if posting.resync:
                continue
            if posting.empty:
                self._waiting.add(node)
            elif any(not a.kind for a in posting.letters) or not self._contracts[
                node
            ].targets_of(server_round):
                stepped.add(node)
        self._stepped = stepped if self._stepped is None else self._stepped & stepped
        if self._office.num_phases > 1 and not self._told_of_sums:
            self._warn_of_sums(server_round, stepped)

    def _warn_of_sums(self, server_round: int, stepped: set[int]) -> None:
        """Say once that what all nodes sum up has lost a part."""
        boxes = self._office.boxes
        silent = [
            node
            for node, box in enumerate(boxes)
            if box.acked and not box.gone and node not in stepped
        ]
        if silent:
            self._told_of_sums = True
            _log.warning(
                "%s: no payload in round %d. Gradient trackers sum up to the gradients "
                "as long as every message arrives: from here on the models may settle "
                "beside the optimum. Where messages are lost take MalcomPSGD, ChocoSGD",
                _named(silent),
                server_round,
            )

    def end_round(self) -> None:
        """Set nodes apart that missed too many rounds; readmit those that answer."""
        stepped, waiting = self._stepped or set(), self._waiting
        self._stepped, self._waiting = None, set()
        if not stepped:
            return
        gone, back = [], []
        for node, box in enumerate(self._office.boxes):
            box.missed = 0 if node in stepped else box.missed + 1
            if box.missed == 1 and not box.gone:
                self._tell("lost", node, "no step in this round")
            if box.gone:
                # One without a model waits for those of its neighbours.
                if node in stepped | waiting:
                    back.append(node)
                    box.missed = 0
            elif self._forget_after is not None and box.missed >= self._forget_after:
                gone.append(node)
        if back:
            for node in back:
                self._tell("joined", node, "there again")
            self._office.readmit(back)
            _log.warning(
                "%s: there again, after being set apart. Its edges are open as before, "
                "and both ends begin with snapshots",
                _named(back),
            )
        if gone:
            self._set_apart(gone, f"no step in {self._forget_after} rounds")

    def forget(self, node: int) -> None:
        """Set a node apart at once.

        Raises
        ------
        ConfigurationError
            If there is no such node.
        """
        n = len(self._contracts)
        if type(node) is not int or not 0 <= node < n:
            raise ConfigurationError(
                f"there is no node {node!r} to forget: expected a number from 0 to "
                f"{n - 1}, as in the topology"
            )
        if not self._office.boxes[node].gone:
            self._set_apart([node], "told to forget it")

    def _set_apart(self, gone: list[int], why: str) -> None:
        for node in gone:
            self._tell("forgotten", node, why)
        self._office.set_apart(gone)
        _log.warning(
            "%s: set apart, %s (forget_after). Its neighbours forget what they hold of "
            "it, the weights of its edges go to their own, and its model is no part of "
            "the mean: the run goes on for the others. It takes part again as soon as "
            "it answers",
            _named(gone),
            why,
        )
        if any(contract.receives != contract.sends for contract in self._contracts):
            _log.warning(
                "The graph changes, and not both ends of its edges hear each other: "
                "without the nodes that are set apart some count for more than others. "
                "Give the others a topology of their own, or one that is symmetric"
            )
        parts = self._office.parts()
        if len(parts) > 1:
            _log.warning(
                "Without the nodes that are set apart the others are in %d parts that "
                "hear nothing of each other, of %s nodes: each finds an optimum of its "
                "own. Give the topology more edges",
                len(parts),
                ", ".join(str(len(part)) for part in parts[:_MOST_LISTED]),
            )


def _named(nodes: list[int]) -> str:
    listed = ", ".join(map(str, nodes[:_MOST_LISTED]))
    more = len(nodes) - _MOST_LISTED
    listed += f" and {more} more" if more > 0 else ""
    return f"Node {listed}" if len(nodes) == 1 else f"Nodes {listed}, each"
