"""A grid on which only nodes that have said who they are can be seen."""

from __future__ import annotations

import time
from collections.abc import Iterable

from flwr.app import ConfigRecord
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from ..run.wrapped_grid import WrappedGrid
from .outbox import Keys
from .roster import Roster

__all__ = ["GreetedNodes"]

_AGAIN_SECONDS = 0.5


class GreetedNodes(WrappedGrid):
    """Another grid, whose new nodes are greeted before a strategy samples them.

    Parameters
    ----------
    grid : Grid
        The grid.
    roster : Roster
        Knows the clients, and those that answer are added to it.
    config : ConfigRecord
        Sent with a greeting.
    keys : Keys
        Keys of the records in a greeting.
    timeout : float
        Seconds that new nodes are given for their answer.

    Attributes
    ----------
    seen : list[int], optional
        The nodes of the grid when it was last asked for them; None if it never was.
    """

    def __init__(
        self,
        grid: Grid,
        roster: Roster,
        config: ConfigRecord,
        keys: Keys,
        timeout: float,
    ) -> None:
        super().__init__(grid)
        self._roster = roster
        self._config, self._keys, self._timeout = config, keys, timeout
        self._greeted_at = float("-inf")
        self.seen: list[int] | None = None

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of the grid that are clients, in the grid's order."""
        node_ids = self.seen = list(self._grid.get_node_ids())
        # A strategy asks twice in a row, and again each second if it waits for nodes.
        if time.monotonic() - self._greeted_at >= _AGAIN_SECONDS:
            self._roster.greet(
                self._grid,
                node_ids,
                self._keys.arrays,
                self._config,
                self._keys.config,
                self._timeout,
            )
            self._greeted_at = time.monotonic()
        return [n for n in node_ids if self._roster.find(n) is not None]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return what the grid knows of the nodes that are clients."""
        known = set(self.get_node_ids())
        return [node for node in self._grid.get_nodes() if node.node_id in known]
