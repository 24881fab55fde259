"""Several clients on one node, of which each looks like a node of its own."""

from __future__ import annotations

import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from logging import getLogger
from typing import NamedTuple
from uuid import uuid4

from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from flower_compress.arguments import check_count, check_number
from flower_compress.errors import (
    ConfigurationError,
    CorruptPacket,
    MissingModError,
    WrongTypeError,
)
from flower_compress.wire.building import (
    addressed,
    new_record_dict,
    new_reply,
    with_content,
)
from flower_compress.wire.bundle import (
    Request,
    asking_content,
    read_answers,
    read_where,
    request_content,
)

from .saving import KeepsClients
from .wrapped_grid import WrappedGrid

__all__ = ["ManyClientsGrid", "many_clients"]

_log = getLogger("flwr")
_TIMEOUT = 60.0
_FIRST_WAIT = 10.0
"""Seconds after which a node is asked again, and then after twice as many each time."""
_LONGEST_REASON = 300
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def many_clients(
    grid: Grid,
    per_node: int,
    num_clients: int | None = None,
    timeout: float = _TIMEOUT,
) -> ManyClientsGrid:
    """Return a grid on which each of a node's clients looks like a node of its own.

    What a strategy sends to clients of one node goes there as one message of Flower,
    and their replies come back as one: a simulation on Ray, which pays for every
    message, carries many clients so. Models, ledgers and bits are those of one client a
    node.

    A message that is lost is lost for all clients of its node; what one client raises
    is its own reply's error. What several clients are sent, as a dense model, is in the
    message once; the ledger bills it for each of them.

    Parameters
    ----------
    grid : Grid
        Flower's grid; on every node an app runs that has
        :class:`~flower_compress.ManyClientsMod` as its first mod.
    per_node : int
        How many clients a node has.
    num_clients : int, optional
        How many clients there are, if the last nodes have fewer. A node is asked once
        for its ``partition-id`` p, and has those of p K, ..., p K + K - 1 that are less
        than this.
    timeout : float (default: 60)
        Seconds that nodes are given to say so, where there is no other; later ones are
        not waited for. Whoever is silent is asked again after 10, 20, 40 seconds.

    Raises
    ------
    WrongTypeError
        If `grid` is no grid.
    ConfigurationError
        If a number is out of its range.

    Examples
    --------
    ``strategy.start(many_clients(grid, per_node=10), initial_arrays)``
    """
    if isinstance(grid, KeepsClients):
        return _KeepingGrid(grid, per_node, num_clients, timeout)
    return ManyClientsGrid(grid, per_node, num_clients, timeout)


class _Host(NamedTuple):
    """Where a client is: its node, and its number there."""

    node_id: int
    number: int


