"""What can go wrong, and schedules that say when."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from ..errors import ConfigurationError

__all__ = [
    "CLIENT_FAULTS",
    "RAISES",
    "Fault",
    "Faults",
    "RandomFaults",
    "Schedule",
    "happens",
]


class Fault(Enum):
    """What can happen to one message and its reply.

    A message that is lost is not delayed. Of a reply that is lost, no error is made
    up, and one that an error stands for is not delayed. A duplicate has a way of its
    own: it arrives whatever happens to the first copy, and nothing happens to it.
    """

    LOSE_MESSAGE = auto()
    """The client never sees it."""
    LOSE_REPLY = auto()
    """The client has worked, and the server hears nothing."""
    ERROR_REPLY = auto()
    """The reply is lost, and the SuperLink makes up an error in its place."""
    DELAY_MESSAGE = auto()
    DELAY_REPLY = auto()
    DUPLICATE_MESSAGE = auto()
    """The client handles it twice."""
    DUPLICATE_REPLY = auto()
    RAISE_BEFORE = auto()
    """The client raises before its train function."""
    RAISE_AFTER = auto()
    """The client raises when its train function has returned."""
    RAISE_OUTSIDE = auto()
    """A mod around the client's whole app raises when the app has answered."""
    RESTART_BEFORE = auto()
    """The client comes back with an empty state, then handles the message."""
    RESTART_AFTER = auto()


Faults = Mapping[Fault, int]
"""The faults of one message and its reply, each with the number of exchanges by which
it delays what it delays or duplicates; 0 for all others."""

RAISES = frozenset({Fault.RAISE_BEFORE, Fault.RAISE_AFTER, Fault.RAISE_OUTSIDE})
CLIENT_FAULTS = RAISES | {Fault.RESTART_BEFORE, Fault.RESTART_AFTER}
"""Faults of clients, not of the network."""


def happens(fault: Fault, faults: Faults, happened: Counter[Fault]) -> bool:
    """Whether a fault is among those of a message; it is counted if so."""
    if fault not in faults:
        return False
    happened[fault] += 1
    return True


class Schedule(ABC):
    """Says what goes wrong."""

    @property
    @abstractmethod
    def possible(self) -> frozenset[Fault]:
        """Every fault that it may bring."""

    @abstractmethod
    def draw(self, exchange: int, position: int) -> Faults:
        """Return the faults of message `position` of exchange `exchange`, from 0.

        Asked once for each message, when it is sent.
        """

    @abstractmethod
    def order(
        self, exchange: int, direction: Literal["messages", "replies"], size: int
    ) -> Sequence[int]:
        """Return the permutation in which `size` messages or replies arrive."""


