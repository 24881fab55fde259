"""States of clients as they were before they became bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["RecentStates"]

_S = TypeVar("_S")

_LARGEST = 1 << 14
_MOST_BYTES = 1 << 24


class RecentStates(Generic[_S]):
    """Small states, each beside the very bytes that were made of it.

    Where many clients run in one process, it takes longer to read a small state than to
    compute with it. Whoever gives back the bytes object that was put in gets the state;
    for other bytes, of whatever content, there is none. Of each client one is held, of
    at most 16 KiB, and of all together 16 MiB: those that were put in last.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[int, tuple[bytes, _S]] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[RecentStates[_S]], tuple[()]]:
        """Be pickled as an empty one: Flower's run_simulation pickles an app's mods."""
        return type(self), ()

    def get(self, identity: int, data: bytes | memoryview) -> _S | None:
        """Return the state that those bytes were made of, None if it is not held."""
        held = self._held.get(identity)
        return held[1] if held is not None and held[0] is data else None

    def put(self, identity: int, data: bytes, state: _S) -> None:
        """Hold a state, and the bytes that were made of it."""
        with self._lock:
            before = self._held.pop(identity, None)
            if before is not None:
                self._num_bytes -= len(before[0])
            if len(data) > _LARGEST:
                return
            self._held[identity] = data, state
            self._num_bytes += len(data)
            while self._num_bytes > _MOST_BYTES:
                _, (oldest, _) = self._held.popitem(last=False)
                self._num_bytes -= len(oldest)
