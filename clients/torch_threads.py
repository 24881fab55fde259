"""What threads that compute with torch share, and what each has of its own."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

__all__ = ["of_this_thread", "reproducible"]

_LOCK = threading.Lock()
_OWNERS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


class _Copies(threading.local):
    def __init__(self) -> None:
        self.of: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


_COPIES = _Copies()


def of_this_thread(module: nn.Module) -> nn.Module:
    """Return the module to the first thread that asks for it, a copy to any other.

    The same one each time.
    """
    with _LOCK:
        owner = _OWNERS.setdefault(module, threading.get_ident())
    if owner == threading.get_ident():
        return module
    own = _COPIES.of.get(module)
    if own is None:
        own = _COPIES.of[module] = copy.deepcopy(module)
    return own


class _Settings:
    """Torch's settings while some thread computes, and those from before."""

    def __init__(self) -> None:
        self._computing = 0
        self._before = 1, False, False

    def enter(self) -> None:
        """Make sums independent of the number of threads, and cuDNN deterministic."""
        cudnn = torch.backends.cudnn
        with _LOCK:
            if not self._computing:
                threads = torch.get_num_threads()
                self._before = threads, cudnn.benchmark, cudnn.deterministic
                cudnn.benchmark, cudnn.deterministic = False, True
            self._computing += 1
            # Of this thread and, in some libraries, of all of them.
            torch.set_num_threads(1)

    def leave(self) -> None:
        """Bring back what was before, as the last thread."""
        cudnn = torch.backends.cudnn
        with _LOCK:
            self._computing -= 1
            if not self._computing:
                threads, cudnn.benchmark, cudnn.deterministic = self._before
                torch.set_num_threads(threads)


_SETTINGS = _Settings()


@contextmanager
def reproducible() -> Iterator[None]:
    """Let what is computed meanwhile be the same bytes however many threads there are.

    With one thread of torch's own for each thread that computes.
    """
    _SETTINGS.enter()
    try:
        yield
    finally:
        _SETTINGS.leave()
