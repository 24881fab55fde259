"""The links' ends over a channel that loses, repeats and delays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flower_compress.compressors import (
    Compressor,
    DitheredQuantizer,
    Identity,
    MinVarianceSparsifier,
    RandK,
    RandomSparsifier,
    RotatedQuantizer,
    ScaledSign,
    StochasticQuantizer,
    TopK,
    Vector,
)
from flower_compress.errors import (
    ConfigurationError,
    OutOfSyncError,
    StalePacketError,
    UnknownNameError,
)
from flower_compress.links import (
    Channel,
    CompensatedFeedback,
    Direct,
    ErrorFeedback,
    Link,
    Memory,
    Payload,
    ReceiverState,
    SenderState,
    accept,
    commit,
    get_link,
)
from flower_compress.streams import Purpose, Stream

DIM = 5
SETTINGS = settings(
    max_examples=12,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# The values of these operators at small integers are multiples of 1/4 that float32
# holds exactly, however they are added up.
EXACT: tuple[Compressor, ...] = (
    TopK(k=2),
    RandomSparsifier(p=0.5),
    StochasticQuantizer(levels=1, norm="inf"),
    StochasticQuantizer(levels=4, norm="inf", bucket_size=2),
)
QSGD = StochasticQuantizer(levels=2)
CHANNEL = Channel(Stream(7, Purpose.UPLINK), (2, 0, 3))
LINKS: dict[str, Link] = {
    "direct-identity": Direct(Identity()),
    "direct-qsgd": Direct(QSGD),
    "direct-topk": Direct(TopK(fraction=0.3)),
    "memory-default": Memory(QSGD),
    "memory-rate-0": Memory(QSGD, rate=0.0),
    "memory-rate-0.3": Memory(RandomSparsifier(p=0.5), rate=0.3),
    "memory-rate-1": Memory(QSGD, rate=1.0),
    "memory-first": Memory(QSGD, initial="first"),
    "memory-first-rate-0.3": Memory(RandomSparsifier(), rate=0.3, initial="first"),
    "memory-topk": Memory(TopK(k=2)),
    "memory-topk-first": Memory(TopK(k=1), rate=0.5, initial="first"),
    "memory-identity": Memory(Identity()),
    "memory-identity-first": Memory(Identity(), rate=0.5, initial="first"),
    "direct-rand-k": Direct(RandK(k=2)),
    "direct-rotated": Direct(RotatedQuantizer(1.0, per="tensor")),
    "direct-min-variance": Direct(MinVarianceSparsifier(density=0.5, per="tensor")),
    "memory-rand-k": Memory(RandK(k=1, per="tensor")),
    "memory-rotated": Memory(RotatedQuantizer()),
    "memory-subtractive": Memory(StochasticQuantizer(3, "inf", subtractive=True)),
    "memory-malcom": Memory(DitheredQuantizer(3, per="tensor")),
    "memory-malcom-first": Memory(
        DitheredQuantizer(3, "none", subtractive=True), initial="first"
    ),
    "error-feedback-rand-k": ErrorFeedback(RandK(k=2)),
    "error-feedback-rotated": ErrorFeedback(RotatedQuantizer(1.0)),
    "error-feedback-sign": ErrorFeedback(ScaledSign(per="tensor")),
    "error-feedback-0": ErrorFeedback(EXACT[0], feedback=0.0),
    "error-feedback-half": ErrorFeedback(EXACT[1], feedback=0.5),
    "error-feedback-default": ErrorFeedback(QSGD),
    **{
        f"error-feedback-1-{c.name}-{i}": ErrorFeedback(c, feedback=1.0)
        for i, c in enumerate(EXACT)
    },
}
every_link = pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
vectors = st.lists(st.integers(-8, 8), min_size=DIM, max_size=DIM).map(
    lambda entries: frozen(np.array(entries, dtype=np.float32))
)
picks = st.integers(0, 99)


def frozen(vector: Vector) -> Vector:
    """Return the array, read-only: writing into it raises."""
    vector.flags.writeable = False
    return vector


def same(a: Vector | None, b: Vector | None) -> bool:
    """Whether two vectors are equal byte for byte."""
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype == np.float32 and a.tobytes() == b.tobytes()


def freeze(state: SenderState | ReceiverState) -> None:
    if state.vector is not None:
        frozen(state.vector)


def on_arrival(payload: Payload, version: int) -> Payload:
    """A payload as its bytes come, on the channel of the version that came with it."""
    return Payload(payload.data, DIM).on(CHANNEL.at(version))


def sum_of(parts: Iterable[Vector]) -> Vector:
    return sum(parts, start=np.zeros(DIM, dtype=np.float64))


class Ends(RuleBasedStateMachine):
    """What both directions share: a sender and a receiver that never lose step."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link
        self.rate = link.memory_rate(DIM)
        self.sender, self.receiver = SenderState(), ReceiverState()
        self.version = 1  # sent or asked for last
        self.inputs: list[Vector] = []  # of this sender's life
        self.delivered: list[Vector] = []  # payloads that it knows were accepted

    def send(self, x: Vector, version: int) -> Payload:
        """Let the sender compress `x`; check what its link promises."""
        before = self.sender
        channel = CHANNEL.at(version)
        self.sender, payload = self.link.send(before, x, version, channel)
        freeze(self.sender)
        self.inputs.append(x)
        assert self.sender.version == before.version
        assert self.sender.pending_version == version
        if isinstance(self.link, Memory):
            assert same(self.sender.vector, before.vector)
            if self.link.compressor.lossless:
                assert self.sender.vector is None
                assert same(payload.vector, x)
            elif self.link.initial == "first" and before.vector is None:
                assert same(payload.vector, x), "the first memory is sent dense"
        elif isinstance(self.link, ErrorFeedback):
            error = np.float32(0) if before.vector is None else before.vector
            assert same(self.sender.vector, x + error)
        else:
            assert self.sender.vector is None
        return payload

    def acknowledge(self, version: int) -> None:
        """Tell the sender; check that exactly what arrived was taken out or in."""
        before = self.sender
        self.sender = self.link.acknowledge(before, version)
        freeze(self.sender)
        assert self.sender.pending is None
        arrived = before.pending if before.pending_version == version else None
        if arrived is not None:
            self.delivered.append(arrived.vector)
        if isinstance(self.link, ErrorFeedback):
            error = before.vector
            if arrived is not None and error is not None:
                feedback = np.float32(self.link.feedback_at(DIM))
                error = (error - arrived.vector) * feedback
            assert same(self.sender.vector, error)
        if self.rate is None and not isinstance(self.link, ErrorFeedback):
            assert self.sender.vector is None

    @invariant()
    def delivered_plus_error_is_the_sum_of_inputs(self) -> None:
        """(I3) Exactly: all of these numbers are multiples of 1/4."""
        if isinstance(self.link, ErrorFeedback) and self.link.feedback == 1.0:
            error = [] if self.sender.vector is None else [self.sender.vector]
            np.testing.assert_array_equal(
                sum_of((*self.delivered, *error)), sum_of(self.inputs)
            )


