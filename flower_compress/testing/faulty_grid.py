"""A grid that fails the way networks and devices do.

What a fault leaves behind is what Flower leaves behind: a call that raised leaves the
client's context as it was, a lost message or reply is silence (or an error that the
SuperLink makes up), a restarted client has an empty context.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from ..errors import ConfigurationError
from .failing_clients import FailingClients, FaultPoint
from .faults import CLIENT_FAULTS, RAISES, Fault, Faults, Schedule, happens
from .in_process import InProcessGrid
from .messages import GREETING, kind_of, new_message, superlink_error, with_metadata

__all__ = ["FaultyGrid"]

_NOT_PASSED_ON = ("save_clients", "load_clients")


@dataclass(eq=False, slots=True)
class _InFlight:
    """A message or a reply that arrives with exchange `due` of its kind."""

    kind: str
    due: int
    message: Message
    faults: Faults


class FaultyGrid(Grid):
    """A grid around any other, on which messages and clients fail.

    The strategy is given this grid, and the wrapped one delivers what arrives: a copy
    of each message, a second copy of a duplicate, and a copy in a later exchange of
    what is delayed. What is lost is not waited for. No client handles two messages of
    one ``send_and_receive`` at a time.

    Faults of the network work with every grid: an :class:`InProcessGrid`, the one that
    a ServerApp gets in a simulation, the one of a deployed SuperLink. Clients raise and
    restart on an :class:`InProcessGrid` only.

    Parameters
    ----------
    grid : Grid
        Delivers what arrives. Of an :class:`InProcessGrid`, the client app is wrapped.
    faults : Schedule
        What goes wrong; it may be replaced at any time.
    fault_point : FaultPoint, optional
        A mod of the client app, where it raises.

    Attributes
    ----------
    happened : Counter[Fault]
        How often each fault has happened.
    exchanges : Counter[str]
        Number of calls of `send_and_receive` and `push_messages`, by kind of message:
        its type, or ``"greeting"`` for the first message of a CompressedStrategy to a
        node, which the mod answers by itself and which no client fails to answer.
    restarted : dict[int, int]
        By node id, the number of train exchanges at its last restart.
    on_train : Callable[[Sequence[Message]], None], optional
        Called with the messages of a train exchange before any is delivered.

    Raises
    ------
    ConfigurationError
        If the schedule lets clients fail that are not in this process.

    Notes
    -----
    A late reply is returned by a later ``send_and_receive`` of the same kind, or by a
    later ``pull_messages`` for its message, once there were so many exchanges of its
    kind. Flower's own ``send_and_receive`` would return no reply to an earlier call:
    strategies that can tell are tested harder here.

    Public attributes that this class lacks are the wrapped grid's, to get and to set;
    but its clients are not saved with a checkpoint, since what is in flight is not.

    Examples
    --------
    ``strategy.start(FaultyGrid(grid, RandomFaults(lose_replies=0.3)), arrays)``
    """

    def __init__(
        self, grid: Grid, faults: Schedule, *, fault_point: FaultPoint | None = None
    ) -> None:
        _check(faults, grid)
        self.happened: Counter[Fault] = Counter()
        self.exchanges: Counter[str] = Counter()
        self.restarted: dict[int, int] = {}
        self.on_train: Callable[[Sequence[Message]], None] | None = None
        self._faults = faults
        self._messages: list[_InFlight] = []
        self._replies: list[_InFlight] = []
        self._pushed: list[tuple[_InFlight, Message]] = []
        self._away: set[int] = set()
        self._clients = FailingClients(self.happened, self.restart)
        if isinstance(grid, InProcessGrid):
            grid.client_app = self._clients.around(grid.client_app, fault_point)
        self._grid = grid  # last: from now on, __setattr__ looks there too

    @property
    def faults(self) -> Schedule:
        """What goes wrong."""
        return self._faults

    @faults.setter
    def faults(self, faults: Schedule) -> None:
        _check(faults, self._grid)
        self._faults = faults

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message; ``Message(...)`` does the same."""
        return self._grid.create_message(
            content, message_type, dst_node_id, group_id, ttl
        )

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes that have not left."""
        return [n for n in self._grid.get_node_ids() if n not in self._away]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all nodes."""
        nodes = self._grid.get_nodes()
        return [node for node in nodes if node.node_id not in self._away]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send what arrives with this exchange; lost messages have ids as well."""
        new = list(messages)
        if not new:
            return []
        sent = self._copy(self._depart(new, kind_of(new[0])))
        if sent:
            self._grid.push_messages([sent_copy for _, sent_copy in sent])
        self._pushed += sent
        return [message.metadata.message_id for message in new]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to those messages that have arrived."""
        asked = set(message_ids)
        waiting = [
            (entry, sent_copy)
            for entry, sent_copy in self._pushed
            if entry.message.metadata.message_id in asked
        ]
        if waiting:
            ids = [sent_copy.metadata.message_id for _, sent_copy in waiting]
            answered = self._receive(waiting, self._grid.pull_messages(ids))
            self._pushed = [pair for pair in self._pushed if pair[0] not in answered]
        return self._arrive(
            lambda entry: entry.message.metadata.reply_to_message_id in asked
        )

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver what arrives with this exchange, and return the replies that do."""
        new = list(messages)
        if not new:
            return []
        kind = kind_of(new[0])
        for wave in _one_for_each_node(self._depart(new, kind)):
            started = time.monotonic()
            sent = self._copy(wave)
            replies = self._grid.send_and_receive(
                [sent_copy for _, sent_copy in sent], timeout=timeout
            )
            self._receive(sent, replies)
            if timeout is not None:
                timeout = max(0.0, timeout - (time.monotonic() - started))
        return self._arrive(lambda entry: entry.kind == kind)

    def hasten(self) -> None:
        """Let all that is in flight arrive with the next exchange of its kind."""
        for entry in (*self._messages, *self._replies):
            entry.due = self.exchanges[entry.kind] + 1

    def restart(self, node_id: int) -> None:
        """Empty a client's state."""
        _in_process(self._grid, "restart").contexts[node_id].state = RecordDict()
        self.restarted[node_id] = self.exchanges[MessageType.TRAIN]

    def rename(self, node_id: int, new_id: int) -> None:
        """Let a client come back as another node, with the state that it has."""
        contexts = _in_process(self._grid, "rename").contexts
        contexts[new_id] = contexts.pop(node_id)
        contexts[new_id].node_id = new_id
        # What is on its way to the node that it was reaches nobody.
        self._away.add(node_id)
        self._away.discard(new_id)

    def leave(self, node_id: int) -> None:
        """Let a node be listed no more, and hear nothing; it keeps its state."""
        self._away.add(node_id)

    def come_back(self, node_id: int) -> None:
        """Let a node that has left be there again."""
        self._away.discard(node_id)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in _NOT_PASSED_ON:
            raise AttributeError(name)
        return getattr(self._grid, name)

    def __setattr__(self, name: str, value: object) -> None:
        ours = (
            name.startswith("_") or name in self.__dict__ or hasattr(type(self), name)
        )
        if not ours and "_grid" in self.__dict__ and hasattr(self._grid, name):
            setattr(self._grid, name, value)
        else:
            super().__setattr__(name, value)

    # -- on the way there --------------------------------------------------------------

    def _depart(self, new: list[Message], kind: str) -> list[_InFlight]:
        """Send messages; return what arrives now, in order of arrival."""
        exchange = self.exchanges.total()
        self.exchanges[kind] += 1
        if kind == MessageType.TRAIN and self.on_train is not None:
            self.on_train(new)
        now = self.exchanges[kind]
        for position, message in enumerate(new):
            message.metadata.__dict__["_message_id"] = f"{exchange}-{position}"
            faults = self._faults.draw(exchange, position)
            if kind == GREETING:
                faults = {f: late for f, late in faults.items() if f not in RAISES}
            copies = [(0, faults)]
            if happens(Fault.LOSE_MESSAGE, faults, self.happened):
                copies = []
            elif happens(Fault.DELAY_MESSAGE, faults, self.happened):
                copies = [(faults[Fault.DELAY_MESSAGE], faults)]
            if happens(Fault.DUPLICATE_MESSAGE, faults, self.happened):
                copies.append((faults[Fault.DUPLICATE_MESSAGE], {}))
            self._messages += [
                _InFlight(kind, now + late, message, rest) for late, rest in copies
            ]
        due = _take(self._messages, lambda e: e.kind == kind and e.due <= now)
        due = [e for e in due if e.message.metadata.dst_node_id not in self._away]
        order = self._faults.order(exchange, "messages", len(due))
        return [due[i] for i in order]

    def _copy(self, entries: Iterable[_InFlight]) -> list[tuple[_InFlight, Message]]:
        """Pair each entry with the message to send: new, with an id and a TTL anew."""
        pairs = [(entry, new_message(entry.message)) for entry in entries]
        self._clients.expect((sent_copy, entry.faults) for entry, sent_copy in pairs)
        return pairs

    # -- on the way back ---------------------------------------------------------------

    def _receive(
        self, sent: list[tuple[_InFlight, Message]], replies: Iterable[Message]
    ) -> set[_InFlight]:
        """Let replies to copies return as replies to the messages; say to which."""
        by_id = {reply.metadata.reply_to_message_id: reply for reply in replies}
        answered = set()
        # In the order of sending, whenever which reply came.
        for entry, sent_copy in sent:
            reply = by_id.get(sent_copy.metadata.message_id)
            if reply is None:
                continue
            answered.add(entry)
            message_id = entry.message.metadata.message_id
            reply = with_metadata(reply, _reply_to_message_id=message_id)
            faults, returning = entry.faults, [(0, reply)]
            if happens(Fault.LOSE_REPLY, faults, self.happened):
                returning = []
            elif happens(Fault.ERROR_REPLY, faults, self.happened):
                returning = [(0, superlink_error(entry.message))]
            elif happens(Fault.DELAY_REPLY, faults, self.happened):
                returning = [(faults[Fault.DELAY_REPLY], reply)]
            if happens(Fault.DUPLICATE_REPLY, faults, self.happened):
                returning.append((faults[Fault.DUPLICATE_REPLY], reply))
            now = self.exchanges[entry.kind]
            self._replies += [
                _InFlight(entry.kind, now + late, message, {})
                for late, message in returning
            ]
        return answered

    def _arrive(self, wanted: Callable[[_InFlight], bool]) -> list[Message]:
        """Return the replies that are due, of those that are wanted."""
        due = _take(
            self._replies, lambda e: e.due <= self.exchanges[e.kind] and wanted(e)
        )
        order = self._faults.order(self.exchanges.total() - 1, "replies", len(due))
        return [due[i].message for i in order]


