"""A link that many receivers share: whoever was away catches up, at a bounded cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flower_compress.compressors import (
    DitheredQuantizer,
    Identity,
    RandK,
    RandomSparsifier,
    RotatedQuantizer,
    ScaledSign,
    StochasticQuantizer,
    TopK,
    Vector,
)
from flower_compress.errors import ConfigurationError
from flower_compress.links import (
    Broadcast,
    Carries,
    CatchUp,
    Channel,
    Direct,
    ErrorFeedback,
    Link,
    Memory,
    Payload,
    ReceiverState,
    accept,
    commit,
)
from flower_compress.streams import Purpose, Stream
from flower_compress.wire.packet import HEADER_BYTES, Packet

STREAM = Stream(3, Purpose.DOWNLINK)
QSGD = StochasticQuantizer(levels=2)
CASES: dict[str, tuple[Link, Carries]] = {
    "model-memory-qsgd": (Memory(QSGD), "model"),
    "model-memory-sparse": (Memory(RandomSparsifier(p=0.3), rate=0.5), "model"),
    "model-memory-topk": (Memory(TopK(k=1)), "model"),
    "model-memory-identity": (Memory(Identity()), "model"),
    "model-memory-rand-k": (Memory(RandK(fraction=0.4)), "model"),
    "model-memory-rotated": (Memory(RotatedQuantizer()), "model"),
    "model-memory-malcom": (Memory(DitheredQuantizer(3, per="tensor")), "model"),
    "model-memory-subtractive": (
        Memory(StochasticQuantizer(3, subtractive=True, per="tensor")),
        "model",
    ),
    "model-direct-identity": (Direct(Identity()), "model"),
    "model-direct-qsgd": (Direct(QSGD), "model"),
    "model-error-feedback": (ErrorFeedback(TopK(k=2)), "model"),
    "update-direct-qsgd": (Direct(QSGD), "update"),
    "update-direct-sparse": (Direct(RandomSparsifier(p=0.3)), "update"),
    "update-direct-identity": (Direct(Identity()), "update"),
    "update-direct-rand-k": (Direct(RandK(k=1)), "update"),
    "update-direct-rotated": (Direct(RotatedQuantizer(1.0, per="tensor")), "update"),
    "update-error-feedback-sign": (ErrorFeedback(ScaledSign()), "update"),
    "update-error-feedback-rotated": (ErrorFeedback(RotatedQuantizer()), "update"),
    "update-error-feedback-topk": (ErrorFeedback(TopK(k=1)), "update"),
    "update-error-feedback-qsgd": (ErrorFeedback(QSGD), "update"),
    "update-error-feedback-identity": (ErrorFeedback(Identity()), "update"),
}
every_case = pytest.mark.parametrize(("link", "carries"), CASES.values(), ids=CASES)
bounded = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck)
)


def channel_of(dim: int) -> Channel:
    return Channel(STREAM, (dim // 2, 0, dim - dim // 2))


def same(a: Vector | None, b: Vector | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype == np.float32 and a.tobytes() == b.tobytes()


def packet_of(needed: CatchUp, dim: int) -> Packet:
    """What the server sends, after a journey over the wire."""
    packet = Packet(
        session=1,
        base=needed.base,
        version=needed.version,
        dim=dim,
        payloads=needed.payloads,
        final=True,
        snapshot=needed.snapshot,
    )
    return Packet.parse(packet.data).on(channel_of(dim))


def take(state: ReceiverState, packet: Packet, rate: float | None) -> ReceiverState:
    return accept(
        state,
        base=packet.base,
        version=packet.version,
        payloads=packet.payloads,
        final=packet.final,
        rate=rate,
        snapshot=packet.snapshot,
    )


@dataclass
class Receiver:
    """One receiver, and the version that the server believes it holds."""

    state: ReceiverState
    held: int | None


def cheapest_bytes(
    sent: dict[int, Payload], held: int | None, version: int, dim: int
) -> int:
    """The fewest body bytes of a packet that brings a receiver up to date."""
    newest = [sent[version]] if version in sent else []
    snapshot = 4 * dim + sum(len(payload.data) for payload in newest)
    if held is None:
        return snapshot
    missed = [sent[v] for v in range(held + 1, version + 1)]
    chain = sum(len(payload.data) + 4 for payload in missed[:-1])
    return min(snapshot, chain + sum(len(payload.data) for payload in newest))


@every_case
@bounded
@given(data=st.data())
def test_receivers_that_catch_up_hold_what_the_others_hold(
    link: Link, carries: Carries, data: st.DataObject
) -> None:
    dim = data.draw(st.sampled_from([1, 3, 12, 40]), label="dim")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
    num_receivers = data.draw(st.integers(1, 4), label="receivers")
    # For each round, who misses the payload, who forgets all, whose word is lost, and
    # whether there is an update at all.
    someone = st.frozensets(st.integers(0, num_receivers - 1))
    a_round = st.tuples(
        someone, someone, someone, st.sampled_from([False] * 3 + [True])
    )
    rounds = data.draw(st.lists(a_round, max_size=25))

    initial = rng.standard_normal(dim).astype(np.float32)
    broadcast = Broadcast.begin(link, carries, initial)
    rate = broadcast.rate
    always, always_held = ReceiverState(), None  # misses nothing
    receivers = [Receiver(ReceiverState(), None) for _ in range(num_receivers)]
    sent: dict[int, Payload] = {}
    for missing, restarting, unheard, pauses in rounds:
        x = rng.standard_normal(dim).astype(np.float32)
        x[rng.random(dim) < 0.3] = 0
        x.flags.writeable = False
        before = broadcast
        if pauses and carries == "update":
            broadcast = before.pause(dim, channel_of(dim))
            np.testing.assert_array_equal(broadcast.value, before.value)
            assert broadcast.sender is before.sender
        else:
            broadcast = before.publish(x, channel_of(dim))
        assert before.version == broadcast.version - 1, "the old state is as it was"
        sent[broadcast.version] = broadcast.log[-1]

        log_bytes = sum(len(payload.data) for payload in broadcast.log)
        assert log_bytes <= 4 * dim + len(broadcast.log[-1].data)

        always = take(always, packet_of(broadcast.catch_up(always_held), dim), rate)
        always_held = always.newest
        assert always_held == broadcast.version
        assert same(always.value(rate), broadcast.value)

        for i, receiver in enumerate(receivers):
            if i in restarting:
                # The server learns of it when the client asks for a snapshot.
                receiver.state, receiver.held = ReceiverState(), None
            if i in missing:
                continue
            packet = packet_of(broadcast.catch_up(receiver.held), dim)
            body = len(packet.data) - HEADER_BYTES
            newest = len(broadcast.log[-1].data)
            assert body <= 4 * dim + newest, "(I2)"
            if rate is not None:
                assert body == cheapest_bytes(
                    sent, receiver.held, broadcast.version, dim
                ), "neither the payloads nor the snapshot, whichever is shorter"
            receiver.state = take(receiver.state, packet, rate)
            assert receiver.state.newest == broadcast.version
            assert same(receiver.state.value(rate), always.value(rate))
            assert same(
                commit(receiver.state, rate).vector, commit(always, rate).vector
            )
            if i not in unheard:
                receiver.held = receiver.state.newest


@every_case
def test_a_receiver_that_is_up_to_date_gets_one_payload(
    link: Link, carries: Carries
) -> None:
    dim = 64
    rng = np.random.default_rng(0)
    broadcast = Broadcast.begin(link, carries, np.ones(dim, dtype=np.float32))
    for _ in range(30):
        held = broadcast.version
        x = rng.standard_normal(dim).astype(np.float32)
        broadcast = broadcast.publish(x, channel_of(dim))
        needed = broadcast.catch_up(held)
        assert needed.snapshot is None
        assert needed.payloads == broadcast.log[-1:]
        assert (needed.base, needed.version) == (held, held + 1)


@every_case
@pytest.mark.parametrize("dim", [3, 16, 64])
def test_catching_up_costs_the_least_there_is(
    link: Link, carries: Carries, dim: int
) -> None:
    """(I2) However long a receiver was away; the lengths between payloads count."""
    rng = np.random.default_rng(dim)
    broadcast = Broadcast.begin(link, carries, np.ones(dim, dtype=np.float32))
    sent: dict[int, Payload] = {}
    for _ in range(30):
        x = rng.standard_normal(dim).astype(np.float32)
        broadcast = broadcast.publish(x, channel_of(dim))
        sent[broadcast.version] = newest = broadcast.log[-1]
        for held in (None, *range(1, broadcast.version)):
            packet = packet_of(broadcast.catch_up(held), dim)
            body = len(packet.data) - HEADER_BYTES
            if broadcast.rate is None:
                assert body == len(newest.data)
            else:
                assert body == cheapest_bytes(sent, held, broadcast.version, dim)
                assert body <= 4 * dim + len(newest.data)


def test_from_the_beginning_where_that_is_no_more_bytes_than_a_snapshot() -> None:
    dim = 64
    broadcast = Broadcast.begin(Memory(QSGD), "model", np.ones(dim, dtype=np.float32))
    for value in (2.0, 3.0):
        x = np.full(dim, value, dtype=np.float32)
        broadcast = broadcast.publish(x, channel_of(dim))
    snapshot = packet_of(broadcast.catch_up(None), dim)
    needed = broadcast.from_beginning(0)
    assert needed is not None
    room = len(snapshot.data) - len(packet_of(needed, dim).data)
    dearest = broadcast.from_beginning(room)
    assert dearest is not None
    assert dearest.begins
    assert broadcast.from_beginning(room + 1) is None


@every_case
def test_the_log_forgets_what_a_snapshot_replaces(link: Link, carries: Carries) -> None:
    """The log is cut, so that its payloads stay shorter than one snapshot."""
    dim = 64
    rng = np.random.default_rng(0)
    broadcast = Broadcast.begin(link, carries, np.ones(dim, dtype=np.float32))
    for _ in range(200):
        x = rng.standard_normal(dim).astype(np.float32)
        broadcast = broadcast.publish(x, channel_of(dim))
    assert 1 <= len(broadcast.log) < 200
    stranger = packet_of(broadcast.catch_up(None), dim)
    if broadcast.rate is None:
        assert stranger.snapshot is None
        assert len(stranger.payloads) == 1
    else:
        assert stranger.snapshot is not None
        assert len(stranger.payloads) == 1
        assert same(
            take(ReceiverState(), stranger, broadcast.rate).value(broadcast.rate),
            broadcast.value,
        )


def test_before_the_first_update_the_snapshot_is_all_there_is() -> None:
    initial = np.arange(4, dtype=np.float32)
    broadcast = Broadcast.begin(Direct(QSGD), "update", initial)
    packet = packet_of(broadcast.catch_up(None), 4)
    assert packet.payloads == ()
    state = take(ReceiverState(), packet, broadcast.rate)
    assert (state.newest, broadcast.version) == (1, 1)
    assert same(state.value(broadcast.rate), initial)


@pytest.mark.parametrize("carries", ["model", "update"])
def test_lossless_links_give_every_receiver_the_model_itself(carries: Carries) -> None:
    dim = 9
    rng = np.random.default_rng(1)
    model = rng.standard_normal(dim).astype(np.float32)
    broadcast = Broadcast.begin(Direct(Identity()), carries, model)
    state, held = ReceiverState(), None
    for server_round in range(12):
        update = rng.standard_normal(dim).astype(np.float32)
        model = model + update
        x = model if carries == "model" else update
        broadcast = broadcast.publish(x, channel_of(dim))
        if server_round % 3:
            continue
        packet = packet_of(broadcast.catch_up(held), dim)
        state = take(state, packet, broadcast.rate)
        held = state.newest
        assert same(state.value(broadcast.rate), model)


def test_a_memory_cannot_carry_updates() -> None:
    with pytest.raises(ConfigurationError, match="a Memory link carries the model"):
        Broadcast.begin(Memory(QSGD), "update", np.zeros(3, dtype=np.float32))


class Leaky(Broadcast):
    """Lets a receiver skip what it missed."""

    def catch_up(self, held: int | None) -> CatchUp:
        version = self.version
        if held is None:
            return Broadcast.catch_up(self, held)
        return CatchUp(version - 1, version, self.log[-1:])


def test_skipped_payloads_would_be_noticed() -> None:
    rng = np.random.default_rng(2)
    broadcast = Leaky.begin(Direct(QSGD), "update", np.zeros(6, dtype=np.float32))
    state = take(ReceiverState(), packet_of(broadcast.catch_up(None), 6), 1.0)
    for _ in range(2):
        x = rng.standard_normal(6).astype(np.float32)
        broadcast = broadcast.publish(x, channel_of(6))
    with pytest.raises(Exception, match="a snapshot is needed"):
        take(state, packet_of(broadcast.catch_up(state.newest), 6), 1.0)
