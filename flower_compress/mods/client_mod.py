"""What the mods at a client share: their arguments, their state, what they refuse."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from logging import getLogger
from typing import ClassVar, Generic, Literal, Protocol, Self, TypeVar, get_args

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from ..errors import ConfigurationError, FlowerCompressError
from .state_store import StateStore

__all__ = ["ClientMod", "Returns", "reply_with", "stable_identity", "with_record"]

Returns = Literal["weights", "gradient"]
"""What a train function returns."""

_log = getLogger("flwr")


class _State(Protocol):
    """What a client remembers of one session."""

    @property
    def session(self) -> int:
        """The session's id."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """Rebuild a state; None if it is cut off, or of another format."""


_S = TypeVar("_S", bound=_State)


def stable_identity(context: Context) -> int:
    """Return the node's ``partition-id``, or its node id if it has none."""
    return int(context.node_config.get("partition-id", context.node_id))


class ClientMod(ABC, Generic[_S]):
    """A client's end of a protocol, as a Flower mod.

    Messages of other strategies pass untouched. What cannot be done with a message of
    ours is refused: the reply is an error that says why.

    Parameters
    ----------
    returns : {"weights", "gradient"} (default: "weights")
        What the train function returns.
    identity : Callable[[Context], int], optional
        A number that is this client's own and survives restarts. Default:
        :func:`stable_identity`.
    state_dir : path, optional
        Folder in which the client keeps its state, in a file of its own. Default: in
        ``Context.state``.

    Raises
    ------
    ConfigurationError
        If `returns` is neither of the two.
    """

    _state: type[_S]
    """What the client remembers."""
    _state_key: ClassVar[str]
    """Key of its record in ``Context.state``."""
    _state_kind: ClassVar[str] = "client"
    """What its file's name begins with."""

    def __init__(
        self,
        returns: Returns = "weights",
        identity: Callable[[Context], int] | None = None,
        state_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if returns not in get_args(Returns):
            raise ConfigurationError(
                f'returns must be "weights" or "gradient", got {returns!r}'
            )
        self.returns: Returns = returns
        self.identity = identity or stable_identity
        self._store = StateStore(self._state_key, state_dir, self._state_kind)

    def __call__(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        """Handle one message."""
        try:
            reply = self._answer(msg, context, call_next)
        except FlowerCompressError as error:
            reason = f"{type(error).__name__}: {error}"
            _log.error("%s: %s", type(self).__name__, reason)
            return Message(
                Error(ErrorCode.MOD_FAILED_PRECONDITION, reason), reply_to=msg
            )
        return call_next(msg, context) if reply is None else reply

    @abstractmethod
    def _answer(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message | None:
        """Return the reply to a message of ours, None if it is none.

        The state is to be saved last of all: a client that fails before has not moved.
        """

    def _load(self, context: Context, identity: int, session: object) -> _S | None:
        """Return what the client remembers of a session, None if nothing."""
        data = self._store.load(context, identity)
        state = None if data is None else self._state.from_bytes(data)
        return state if state is not None and state.session == session else None

    def _save(self, context: Context, identity: int, data: bytes) -> None:
        """Keep the bytes of a state."""
        self._store.save(context, identity, data)


def reply_with(msg: Message, key: str, record: ArrayRecord) -> Message:
    """Return the reply to a message that holds one record."""
    return Message(RecordDict({key: record}), reply_to=msg)


def with_record(msg: Message, key: str, record: ArrayRecord) -> Message:
    """Return the message with one record replaced; the original stays as it is."""
    changed = copy.copy(msg)
    changed.content = RecordDict({**dict(msg.content.items()), key: record})
    return changed
