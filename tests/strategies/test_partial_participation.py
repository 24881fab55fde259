"""Memories of clients that come and go, against NumPy loops, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

from flower_compress import Direct, ErrorFeedback, Identity, TopK
from flower_compress.errors import ConfigurationError, UnknownNameError
from flower_compress.links import SenderState
from flower_compress.mods.client_state import ClientState
from flower_compress.strategies import MCM, SGD, CompressedStrategy, Diana, RandMCM
from flower_compress.strategies.server.sampling import sample
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import InProcessGrid
from flower_compress.wire.packet import Packet, find_packet, packet_record
from tests.strategies.problem import (
    DIM,
    INITIAL,
    NUM_CLIENTS,
    Vector,
    gradient,
    make_app,
    to_record,
    to_vector,
)
from tests.strategies.test_equations import (
    ALPHA,
    CLIENTS,
    QUANTIZER,
    ROUNDS,
    SEED,
    STEP,
    down,
    options,
    up,
    zeros,
)

FRACTION = 0.4
NUM_SAMPLED = 2
Hook = Callable[[InProcessGrid, int], None]


def sampled(k: int) -> list[int]:
    """The clients of round k."""
    draw = Stream(SEED, Purpose.SAMPLING, 0, k).generator()
    return sorted(draw.choice(NUM_CLIENTS, NUM_SAMPLED, replace=False).tolist())


def run(strategy: CompressedStrategy, after_round: Hook | None = None) -> Vector:
    grid = InProcessGrid(make_app("gradient"), NUM_CLIENTS)

    def evaluate(server_round: int, _: ArrayRecord) -> MetricRecord | None:
        if after_round is not None:
            after_round(grid, server_round)
        return None

    result = strategy.start(grid, to_record(INITIAL), ROUNDS, evaluate_fn=evaluate)
    return to_vector(result.arrays)


def strategy(cls: type[CompressedStrategy], **extra: Any) -> CompressedStrategy:
    return cls(**options(cls, {"fraction_train": FRACTION, **extra}))


def total(vectors: list[Vector]) -> np.ndarray:
    """Sum in float64, in order."""
    result = np.zeros(DIM)
    for vector in vectors:
        result += vector
    return result


# --- Uplink memories ------------------------------------------------------------------


def test_only_the_mean_of_the_memories() -> None:
    w, h, hbar = INITIAL, zeros(), np.zeros(DIM)
    for k in range(1, ROUNDS + 1):
        q = {i: up(QUANTIZER, gradient(i, w, k) - h[i], i, k + 1) for i in sampled(k)}
        g = total([*q.values()]) / NUM_SAMPLED + hbar / NUM_CLIENTS
        for i, payload in q.items():
            h[i] = h[i] + ALPHA * payload
            hbar = hbar + ALPHA * payload
        w = w + STEP * g.astype(np.float32)
    actual = run(strategy(Diana, uplink_memory="mean"))
    assert actual.tobytes() == w.tobytes()
    each = run(strategy(Diana))
    np.testing.assert_allclose(actual, each, rtol=0, atol=1e-5)
    assert actual.tobytes() != run(strategy(Diana, uplink_memory="sampled")).tobytes()


def test_the_mean_begins_anew_when_a_client_has_lost_its_memory() -> None:
    lost_after, client = 12, 3
    w, h, hbar = INITIAL, zeros(), np.zeros(DIM)
    epoch, epoch_of = 0, dict.fromkeys(CLIENTS, 0)
    took_part: set[int] = set()
    has_lost = False
    for k in range(1, ROUNDS + 1):
        parts = sampled(k)
        for i in parts:
            if epoch_of[i] != epoch:
                h[i], epoch_of[i] = np.zeros(DIM, dtype=np.float32), epoch
        if has_lost and client in parts:
            h[client] = np.zeros(DIM, dtype=np.float32)
        q = {i: up(QUANTIZER, gradient(i, w, k) - h[i], i, k + 1) for i in parts}
        if has_lost and client in parts:
            used = [q[i] for i in parts if i != client]
            g = total(used) / len(used) + hbar / NUM_CLIENTS
            hbar, epoch, has_lost = np.zeros(DIM), epoch + 1, False
        else:
            g = total([*q.values()]) / NUM_SAMPLED + hbar / NUM_CLIENTS
            for i, payload in q.items():
                h[i] = h[i] + ALPHA * payload
                hbar = hbar + ALPHA * payload
        took_part.update(parts)
        w = w + STEP * g.astype(np.float32)
        if k == lost_after:
            assert client in took_part, "else nothing is lost"
            has_lost = True
    assert epoch == 1

    def hook(grid: InProcessGrid, server_round: int) -> None:
        if server_round == lost_after:
            lose_uplink_memory(grid, client)

    actual = run(strategy(Diana, uplink_memory="mean"), hook)
    assert actual.tobytes() == w.tobytes()


def lose_uplink_memory(grid: InProcessGrid, client: int) -> None:
    """Take a client's uplink memory; with the rest it answers the next message."""
    record = grid.contexts[1001 + client].state.config_records["flower_compress"]
    state = ClientState.from_bytes(record["state"])  # type: ignore[arg-type]
    assert state is not None
    record["state"] = state._replace(sender=SenderState()).to_bytes(DIM)


