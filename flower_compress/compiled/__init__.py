"""The optional compiled path: what NumPy cannot fuse, bit for bit the same.

With the extra ``fast`` (numba, which compiles Python for the processor at hand) long
vectors go through the functions of this package in place of NumPy's. Every float
operation is the same one in the same order, none fused and none reordered, so packets
and vectors do not change by a bit; so do a few steps of short ones, of which NumPy's
calls take longer than the work. Nothing needs it: without numba and with
``FLOWER_COMPRESS_COMPILED=0`` in the environment NumPy does all of it.

numba rather than an extension module: the wheel stays one for every machine, and what
is compiled uses the vector units that are there. ``import flower_compress`` does not
import it, nor does a process that handles a few vectors and ends: loading takes 0.8
seconds and 130 MB, and is done once NumPy has worked on as many entries as make up for
it (at once with ``FLOWER_COMPRESS_COMPILED=1``). What was compiled is kept on disk,
beside this package or where numba keeps what has no such place; without either there is
no compiled path, since to compile takes half a minute. One thread, without the
interpreter's lock: cores are for other clients.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHORTEST", "SWITCH", "WORTH", "compiled", "scratch", "switch"]

SWITCH = "FLOWER_COMPRESS_COMPILED"
"""The environment variable.

0, off, no or false turns the compiled path off; 1, on, yes or true loads it at once.
"""

WORTH = 1 << 28
"""Loading is worth its time after so many entries, counted at each step.

An entry is counted about eight times in an encoding and a decoding.
"""

SHORTEST = 1 << 11
"""So many entries and more take the compiled path, where nothing else is said."""

_CALLS = 1 << 13
"""Entries that NumPy works on while it is called a dozen times."""

_MOST_HELD = 1 << 22
"""From so many bytes on NumPy asks for large pages, of which few are touched first."""

_OFF, _ON = {"0", "off", "no", "false"}, {"1", "on", "yes", "true"}
_LOGGER = logging.getLogger("flower_compress")


class _Loader:
    """Loads the modules of this package when they are worth it."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        self.on = True
        self._asked = self._wanted = False
        self._seen = 0

    def switch(self, on: bool) -> None:
        """Turn it on or off for good; on, it is loaded at once."""
        # Dithers and packed bytes are read as little-endian words.
        self.on, self._asked = on and sys.byteorder == "little", True
        self._seen = WORTH

    def module(self, name: str, size: int) -> Any:
        """Return a module, or None where it is off, not worth it, or not there."""
        if not self._asked:
            self._asked = True
            said = os.environ.get(SWITCH, "").strip().lower()
            self._wanted = said in _ON
            if said in _OFF | _ON or sys.byteorder != "little":
                self.switch(on=said not in _OFF)
            if said and said not in _OFF | _ON:
                _LOGGER.warning(
                    "%s must be 0, off, no, false, 1, on, yes or true, got %.40r: "
                    "taken as not set",
                    SWITCH,
                    said,
                )
        self._seen += max(size, _CALLS)
        if not self.on or (self._seen < WORTH and not self.modules):
            return None
        try:
            found = import_module(f".{name}", __name__)
        except ImportError as error:
            self.on = False
            # Without numba only whoever has asked for it misses anything.
            is_news = self._wanted or error.name != "numba"
            level = logging.WARNING if is_news else logging.DEBUG
            _LOGGER.log(level, "no compiled path, NumPy does all of it: %s", error)
            return None
        self.modules[name] = found
        return found


_LOADER = _Loader()


def compiled(name: str, size: int, shortest: int | None = None) -> Any:
    """Return the module of compiled functions of that name, or None for NumPy's path.

    Parameters
    ----------
    name : str
        A module of this package.
    size : int
        Number of entries to work on.
    shortest : int, optional
        Fewer entries than this do not pay for the call; SHORTEST by default.
    """
    if size < (SHORTEST if shortest is None else shortest) or not _LOADER.on:
        return None
    module = _LOADER.modules.get(name)
    return _LOADER.module(name, size) if module is None else module


def switch(on: bool) -> None:
    """Turn the path on or off in this process, whatever the environment says."""
    _LOADER.switch(on)


class _Scratch(threading.local):
    """Bytes that every call writes over: to touch new ones takes longer than to fill.

    At most 4 MiB of each name in each thread.
    """

    def __init__(self) -> None:
        self._held: dict[str, NDArray[np.uint8]] = {}

    def take(self, name: str, size: int) -> NDArray[np.uint8]:
        if size > _MOST_HELD:
            return np.empty(size, dtype=np.uint8)
        held = self._held.get(name)
        if held is None or held.size < size:
            held = self._held[name] = np.empty(size, dtype=np.uint8)
        return held[:size]


scratch = _Scratch().take
