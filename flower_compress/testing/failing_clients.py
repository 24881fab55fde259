"""Client apps that raise and restart."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from flwr.app import Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from .faults import CLIENT_FAULTS, Fault, Faults, happens

__all__ = ["FailingClients", "FaultPoint", "InjectedError"]


class InjectedError(Exception):
    """What a failing client raises.

    No :class:`FlowerCompressError`: those the compression mod answers by itself.
    """


class FaultPoint:
    """A mod that marks where in a client app it raises, before and after.

    Without one, ``RAISE_BEFORE`` and ``RAISE_AFTER`` happen around the whole app.

    Examples
    --------
    >>> from flwr.clientapp import ClientApp
    >>> from flower_compress import CompressionMod
    >>> from flower_compress.testing import (
    ...     FaultPoint, FaultyGrid, InProcessGrid, RandomFaults
    ... )
    >>> point = FaultPoint()
    >>> app = ClientApp(mods=[CompressionMod(), point])
    >>> faults = RandomFaults(raise_after=0.1)
    >>> grid = FaultyGrid(InProcessGrid(app, 5), faults, fault_point=point)
    """

    def __init__(self) -> None:
        self.around: Mod | None = None

    def __call__(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        """Pass the message on, or fail."""
        if self.around is None:
            return call_next(msg, context)
        return self.around(msg, context, call_next)


class _Now(threading.local):
    """What goes wrong with the message that a thread's client handles."""

    def __init__(self) -> None:
        self.faults: Faults = {}


class FailingClients:
    """The clients of an :class:`InProcessGrid`, which fail at what they are told to.

    Parameters
    ----------
    happened : Counter[Fault]
        Counts each fault that happens.
    restart : Callable[[int], None]
        Empties the state of a node.
    """

    def __init__(
        self, happened: Counter[Fault], restart: Callable[[int], None]
    ) -> None:
        self._happened, self._restart = happened, restart
        self._failing: dict[Message, Faults] = {}
        self._now = _Now()
        self._counting = threading.Lock()

    def around(
        self, app: ClientAppCallable, fault_point: FaultPoint | None
    ) -> ClientAppCallable:
        """Return the app as it fails: around the whole of it, or at its fault point."""
        if fault_point is None:
            app = partial(self._fail_around, call_next=app)
        else:
            fault_point.around = self._fail_around
        return partial(self._handle, call_next=app)

    def expect(self, messages: Iterable[tuple[Message, Faults]]) -> None:
        """Say which messages are delivered next, and what goes wrong with each."""
        self._failing = {
            message: faults
            for message, faults in messages
            if faults.keys() & CLIENT_FAULTS
        }

    def _handle(
        self, message: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        self._now.faults = self._failing.pop(message, {})
        try:
            self._restart_if(Fault.RESTART_BEFORE, context)
            reply = call_next(message, context)
            self._raise_if(Fault.RAISE_OUTSIDE)
            return reply
        finally:
            self._restart_if(Fault.RESTART_AFTER, context)
            self._now.faults = {}

    def _fail_around(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        self._raise_if(Fault.RAISE_BEFORE)
        reply = call_next(msg, context)
        self._raise_if(Fault.RAISE_AFTER)
        return reply

    def _raise_if(self, fault: Fault) -> None:
        if self._happens(fault):
            raise InjectedError(fault.name)

    def _restart_if(self, fault: Fault, context: Context) -> None:
        if self._happens(fault):
            self._restart(context.node_id)
            # What the grid keeps if the call succeeds.
            context.state = RecordDict()

    def _happens(self, fault: Fault) -> bool:
        with self._counting:
            return happens(fault, self._now.faults, self._happened)