def test_only_the_sampled_memories() -> None:
    w, h = INITIAL, zeros()
    for k in range(1, ROUNDS + 1):
        g = np.zeros(DIM)
        for i in sampled(k):
            q = up(QUANTIZER, gradient(i, w, k) - h[i], i, k + 1)
            if h[i].any():
                g += h[i]
            g += q
            h[i] = h[i] + ALPHA * q
        w = w + STEP * (g / NUM_SAMPLED).astype(np.float32)
    actual = run(strategy(Diana, uplink_memory="sampled"))
    assert actual.tobytes() == w.tobytes()


# --- Downlink memories ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("reset_every", "first_model"),
    [("auto", "dense"), (7, "dense"), (None, "dense"), (7, 4)],
)
def test_one_averaged_memory(reset_every: Any, first_model: Any) -> None:
    """Eq. (S1), with the clients that take part, and resets when they are met."""
    ours = strategy(
        RandMCM, memory="average", reset_every=reset_every, first_model=first_model
    )
    actual = run(ours)
    start = ours._running.beginning.vector
    assert (first_model == "dense") == np.array_equal(start, INITIAL)
    interval = round(4 * math.sqrt(DIM)) if reset_every == "auto" else reset_every
    assert interval is None or interval < ROUNDS
    w, h = INITIAL, zeros()
    average = start.astype(np.float64)
    memory = [start for _ in CLIENTS]
    version = dict.fromkeys(CLIENTS, 1)
    for k in range(1, ROUNDS + 1):
        held = average.astype(np.float32)
        if interval is not None and k > 1 and (k - 1) % interval == 0:
            memory = [held for _ in CLIENTS]  # also of those that are met later
        q, sent = {}, {}
        for i in sampled(k):
            version[i] += 1
            sent[i] = down(QUANTIZER, w - held, i, version[i])
            w_hat = memory[i] + sent[i]
            memory[i] = memory[i] + ALPHA * sent[i]
            q[i] = up(QUANTIZER, gradient(i, w_hat, k) - h[i], i, version[i])
        for i in sampled(k):
            average = average + (ALPHA * sent[i]).astype(np.float64) / NUM_CLIENTS
        np.testing.assert_allclose(np.mean(memory, axis=0), average, atol=1e-6)
        g = total([*q.values()]) / NUM_SAMPLED + total(h) / NUM_CLIENTS
        for i in sampled(k):
            h[i] = h[i] + ALPHA * q[i]
        w = w + STEP * g.astype(np.float32)
    assert actual.tobytes() == w.tobytes()


def test_resets_are_billed() -> None:
    def snapshots(reset_every: int | None) -> int:
        ours = RandMCM(
            **options(RandMCM, {"memory": "average", "reset_every": reset_every})
        )
        run(ours)
        return ours.ledger.downlink.snapshot_bytes // (4 * DIM)

    assert snapshots(None) == NUM_CLIENTS
    assert snapshots(10) == NUM_CLIENTS * 3  # round 1, 11 and 21


@pytest.mark.parametrize(
    ("cls", "extra"),
    [
        (Diana, {}),
        (Diana, {"uplink_memory": "sampled"}),
        (MCM, {}),
        (RandMCM, {}),
        (RandMCM, {"memory": "average", "reset_every": 5}),
    ],
)
def test_memories_on_disk_change_nothing(
    cls: type[CompressedStrategy], extra: dict[str, Any]
) -> None:
    spilled = strategy(cls, memory_budget=3 * 4 * DIM, **extra)
    assert run(spilled).tobytes() == run(strategy(cls, **extra)).tobytes()
    store = spilled._running.uplinks._store
    assert store.num_bytes_on_disk > 0
    assert store.num_bytes_in_ram == 3 * 4 * DIM


# --- Sampling -------------------------------------------------------------------------


def test_bernoulli_draws_every_client_on_its_own() -> None:
    drawn = np.zeros((2000, 10), dtype=bool)
    for at in range(len(drawn)):
        drawn[at, sample(list(range(10)), 0.3, 5, "bernoulli", 1, at)] = True
    counts = drawn.sum(axis=0)
    deviation = math.sqrt(2000 * 0.3 * 0.7)
    assert np.all(np.abs(counts - 600) < 4 * deviation)
    sizes = drawn.sum(axis=1)
    assert abs(sizes.var() - 10 * 0.3 * 0.7) < 0.3  # a fixed number would give 0
    pairs = np.corrcoef(drawn.T.astype(float)) - np.eye(10)
    assert np.abs(pairs).max() < 4 / math.sqrt(2000)


