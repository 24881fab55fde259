"""What a callback is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from flwr.serverapp.strategy import Result

from flower_compress.wire.ledger import Traffic

__all__ = ["Callback", "ClientEvent", "EventKind", "RoundMetrics", "RunInfo"]

EventKind = Literal["joined", "refused", "resynchronised", "forgotten", "lost"]
"""What may happen to a client; see :class:`ClientEvent`."""

Metrics = Mapping[str, int | float | list[int] | list[float]]


@dataclass(frozen=True)
class RunInfo:
    """A run that begins, or goes on.

    Attributes
    ----------
    name : str
        What the log calls the strategy.
    session : int
        The run's number, the same in all that it is resumed by.
    num_rounds : int
        Number of the last round.
    resumed_from : int
        The round of the checkpoint that it goes on from, 0 for a new run. What was told
        of later rounds before is told again.
    """

    name: str
    session: int
    num_rounds: int
    resumed_from: int = 0


@dataclass(frozen=True)
class ClientEvent:
    """Something that happened to a client, or to a node of a decentralized run.

    Attributes
    ----------
    kind : {"joined", "refused", "resynchronised", "forgotten", "lost"}
        It was greeted, as a new client or on another node. It, its update or its claim
        to an identity was refused. It lost step and will be sent everything. It is gone
        for good (see ``forget_after``). Its part in this round is lost: it was silent,
        late, reported an error, or is not connected any more.
    server_round : int
        The round, 0 before the first.
    identity : int, optional
        The client's own number; None if that is not known.
    node_id : int
        The Flower node that it runs on, 0 if that is not known.
    reason : str
        Why, for people.
    """

    kind: EventKind
    server_round: int
    identity: int | None
    node_id: int
    reason: str = ""

    def __str__(self) -> str:
        """Return the event as a line of keys and values."""
        identity = "?" if self.identity is None else self.identity
        line = (
            f"client {self.kind} identity={identity} node={self.node_id} "
            f"round={self.server_round}"
        )
        reason = self.reason.replace('"', "'").replace("\n", " ")
        return f'{line} reason="{reason}"' if reason else line


@dataclass(frozen=True)
class RoundMetrics:
    """What is known of a round at its end.

    Attributes
    ----------
    train, evaluate, evaluate_at_server : Mapping
        The metrics as :class:`flwr.serverapp.strategy.Result` holds them: of the
        clients' training, of their evaluation, and of ``evaluate_fn``; empty without.
    uplink, downlink : Traffic
        What was sent since the round before: bytes, messages, payload bits, dense
        bytes; greetings and evaluations included. They add up to the ledger's totals.
    clients : Mapping[str, int]
        How many events of each kind there were since then.
    seconds : float
        How long the round took.
    """

    train: Metrics = field(default_factory=dict)
    evaluate: Metrics = field(default_factory=dict)
    evaluate_at_server: Metrics = field(default_factory=dict)
    uplink: Traffic = field(default_factory=Traffic)
    downlink: Traffic = field(default_factory=Traffic)
    clients: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def scalars(self) -> Iterator[tuple[str, float]]:
        """Yield every number with a name, as ``"train/loss"`` or ``"uplink/bytes"``.

        The entries of a list are numbered from 0, as ``"train/loss/0"``.
        """
        tables = {
            "train": self.train,
            "evaluate": self.evaluate,
            "server": self.evaluate_at_server,
            "clients": self.clients,
        }
        for table, metrics in tables.items():
            for name, value in metrics.items():
                if isinstance(value, list):
                    for i, entry in enumerate(value):
                        yield f"{table}/{name}/{i}", float(entry)
                else:
                    yield f"{table}/{name}", float(value)
        for direction in ("uplink", "downlink"):
            traffic: Traffic = getattr(self, direction)
            for name, number in traffic.numbers().items():
                yield f"{direction}/{name}", float(number)
        yield "seconds", self.seconds


class Callback:
    """Looks on at a run. Override what is of interest; each hook does nothing else.

    All hooks are called in the process of the strategy, between its steps: what takes
    long holds up the run. What they are given is not to be changed.
    """

    def on_start(self, run: RunInfo) -> None:
        """Be told that a run begins, or goes on."""

    def on_round(self, server_round: int, metrics: RoundMetrics) -> None:
        """Be told of a round at its end; of round 0 if ``evaluate_fn`` has one."""

    def on_event(self, event: ClientEvent) -> None:
        """Be told what happened to a client, as it happens."""

    def on_end(self, result: Result, error: BaseException | None) -> None:
        """Be told that a run is over: `error` has ended it, if anything has."""
