"""What the mods at a client share: their arguments, their state, what they refuse."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from logging import getLogger
from numbers import Integral
from typing import ClassVar, Generic, Literal, Protocol, Self, TypeVar, get_args

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from ..arguments import check_callable, check_count
from ..compressors import Compressor
from ..errors import ConfigurationError, FlowerCompressError, WrongTypeError
from ..wire.building import new_record_dict
from ..wire.identity import number_of
from ..wire.layout import Layout
from .memory import memory_bytes
from .recent_states import RecentStates
from .state_store import StateStore

__all__ = ["ClientMod", "Returns", "evaluates", "reply_with", "stable_identity"]

Returns = Literal["weights", "gradient"]
"""What a train function returns."""

_log = getLogger("flwr")
_FORMER_KEYS = ("fitins.", "evaluateins.")


class _State(Protocol):
    """What a client remembers of one session."""

    @property
    def session(self) -> int:
        """The session's id."""

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Self | None:
        """Rebuild a state; None if it is cut off, or of another format."""


_S = TypeVar("_S", bound=_State)


def stable_identity(context: Context) -> int:
    """Return the node's ``partition-id``, or its node id if it has none.

    One that is a name, as ``"hospital-a"``, becomes the first 63 bits of its SHA-256.

    Raises
    ------
    ConfigurationError
        If it is neither a whole number nor a name.
    """
    return number_of(context.node_config.get("partition-id", context.node_id))