def test_a_draw_is_a_function_of_seed_and_round() -> None:
    for sampling in ("fixed", "bernoulli"):
        draws = [
            tuple(sample(list(range(50)), 0.5, 1, sampling, seed, at))  # type: ignore[arg-type]
            for seed in (1, 2)
            for at in (1, 2)
        ]
        again = tuple(sample(list(range(50)), 0.5, 1, sampling, 1, 1))  # type: ignore[arg-type]
        assert len(set(draws)) == 4
        assert draws[0] == again


def test_a_round_in_which_nobody_is_drawn_changes_nothing() -> None:
    for cls in (MCM, Diana, RandMCM):
        nobody = strategy(cls, fraction_train=1e-9, sampling="bernoulli")
        assert run(nobody).tobytes() == INITIAL.tobytes()


def test_every_client_is_drawn_at_probability_one() -> None:
    all_of_them = run(strategy(MCM, fraction_train=1.0))
    drawn = run(strategy(MCM, fraction_train=1.0, sampling="bernoulli"))
    assert drawn.tobytes() == all_of_them.tobytes()


# --- Arguments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "extra", "error", "match"),
    [
        (Diana, {"uplink_memory": "all"}, UnknownNameError, "each, mean, sampled"),
        (Diana, {"sampling": "poisson"}, UnknownNameError, "bernoulli, fixed"),
        (RandMCM, {"memory": "mean"}, ConfigurationError, '"each" or "average"'),
        (RandMCM, {"memory": "average", "groups": 2}, ConfigurationError, "got 2"),
        (RandMCM, {"reset_every": 0}, ConfigurationError, "reset_every.*got 0"),
        (RandMCM, {"reset_every": "often"}, ConfigurationError, "'often'"),
        (Diana, {"memory_budget": -1}, ConfigurationError, "got -1"),
        (Diana, {"max_update_norm": 0.0}, ConfigurationError, "max_update_norm"),
        (Diana, {"checkpoint_every": 0}, ConfigurationError, "checkpoint_every"),
        (Diana, {"resume": True}, ConfigurationError, "checkpoint_dir"),
    ],
)
def test_wrong_arguments_are_named(
    cls: type[CompressedStrategy],
    extra: dict[str, Any],
    error: type[Exception],
    match: str,
) -> None:
    with pytest.raises(error, match=match):
        run(strategy(cls, **extra))


# --- Error feedback -------------------------------------------------------------------


class LosesReplies(InProcessGrid):
    """Loses the replies of given clients in given rounds."""

    lost: dict[int, list[int]]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return [
            reply
            for message in messages
            for reply in InProcessGrid.send_and_receive(self, [message])
            if not self.loses(message)
        ]

    def loses(self, message: Message) -> bool:
        found = find_packet(message.content)
        assert found is not None
        server_round = int(message.content["config"]["server-round"])
        client = message.metadata.dst_node_id - 1001
        greeting = Packet.parse(found[1]).greeting
        return client in self.lost.get(server_round, []) and not greeting


def test_what_a_lost_reply_carried_counts_when_it_comes() -> None:
    """g = sum_S q_i / sum_S n_i, with n_i gradients in q_i."""
    c = TopK(k=3)
    grid = LosesReplies(make_app(), NUM_CLIENTS)
    grid.lost = {3: [1], 4: [1, 2], 7: [0], 12: [0, 1, 2, 3]}
    w, e = INITIAL, zeros()
    carried = dict.fromkeys(CLIENTS, 0)
    for k in range(1, ROUNDS + 1):
        g, count = np.zeros(DIM), 0
        for i in CLIENTS:
            corrected = e[i] + gradient(i, w, k)
            carried[i] += 1
            if i in grid.lost.get(k, []):
                e[i] = corrected
                continue
            q = up(c, corrected, i, k + 1)
            e[i] = corrected - q
            g, count, carried[i] = g + q, count + carried[i], 0
        w = w + STEP * (g / count).astype(np.float32)
    ours = CompressedStrategy(
        ErrorFeedback(c), Direct(Identity()), **options(SGD, {"min_replies": 1})
    )
    result = ours.start(grid, to_record(INITIAL), ROUNDS)
    assert to_vector(result.arrays).tobytes() == w.tobytes()


def test_a_client_cannot_say_that_it_carries_more_than_it_was_asked_for() -> None:
    def boast(msg: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(msg, context)
        found = find_packet(reply.content)
        if found is not None:
            packet = replace(Packet.parse(found[1]), detail=10**6)
            reply.content[found[0]] = packet_record(packet)
        return reply

    models = []
    for outer in ([], [boast]):
        ours = CompressedStrategy(
            ErrorFeedback(TopK(k=3)), Direct(Identity()), **options(SGD, {})
        )
        grid = InProcessGrid(make_app(outer=outer), NUM_CLIENTS)
        models.append(to_vector(ours.start(grid, to_record(INITIAL), ROUNDS).arrays))
    assert models[0].tobytes() == models[1].tobytes()
