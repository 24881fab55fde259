"""A grid that fails the way networks and devices do.

Which fault hits which message comes from a :class:`Schedule`: a seed, or draws that
hypothesis can shrink. What a fault leaves behind is what Flower leaves behind: a call
that raised leaves the client's context as it was, a lost message or reply is silence
(or an error that the SuperLink makes up), a restarted client has an empty context.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.common.constant import ErrorCode
from hypothesis import strategies as st

from flower_compress.mods import find_packet
from flower_compress.packet import Packet
from flower_compress.testing import InProcessGrid

T = TypeVar("T")
GREETING = "greeting"
MAX_DELAY = 3


class Fault(Enum):
    """What can happen to one message and its reply."""

    LOSE_MESSAGE = auto()
    LOSE_REPLY = auto()
    ERROR_REPLY = auto()  # the reply is lost, and the SuperLink says so
    DELAY_MESSAGE = auto()
    DELAY_REPLY = auto()
    DUPLICATE_MESSAGE = auto()
    DUPLICATE_REPLY = auto()
    RAISE_BEFORE = auto()  # the train function raises at once
    RAISE_AFTER = auto()  # ... or when all the work is done
    RAISE_OUTSIDE = auto()  # a mod around ours raises when ours has answered
    RESTART_BEFORE = auto()  # the client comes back with an empty state
    RESTART_AFTER = auto()


Faults = frozenset[Fault]
DUPLICATES = (Fault.DUPLICATE_MESSAGE, Fault.DUPLICATE_REPLY)
RAISES = (Fault.RAISE_BEFORE, Fault.RAISE_AFTER, Fault.RAISE_OUTSIDE)
RESTARTS = (Fault.RESTART_BEFORE, Fault.RESTART_AFTER)
NONE: Faults = frozenset()


class InjectedError(Exception):
    """What a failing client raises."""


class Schedule(ABC):
    """Says what goes wrong."""

    @abstractmethod
    def faults(self, num_messages: int) -> list[Faults]:
        """Return the faults of each message of one exchange."""

    @abstractmethod
    def delay(self, least: int) -> int:
        """Return for how many exchanges something is delayed."""

    @abstractmethod
    def order(self, size: int) -> Sequence[int]:
        """Return a permutation."""

    def shuffled(self, items: list[T]) -> list[T]:
        """Return the items in another order."""
        return [items[i] for i in self.order(len(items))]


class NoFaults(Schedule):
    """Everything arrives, in order."""

    def faults(self, num_messages: int) -> list[Faults]:
        return [NONE] * num_messages

    def delay(self, least: int) -> int:
        return least

    def order(self, size: int) -> Sequence[int]:
        return range(size)


class SeededSchedule(Schedule):
    """Each message suffers each of some faults with one probability."""

    def __init__(
        self, seed: int, probability: float, faults: Sequence[Fault] = tuple(Fault)
    ) -> None:
        self._random = random.Random(seed)
        self._probability, self._faults = probability, faults

    def faults(self, num_messages: int) -> list[Faults]:
        return [
            frozenset(
                fault
                for fault in self._faults
                if self._random.random() < self._probability
            )
            for _ in range(num_messages)
        ]

    def delay(self, least: int) -> int:
        return self._random.randint(least, MAX_DELAY)

    def order(self, size: int) -> Sequence[int]:
        return self._random.sample(range(size), size)


class PlannedSchedule(Schedule):
    """Given faults for given messages, and everything in reverse order.

    Parameters
    ----------
    plan : Mapping[tuple[int, int], Iterable[Fault]]
        The faults of message j of exchange i; without lost greetings and evaluations,
        exchange 0 is the greeting, and exchange i is round i.
    delays : int
        For how many exchanges whatever is delayed is delayed.
    """

    def __init__(
        self, plan: Mapping[tuple[int, int], Iterable[Fault]], delays: int = 1
    ) -> None:
        self._plan, self._delays, self._exchange = plan, delays, -1

    def faults(self, num_messages: int) -> list[Faults]:
        self._exchange += 1
        return [
            frozenset(self._plan.get((self._exchange, i), ()))
            for i in range(num_messages)
        ]

    def delay(self, least: int) -> int:
        return self._delays

    def order(self, size: int) -> Sequence[int]:
        return range(size)[::-1]


class DrawnSchedule(Schedule):
    """Faults that hypothesis draws, and shrinks to the few that matter."""

    def __init__(self, data: st.DataObject, faults: Iterable[Fault] = Fault) -> None:
        self._data = data
        self._faults = st.frozensets(st.sampled_from(list(faults)), max_size=3)

    def faults(self, num_messages: int) -> list[Faults]:
        return self._data.draw(
            st.lists(self._faults, min_size=num_messages, max_size=num_messages),
            label="faults",
        )

    def delay(self, least: int) -> int:
        return self._data.draw(st.integers(least, MAX_DELAY), label="delay")

    def order(self, size: int) -> Sequence[int]:
        return self._data.draw(st.permutations(range(size)), label="order")


@dataclass(frozen=True)
class _InFlight:
    """A message or a reply that arrives in a later exchange of its kind."""

    kind: str
    due: int
    message: Message
    faults: Faults = NONE


class FaultyGrid(InProcessGrid):
    """An in-process grid on which messages and clients fail.

    Parameters
    ----------
    make_app : Callable[[Mod], ClientApp]
        Makes the client app; the mod it is given goes next to the train function.
    num_nodes : int
        Number of nodes; node i has ``partition-id`` i.
    schedule : Schedule
        What goes wrong; it may be replaced at any time.
    node_ids : Sequence[int], optional
        The node ids.

    Attributes
    ----------
    happened : Counter[Fault]
        How often each fault has happened.
    exchanges : Counter[str]
        Number of calls of `send_and_receive`, by kind of message.
    restarted : dict[int, int]
        By node id, the train exchange in which it restarted last.
    on_train : Callable[[list[Message]], None], optional
        Called with the messages of a train exchange before any is delivered.
    """

    def __init__(
        self,
        make_app: Callable[[Mod], ClientApp],
        num_nodes: int,
        schedule: Schedule | None = None,
        node_ids: Sequence[int] | None = None,
    ) -> None:
        super().__init__(self._answer, num_nodes)
        self._app = make_app(self._fail_around)
        self.schedule = schedule or NoFaults()
        self.happened: Counter[Fault] = Counter()
        self.exchanges: Counter[str] = Counter()
        self.restarted: dict[int, int] = {}
        self.on_train: Callable[[list[Message]], None] | None = None
        self._now: Faults = NONE
        self._late_messages: list[_InFlight] = []
        self._late_replies: list[_InFlight] = []
        if node_ids is not None:
            contexts = list(self.contexts.values())
            self.contexts = dict(zip(node_ids, contexts, strict=True))
            for node_id, context in self.contexts.items():
                context.node_id = node_id

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver what is due, in any order, and return the replies that are due."""
        new = list(messages)
        kind = _kind(new[0]) if new else ""
        self.exchanges[kind] += 1
        if kind == "train" and self.on_train is not None:
            self.on_train(new)
        due, self._late_messages = self._split(self._late_messages, kind)
        arriving = [(entry.message, entry.faults) for entry in due]
        due, self._late_replies = self._split(self._late_replies, kind)
        replies = [entry.message for entry in due]
        faults_of = self.schedule.faults(len(new)) if new else []
        for message, faults in zip(new, faults_of, strict=True):
            self._send(message, faults, kind, arriving)
        for message, faults in self.schedule.shuffled(arriving):
            self._receive(message, faults, kind, replies)
        return self.schedule.shuffled(replies)

    def hasten(self) -> None:
        """Let all that is in flight arrive in the next exchange."""
        for queue in (self._late_messages, self._late_replies):
            queue[:] = [
                _InFlight(e.kind, self.exchanges[e.kind] + 1, e.message, e.faults)
                for e in queue
            ]

    def restart(self, node_id: int) -> None:
        """Empty a client's state."""
        self.contexts[node_id].state = RecordDict()
        self.restarted[node_id] = self.exchanges["train"]

    def rename(self, node_id: int, new_id: int) -> None:
        """Let a client come back as another node, with the state that it has."""
        context = self.contexts.pop(node_id)
        context.node_id = new_id
        self.contexts[new_id] = context

    def _send(
        self,
        message: Message,
        faults: Faults,
        kind: str,
        arriving: list[tuple[Message, Faults]],
    ) -> None:
        copies = [(0, faults)]
        if Fault.LOSE_MESSAGE in faults:
            self.happened[Fault.LOSE_MESSAGE] += 1
            copies = []
        elif Fault.DELAY_MESSAGE in faults:
            self.happened[Fault.DELAY_MESSAGE] += 1
            copies = [(self.schedule.delay(1), faults)]
        if Fault.DUPLICATE_MESSAGE in faults:
            self.happened[Fault.DUPLICATE_MESSAGE] += 1
            copies.append((self.schedule.delay(0), NONE))
        for delay, rest in copies:
            if delay == 0:
                arriving.append((message, rest))
            else:
                due = self.exchanges[kind] + delay
                self._late_messages.append(_InFlight(kind, due, message, rest))

    def _receive(
        self, message: Message, faults: Faults, kind: str, replies: list[Message]
    ) -> None:
        node_id = message.metadata.dst_node_id
        if Fault.RESTART_BEFORE in faults:
            self.happened[Fault.RESTART_BEFORE] += 1
            self.restart(node_id)
        # The mod answers a greeting by itself.
        self._now = NONE if kind == GREETING else faults
        reply = self._deliver(message)
        self._now = NONE
        if Fault.RESTART_AFTER in faults:
            self.happened[Fault.RESTART_AFTER] += 1
            self.restart(node_id)
        if Fault.DUPLICATE_REPLY in faults:
            self.happened[Fault.DUPLICATE_REPLY] += 1
            self._reply(reply, self.schedule.delay(0), kind, replies)
        if Fault.LOSE_REPLY in faults:
            self.happened[Fault.LOSE_REPLY] += 1
        elif Fault.ERROR_REPLY in faults and kind != GREETING:
            self.happened[Fault.ERROR_REPLY] += 1
            error = Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "injected")
            self._reply(Message(error, reply_to=message), 0, kind, replies)
        elif Fault.DELAY_REPLY in faults:
            self.happened[Fault.DELAY_REPLY] += 1
            self._reply(reply, self.schedule.delay(1), kind, replies)
        else:
            self._reply(reply, 0, kind, replies)

    def _reply(
        self, reply: Message, delay: int, kind: str, replies: list[Message]
    ) -> None:
        if delay == 0:
            replies.append(reply)
        else:
            due = self.exchanges[kind] + delay
            self._late_replies.append(_InFlight(kind, due, reply))

    def _split(
        self, queue: list[_InFlight], kind: str
    ) -> tuple[list[_InFlight], list[_InFlight]]:
        now = self.exchanges[kind]
        due = [entry for entry in queue if entry.kind == kind and entry.due <= now]
        return due, [entry for entry in queue if entry not in due]

    def _answer(self, message: Message, context: Context) -> Message:
        reply = self._app(message, context)
        self._raise_if(Fault.RAISE_OUTSIDE)
        return reply

    def _fail_around(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        self._raise_if(Fault.RAISE_BEFORE)
        reply = call_next(msg, context)
        self._raise_if(Fault.RAISE_AFTER)
        return reply

    def _raise_if(self, fault: Fault) -> None:
        if fault in self._now:
            self.happened[fault] += 1
            raise InjectedError(fault.name)


def _kind(message: Message) -> str:
    found = find_packet(message.content)
    if found is not None and Packet.parse(found[1]).greeting:
        return GREETING
    return message.metadata.message_type
