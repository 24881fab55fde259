"""Where a client keeps what it remembers: in its context, or in a file."""

from __future__ import annotations

import os
import sys
import time
from functools import lru_cache
from logging import getLogger
from pathlib import Path

from flwr.app import ConfigRecord, Context

from ..arguments import folder_of
from ..errors import ConfigurationError, WrongTypeError
from ..wire.building import new_config_record
from .state_file import StateFile, tidy

__all__ = ["ENVIRONMENT_VARIABLE", "NODE_CONFIG_KEY", "StateStore"]

NODE_CONFIG_KEY = "state-dir"
"""Of a SuperNode's ``--node-config``: the folder for its clients' states."""
ENVIRONMENT_VARIABLE = "FLOWER_COMPRESS_STATE_DIR"
"""The same for all of a machine."""

_log = getLogger("flwr")
_FIELD, _OVERTAKES, _FAILURES = "state", "overtakes", "failures"
_CLIENT_APP = "flwr-clientapp"
_SAFE_BYTES = 16 << 20
"""Of a state in a SuperNode's context: the process of a client app has five seconds to
hand it back once it has answered, else it is lost."""
_MOST_BYTES = (1 << 31) - (1 << 20)
"""Of a state in a context, which protobuf hands on in one piece of less than 2 GiB."""
_SECONDS_TO_TIDY = 600.0


class StateStore:
    """Bytes that a client keeps from message to message.

    They are kept in ``Context.state``, or in a file: in the folder given, else the one
    that the node's configuration names (``state-dir``), else the one of the environment
    (``FLOWER_COMPRESS_STATE_DIR``). On a SuperNode more than 16 MiB go to a file in
    Flower's own folder, which its process hands back for sure.

    Parameters
    ----------
    key : str
        Key of the record in ``Context.state``.
    folder : path, optional
        Folder of a file, which survives the process.
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
        self._tidied: dict[Path, float] = {}

    def load(
        self, context: Context, identity: int, session: int
    ) -> bytes | memoryview | None:
        """Return the bytes kept last of a session, None if there are none.

        What the context holds may be of another session.
        """
        record = context.state.get(self.key)
        data = record.get(_FIELD) if isinstance(record, ConfigRecord) else None
        kept = data if isinstance(data, bytes) else None
        folder = self._folder(context) or _default_folder()
        if folder is None:
            return kept
        file = StateFile(folder, identity, session, self.kind)
        written = file.saved_at()
        # By no clock: a device's may be set back between the two.
        if written is None or (kept is not None and written == _overtaken(record)):
            return kept
        return file.read() or kept

    def require_room(self, context: Context, num_bytes: int) -> None:
        """Raise ConfigurationError if so many bytes can be kept nowhere."""
        # A folder is looked for only where one is needed.
        if num_bytes > _MOST_BYTES and not (self._folder(context) or _default_folder()):
            _require_sendable(num_bytes)

    def save(self, context: Context, identity: int, session: int, data: bytes) -> None:
        """Keep the bytes; in the context, with a warning, if a folder is of no use.

        Raises
        ------
        ConfigurationError
            If they are more than a context can hold.
        """
        named = self._folder(context)
        folder = named or _default_folder()
        if folder is None:
            _require_sendable(len(data))
            context.state[self.key] = new_config_record({_FIELD: data})
            return
        file = StateFile(folder, identity, session, self.kind)
        is_new = file.saved_at() is None
        if named is None and is_new and len(data) <= _SAFE_BYTES:
            context.state[self.key] = new_config_record({_FIELD: data})
            return
        try:
            file.write(data)
        except OSError as error:
            self._keep_in_context(context, data, file, error)
            return
        context.state.pop(self.key, None)
        if named is None and is_new:
            _log.warning(
                "The client's state of %d MB is kept in %s, since a SuperNode may lose "
                "as much of Context.state: to have it elsewhere name a folder, as "
                "--node-config 'state-dir=\"/var/lib/my-app\"'",
                len(data) >> 20,
                folder,
            )
        self._tidy(file.path)

    def _folder(self, context: Context) -> Path | None:
        """Return the folder that somebody has named."""
        if self.folder is not None:
            return self.folder
        named = context.node_config.get(NODE_CONFIG_KEY)
        if named is None:
            named = os.environ.get(ENVIRONMENT_VARIABLE) or None
        elif not isinstance(named, str) or not named:
            raise WrongTypeError(
                f"{NODE_CONFIG_KEY} of --node-config", "the path of a folder", named
            )
        return folder_of(NODE_CONFIG_KEY, named)

    def _keep_in_context(
        self, context: Context, data: bytes, file: StateFile, error: OSError
    ) -> None:
        """Keep the bytes in the context, and say so, ever more rarely."""
        folder = file.path.parent
        _require_sendable(len(data), f", and {folder} cannot be written ({error})")
        record = context.state.get(self.key)
        before = record.get(_FAILURES) if isinstance(record, ConfigRecord) else None
        failures = 1 + (before if isinstance(before, int) else 0)
        context.state[self.key] = ConfigRecord(
            {_FIELD: data, _OVERTAKES: file.saved_at() or 0, _FAILURES: failures}
        )
        if failures & (failures - 1) == 0:  # The 1st, 2nd, 4th, 8th time.
            unsafe = ""
            if len(data) > _SAFE_BYTES and _is_deployed():
                unsafe = ", where a SuperNode may lose that much"
            _log.warning(
                "The client's state is kept in memory only%s, since %s cannot be "
                "written (%d times by now): %s",
                unsafe,
                folder,
                failures,
                error,
            )

    def _tidy(self, keep: Path) -> None:
        folder, now = keep.parent, time.monotonic()
        if now - self._tidied.get(folder, -_SECONDS_TO_TIDY) >= _SECONDS_TO_TIDY:
            self._tidied[folder] = now
            tidy(folder, keep)


def _require_sendable(num_bytes: int, why: str = "") -> None:
    if num_bytes > _MOST_BYTES:
        raise ConfigurationError(
            f"the client's state is {num_bytes} bytes, and Context.state holds at most "
            f"{_MOST_BYTES}{why}: name a folder for it, as the mod's state_dir=..., or "
            "--node-config 'state-dir=\"/var/lib/my-app\"'"
        )


def _overtaken(record: object) -> object:
    """Return when the file was written that the bytes of a context are newer than."""
    return record.get(_OVERTAKES) if isinstance(record, ConfigRecord) else None


def _is_deployed() -> bool:
    """Whether this is the process that a SuperNode starts for a message."""
    return any(_stem(name) == _CLIENT_APP for name in sys.argv[:1])


@lru_cache(maxsize=8)
def _stem(path: str) -> str:
    return Path(path).stem


def _default_folder() -> Path | None:
    """Return a folder that a SuperNode's client app can write: it is installed there.

    None elsewhere: an engine that simulates clients keeps every context.
    """
    if not _is_deployed():
        return None
    home = os.environ.get("FLWR_HOME") or os.path.expanduser("~/.flwr")
    return Path(home) / "flower-compress"
