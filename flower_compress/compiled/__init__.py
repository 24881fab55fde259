"""The optional compiled path: what NumPy cannot fuse, bit for bit the same.

With the extra ``fast`` (numba, which compiles Python for the processor at hand) long
vectors go through the functions of this package in place of NumPy's. Every float
operation is the same one in the same order, none fused and none reordered, so packets
and vectors do not change by a bit. Nothing needs it: without numba, for short vectors
and with ``FLOWER_COMPRESS_COMPILED=0`` in the environment NumPy does all of it.

numba rather than an extension module: the wheel stays one for every machine, and what
is compiled uses the vector units that are there. It is imported by the first long
vector, not by ``import flower_compress``; what it compiled is kept on disk, beside this
package or where numba keeps what has no such place. One thread, without the
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

__all__ = ["FIRST", "SHORTEST", "SWITCH", "compiled", "scratch", "switch"]

SWITCH = "FLOWER_COMPRESS_COMPILED"
"""The environment variable; 0, off, no or false turns the compiled path off."""

FIRST = 1 << 16
"""So many entries and more load numba and what it compiled: about a second, once."""

SHORTEST = 1 << 11
"""Once it is loaded, so many entries and more take the compiled path."""

_MOST_HELD = 1 << 22
"""From so many bytes on NumPy asks for large pages, of which few are touched first."""

_OFF = {"0", "off", "no", "false"}
_LOGGER = logging.getLogger("flower_compress")


class _Loader:
    """Loads the modules of this package when they are first asked for."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        self.on = True
        self.asked = False

    def module(self, name: str) -> Any:
        """Return a module, or None where the path is off or numba cannot be loaded."""
        if not self.asked:
            off = os.environ.get(SWITCH, "").strip().lower() in _OFF
            # Dithers and packed bytes are read as little-endian words.
            self.asked, self.on = True, not off and sys.byteorder == "little"
        if not self.on:
            return None
        try:
            found = import_module(f".{name}", __name__)
        except ImportError as error:
            self.on = False
            level = logging.DEBUG if error.name == "numba" else logging.WARNING
            _LOGGER.log(level, "no compiled path, NumPy does all of it: %s", error)
            return None
        self.modules[name] = found
        return found


_LOADER = _Loader()


def compiled(name: str, size: int) -> Any:
    """Return the module of compiled functions of that name, or None for NumPy's path.

    Parameters
    ----------
    name : str
        A module of this package.
    size : int
        Number of entries to work on: few do not pay for loading, nor for the calls.
    """
    if size < SHORTEST or not _LOADER.on:
        return None
    module = _LOADER.modules.get(name)
    if module is None and (size >= FIRST or _LOADER.modules):
        return _LOADER.module(name)
    return module


def switch(on: bool) -> None:
    """Turn the path on or off in this process, whatever the environment says."""
    _LOADER.on, _LOADER.asked = on and sys.byteorder == "little", True


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