@dataclass(frozen=True)
class Request:
    version: int
    acked: int


@dataclass(frozen=True)
class Answer:
    version: int
    base: int
    payload: Payload
    value: Vector


class Uplink(Ends):
    """A client answers the server's messages, which say what the server has accepted.

    The client handles no message older than its last; the server takes the answer to
    its last message only, and starts anew with a client that comes with nothing.
    """

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.version = 0
        self.acked = 0
        self.newest = 0  # the newest message that the client has handled
        self.lives = 0
        self.acked_life = 0
        self.requests: list[Request] = []
        self.answers: list[Answer] = []
        self.memories: dict[int, Vector | None] = {0: None}  # the server's, by version

    @rule(gap=st.integers(1, 3))
    def ask(self, gap: int) -> None:
        self.version += gap
        self.requests.append(Request(self.version, self.acked))

    @precondition(lambda self: self.requests)
    @rule(pick=picks, again=st.booleans(), x=vectors, fails=st.booleans())
    def client_gets(self, pick: int, again: bool, x: Vector, fails: bool) -> None:
        request = self.requests[pick % len(self.requests)]
        if not again:
            self.requests.remove(request)
        if request.version <= self.newest or fails:
            return
        self.acknowledge(request.acked)
        if isinstance(self.link, Memory):
            lost = self.lives != self.acked_life
            assert self.sender.version == (0 if lost else request.acked)
        if self.sender.version == request.acked and self.rate is not None:
            # (I1) What the client folded is what the server had folded.
            assert same(self.sender.vector, self.memories[request.acked])
        h = self.sender.vector if self.rate is not None else None
        base = self.sender.version
        payload = self.send(x, request.version)
        value = payload.vector if h is None else h + payload.vector
        self.newest = request.version
        self.answers.append(Answer(request.version, base, payload, value))

    @precondition(lambda self: self.answers)
    @rule(pick=picks, again=st.booleans(), skips=st.booleans())
    def server_gets(self, pick: int, again: bool, skips: bool) -> None:
        answer = self.answers[pick % len(self.answers)]
        if not again:
            self.answers.remove(answer)
        if answer.version != self.version:
            return
        state = self.receiver
        if self.rate is not None and answer.base == 0 != state.version < answer.version:
            state = ReceiverState()
        try:
            state = accept(
                state,
                base=answer.base,
                version=answer.version,
                payloads=(on_arrival(answer.payload, answer.version),),
                final=False,
                rate=self.rate,
            )
        except StalePacketError:
            assert answer.version <= self.receiver.version
            return
        assert same(state.value(self.rate), answer.value)
        if skips:  # a round that too few clients answered
            return
        self.receiver = commit(state, self.rate)
        freeze(self.receiver)
        self.acked, self.acked_life = answer.version, self.lives
        self.memories[answer.version] = self.receiver.vector

    @precondition(lambda self: self.requests)
    @rule(pick=picks)
    def message_is_lost(self, pick: int) -> None:
        del self.requests[pick % len(self.requests)]

    @precondition(lambda self: self.answers)
    @rule(pick=picks)
    def reply_is_lost(self, pick: int) -> None:
        del self.answers[pick % len(self.answers)]

    @rule()
    def client_restarts(self) -> None:
        """Its error is lost with it, and so are copies of messages it has had."""
        self.requests = [r for r in self.requests if r.version > self.newest]
        self.answers = []
        self.sender, self.newest = SenderState(), 0
        self.inputs, self.delivered = [], []
        self.lives += 1


