"""All that is tried, and what has to come of it."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Context, Message, MessageType, RecordDict, UserConfig
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from flower_compress import CompressionMod, Identity
from flower_compress.links import Direct
from flower_compress.strategies import (
    MCM,
    Artemis,
    CompressedStrategy,
    Diana,
    Dore,
    RandMCM,
    compress,
)
from flower_compress.strategies.server import vector_store
from flower_compress.testing import InProcessGrid
from flower_compress.wire.contract import Contract
from flower_compress.wire.layout import Layout, Tensor
from flower_compress.wire.packet import Packet, find_packet, packet_record

from . import attacks, relay
from .fleet import STEP, Ended, Fleet, Liar, apart, run, silenced, targets

NUM_CLIENTS = 10
LIAR = 3
ROUNDS = 20
TOLERANCE = 0.05
MOST_BYTES = 2.0
MOST_TIME = 10.0
"""What a liar may cost the server, against a run without one: bytes down, and time."""
STRATEGIES: dict[str, type[CompressedStrategy]] = {
    "MCM": MCM,
    "RandMCM": RandMCM,
    "Diana": Diana,
    "Artemis": Artemis,
    "Dore": Dore,
}


class Outcome(NamedTuple):
    """What came of a case."""

    happened: str
    cost: str
    holds: bool
    affordable: bool = True


@dataclass(frozen=True)
class Case:
    """Something that is tried.

    Parameters
    ----------
    group, name : str
        What it is about, and what is tried.
    run : Callable[[], Outcome]
        Tries it.
    quick : bool
        Whether it belongs to the short form.
    """

    group: str
    name: str
    run: Callable[[], Outcome]
    quick: bool = False


Make = Callable[..., Any]


def _strategy(kind: Make, **arguments: Any) -> Any:
    return kind(**{"fraction_evaluate": 0.0, **arguments})


@cache
def _honest(kind: Make) -> Ended:
    return run(_strategy(kind), Fleet(NUM_CLIENTS), ROUNDS)


def _optimum(without: set[int], of: int = NUM_CLIENTS) -> NDArray[np.float32]:
    stay = [i for i in range(of) if i not in without]
    return targets(of)[stay].mean(axis=0)


def _judge(
    ended: Ended, honest: Ended, references: list[NDArray[np.float32]]
) -> Outcome:
    """The nearest of what the run may end at, and that no honest client was refused."""
    distance = min(apart(ended.model, reference) for reference in references)
    spoilt = {
        name: value
        for name, value, expected in (
            ("variance", ended.variance, honest.variance),
            ("counter", ended.batches, honest.batches),
            ("loss", ended.loss, honest.loss),
        )
        if not abs(value - expected) <= TOLERANCE * abs(expected)
    }
    blamed = sorted(set(ended.refused) - {LIAR})
    refused = ended.refused.get(LIAR, 0)
    happened = ended.error[:60] or f"{distance:.1%} off, refused {refused}"
    if blamed:
        happened += f", honest ones refused: {blamed}"
    happened += "".join(f", {name} {value:.2g}" for name, value in spoilt.items())
    holds = not (ended.error or blamed or spoilt) and distance <= TOLERANCE
    num_bytes = ended.bytes_down / honest.bytes_down
    seconds = ended.seconds / honest.seconds
    affordable = num_bytes <= MOST_BYTES and seconds <= MOST_TIME
    cost = f"{num_bytes:.1f} x bytes down, {seconds:.1f} x time"
    return Outcome(happened, cost, holds, affordable)


def _with_liar(liar: Liar, kind: Make = MCM, **arguments: Any) -> Outcome:
    fleet = Fleet(NUM_CLIENTS, {LIAR: liar})
    ended, honest = run(_strategy(kind, **arguments), fleet, ROUNDS), _honest(kind)
    return _judge(ended, honest, [honest.model, _optimum({LIAR})])


# -- departures ----------------------------------------------------------------------


def _leave(
    kind: Make,
    of: int,
    gone: int,
    forget_after: int,
    rounds: int = 200,
    **arguments: Any,
) -> Outcome:
    fleet, leave = Fleet(of), set(range(of - gone, of))
    ended = run(
        _strategy(kind, forget_after=forget_after, **arguments),
        fleet,
        20 + forget_after + rounds,
        {20: lambda: fleet.away.update(leave)},
    )
    distance = apart(ended.model, _optimum(leave, of))
    happened = ended.error[:60] or f"{distance:.2%} off the optimum of the others"
    cost = f"{ended.bytes_down / 1e3:.0f} kB down, {ended.seconds:.1f} s"
    return Outcome(happened, cost, not ended.error and distance <= 0.01)


def _departures() -> Iterator[Case]:
    for name, kind in STRATEGIES.items():
        yield Case(
            "leave",
            f"10 of 20 leave, {name}",
            lambda kind=kind: _leave(kind, 20, 10, 30),  # type: ignore[misc]
        )
    yield Case(
        "leave",
        "10 of 20 leave, MCM, memory of the mean",
        lambda: _leave(MCM, 20, 10, 30, uplink_memory="mean"),
    )
    yield Case(
        "leave", "6 of 8 leave, MCM", lambda: _leave(MCM, 8, 6, 30, rounds=30), True
    )


# -- lies ----------------------------------------------------------------------------


def _far(w: NDArray[np.float32], _: int) -> NDArray[np.float32]:
    return w - np.float32(1e6)


def _huge(w: NDArray[np.float32], _: int) -> NDArray[np.float32]:
    return np.full_like(w, 3e38)


def _nan(w: NDArray[np.float32], _: int) -> NDArray[np.float32]:
    return np.full_like(w, np.nan)


def _examples(value: Any, first_only: bool = False) -> Liar:
    def metrics(before: int) -> list[dict[str, Any]]:
        given = 1.0 if first_only and before else value
        return [{"num-examples": given, "loss": 1.0}]

    return Liar(metrics=metrics)


LIES: dict[str, Callable[[], Liar]] = {
    "num-examples 1e308": lambda: _examples(1e308),
    "num-examples 1e18, then 1": lambda: _examples(1e18, first_only=True),
    "num-examples NaN": lambda: _examples(float("nan")),
    "num-examples -1": lambda: _examples(-1),
    "num-examples a list": lambda: _examples([1, 2]),
    "a metric that is a list": lambda: Liar(
        metrics=lambda _: [{"num-examples": 10, "loss": [1.0, 2.0]}]
    ),
    "a second MetricRecord": lambda: Liar(
        metrics=lambda _: [{"num-examples": 10, "loss": 1.0}, {"num-examples": 1e9}]
    ),
    "weights of 3e38": lambda: Liar(training=_huge),
    "weights of NaN": lambda: Liar(training=_nan),
    "weights 1e6 away": lambda: Liar(training=_far),
    "running variance -1e30": lambda: Liar(variance=-1e30),
    "running variance 3.4e38": lambda: Liar(variance=3.4e38),
    "a counter of 2^63 - 1": lambda: Liar(batches=2**63 - 1),
    "dense instead of the operator": lambda: Liar(answer=attacks.dense(50.0)),
    "dense once, then silence": lambda: Liar(answer=attacks.dense(50.0, only=1)),
    "random bytes as payload": lambda: Liar(answer=attacks.noise),
    "empty payloads, final": lambda: Liar(answer=attacks.no_payload_at_all),
    "100,000 empty payloads": lambda: Liar(answer=attacks.many_payloads(100_000)),
    "asks for everything each round": lambda: Liar(answer=attacks.resynchronise),
}


def _compressed(**arguments: Any) -> Any:
    fraction = arguments.pop("fraction_evaluate")
    return compress(FedAvg(fraction_evaluate=fraction), **arguments)


def _evaluates(value: Any) -> Liar:
    return Liar(evaluation={"num-examples": value, "loss": 1e9})


def _pushes(uplink_memory: str) -> Outcome:
    """Push with all that `max_update_norm` admits: what a mean cannot keep out.

    At rest the honest clients pull back what it pushes: (N - 1) c off = limit.
    """
    honest, limit = _honest(MCM), 20.0

    def push(w: NDArray[np.float32], _: int) -> NDArray[np.float32]:
        return w + np.float32(0.9 * limit / w.size**0.5)

    liar = Liar(training=push)
    fleet = Fleet(NUM_CLIENTS, {LIAR: liar})
    arguments = {"uplink_memory": uplink_memory, "max_update_norm": limit}
    ended = run(_strategy(MCM, **arguments), fleet, 3 * ROUNDS)
    off = float(np.linalg.norm(ended.model - _optimum({LIAR})))
    most = limit / ((NUM_CLIENTS - 1) * STEP)
    blamed = sorted(set(ended.refused) - {LIAR})
    happened = f"{off:.1f} off, {most:.1f} is what the limit lets it push"
    if blamed:
        happened += f", honest ones refused: {blamed}"
    seconds = ended.seconds / honest.seconds / 3
    cost = f"{seconds:.1f} x time"
    return Outcome(happened, cost, not (ended.error or blamed) and off <= 1.1 * most)


QUICK_LIES = (
    "num-examples 1e18, then 1",
    "weights 1e6 away",
    "running variance 3.4e38",
    "dense once, then silence",
    "random bytes as payload",
    "asks for everything each round",
)


def _lies() -> Iterator[Case]:
    for name, liar in LIES.items():
        yield Case(
            "lies",
            name,
            lambda liar=liar: _with_liar(liar()),  # type: ignore[misc]
            quick=name in QUICK_LIES,
        )
    for name, kind in {**STRATEGIES, "compress(FedAvg)": _compressed}.items():
        if kind is MCM:
            continue
        for lie in ("weights 1e6 away", "num-examples 1e308"):
            yield Case(
                "lies",
                f"{lie}, {name}",
                lambda kind=kind, lie=lie: _with_liar(LIES[lie](), kind),  # type: ignore[misc]
            )
    for value in (1e308, float("nan"), -1):
        yield Case(
            "lies",
            f"num-examples {value:g} in an evaluation",
            lambda value=value: _with_liar(  # type: ignore[misc]
                _evaluates(value), fraction_evaluate=1.0
            ),
        )
    for memory in ("each", "mean"):
        yield Case(
            "lies",
            f'pushes at its limit, uplink_memory="{memory}"',
            lambda memory=memory: _pushes(memory),  # type: ignore[misc]
        )


# -- identities ----------------------------------------------------------------------


def _claim(identity: int) -> Callable[[], CompressionMod]:
    """A mod whose liar says that it is another client."""

    def named(context: Context) -> int:
        number = int(context.node_config["partition-id"])
        return identity if number == LIAR else number

    return lambda: CompressionMod(identity=named)


def _claims(join_at: int) -> Outcome:
    """Another's identity, from a round on: is its memory given away, is it heard?"""
    victim, given = 0, 0
    fleet = Fleet(NUM_CLIENTS, mod=_claim(victim))
    strategy, heard = _strategy(MCM), [0]
    node_ids = list(fleet.contexts)

    def watch(msg: Message, reply: Message) -> None:
        nonlocal given
        node_id = msg.metadata.dst_node_id
        found = find_packet(msg.content)
        packet = None if found is None else Packet.parse(found[1])
        if node_id == node_ids[LIAR]:
            given += packet is not None and packet.memory is not None
        elif node_id == node_ids[victim] and packet is not None:
            heard[0] += not packet.greeting

    fleet.on_message = watch
    fleet.away = {LIAR} if join_at > 1 else set()
    ended = run(strategy, fleet, ROUNDS, {join_at: fleet.away.clear})
    outcome = _judge(ended, _honest(MCM), [_honest(MCM).model, _optimum({LIAR})])
    happened = f"{outcome.happened}, the victim asked {heard[0]} of {ROUNDS} times"
    holds = outcome.holds and not given and heard[0] == ROUNDS
    return outcome._replace(happened=happened, holds=holds)


