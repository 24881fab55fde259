"""When nodes that did not answer are asked again."""

from __future__ import annotations

from collections.abc import Container, Iterable

__all__ = ["Turns"]

_MAX_BACKOFF = 10


class Turns:
    """A node that was asked in vain is asked again after 1, 2, 4, 8, ... calls."""

    def __init__(self) -> None:
        self._calls = 0
        self._failures: dict[int, int] = {}
        self._due: dict[int, int] = {}

    def begin_call(self) -> None:
        """Count a call."""
        self._calls += 1

    def failures(self, node_id: int) -> int:
        """Return how often a node was put off."""
        return self._failures.get(node_id, 0)

    def was_put_off(self, node_id: int) -> bool:
        """Whether a node has ever been put off."""
        return node_id in self._due

    def is_due(self, node_id: int) -> bool:
        """Whether it is the node's turn with this call."""
        return self._due.get(node_id, 0) <= self._calls

    def put_off(self, node_id: int) -> None:
        """Let the next turn of a node wait; once a call."""
        if not self.is_due(node_id):
            return
        failures = self.failures(node_id)
        self._failures[node_id] = failures + 1
        self._due[node_id] = self._calls + 2 ** min(failures, _MAX_BACKOFF)

    def forget(self, node_ids: Iterable[int]) -> None:
        """Forget what was with nodes: they have answered."""
        for node_id in node_ids:
            self._failures.pop(node_id, None)
            self._due.pop(node_id, None)

    def keep(self, node_ids: Container[int]) -> None:
        """Forget what was with all others: they are gone."""
        self.forget([node_id for node_id in self._due if node_id not in node_ids])

    def save(self) -> dict[str, int | list[tuple[int, int]]]:
        """Return all of it, for JSON."""
        return {
            "calls": self._calls,
            "failures": list(self._failures.items()),
            "due": list(self._due.items()),
        }

    def restore(
        self, calls: int, failures: list[tuple[int, int]], due: list[tuple[int, int]]
    ) -> None:
        """Take over what :meth:`save` gave."""
        self._calls = calls
        self._failures = dict(failures)
        self._due = dict(due)
