"""Updates that would spoil the model: refused, counted, told; and the round goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from flower_compress import Identity, TopK
from flower_compress.links import Channel, Payload
from flower_compress.strategies import (
    MCM,
    QSGD,
    SGD,
    CompressedStrategy,
    Diana,
    DoubleSqueeze,
    RandMCM,
)
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import InProcessGrid
from flower_compress.wire.packet import Packet, find_packet, packet_record
from tests.strategies.problem import (
    DIM,
    INITIAL,
    NUM_CLIENTS,
    Vector,
    make_app,
    to_record,
    to_vector,
)
from tests.strategies.test_equations import options

POISONED, ROUNDS, LIMIT = 3, 20, 50.0
SPOILT_ROUNDS = (5, 6, 11)
Spoil = Callable[[Vector], Vector]


class Spoiler:
    """A mod next to the train function: in some rounds the gradient is wrong."""

    def __init__(self, spoil: Spoil) -> None:
        self.spoil = spoil

    def __call__(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        reply = call_next(msg, context)
        server_round = msg.content["config"]["server-round"]
        if (
            context.node_config["partition-id"] == POISONED
            and server_round in SPOILT_ROUNDS
        ):
            vector = to_vector(reply.content["arrays"])
            reply.content["arrays"] = to_record(self.spoil(vector))
        return reply


HUGE_AT_TIMES = Spoiler(lambda vector: vector * np.float32(1e6))


def run(
    strategy: CompressedStrategy, app: ClientApp, rounds: int = ROUNDS
) -> tuple[Vector, list[Packet]]:
    """Return the model and the packets that the poisoned client received."""
    received: list[Packet] = []

    def note(message: Message, _: Message) -> None:
        found = find_packet(message.content)
        if message.metadata.dst_node_id == 1001 + POISONED and found is not None:
            received.append(Packet.parse(found[1]))

    grid = InProcessGrid(app, NUM_CLIENTS, on_message=note)
    result = strategy.start(grid, to_record(INITIAL), rounds)
    return to_vector(result.arrays), [p for p in received if not p.greeting]


STRATEGIES: list[tuple[type[CompressedStrategy], dict[str, Any]]] = [
    (SGD, {}),
    (QSGD, {}),
    (Diana, {}),
    (Diana, {"uplink_memory": "mean"}),
    (Diana, {"uplink_memory": "sampled"}),
    (MCM, {}),
    (RandMCM, {}),
    (DoubleSqueeze, {"compressor": TopK(k=3)}),
]
EVERY = pytest.mark.parametrize(("cls", "extra"), STRATEGIES)


@cache
def honest_model(
    cls: type[CompressedStrategy], extra: tuple[tuple[str, Any], ...]
) -> Vector:
    return run(cls(**options(cls, dict(extra))), make_app())[0]


@EVERY
def test_an_absurd_norm_is_refused_and_the_client_recovers(
    cls: type[CompressedStrategy],
    extra: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    strategy = cls(**options(cls, {"max_update_norm": LIMIT, **extra}))
    huge = make_app(inner=[HUGE_AT_TIMES])
    model, received = run(strategy, huge)
    assert strategy.refused == {POISONED: len(SPOILT_ROUNDS)}
    told = [k for k, packet in enumerate(received, 1) if packet.refused]
    assert told == [k + 1 for k in SPOILT_ROUNDS], "told once, with the next message"
    assert re.search(
        rf"client refused identity={POISONED} node={1001 + POISONED} round=\d+ "
        r'reason="RefusedUpdateError.*at most 50',
        caplog.text,
    )
    # As good as the run in which that client did not answer in those rounds.
    reference = honest_model(cls, tuple(extra.items()))
    distance = np.linalg.norm(model - reference)
    assert distance < 0.3 * np.linalg.norm(reference - INITIAL)
    unprotected, _ = run(cls(**options(cls, {"max_norm_ratio": None, **extra})), huge)
    assert np.linalg.norm(unprotected - reference) > 1e3, "the test can fail"


def test_a_refused_update_does_not_come_back_with_the_error() -> None:
    """Error feedback would send it again and again: the error is forgotten."""
    strategy = DoubleSqueeze(
        **options(DoubleSqueeze, {"compressor": TopK(k=3), "max_update_norm": LIMIT})
    )
    run(strategy, make_app(inner=[HUGE_AT_TIMES]))
    assert strategy.refused.total() == len(SPOILT_ROUNDS)


@EVERY
def test_the_clients_own_mod_refuses_what_is_not_finite(
    cls: type[CompressedStrategy], extra: dict[str, Any]
) -> None:
    strategy, values = cls(**options(cls, extra)), iter([np.nan, np.inf, -np.inf])
    broken = Spoiler(lambda vector: vector * np.float32(next(values)))
    model, _ = run(strategy, make_app(inner=[broken]))
    assert strategy.refused == {POISONED: len(SPOILT_ROUNDS)}
    assert np.isfinite(model).all()


def test_metrics_count_the_refusals_of_the_round() -> None:
    strategy = SGD(**options(SGD, {"max_update_norm": LIMIT}))
    app = make_app(inner=[HUGE_AT_TIMES])
    grid = InProcessGrid(app, NUM_CLIENTS)
    result = strategy.start(grid, to_record(INITIAL), ROUNDS)
    counts = {
        k: metrics["refused-updates"]
        for k, metrics in result.train_metrics_clientapp.items()
    }
    assert counts == {k: int(k in SPOILT_ROUNDS) for k in range(1, ROUNDS + 1)}


class Forger:
    """A hostile client: a mod around ours that replaces the answer's packet."""

    def __init__(self, forge: Callable[[Packet], Packet | bytes]) -> None:
        self.forge = forge

    def __call__(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        reply = call_next(msg, context)
        if context.node_config["partition-id"] != POISONED or reply.has_error():
            return reply
        found = find_packet(reply.content)
        if found is not None and not (packet := Packet.parse(found[1])).greeting:
            record = packet_record(packet)
            forged = self.forge(packet)
            data = forged if isinstance(forged, bytes) else forged.data
            record["packet"].data = data
            record["packet"].shape = (len(data),)
            reply.content[found[0]] = record
        return reply


def forged(packet: Packet, vector: Vector) -> Packet:
    channel = Channel(Stream(1, Purpose.UPLINK, POISONED, packet.version))
    payload = Payload.encode(vector, Identity(), "auto", channel)
    fields = {"session": packet.session, "version": packet.version}
    return Packet(**fields, acked=packet.acked, dim=vector.size, payloads=(payload,))


def inner_bytes(packet: Packet) -> bytes:
    """A packet whose checksum is right and whose payload is nonsense."""
    broken = Payload(b"\x02\x05nonsense", packet.dim)
    fields = {"session": packet.session, "version": packet.version}
    return Packet(**fields, acked=packet.acked, dim=packet.dim, payloads=(broken,)).data


HUGE = np.full(DIM, 1e38, dtype=np.float32)
FORGERIES: dict[str, Callable[[Packet], Packet | bytes]] = {
    "of another length": lambda packet: forged(packet, np.ones(DIM + 1, np.float32)),
    "infinite when squared": lambda packet: forged(packet, HUGE),
    "undecodable": inner_bytes,
    "no packet at all": lambda packet: b"nonsense",
}


# Each of them once, and of each strategy the one that gets furthest.
@pytest.mark.parametrize(
    ("cls", "extra", "name"),
    [
        *((cls, extra, "infinite when squared") for cls, extra in STRATEGIES),
        *((MCM, {}, name) for name in FORGERIES if name != "infinite when squared"),
    ],
)
def test_a_hostile_client_is_left_out(
    cls: type[CompressedStrategy], extra: dict[str, Any], name: str
) -> None:
    strategy = cls(**options(cls, {"max_update_norm": LIMIT, **extra}))
    app = make_app(outer=[Forger(FORGERIES[name])])
    model, _ = run(strategy, app)
    assert strategy.refused == {POISONED: ROUNDS}
    honest = honest_model(cls, tuple(extra.items()))
    assert np.linalg.norm(model - honest) < np.linalg.norm(honest - INITIAL)


# --- Fewer replies than asked ---------------------------------------------------------


def test_more_replies_than_are_asked_for_are_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strategy = MCM(min_replies=4, fraction_train=0.5, fraction_evaluate=0.0)
    model, _ = run(strategy, make_app())
    assert (model == INITIAL).all()
    told = [each.message for each in caplog.records if "asks" in each.message]
    assert len(told) == 1 and f"asks 2 of {NUM_CLIENTS} clients, and min_re" in told[0]


@EVERY
def test_too_few_replies_leave_model_and_memories_as_they_are(
    cls: type[CompressedStrategy], extra: dict[str, Any]
) -> None:
    """Rounds 5, 6 and 11 have four replies of five: skipped, as if never asked."""

    def broken(vector: Vector) -> Vector:
        return vector * np.float32(np.nan)

    strategy = cls(**options(cls, {"min_replies": NUM_CLIENTS, **extra}))
    models: dict[int, bytes] = {}
    sums: dict[int, bytes] = {}

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        models[server_round] = to_vector(arrays).tobytes()
        memory_sum = strategy._running.uplinks.memories.sum
        sums[server_round] = b"" if memory_sum is None else memory_sum.tobytes()
        return None

    grid = InProcessGrid(make_app(inner=[Spoiler(broken)]), NUM_CLIENTS)
    strategy.start(grid, to_record(INITIAL), ROUNDS, evaluate_fn=evaluate)
    for k in range(1, ROUNDS + 1):
        skipped = k in SPOILT_ROUNDS
        assert (models[k] == models[k - 1]) is skipped
        if sums[ROUNDS]:
            assert (sums[k] == sums[k - 1]) is skipped