def _check(faults: Schedule, grid: Grid) -> None:
    """Raise ConfigurationError if clients shall fail that are not in this process."""
    of_clients = faults.possible & CLIENT_FAULTS
    if of_clients:
        _in_process(grid, ", ".join(sorted(fault.name for fault in of_clients)))


def _in_process(grid: Grid, what: str) -> InProcessGrid:
    if not isinstance(grid, InProcessGrid):
        raise ConfigurationError(
            f"{what} needs the clients in this process: expected an InProcessGrid, got "
            f"{type(grid).__name__}; wrap an InProcessGrid, or let only the network "
            "fail"
        )
    return grid


def _take(
    queue: list[_InFlight], wanted: Callable[[_InFlight], bool]
) -> list[_InFlight]:
    """Take out of a queue what is wanted."""
    taken = [entry for entry in queue if wanted(entry)]
    queue[:] = [entry for entry in queue if not wanted(entry)]
    return taken


def _one_for_each_node(entries: list[_InFlight]) -> Iterator[list[_InFlight]]:
    """Part entries, in their order, so that no part has two for one node."""
    seen: Counter[int] = Counter()
    waves: list[list[_InFlight]] = []
    for entry in entries:
        node_id = entry.message.metadata.dst_node_id
        if seen[node_id] == len(waves):
            waves.append([])
        waves[seen[node_id]].append(entry)
        seen[node_id] += 1
    return iter(waves)