@dataclass(frozen=True)
class Sent:
    version: int
    base: int
    payload: Payload
    snapshot: Vector | None


class Downlink(Ends):
    """The server sends to one client, which says what it has accepted.

    A client that cannot follow asks for a snapshot of the server's memory.
    """

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        if self.rate is not None:
            self.sender = SenderState(0, frozen(np.arange(DIM, dtype=np.float32)))
        self.held: int | None = None
        self.behind = False  # restarted, and not up to date since
        self.packets: list[Sent] = []
        self.replies: list[tuple[int, bool]] = []  # version, and whether it is held
        self.values: dict[int, Vector] = {}
        self.memories: dict[int, Vector | None] = {}  # the client's, once committed

    @rule(x=vectors)
    def publish(self, x: Vector) -> None:
        h = self.sender.vector if self.rate is not None else None
        self.version += 1
        payload = self.send(x, self.version)
        self.values[self.version] = payload.vector if h is None else h + payload.vector
        snapshot = None if self.held is not None or self.rate is None else h
        self.packets.append(Sent(self.version, self.sender.version, payload, snapshot))

    @precondition(lambda self: self.packets)
    @rule(pick=picks, again=st.booleans(), fails=st.booleans())
    def client_gets(self, pick: int, again: bool, fails: bool) -> None:
        sent = self.packets[pick % len(self.packets)]
        if not again:
            self.packets.remove(sent)
        try:
            state = accept(
                self.receiver,
                base=sent.base,
                version=sent.version,
                payloads=(on_arrival(sent.payload, sent.version),),
                final=False,
                rate=self.rate,
                snapshot=sent.snapshot,
            )
        except StalePacketError:
            assert sent.version <= self.receiver.newest
            return
        except OutOfSyncError:
            assert self.rate is not None
            assert sent.snapshot is None
            assert self.behind, "only a restart may cost a snapshot"
            self.replies.append((sent.version, False))
            return
        assert same(state.value(self.rate), self.values[sent.version])
        if fails:
            return
        self.receiver = state
        freeze(state)
        self.behind &= sent.version != self.version
        self.memories[sent.version] = commit(state, self.rate).vector
        self.replies.append((sent.version, True))

    @precondition(lambda self: self.replies)
    @rule(pick=picks, again=st.booleans())
    def server_gets(self, pick: int, again: bool) -> None:
        version, holds = reply = self.replies[pick % len(self.replies)]
        if not again:
            self.replies.remove(reply)
        if version != self.version:
            return
        if not holds:
            self.held = None
            return
        self.held = version
        self.acknowledge(version)
        if self.rate is not None:
            # (I1) After an acknowledged exchange both ends hold the same memory.
            assert self.sender.version == version
            assert same(self.sender.vector, self.memories[version])
            if self.receiver.newest == version:
                assert same(commit(self.receiver, self.rate).vector, self.sender.vector)

    @precondition(lambda self: self.packets)
    @rule(pick=picks)
    def message_is_lost(self, pick: int) -> None:
        del self.packets[pick % len(self.packets)]

    @precondition(lambda self: self.replies)
    @rule(pick=picks)
    def reply_is_lost(self, pick: int) -> None:
        del self.replies[pick % len(self.replies)]

    @rule()
    def client_restarts(self) -> None:
        self.receiver = ReceiverState()
        self.behind = True


