"""Where a client keeps what it remembers: in its context, or in a file."""

from __future__ import annotations

import os
from logging import getLogger

from flwr.app import ConfigRecord, Context

from ..arguments import folder_of
from .state_file import StateFile

__all__ = ["StateStore"]

_log = getLogger("flwr")
_FIELD = "state"


class StateStore:
    """Bytes that a client keeps from message to message.

    Parameters
    ----------
    key : str
        Key of the record in ``Context.state``.
    folder : path, optional
        Folder of a file instead, which survives the process.
    kind : str
        What the file's name begins with.
    """

    def __init__(
        self,
        key: str,
        folder: str | os.PathLike[str] | None = None,
        kind: str = "client",
    ) -> None:
        self.key, self.kind = key, kind
        self.folder = folder_of("state_dir", folder)

    def load(self, context: Context, identity: int) -> bytes | None:
        """Return the bytes kept last, None if there are none."""
        record = context.state.get(self.key)
        data = record.get(_FIELD) if isinstance(record, ConfigRecord) else None
        if data is None and self.folder is not None:
            data = StateFile(self.folder, identity, self.kind).read()
        return data if isinstance(data, bytes) else None

    def save(self, context: Context, identity: int, data: bytes) -> None:
        """Keep the bytes; in memory, with a warning, if the folder is of no use."""
        if self.folder is not None:
            try:
                StateFile(self.folder, identity, self.kind).write(data)
            except OSError as error:
                _log.warning(
                    "The client's state is kept in memory only, since state_dir cannot "
                    "be written: %s",
                    error,
                )
            else:
                context.state.pop(self.key, None)
                return
        context.state[self.key] = ConfigRecord({_FIELD: data})
