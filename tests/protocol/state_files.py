"""Reading the states that clients keep in files."""

from __future__ import annotations

from pathlib import Path

from flower_compress.mods.state_file import StateFile

__all__ = ["newest_state"]


def newest_state(folder: Path, identity: int, kind: str = "client") -> bytes | None:
    """Return what a client has written last, of whatever session."""
    paths = list(folder.glob(f"{kind}-{identity}-*.state"))
    if not paths:
        return None
    path = max(paths, key=lambda path: path.stat().st_mtime_ns)
    session = int(path.stem.rsplit("-", 1)[1], 16)
    content = StateFile(folder, identity, session, kind).read()
    return None if content is None else bytes(content)