@every_link
@pytest.mark.parametrize("machine", [Uplink, Downlink])
def test_both_ends_stay_in_lock_step(machine: type[Ends], link: Link) -> None:
    run_state_machine_as_test(lambda: machine(link), settings=SETTINGS)


class FoldsTooEarly(Memory):
    """Moves on with whatever it sent last: the defect that the protocol prevents."""

    def acknowledge(self, state: SenderState, version: int) -> SenderState:
        return Memory.acknowledge(self, state, state.pending_version or version)


class ForgetsTheVersion(Direct):
    """Draws every payload from the same stream: both ends no longer agree on it."""

    def send(
        self, state: SenderState, x: Vector, version: int, channel: Channel
    ) -> tuple[SenderState, Payload]:
        return Direct.send(self, state, x, version, channel.at(0))


class ForgetsWhatWasLost(ErrorFeedback):
    """Takes a payload out of the error although nobody received it."""

    def acknowledge(self, state: SenderState, version: int) -> SenderState:
        return ErrorFeedback.acknowledge(self, state, state.pending_version)


class FoldsInPlace(Memory):
    """Writes into the state that it was given."""

    def acknowledge(self, state: SenderState, version: int) -> SenderState:
        after = Memory.acknowledge(self, state, version)
        if state.vector is not None and after.vector is not None:
            state.vector[:] = after.vector
        return after


@pytest.mark.parametrize(
    ("machine", "link"),
    [
        (Uplink, FoldsTooEarly(QSGD)),
        (Uplink, ForgetsWhatWasLost(TopK(k=2), feedback=1.0)),
        (Uplink, FoldsInPlace(QSGD)),
        (Uplink, ForgetsTheVersion(RandK(k=2))),
        (Downlink, FoldsInPlace(QSGD)),
    ],
)
def test_a_link_that_breaks_the_rules_is_caught(
    machine: type[Ends], link: Link
) -> None:
    quick = settings(
        SETTINGS, max_examples=5_000, phases=[Phase.generate], derandomize=True
    )
    with pytest.raises((AssertionError, ValueError)):
        run_state_machine_as_test(lambda: machine(link), settings=quick)


@every_link
def test_a_link_is_rebuilt_from_its_configuration(link: Link) -> None:
    assert get_link(link.config()) == link


def test_a_configuration_that_cannot_work_is_refused() -> None:
    wrong: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (UnknownNameError, "code", lambda: Direct(QSGD, code="morse")),
        (UnknownNameError, "link", lambda: get_link({"kind": "pigeon"})),
        (ConfigurationError, "rate", lambda: Memory(QSGD, rate=1.5)),
        (ConfigurationError, "initial", lambda: Memory(QSGD, initial="last")),  # type: ignore[arg-type]
        (ConfigurationError, "feedback", lambda: ErrorFeedback(QSGD, feedback=-0.1)),
        (
            ConfigurationError,
            "compensation",
            lambda: CompensatedFeedback(QSGD, compensation=1.5),
        ),
        (
            ConfigurationError,
            "speed",
            lambda: get_link({**Direct(QSGD).config(), "speed": 3}),
        ),
    ]
    for error, match, make in wrong:
        with pytest.raises(error, match=match):
            make()