def _without_mod() -> Outcome:
    """One app without the mod, in the first greeting."""
    return _with_liar(Liar(answer=attacks.no_mod))


def _identities() -> Iterator[Case]:
    yield Case("identity", "claims client 0 in the first greeting", lambda: _claims(1))
    yield Case("identity", "claims client 0 later", lambda: _claims(10), quick=True)
    yield Case("identity", "one app without the mod", _without_mod)


# -- without a server's model --------------------------------------------------------


def _letters(
    topology: str, change: relay.Change, *, once: bool, num_nodes: int = relay.N
) -> Outcome:
    started = perf_counter()
    model, failed, error = relay.run(
        relay.TOPOLOGIES[topology], change, once=once, num_nodes=num_nodes
    )
    off = min(relay.distance(model, set()), relay.distance(model, {relay.LIAR}))
    happened = error[:60] or f"{off:.1%} off, {failed} answers failed"
    cost = f"{perf_counter() - started:.1f} s"
    return Outcome(happened, cost, not error and off <= TOLERANCE and not failed)


def _relay() -> Iterator[Case]:
    for name, change, once in (
        ("one letter that cannot be read", relay.garbled, True),
        ("all letters of a node", relay.garbled, False),
        ("20,000 empty letters a posting", relay.empty, False),
    ):
        for topology in relay.TOPOLOGIES:
            yield Case(
                "relay",
                f"{name}, {topology}",
                lambda t=topology, c=change, o=once: _letters(t, c, once=o),  # type: ignore[misc]
            )
    yield Case(
        "relay",
        "a node outside the topology",
        lambda: _letters("ring", lambda p: p, once=False, num_nodes=relay.N + 1),
    )


