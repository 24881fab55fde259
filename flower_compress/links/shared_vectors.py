"""Decoded vectors that several receivers in one process share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

from ..compressors import Compressor, Vector

__all__ = ["Opened", "SharedVectors"]


class Opened(NamedTuple):
    """What decoding a payload gives.

    Attributes
    ----------
    vector : NDArray[np.float32]
        The vector that it carries.
    compressor : Compressor
        The operator that made it.
    num_bits : int
        Its exact length in bits.
    """

    vector: Vector
    compressor: Compressor
    num_bits: int


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
        self._opened: OrderedDict[Hashable, Opened] = OrderedDict()
        self._decoding: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], Opened]) -> Opened:
        """Return what is kept, else what `decode` returns, and keep that."""
        with self._lock:
            opened = self._opened.get(key)
            if opened is not None:
                self._opened.move_to_end(key)
                return opened
            decoding = self._decoding.setdefault(key, threading.Lock())
        with decoding:
            opened = self._opened.get(key)
            if opened is not None:
                return opened
            try:
                opened = decode()
                self._put(key, opened)
            finally:
                self._decoding.pop(key, None)
        return opened

    def clear(self) -> None:
        """Keep none of them any longer."""
        with self._lock:
            self._opened.clear()
            self._held = 0

    def _put(self, key: Hashable, opened: Opened) -> None:
        with self._lock:
            # Where one was let go meanwhile, two threads may bring it.
            before = self._opened.pop(key, None)
            self._opened[key] = opened
            self._held += opened.vector.nbytes
            if before is not None:
                self._held -= before.vector.nbytes
            while self._held > self.num_bytes and self._opened:
                _, oldest = self._opened.popitem(last=False)
                self._held -= oldest.vector.nbytes
