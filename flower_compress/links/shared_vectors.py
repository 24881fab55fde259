"""Decoded vectors that several receivers in one process share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from ..compressors import Vector

__all__ = ["SharedVectors"]


class SharedVectors:
    """Vectors of the payloads used last, up to a number of bytes.

    Threads that ask for one at the same time wait for the first of them.

    Attributes
    ----------
    num_bytes : int
        How many bytes are kept; 0 for none.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        self._held = 0
        self._vectors: OrderedDict[Hashable, Vector] = OrderedDict()
        self._decoding: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], Vector]) -> Vector:
        """Return the vector that is kept, else what `decode` returns, and keep it."""
        with self._lock:
            vector = self._vectors.get(key)
            if vector is not None:
                self._vectors.move_to_end(key)
                return vector
            decoding = self._decoding.setdefault(key, threading.Lock())
        with decoding:
            vector = self._vectors.get(key)
            if vector is not None:
                return vector
            try:
                vector = decode()
                self._put(key, vector)
            finally:
                self._decoding.pop(key, None)
        return vector

    def clear(self) -> None:
        """Keep none of them any longer."""
        with self._lock:
            self._vectors.clear()
            self._held = 0

    def _put(self, key: Hashable, vector: Vector) -> None:
        with self._lock:
            # Where one was let go meanwhile, two threads may bring it.
            before = self._vectors.pop(key, None)
            self._vectors[key] = vector
            self._held += vector.nbytes - (0 if before is None else before.nbytes)
            while self._held > self.num_bytes and self._vectors:
                _, oldest = self._vectors.popitem(last=False)
                self._held -= oldest.nbytes
