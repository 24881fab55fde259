"""A client's state in a file, for devices that restart."""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from pathlib import Path

__all__ = ["StateFile"]

_CRC = struct.Struct("<I")


class StateFile:
    """Bytes that survive the process, replaced whole or not at all.

    The file is the bytes and their CRC-32. It is written beside the old one, flushed
    to the disk, and takes its place: a device that loses power has the one or the
    other.

    Parameters
    ----------
    folder : Path
        Folder of the file, made when it is first written.
    identity : int
        The client's own number; several clients may share a folder.
    kind : str
        What the file's name begins with.
    """

    def __init__(self, folder: Path, identity: int, kind: str = "client") -> None:
        self.path = folder / f"{kind}-{identity}.state"

    def read(self) -> bytes | None:
        """Return the bytes written last, None if there are none, or damaged ones."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return None
        content, crc = data[: -_CRC.size], data[-_CRC.size :]
        return content if crc == _CRC.pack(zlib.crc32(content)) else None

    def write(self, content: bytes) -> None:
        """Replace the bytes.

        Raises
        ------
        OSError
            If the folder cannot be written; the file stays as it was.
        """
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=self.path.name, dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.write(_CRC.pack(zlib.crc32(content)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