class ManyClientsGrid(WrappedGrid):
    """See :func:`many_clients`, which makes it."""

    def __init__(
        self,
        grid: Grid,
        per_node: int,
        num_clients: int | None = None,
        timeout: float = _TIMEOUT,
    ) -> None:
        if not isinstance(grid, Grid):
            raise WrongTypeError("grid", "a Grid of Flower", grid)
        if isinstance(grid, ManyClientsGrid):
            raise ConfigurationError(
                "this grid holds several clients a node already: give many_clients the "
                "grid that Flower gives the app, and per_node once"
            )
        check_count("per_node", per_node, 1)
        check_count("num_clients", num_clients, 1, or_none=True)
        check_number("timeout", timeout, "be positive", lambda seconds: seconds > 0)
        super().__init__(grid)
        self._per_node, self._num_clients = int(per_node), int(num_clients or 0)
        self._timeout = timeout
        self._clients: dict[int, list[int]] = {}  # of the nodes that are known
        self._hosts: dict[int, _Host] = {}
        # How many, by their node's partition-id, else its node id: a node that comes
        # back as another one has the same clients.
        self._places: dict[int | str | tuple[int], int] = {}
        self._asked: dict[str, tuple[int, float]] = {}  # nodes, and when, by message
        self._refused: dict[int, tuple[str, float]] = {}  # why, and when
        # By the id of the message to a node: what was sent to its clients with it.
        self._sent: dict[str, list[Message]] = {}
        self._sent_with: dict[str, str] = {}  # The same the other way, by their ids.
        self._arrived: dict[str, Message] = {}
        self._counted = 0  # Clients that there were when their number was last said.

    # -- who is there ----------------------------------------------------------------

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients of all nodes that have said where they stand."""
        node_ids = list(self._grid.get_node_ids())
        new = [node_id for node_id in node_ids if node_id not in self._clients]
        if new:
            self._meet(new)
        found = [self._clients[n] for n in node_ids if n in self._clients]
        if not found and node_ids and all(n in self._refused for n in node_ids):
            raise MissingModError(
                f"{len(node_ids)} of {len(node_ids)} nodes do not answer as several "
                "clients: put ManyClientsMod first in the client app, "
                "ClientApp(mods=[ManyClientsMod(), ...]). Node "
                f"{node_ids[0]}: {self._refused[node_ids[0]][0]}"
            )
        return [client for clients in found for client in clients]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return of each client what the grid knows of its node."""
        there = {info.node_id: info for info in self._grid.get_nodes()}
        infos = []
        for client in self.get_node_ids():
            info = NodeInfo()
            info.CopyFrom(there.get(self._hosts[client].node_id, info))
            info.node_id = client
            infos.append(info)
        return infos

    def _meet(self, new: list[int]) -> None:
        """Ask nodes where they stand, and take in what they have answered."""
        self._collect()
        messages, waits = self._questions(new), not self._clients
        if messages and not waits and self._push(messages):
            return
        end, seconds = time.monotonic() + self._timeout, _FIRST_WAIT
        while messages:
            began = time.monotonic()
            seconds = min(seconds, end - began)
            replies = list(self._grid.send_and_receive(messages, timeout=seconds))
            self._note_asked(messages, began)
            self._take(replies)
            # A grid that gives up before knows that no answer will come.
            if not waits or not began + seconds <= time.monotonic() < end:
                return
            self._collect()
            messages, seconds = self._questions(new), 2 * seconds

    def _collect(self) -> None:
        """Take in what nodes have answered by now, and forget what is too old."""
        self._take(self._grid.pull_messages(list(self._asked)) if self._asked else [])
        now = time.monotonic()
        for message_id, (_, since) in list(self._asked.items()):
            if now - since > self._timeout:  # It may have been lost.
                del self._asked[message_id]
        for node_id, (_, since) in list(self._refused.items()):
            if now - since > self._timeout:  # It may have another app by now.
                del self._refused[node_id]

    def _questions(self, new: list[int]) -> list[Message]:
        """Return the messages that are due to nodes of which nothing is known."""
        asked: dict[int, list[float]] = defaultdict(list)
        for node_id, since in self._asked.values():
            asked[node_id].append(since)
        now = time.monotonic()
        waiting = {
            node_id
            for node_id, times in asked.items()
            if now < max(times) + _FIRST_WAIT * 2 ** (len(times) - 1)
        }
        known = self._clients.keys() | self._refused.keys() | waiting
        return [
            Message(asking_content(), node_id, MessageType.TRAIN)
            for node_id in new
            if node_id not in known
        ]

    def _note_asked(self, messages: list[Message], when: float) -> None:
        for message in messages:
            metadata = message.metadata
            self._asked[metadata.message_id] = metadata.dst_node_id, when

    def _push(self, messages: list[Message]) -> bool:
        """Send questions and do not wait; False for a grid that cannot."""
        try:
            self._grid.push_messages(messages)
        except NotImplementedError:
            return False
        self._note_asked(messages, time.monotonic())
        return True

    def _take(self, replies: Iterable[Message]) -> None:
        answered = set()
        for reply in replies:
            asked = self._asked.pop(reply.metadata.reply_to_message_id, None)
            if asked is None:
                continue
            node_id, _ = asked
            answered.add(node_id)
            try:
                if reply.has_error():
                    if reply.metadata.src_node_id != node_id:
                        continue  # The SuperLink's own, which says nothing of the app.
                    reason = _last_line(reply.error.reason or "")
                    raise CorruptPacket(reason or f"error {reply.error.code}")
                where = read_where(reply.content)
            except CorruptPacket as error:
                self._refused[node_id] = str(error), time.monotonic()
                _log.warning("node %d is left out: %s", node_id, error)
                continue
            self._add(node_id, where)
        for message_id, (node_id, _) in list(self._asked.items()):
            if node_id in answered:  # It may have been asked more than once.
                del self._asked[message_id]

    def _add(self, node_id: int, where: int | str | None) -> None:
        count = self._per_node
        if isinstance(where, int) and self._num_clients:
            count = min(count, max(0, self._num_clients - where * count))
        per_node = self._per_node
        clients = [_client_id(node_id, number, per_node) for number in range(count)]
        self._clients[node_id] = clients
        self._places[(node_id,) if where is None else where] = count
        for number, client in enumerate(clients):
            self._hosts[client] = _Host(node_id, number)

    # -- messages --------------------------------------------------------------------

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages to clients, and return their ids."""
        messages = list(messages)
        bundles = self._bundled(messages)
        ids = list(self._grid.push_messages([bundle for bundle, _ in bundles]))
        if len(ids) == len(bundles):
            gone = {
                id(bundle) for (bundle, _), i in zip(bundles, ids, strict=True) if i
            }
        else:  # The grid leaves out what it could not send.
            gone = {id(b) for b, _ in bundles if b.metadata.message_id in set(ids)}
        self._note([each for each in bundles if id(each[0]) in gone])
        ids = [message.metadata.message_id for message in messages]
        return [message_id for message_id in ids if message_id in self._sent_with]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to those messages that are there."""
        message_ids = list(message_ids)
        bundles = {self._sent_with[i] for i in message_ids if i in self._sent_with}
        if bundles:
            for reply in self._grid.pull_messages(sorted(bundles)):
                for each in self._opened(reply):
                    self._arrived[each.metadata.reply_to_message_id] = each
        return [self._arrived.pop(i) for i in message_ids if i in self._arrived]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages to clients, and return their replies, in the same order."""
        messages = list(messages)
        bundles = self._bundled(messages)
        replies = self._grid.send_and_receive(
            [bundle for bundle, _ in bundles], timeout=timeout
        )
        self._note(bundles)
        arrived = {
            each.metadata.reply_to_message_id: each
            for reply in replies
            for each in self._opened(reply)
        }
        ids = [message.metadata.message_id for message in messages]
        return [arrived[each] for each in ids if each in arrived]

    def _bundled(self, messages: list[Message]) -> list[tuple[Message, list[Message]]]:
        """Return a message for each node, with those that it stands for."""
        self._compare_count()
        together: dict[tuple[object, ...], list[Message]] = {}
        for message in messages:
            metadata = message.metadata
            metadata.__dict__["_message_id"] = str(uuid4())
            host = self._hosts.get(metadata.dst_node_id)
            if host is None:
                _log.warning(
                    "node %d is none of this grid's clients: its message is not sent",
                    metadata.dst_node_id,
                )
                continue
            key = (
                host.node_id,
                metadata.message_type,
                metadata.group_id,
                metadata.ttl,
                metadata.dst_task_id,
            )
            together.setdefault(key, []).append(message)
        return [(self._bundle(each), each) for each in together.values()]

    def _compare_count(self) -> None:
        """Say so if there are other clients than `num_clients`: data is left out."""
        count = sum(self._places.values())
        if not self._num_clients or count in (self._num_clients, self._counted):
            return
        self._counted = count
        what = (
            "some partitions have no client"
            if count < self._num_clients
            else ("their partition-ids are no numbers")
        )
        _log.warning(
            "expected %d clients, as num_clients says, got %d on %d nodes: %s. Give "
            "num_clients and per_node that fit the nodes",
            self._num_clients,
            count,
            len(self._places),
            what,
        )

    def _bundle(self, messages: list[Message]) -> Message:
        clients = [message.metadata.dst_node_id for message in messages]
        hosts = [self._hosts[client] for client in clients]
        request = Request(
            tuple(clients),
            tuple(host.number for host in hosts),
            tuple(message.content for message in messages),
            self._per_node,
            self._num_clients,
        )
        content = request_content(request)
        bundle = addressed(messages[0], hosts[0].node_id, content)
        bundle.metadata.__dict__["_message_id"] = ""  # The grid gives it one.
        return bundle

    def _note(self, bundles: Iterable[tuple[Message, list[Message]]]) -> None:
        """Note what was sent, without its content, until it is answered or too old."""
        now = time.time()
        for bundle_id, messages in list(self._sent.items()):
            metadata = messages[0].metadata
            if metadata.created_at + metadata.ttl < now:
                self._drop(bundle_id)
        nothing = new_record_dict({})
        for bundle, messages in bundles:
            bundle_id = bundle.metadata.message_id
            self._sent[bundle_id] = [with_content(each, nothing) for each in messages]
            for message in messages:
                self._sent_with[message.metadata.message_id] = bundle_id

    def _drop(self, bundle_id: str) -> list[Message]:
        messages = self._sent.pop(bundle_id, [])
        for message in messages:
            self._sent_with.pop(message.metadata.message_id, None)
        return messages

    def _opened(self, reply: Message) -> list[Message]:
        """Return the replies that one message brings; none if it comes again."""
        messages = self._drop(reply.metadata.reply_to_message_id)
        if not messages:
            return []
        answers: list[RecordDict | Error]
        if reply.has_error():
            answers = [reply.error] * len(messages)
        else:
            try:
                answers = read_answers(reply.content, len(messages))
            except CorruptPacket as error:
                reason = f"{type(error).__name__}: {error}"
                wrong = Error(ErrorCode.MOD_FAILED_PRECONDITION, reason)
                answers = [wrong] * len(messages)
        return [
            _reply(message, answer, reply, number)
            for number, (message, answer) in enumerate(
                zip(messages, answers, strict=True)
            )
        ]


class _KeepingGrid(ManyClientsGrid):
    """One whose clients can be brought back to where they were."""

    def save_clients(self) -> bytes:
        """Return the state of all clients."""
        saved: bytes = self._grid.save_clients()  # type: ignore[attr-defined]
        return saved

    def load_clients(self, data: bytes) -> None:
        """Bring all clients back to what :meth:`save_clients` gave."""
        self._grid.load_clients(data)  # type: ignore[attr-defined]


def _client_id(node_id: int, number: int, per_node: int) -> int:
    """Return the node id of a client, the same whenever its node has the same.

    Where a node has more or fewer, a resumed server has to ask who they are.
    """
    name = f"{node_id}/{number}/{per_node}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1


def _reply(
    message: Message, answer: RecordDict | Error, bundle: Message, number: int
) -> Message:
    if isinstance(answer, Error):
        reply = Message(answer, reply_to=message)
    else:
        reply = new_reply(message, answer)
    came = bundle.metadata
    changes = {
        "_message_id": f"{came.message_id}/{number}",
        "_created_at": came.created_at,
        "_ttl": came.ttl,
        "_delivered_at": came.delivered_at,
    }
    if bundle.has_error() and came.src_node_id == came.dst_node_id:
        changes["_src_node_id"] = came.src_node_id  # The SuperLink's own.
    reply.metadata.__dict__.update(changes)
    return reply


def _last_line(reason: str) -> str:
    """Return what a node says, without the traceback that Ray puts before it."""
    lines = [line for line in _COLOUR.sub("", reason).splitlines() if line.strip()]
    return lines[-1].strip()[:_LONGEST_REASON] if lines else ""