@dataclass(frozen=True, kw_only=True)
class RandomFaults(Schedule):
    """Every message suffers every fault with its own probability, independently.

    The draws are a function of the seed, of the number of the exchange (a call of
    ``send_and_receive`` or ``push_messages`` with messages) and of the message's
    position in it, where the strategy has put it. They depend neither on node ids,
    which Flower draws anew in every simulation, nor on when replies come in. Another
    value of one knob leaves the draws of the others as they are.

    Parameters
    ----------
    seed : int (default: 0)
        Fixes every draw.
    lose_messages : float (default: 0.0)
        Probability that a message never reaches its client.
    lose_replies : float (default: 0.0)
        Probability that a client has worked and the server hears nothing.
    error_replies : float (default: 0.0)
        Probability that the server hears an error of the SuperLink instead.
    duplicate : float (default: 0.0)
        Probability that a message arrives twice, and that a reply does; the second copy
        comes 0 to `max_delay` exchanges late.
    delay : float (default: 0.0)
        Probability that a message comes 1 to `max_delay` exchanges late, and that a
        reply does.
    max_delay : int (default: 3)
        Longest delay, in exchanges of the same kind.
    reorder : bool (default: True)
        Whether messages and replies arrive in random order.
    restart_every : float, optional
        A client restarts once in so many messages that it handles, on average: it
        comes back with an empty ``Context.state``, before or after a message.
    raise_before, raise_after : float (default: 0.0)
        Probability that a client raises before its train function, and after it.
    raise_outside : float (default: 0.0)
        Probability that a mod around a client's whole app raises when the app has
        answered.

    Raises
    ------
    ConfigurationError
        If a probability does not lie in [0, 1], `max_delay` is no positive integer or
        `restart_every` is less than 1.

    Examples
    --------
    >>> from flower_compress.testing import RandomFaults
    >>> lossy = RandomFaults(seed=1, lose_messages=0.3, lose_replies=0.3)
    """

    seed: int = 0
    lose_messages: float = 0.0
    lose_replies: float = 0.0
    error_replies: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    max_delay: int = 3
    reorder: bool = True
    restart_every: float | None = None
    raise_before: float = 0.0
    raise_after: float = 0.0
    raise_outside: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            "lose_messages",
            "lose_replies",
            "error_replies",
            "duplicate",
            "delay",
            "raise_before",
            "raise_after",
            "raise_outside",
        ):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ConfigurationError(
                    f"{name} is a probability: expected a number from 0 to 1, "
                    f"got {value!r}"
                )
        if not isinstance(self.max_delay, int) or self.max_delay < 1:
            raise ConfigurationError(
                "max_delay counts exchanges: expected a positive integer, got "
                f"{self.max_delay!r}; to delay nothing, leave delay at 0"
            )
        every = self.restart_every
        if every is not None and not (isinstance(every, int | float) and every >= 1):
            raise ConfigurationError(
                "restart_every counts messages: expected a number of at least 1, got "
                f"{every!r}; None lets no client restart"
            )

    @property
    def rates(self) -> dict[Fault, float]:
        """The probability of each fault, in the order of :class:`Fault`."""
        restart = 0.0 if self.restart_every is None else 0.5 / self.restart_every
        return {
            Fault.LOSE_MESSAGE: self.lose_messages,
            Fault.LOSE_REPLY: self.lose_replies,
            Fault.ERROR_REPLY: self.error_replies,
            Fault.DELAY_MESSAGE: self.delay,
            Fault.DELAY_REPLY: self.delay,
            Fault.DUPLICATE_MESSAGE: self.duplicate,
            Fault.DUPLICATE_REPLY: self.duplicate,
            Fault.RAISE_BEFORE: self.raise_before,
            Fault.RAISE_AFTER: self.raise_after,
            Fault.RAISE_OUTSIDE: self.raise_outside,
            Fault.RESTART_BEFORE: restart,
            Fault.RESTART_AFTER: restart,
        }

    @property
    def possible(self) -> frozenset[Fault]:
        """Every fault of positive probability."""
        return frozenset(fault for fault, rate in self.rates.items() if rate > 0)

    def draw(self, exchange: int, position: int) -> Faults:
        """Return the faults of message `position` of exchange `exchange`, from 0."""
        rng = random.Random(f"{self.seed}/{exchange}/{position}")
        faults = {}
        for fault, rate in self.rates.items():
            happens, late = rng.random() < rate, rng.random()
            if happens:
                least, most = self._delays(fault)
                faults[fault] = least + int(late * (most - least + 1))
        return faults

    def _delays(self, fault: Fault) -> tuple[int, int]:
        """Return the shortest and the longest delay that belong to a fault."""
        if fault in (Fault.DELAY_MESSAGE, Fault.DELAY_REPLY):
            return 1, self.max_delay
        if fault in (Fault.DUPLICATE_MESSAGE, Fault.DUPLICATE_REPLY):
            return 0, self.max_delay
        return 0, 0

    def order(
        self, exchange: int, direction: Literal["messages", "replies"], size: int
    ) -> Sequence[int]:
        """Return the permutation in which `size` messages or replies arrive."""
        if not self.reorder:
            return range(size)
        rng = random.Random(f"{self.seed}/{exchange}/{direction}")
        return rng.sample(range(size), size)
