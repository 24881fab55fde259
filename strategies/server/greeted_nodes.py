"""A grid on which only nodes that have said who they are can be seen."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from .outbox import Keys
from .roster import Roster

__all__ = ["GreetedNodes"]

_AGAIN_SECONDS = 0.5


class GreetedNodes(Grid):
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
        self._grid, self._roster = grid, roster
        self._config, self._keys, self._timeout = config, keys, timeout
        self._greeted_at = float("-inf")
        self.seen: list[int] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

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

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message."""
        return self._grid.create_message(
            content, message_type, dst_node_id, group_id, ttl
        )

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, and return their ids."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to those messages that are there."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, and return their replies."""
        return self._grid.send_and_receive(messages, timeout=timeout)
