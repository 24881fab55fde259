"""Messages to nodes of this process, one after the other or in several threads."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

from flwr.app import Message

__all__ = ["Deliveries", "Pace", "num_cores"]

_TRIALS = 3
"""Of each way; the first of each fills caches and is not counted."""
_WORTH = 0.9
"""Threads are taken if they take less than this part of the time."""


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Deliveries:
    """Has messages answered, in the order in which they come.

    Parameters
    ----------
    threads : int
        How many answer at a time; 0 for as many as `cores`, if that is faster.
    cores : int
        Threads where `threads` is 0.
    """

    def __init__(self, threads: int, cores: int) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._threads = threads or cores
        self._pace = Pace() if not threads and cores > 1 else None

    def answers(
        self, messages: Iterable[Message], answer: Callable[[Message], Message]
    ) -> list[Message]:
        """Return what `answer` gives for each message.

        Of several messages to one node each is answered before the next one.
        """
        if self._threads == 1:
            return [answer(message) for message in messages]
        if self._pace is None:
            return self._in_threads(messages, answer)
        messages = list(messages)
        if len(messages) < 2:
            return [answer(message) for message in messages]
        kind = messages[0].metadata.message_type
        threaded, began = self._pace.next_is_threaded(kind), time.perf_counter()
        if threaded:
            answers = self._in_threads(messages, answer)
        else:
            answers = [answer(message) for message in messages]
        seconds = (time.perf_counter() - began) / len(messages)
        self._pace.note(kind, threaded, seconds)
        return answers

    def _in_threads(
        self, messages: Iterable[Message], answer: Callable[[Message], Message]
    ) -> list[Message]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "client")
        answers: list[Message] = []
        waiting: deque[tuple[int, Future[Message]]] = deque()
        for message in messages:
            node = message.metadata.dst_node_id
            # Messages are made when they are due; and a node has one at a time.
            while len(waiting) >= 2 * self._threads or any(
                node == other for other, _ in waiting
            ):
                answers.append(waiting.popleft()[1].result())
            task = self._pool.submit(copy_context().run, answer, message)
            waiting.append((node, task))
        answers += [task.result() for _, task in waiting]
        return answers


class Pace:
    """Whether threads answer sooner, measured in turns, for each type of message."""

    def __init__(self) -> None:
        self._seconds: dict[str, tuple[list[float], list[float]]] = {}
        self._decided: dict[str, bool] = {}

    def next_is_threaded(self, kind: str) -> bool:
        """Whether the next messages of that type are for threads."""
        if kind in self._decided:
            return self._decided[kind]
        one, many = self._seconds.setdefault(kind, ([], []))
        return len(many) < len(one)

    def note(self, kind: str, threaded: bool, seconds: float) -> None:
        """Take down how long a message took, by the clock."""
        if kind in self._decided:
            return
        one, many = self._seconds[kind]
        (many if threaded else one).append(seconds)
        if len(many) == _TRIALS:
            self._decided[kind] = min(many[1:]) < _WORTH * min(one[1:])