def test_a_shared_link_skips_what_the_receiver_has() -> None:
    payloads = []
    state, sender = ReceiverState(1, np.zeros(DIM, np.float32)), SenderState()
    link = Direct(RandK(k=2))
    for version in range(2, 6):
        x = np.arange(DIM, dtype=np.float32) * version
        sender, payload = link.send(sender, x, version, CHANNEL.at(version))
        payloads.append(payload)

    def take(state: ReceiverState, first: int, last: int) -> ReceiverState:
        chain = tuple(payloads[first - 2 : last - 1])
        return accept(
            state,
            base=first - 1,
            version=last,
            payloads=chain,
            final=True,
            rate=1.0,
        )

    one_by_one = state
    for version in range(2, 6):
        one_by_one = take(one_by_one, version, version)
    overlapping = take(take(state, 2, 4), 3, 5)
    for other in (take(state, 2, 5), overlapping):
        assert (other.version, other.newest) == (4, 5)
        assert same(other.vector, one_by_one.vector)
        assert same(other.value(1.0), one_by_one.value(1.0))
    with pytest.raises(OutOfSyncError, match="builds on version 2.*version 1"):
        take(state, 3, 5)
    with pytest.raises(StalePacketError, match="version 4 is not newer than version 5"):
        take(one_by_one, 2, 4)


def test_what_may_be_taken_back_builds_on_what_the_receiver_holds() -> None:
    """Not on an earlier version either: there it was compressed against other sums."""
    state, x = ReceiverState(3, np.zeros(DIM, np.float32)), np.ones(DIM, np.float32)
    _, payload = Direct(RandK(k=2)).send(SenderState(), x, 5, CHANNEL.at(5))

    def take(base: int) -> ReceiverState:
        return accept(
            state, base=base, version=5, payloads=(payload,), final=False, rate=1.0
        )

    assert take(3).newest == 5
    for base in (2, 4):
        with pytest.raises(
            OutOfSyncError, match=f"builds on version {base}.*version 3"
        ):
            take(base)


def test_another_payload_of_the_version_is_not_acknowledged() -> None:
    """A client that lost its state in between has answered one message twice."""
    x = np.arange(DIM, dtype=np.float32)
    for link in (Memory(TopK(k=2)), ErrorFeedback(TopK(k=2))):
        sent, payload = link.send(SenderState(), x, 5, CHANNEL.at(5))
        taken = link.acknowledge(sent, 5, payload.crc)
        dropped = link.acknowledge(sent, 5, payload.crc ^ 1)
        assert taken.pending is dropped.pending is None
        if isinstance(link, Memory):
            assert same(taken.vector, payload.vector)
            assert (dropped.version, dropped.vector) == (0, None)
        else:
            assert same(taken.vector, x - payload.vector)
            assert same(dropped.vector, x)


def test_what_was_lost_counts_with_the_next_payload() -> None:
    """Error feedback sends it again: then a mean is of more than one input."""
    link, state, x = ErrorFeedback(TopK(k=2)), SenderState(), np.ones(DIM, np.float32)
    for version in range(1, 4):
        state, _ = link.send(link.acknowledge(state, 0), x, version, CHANNEL)
        assert state.num_inputs == version
    state, _ = link.send(link.acknowledge(state, 3), x, 4, CHANNEL)
    assert state.num_inputs == 1


def test_states_cannot_be_changed() -> None:
    for state in (SenderState(), ReceiverState()):
        for field in state._fields:
            with pytest.raises(AttributeError):
                setattr(state, field, 1)


def test_compensated_feedback_adds_a_part_and_keeps_the_whole() -> None:
    link = CompensatedFeedback(TopK(k=2), feedback=0.5, compensation=0.25)
    assert get_link(link.config()) == link
    first = np.array([8, 0, 4, 1, 2], dtype=np.float32)
    second = np.array([0, 16, 0, 8, 4], dtype=np.float32)
    state, lost = link.send(SenderState(), first, 1, CHANNEL.at(1))
    np.testing.assert_array_equal(lost.vector, [8, 0, 4, 0, 0])
    state = link.acknowledge(state, 0)
    np.testing.assert_array_equal(state.vector, first)
    state, payload = link.send(state, second, 2, CHANNEL.at(2))
    assert state.num_inputs == 2
    # x + h/4 is compressed, and what it should have been is x + h/2.
    np.testing.assert_array_equal(payload.vector, [0, 16, 0, 8.25, 0])
    state = link.acknowledge(state, 2, payload.crc)
    np.testing.assert_array_equal(state.vector, [4, 0, 2, 0.25, 5])
    assert state.num_inputs == 0