class ClientMod(ABC, Generic[_S]):
    """A client's end of a protocol, as a Flower mod.

    Messages of other strategies pass untouched. What cannot be done with a message of
    ours is refused: the reply is an error that says why.

    Parameters
    ----------
    returns : {"weights", "gradient"} (default: "weights")
        What the train function returns.
    identity : Callable[[Context], int], optional
        A whole number that is this client's own and survives restarts. Default:
        :func:`stable_identity`.
    state_dir : path, optional
        Folder in which the client keeps its state, in a file of its own. Default: see
        :class:`~flower_compress.mods.state_store.StateStore`.
    max_dim : int, optional
        Entries of the largest model that the client takes; a larger one is refused
        before anything is allocated. Default: as many as the machine's memory, or the
        container's share of it, has room for.

    Raises
    ------
    WrongTypeError
        If an argument is none of those.
    ConfigurationError
        If `max_dim` is no positive number.
    """

    _state: type[_S]
    """What the client remembers."""
    _state_key: ClassVar[str]
    """Key of its record in ``Context.state``."""
    _state_kind: ClassVar[str] = "client"
    """What its file's name begins with."""
    _entry_bytes: ClassVar[int] = 40
    """Memory for an entry of the model while a message is answered, the app's gradient
    and the message included (measured: 24 to 43)."""
    _foreign: ClassVar[str] = "the server's strategy does not compress"
    """What it means that a message to train is none of ours."""
    _passes: ClassVar[set[str]] = set()
    """The mods of this process that have said so."""

    def __init__(
        self,
        returns: Returns = "weights",
        identity: Callable[[Context], int] | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        max_dim: int | None = None,
    ) -> None:
        if not isinstance(returns, str) or returns not in get_args(Returns):
            raise WrongTypeError(
                "returns", '"weights" or "gradient"', returns, self._remedy(returns)
            )
        if identity is not None:
            check_callable(
                "identity", identity, "a function of the Context that returns a number"
            )
        check_count("max_dim", max_dim, 1, or_none=True)
        self.max_dim = max_dim or memory_bytes() // self._entry_bytes
        self.returns: Returns = returns
        self.identity = identity or stable_identity
        self._store = StateStore(self._state_key, state_dir, self._state_kind)
        self._read: RecentStates[_S] = RecentStates()

    def _remedy(self, returns: object) -> str:
        name = type(self).__name__
        if isinstance(returns, Message):  # Flower called the class.
            return f"give an object, mods=[{name}()], not the class"
        if isinstance(returns, Compressor):
            return f"{name} takes no operator, the server says how to answer"
        return ""

    def __call__(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        """Handle one message."""
        try:
            reply = self._answer(msg, context, self._through(call_next))
        except FlowerCompressError as error:
            reason = f"{type(error).__name__}: {error}"
            _log.error("%s: %s", type(self).__name__, reason)
            return Message(
                Error(ErrorCode.MOD_FAILED_PRECONDITION, reason), reply_to=msg
            )
        if reply is not None:
            return reply
        self._note_foreign(msg)
        return call_next(msg, context)

    def _through(self, call_next: ClientAppCallable) -> ClientAppCallable:
        """Return what calls the app, and says what an app of Flower's former API is."""

        def call(msg: Message, context: Context) -> Message:
            try:
                return call_next(msg, context)
            except KeyError as error:
                if str(error).strip("'").startswith(_FORMER_KEYS):
                    raise ConfigurationError(
                        "this client app is one of Flower's former API (client_fn, "
                        f"NumPyClient), and {type(self).__name__} needs the message "
                        "API: register what trains with `@app.train()`"
                    ) from error
                raise

        return call

    def _note_foreign(self, msg: Message) -> None:
        name = type(self).__name__
        is_train = msg.metadata.message_type.split(".")[0] == MessageType.TRAIN
        if is_train and name not in self._passes:
            self._passes.add(name)
            _log.info("%s: %s; messages pass unchanged", name, self._foreign)

    @abstractmethod
    def _answer(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message | None:
        """Return the reply to a message of ours, None if it is none.

        The state is to be saved last of all: a client that fails before has not moved.
        """

    def _identity_of(self, context: Context) -> int:
        """Return the client's own number.

        Raises
        ------
        ConfigurationError
            If the function that gives it raises, or gives no whole number.
        """
        try:
            identity = self.identity(context)
        except FlowerCompressError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"the `identity` function raised {type(error).__name__}: {error}"
            ) from error
        if type(identity) is not int and not isinstance(identity, Integral):
            raise WrongTypeError("what `identity` gives", "a whole number", identity)
        return int(identity)

    def _require_room(self, layout: Layout, num_further_bytes: int = 0) -> None:
        """Raise an error if a model is too large for this client.

        Parameters
        ----------
        layout : Layout
            The model's arrays.
        num_further_bytes : int
            What an entry of it takes besides.

        Raises
        ------
        ConfigurationError
            If it is.
        """
        size = layout.num_entries * (self._entry_bytes + num_further_bytes)
        if size > self.max_dim * self._entry_bytes:
            raise ConfigurationError(
                f"the server's model has {layout.num_entries} entries, which take "
                f"about {size / 2**30:.3g} GiB of memory here: expected at most "
                f"{self.max_dim} (max_dim of {type(self).__name__})"
            )

    def _load(self, context: Context, identity: int, session: int) -> _S | None:
        """Return what the client remembers of a session, None if nothing."""
        data = self._store.load(context, identity, session)
        state = None
        if data is not None:
            state = self._read.get(identity, data) or self._state.from_bytes(data)
        return state if state is not None and state.session == session else None

    def _save(
        self,
        context: Context,
        identity: int,
        session: int,
        data: bytes,
        state: _S | None = None,
    ) -> None:
        """Keep the bytes of a session's state; of one that never changes, that too."""
        self._store.save(context, identity, session, data)
        if state is not None:
            self._read.put(identity, data, state)


def evaluates(msg: Message) -> bool:
    """Whether a message asks for an evaluation."""
    return msg.metadata.message_type.split(".")[0] == MessageType.EVALUATE


def reply_with(msg: Message, key: str, record: ArrayRecord | ConfigRecord) -> Message:
    """Return the reply to a message that holds one record."""
    return Message(new_record_dict({key: record}), reply_to=msg)