# -- against a client, and the server's disk -----------------------------------------


def _contract(dim: int, max_dim: int | None) -> Outcome:
    """A server that sends a contract of a few bytes for a model of many."""
    layout = Layout((Tensor("w", (dim,), "float32", False),))
    contract = Contract(layout, Direct(Identity()), None, 3).to_bytes()
    packet = Packet(7, 0, 1, dim=min(dim, 2**32 - 1), contract=contract)
    InProcessGrid(lambda msg, _: msg, 1)  # As in a process that runs an app.
    msg = Message(RecordDict({"arrays": packet_record(packet)}), 7, MessageType.TRAIN)
    context = Context(1, 7, {"partition-id": 1}, RecordDict(), UserConfig({}))
    tracemalloc.start()
    with silenced():
        reply = CompressionMod(max_dim=max_dim)(msg, context, lambda m, _: m)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    said = reply.error.reason if reply.has_error() else "taken"
    holds = reply.has_error() and peak < 1 << 20
    return Outcome(said[:60], f"{peak / 1e3:.0f} kB allocated", holds)


def _full_disk() -> Outcome:
    """Every second checkpoint, and every third memory, cannot be written."""
    writes = [0]
    replace, transfer = os.replace, vector_store._repeat

    def fails(every: int) -> None:
        writes[0] += 1
        if writes[0] % every == 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def move(*names: Any) -> None:
        fails(2)
        replace(*names)

    def write(do: Callable[..., Any], vector: Any) -> None:
        if do.__name__ == "write":
            fails(3)
        transfer(do, vector)

    os.replace, vector_store._repeat = move, write
    try:
        with TemporaryDirectory() as folder:
            strategy = _strategy(
                RandMCM, memory_budget=0, checkpoint_dir=folder, checkpoint_every=3
            )
            ended = run(strategy, Fleet(NUM_CLIENTS), ROUNDS)
    finally:
        os.replace, vector_store._repeat = replace, transfer
    said = sum("No space left" in line for line in ended.log)
    outcome = _judge(ended, _honest(RandMCM), [_honest(RandMCM).model])
    happened = f"{outcome.happened}, told {said} times"
    return outcome._replace(happened=happened, holds=outcome.holds and said > 0)


def _ends() -> Iterator[Case]:
    for dim, most in ((4 * 10**8, 10**6), (4 * 10**9, None), (4 * 10**11, None)):
        yield Case(
            "client",
            f"a contract of a model of {dim:.0e} entries",
            lambda dim=dim, most=most: _contract(dim, most),  # type: ignore[misc]
            quick=True,
        )
    yield Case("server", "the disk is full again and again", _full_disk, quick=True)


def cases() -> list[Case]:
    """All that is tried."""
    return [*_departures(), *_identities(), *_lies(), *_relay(), *_ends()]
