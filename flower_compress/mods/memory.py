"""How much memory there is for this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

__all__ = ["memory_bytes"]

_UNKNOWN = 8 << 30
"""Taken for the memory of a machine that does not tell."""
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


@cache
def memory_bytes() -> int:
    """Return the machine's memory, or the least that a limit leaves of it, in bytes.

    Limits are those of control groups (containers, systemd) and of the address space
    (``ulimit -v``). 8 GiB where the machine does not say, as on Windows.
    """
    return min([_physical_bytes(), *_cgroup_limits(), *_address_limits()])


def _physical_bytes() -> int:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN
    return pages * size if pages > 0 and size > 0 else _UNKNOWN


def _address_limits() -> Iterator[int]:
    try:
        import resource
    except ImportError:
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield limit


def _cgroup_limits() -> Iterator[int]:
    """Yield the limits of this process's groups, of versions 1 and 2, and above them.

    Within a container the paths may be those of the host: what is there then is the
    container's own group, at the root.
    """
    try:
        rows = [row.split(":", 2) for row in _OWN_CGROUPS.read_text().splitlines()]
    except OSError:
        rows = []
    places = {(_CGROUPS, "memory.max", "/")}
    places.add((_CGROUPS / "memory", "memory.limit_in_bytes", "/"))
    for _, controllers, path in (row for row in rows if len(row) == 3):
        if not controllers:
            places.add((_CGROUPS, "memory.max", path))
        elif "memory" in controllers.split(","):
            places.add((_CGROUPS / "memory", "memory.limit_in_bytes", path))
    for root, name, path in places:
        own = PurePosixPath(path.lstrip("/"))
        for folder in (own, *own.parents):
            try:
                text = (root / folder / name).read_text().strip()
            except OSError:
                continue
            if text.isdecimal() and int(text) > 0:
                yield int(text)
