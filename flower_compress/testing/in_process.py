"""Nodes that are client apps, called directly in this process."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from ..arguments import check_count
from ..errors import ConfigurationError
from ..wire.building import new_record_dict
from .deliveries import Deliveries, num_cores

__all__ = ["InProcessGrid"]

_SERVER_NODE_ID = 1
_CLIENT = struct.Struct("<QQ")


class InProcessGrid(Grid):
    """A Flower grid whose nodes are client apps called directly.

    What a client app sees is what Flower's simulation engine shows it: a node config
    with ``partition-id`` and ``num-partitions``, a context that survives from message
    to message, and that keeps nothing of a call that raised.

    Parameters
    ----------
    client_app : ClientApp or Callable[[Message, Context], Message]
        The app that every node runs.
    num_nodes : int
        Number of nodes, of node ids 1001, 1002, ...
    run_config : Mapping, optional
        The run config of every node.
    on_message : Callable[[Message, Message], None], optional
        Called with every message and its reply, for tests and tracing; by the thread
        that answered.
    threads : int (default: 1)
        How many nodes are called at a time; 0 for one a core if that is faster, which
        is measured at the first messages of each type. Replies keep their order, so
        that a run does not depend on it, unless the app draws from a generator or
        writes to a place that its nodes share.

    Attributes
    ----------
    client_app : Callable[[Message, Context], Message]
        The app that every node runs, which may be replaced at any time.
    contexts : dict[int, Context]
        Each node's context, by node id.

    Examples
    --------
    ``strategy.start(InProcessGrid(client_app, num_nodes=20), initial_arrays)``
    """

    def __init__(
        self,
        client_app: ClientAppCallable | ClientApp,
        num_nodes: int,
        run_config: Mapping[str, bool | float | int | str] | None = None,
        on_message: Callable[[Message, Message], None] | None = None,
        threads: int = 1,
    ) -> None:
        check_count("num_nodes", num_nodes, 1)
        check_count("threads", threads, 0)
        self._deliveries = Deliveries(int(threads), num_cores())
        # Flower draws these for the process that runs an app.
        TaskIdentity.run_id = TaskIdentity.task_id = 1
        TaskIdentity.node_id = _SERVER_NODE_ID
        self.client_app: ClientAppCallable = client_app
        self._on_message = on_message
        self._message_ids = count(1)
        self._replies: dict[str, Message] = {}
        self._run = Run.create_empty(1)
        self.contexts = {
            1001 + i: Context(
                run_id=1,
                node_id=1001 + i,
                node_config={"partition-id": i, "num-partitions": int(num_nodes)},
                state=RecordDict(),
                run_config=UserConfig(run_config or {}),
            )
            for i in range(int(num_nodes))
        }

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message; ``Message(...)`` does the same."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all node ids."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages; the replies wait for `pull_messages`."""
        ids = []

        def numbered() -> Iterator[Message]:
            for message in self._numbered(messages):
                ids.append(message.metadata.message_id)
                yield message

        replies = self._deliveries.answers(numbered(), self._deliver)
        self._replies.update(zip(ids, replies, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to those messages that were not returned yet."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver messages and return their replies."""
        return self._deliveries.answers(self._numbered(messages), self._deliver)

    def save_clients(self) -> bytes:
        """Return every client's state, for a checkpoint."""
        parts = []
        for node_id, context in self.contexts.items():
            state = recorddict_to_proto(context.state).SerializeToString()
            parts += [_CLIENT.pack(node_id, len(state)), state]
        return b"".join(parts)

    def load_clients(self, data: bytes) -> None:
        """Bring every client back to what :meth:`save_clients` gave.

        Raises
        ------
        ConfigurationError
            If the clients are others; their state stays as it is.
        """
        states: dict[int, RecordDict] = {}
        while data:
            node_id, size = _CLIENT.unpack_from(data)
            state = data[_CLIENT.size : _CLIENT.size + size]
            states[node_id] = recorddict_from_proto(ProtoRecordDict.FromString(state))
            data = data[_CLIENT.size + size :]
        if states.keys() != self.contexts.keys():
            raise ConfigurationError(
                f"expected the state of {len(self.contexts)} nodes, got that of "
                f"{len(states)}, or of other nodes: resume with as many nodes as before"
            )
        for node_id, record in states.items():
            self.contexts[node_id].state = record

    def _numbered(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(next(self._message_ids))
            yield message

    def _deliver(self, message: Message) -> Message:
        kept = self.contexts[message.metadata.dst_node_id]
        context = Context(
            kept.run_id,
            kept.node_id,
            kept.node_config,
            new_record_dict(dict(kept.state.items())),
            kept.run_config,
        )
        try:
            reply = self.client_app(message, context)
        except Exception as error:  # noqa: BLE001 - Flower reports any, so do we
            reason = f"{type(error)}:<'{error}'>"
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            reply = Message(Error(code, reason), reply_to=message)
        else:
            kept.state = context.state
        if self._on_message is not None:
            self._on_message(message, reply)
        return reply
