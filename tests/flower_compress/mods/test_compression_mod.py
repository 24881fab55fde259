"""The client's end as a Flower mod: what it lets through, decodes, sends, refuses."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
    UserConfig,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from flower_compress import CompressionMod
from flower_compress.compressors import (
    Compressor,
    DitheredQuantizer,
    Identity,
    RandK,
    RotatedQuantizer,
    StochasticQuantizer,
    Vector,
)
from flower_compress.errors import ConfigurationError
from flower_compress.links import Channel, Direct, Link, Memory, Payload
from flower_compress.mods.client_mod import stable_identity
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import InProcessGrid
from flower_compress.wire.agreement import PROTOCOL
from flower_compress.wire.contract import Contract
from flower_compress.wire.layout import Layout
from flower_compress.wire.packet import SESSION_KEY, Packet, find_packet, packet_record

Arrays = dict[str, np.ndarray[Any, Any]]
SESSION = 77
MODEL: Arrays = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scale": np.array(0.25),  # float64
    "half": np.array([1.5, -2.0], dtype=np.float16),
    "norm.running_mean": np.array([0.5, 1.5], dtype=np.float32),
    "norm.num_batches_tracked": np.array(2**60 + 1, dtype=np.int64),
}


def record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(a)) for name, a in arrays.items()})


LAYOUT = Layout.of(record(MODEL))
VECTOR, EXACT = LAYOUT.flatten(record(MODEL))
DIM = LAYOUT.dim


@pytest.fixture(autouse=True)
def _server_process() -> Iterator[None]:
    """Flower lets only a process that runs an app create messages."""
    InProcessGrid(lambda msg, context: msg, 1)
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


class Server:
    """The server's end of one client's links, reduced to what a test needs."""

    def __init__(
        self,
        uplink: Link | None = None,
        rate: float | None = 1.0,
        compressor: Compressor | None = None,
        groups: int | Literal["client"] = 1,
    ) -> None:
        self.uplink, self.rate = uplink or Direct(Identity()), rate
        self.compressor = compressor or Identity()
        self.contract = Contract(LAYOUT, self.uplink, rate, 9, groups).to_bytes()

    def first(self, session: int = SESSION, **fields: Any) -> Packet:
        """The contract, and the model as a snapshot."""
        settings = {
            "base": 1,
            "version": 1,
            "snapshot": VECTOR,
            "contract": self.contract,
        }
        return self.packet(session, **{**settings, **fields})

    def update(self, version: int, step: Vector, **fields: Any) -> Packet:
        """A payload that the client adds to its model."""
        channel = Contract.from_bytes(self.contract).downlink_channel(3)
        payload = Payload.encode(step, self.compressor, "auto", channel.at(version))
        settings = {"base": version - 1, "version": version, "payloads": (payload,)}
        return self.packet(SESSION, **{**settings, **fields})

    def packet(self, session: int, **fields: Any) -> Packet:
        settings = {"dim": DIM, "final": True, "exact": EXACT}
        return Packet(session=session, **{**settings, **fields})


class Client:
    """A client app around the mod, which notes what it was given."""

    def __init__(
        self,
        answer: Callable[[Arrays], Arrays] | None = None,
        returns: Literal["weights", "gradient"] = "weights",
        **mod_arguments: Any,
    ) -> None:
        self.mod = CompressionMod(returns, **mod_arguments)
        self.answer = answer or (lambda arrays: arrays)
        self.seen: list[Message] = []
        self.reply_with: Callable[[Message], Message] | None = None
        self.context = Context(
            run_id=1,
            node_id=4711,
            node_config={"partition-id": 3},
            state=RecordDict(),
            run_config=UserConfig({}),
        )

    def send(
        self, packet: Packet | bytes, message_type: str = MessageType.TRAIN
    ) -> Message:
        return self.handle(message(packet, message_type))

    def handle(self, msg: Message) -> Message:
        return self.mod(msg, self.context, self._app)

    @property
    def received(self) -> Arrays:
        """The arrays that the app was given last."""
        return {n: a.numpy() for n, a in self.seen[-1].content["arrays"].items()}

    @property
    def state(self) -> dict[str, bytes]:
        """Everything that the client would remember."""
        return {
            f"{key}.{name}": value
            for key, config in self.context.state.items()
            for name, value in config.items()
        }

    def _app(self, msg: Message, context: Context) -> Message:
        assert context is self.context
        self.seen.append(msg)
        if self.reply_with is not None:
            return self.reply_with(msg)
        arrays = {n: a.numpy() for n, a in msg.content["arrays"].items()}
        content = RecordDict(
            {
                "arrays": record(self.answer(arrays)),
                "metrics": MetricRecord({"num-examples": 5, "loss": 0.5}),
            }
        )
        return Message(content, reply_to=msg)


def message(packet: Packet | bytes, message_type: str = MessageType.TRAIN) -> Message:
    arrays = (
        packet_record(packet)
        if isinstance(packet, Packet)
        else ArrayRecord(
            {"packet": Array("uint8", (len(packet),), "flower_compress/1", packet)}
        )
    )
    config = ConfigRecord({"lr": 0.1, "server-round": 1})
    return Message(RecordDict({"arrays": arrays, "config": config}), 4711, message_type)


def packet_in(reply: Message) -> Packet:
    assert reply.has_content(), reply.error
    found = find_packet(reply.content)
    assert found is not None
    return Packet.parse(found[1])


def reason_of(reply: Message) -> str:
    assert reply.has_error()
    assert reply.error.code == ErrorCode.MOD_FAILED_PRECONDITION
    return str(reply.error.reason)


def contents(msg: Message) -> dict[str, tuple[int, list[Any]]]:
    """All that is in a message, by value, and which objects hold it."""
    return {
        key: (
            id(entry),
            [
                (name, (v.dtype, v.shape, v.stype, v.data))
                if isinstance(v, Array)
                else (name, v)
                for name, v in entry.items()
            ],
        )
        for key, entry in msg.content.items()
    }


def assert_equal(came: Arrays, expected: Arrays) -> None:
    assert list(came) == list(expected)
    for name, array in expected.items():
        assert came[name].dtype == array.dtype, name
        assert came[name].shape == array.shape, name
        np.testing.assert_array_equal(came[name], array)


def moved(arrays: Arrays) -> Arrays:
    """Weights after some training: floats moved by 1/2, exact arrays by 1."""
    return {
        name: array + array.dtype.type(1 if name.startswith("norm") else 0.5)
        for name, array in arrays.items()
    }


# -- what is none of the mod's business ------------------------------------------------


@pytest.mark.parametrize("message_type", ["train", "evaluate", "query", "train.other"])
@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"arrays": record(MODEL), "config": ConfigRecord({"lr": 0.1})},
        {"packet": record({"packet": np.zeros(30, dtype=np.uint8)})},
        {"metrics": MetricRecord({"a": 1.0})},
    ],
)
def test_messages_without_a_packet_pass_through_untouched(
    message_type: str, entries: dict[str, Any]
) -> None:
    client = Client()
    msg = Message(RecordDict(entries), 4711, message_type)
    answers = []

    def reply_with(msg: Message) -> Message:
        answers.append(Message(RecordDict({"arrays": record(MODEL)}), reply_to=msg))
        return answers[-1]

    client.reply_with = reply_with
    before, content = contents(msg), msg.content
    reply = client.handle(msg)
    assert client.seen == [msg]
    assert client.seen[0] is msg
    assert msg.content is content
    assert contents(msg) == before
    assert reply is answers[0]
    assert client.state == {}


@pytest.mark.parametrize("message_type", [MessageType.TRAIN, MessageType.EVALUATE])
def test_what_the_app_raises_at_other_messages_is_not_the_mods_to_refuse(
    message_type: str,
) -> None:
    client = Client()

    def fail(_: Message) -> Message:
        raise ConfigurationError("batch-size must be positive")

    client.reply_with = fail
    with pytest.raises(ConfigurationError, match="batch-size"):
        client.handle(Message(RecordDict({}), 4711, message_type))


def test_other_mods_see_plain_arrays() -> None:
    """The mod works in a ClientApp, behind mods that know nothing of it."""
    seen = []

    def spy(msg: Message, context: Context, call_next: Any) -> Message:
        seen.append(find_packet(msg.content) is None)
        reply = call_next(msg, context)
        seen.append(find_packet(reply.content) is None)
        return reply

    client = Client()
    app = ClientApp(mods=[CompressionMod(), spy])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        return Message(RecordDict({"arrays": record(MODEL)}), reply_to=msg)

    packet_in(app(message(Server().first()), client.context))
    assert seen == [True, True]


# -- training --------------------------------------------------------------------------


def test_the_app_gets_the_model_with_its_names_shapes_and_dtypes() -> None:
    client = Client()
    packet_in(client.send(Server().first()))
    assert_equal(client.received, MODEL)
    assert client.seen[-1].content["config"]["lr"] == 0.1
    assert client.seen[-1].metadata.message_type == MessageType.TRAIN


@pytest.mark.parametrize("returns", ["weights", "gradient"])
def test_weights_are_sent_as_a_difference_and_a_gradient_as_it_is(
    returns: Literal["weights", "gradient"],
) -> None:
    client = Client(moved, returns)
    answer = packet_in(client.send(Server().first()))
    after, exact = LAYOUT.flatten(record(moved(MODEL)))
    expected = VECTOR - after if returns == "weights" else after
    np.testing.assert_array_equal(answer.payloads[0].vector, expected)
    assert answer.exact == exact, "integers and statistics travel as values"
    assert (answer.session, answer.version, answer.acked) == (SESSION, 1, 1)
    assert (answer.dim, answer.base, answer.final) == (DIM, 0, False)


def test_metrics_and_record_keys_are_kept() -> None:
    client = Client()

    def reply_with(msg: Message) -> Message:
        content = RecordDict(
            {
                "my-arrays": record(MODEL),
                "my-metrics": MetricRecord({"num-examples": 3}),
                "my-config": ConfigRecord({"note": "kept"}),
            }
        )
        return Message(content, reply_to=msg)

    client.reply_with = reply_with
    reply = client.send(Server().first())
    assert list(reply.content) == ["my-arrays", "my-metrics", "my-config"]
    assert find_packet(reply.content)[0] == "my-arrays"
    assert reply.content["my-metrics"] == MetricRecord({"num-examples": 3})
    assert reply.content["my-config"] == ConfigRecord({"note": "kept"})


@pytest.mark.parametrize("returns", ["weights", "gradient"])
@pytest.mark.parametrize(
    "names",
    [
        ["weight"],
        ["half", "scale"],
        ["norm.num_batches_tracked"],
        [name for name in MODEL if name != "norm.running_mean"],
    ],
)
def test_arrays_that_a_reply_leaves_out_count_as_unchanged(
    returns: Literal["weights", "gradient"], names: list[str]
) -> None:
    def some(arrays: Arrays) -> Arrays:
        return {name: array for name, array in arrays.items() if name in names}

    client = Client(lambda arrays: some(moved(arrays)), returns)
    answer = packet_in(client.send(Server().first()))
    left_out = MODEL if returns == "weights" else {n: 0 * a for n, a in MODEL.items()}
    exact = {name: a for name, a in MODEL.items() if name.startswith("norm")}
    whole = {**left_out, **exact, **some(moved(MODEL))}
    after, exact_bytes = LAYOUT.flatten(record(whole))
    expected = VECTOR - after if returns == "weights" else after
    np.testing.assert_array_equal(answer.payloads[0].vector, expected)
    assert answer.exact == exact_bytes


def test_a_train_function_may_empty_the_record_that_it_was_given() -> None:
    client = Client()

    def reply_with(msg: Message) -> Message:
        given_arrays = msg.content["arrays"]
        arrays = ArrayRecord({"half": given_arrays.pop("half")})
        given_arrays.clear()
        return Message(RecordDict({"arrays": arrays}), reply_to=msg)

    client.reply_with = reply_with
    answer = packet_in(client.send(Server().first()))
    assert not answer.payloads[0].vector.any()
    assert answer.exact == EXACT


@pytest.mark.parametrize("message_type", [MessageType.TRAIN, MessageType.EVALUATE])
def test_other_array_records_pass_untouched_both_ways(message_type: str) -> None:
    control = record({"packet": np.arange(3), "weight": np.ones((2, 3), np.float16)})
    client = Client()
    client.send(Server().first())
    if message_type == MessageType.TRAIN:
        msg = message(Server().update(2, VECTOR))
    else:
        msg = evaluate_message(**{"arrayrecord-key": "arrays"})
    # Before the model's, and behind it.
    first, last = {"control": control}, {"z": control}
    msg.content = RecordDict({**first, **dict(msg.content.items()), **last})

    def reply_with(msg: Message) -> Message:
        assert msg.content["control"] is msg.content["z"] is control
        arrays = record({n: a.numpy() for n, a in msg.content["arrays"].items()})
        content = RecordDict({"mine": control, "arrays": arrays, "control": control})
        return Message(content, reply_to=msg)

    client.reply_with = reply_with
    reply = client.handle(msg)
    assert list(reply.content) == ["mine", "arrays", "control"]
    assert reply.content["mine"] is reply.content["control"] is control
    found = find_packet(reply.content)
    if message_type == MessageType.TRAIN:
        assert found is not None
        assert found[0] == "arrays"
        assert not packet_in(reply).payloads[0].vector.any()


def test_updates_add_up_on_the_client() -> None:
    client, server = Client(), Server()
    client.send(server.first())
    step = np.linspace(-1, 1, DIM, dtype=np.float32)
    packet_in(client.send(server.update(2, step)))
    client.send(server.update(3, step, exact=EXACT))
    expected, _ = LAYOUT.flatten(LAYOUT.unflatten(VECTOR + step + step, EXACT))
    came, _ = LAYOUT.flatten(record(client.received))
    np.testing.assert_array_equal(came, expected)


def test_a_memory_moves_on_when_the_server_says_that_it_heard() -> None:
    uplink = Memory(StochasticQuantizer(levels=2), rate=0.5)
    client, server = Client(returns="gradient"), Server(uplink)
    zeros = np.zeros(DIM, dtype=np.float32)
    first = packet_in(client.send(server.first()))
    unheard = packet_in(client.send(server.update(2, zeros, acked=0)))
    assert (first.base, unheard.base) == (0, 0)
    crc = unheard.payloads[0].crc
    heard = packet_in(client.send(server.update(3, zeros, acked=2, detail=crc)))
    assert heard.base == 2
    # The client sends its difference to h = q_2 / 2.
    channel = Channel(Stream(9, Purpose.UPLINK, 3, 3), LAYOUT.sizes)
    h = np.float32(0.5) * unheard.payloads[0].vector
    expected = Payload.encode(VECTOR - h, uplink.compressor, "auto", channel)
    assert heard.payloads[0].data == expected.data
    anew = packet_in(client.send(server.update(4, zeros, acked=1)))
    assert anew.base == 0, "the server speaks of what this client never sent"


SHARED: list[Compressor] = [
    RandK(k=4),
    RandK(fraction=0.5, per="tensor"),
    RotatedQuantizer(1.0),
    StochasticQuantizer(4, subtractive=True, per="tensor"),
    DitheredQuantizer(4, subtractive=True),
]


@pytest.mark.parametrize("compressor", SHARED, ids=repr)
@pytest.mark.parametrize(("groups", "index"), [(1, 0), (2, 1), (5, 3), ("client", 3)])
def test_both_ends_draw_from_the_streams_of_the_contract(
    compressor: Compressor, groups: int | Literal["client"], index: int
) -> None:
    """Up and down, over several messages, with what is pending read from bytes."""
    uplink = Memory(compressor, rate=0.5)
    client = Client(returns="gradient")
    server = Server(uplink, 1.0, compressor, groups)
    client.send(server.first())
    model, steps = VECTOR, np.linspace(-1, 1, 4 * DIM, dtype=np.float32)
    h, crc = np.zeros(DIM, dtype=np.float32), 0
    for version in range(2, 5):
        down = Channel(Stream(9, Purpose.DOWNLINK, index, version), LAYOUT.sizes)
        up = Channel(Stream(9, Purpose.UPLINK, 3, version), LAYOUT.sizes)
        step = steps[version * 7 - 14 :][:DIM]
        packet = server.update(version, step, acked=version - 1, detail=crc)
        if version == 2:
            packet = replace(packet, acked=0)
        answer = packet_in(client.send(packet))
        model = model + decoded(compressor, step, down)
        expected, _ = LAYOUT.flatten(LAYOUT.unflatten(model, EXACT))
        came, _ = LAYOUT.flatten(record(client.received))
        np.testing.assert_array_equal(came, expected)
        q = decoded(compressor, came - h, up)
        (payload,) = answer.on(up.at(0)).payloads
        np.testing.assert_array_equal(payload.vector, q)
        assert answer.base == (0 if version == 2 else version - 1)
        crc = payload.crc
        h = h + np.float32(0.5) * q


def decoded(compressor: Compressor, x: Vector, channel: Channel) -> Vector:
    compressed = compressor.compress(x, channel.stream, channel.sizes)
    return compressor.decompress(compressed, channel.stream, channel.sizes)


def test_draws_depend_on_the_identity() -> None:
    payloads = set()
    for identity in (3, 4, None):
        arguments = {} if identity is None else {"identity": lambda _, i=identity: i}
        client = Client(lambda _: moved(MODEL), "gradient", **arguments)
        uplink = Direct(StochasticQuantizer(levels=1))
        answer = packet_in(client.send(Server(uplink).first()))
        payloads.add(answer.payloads[0].data)
    assert len(payloads) == 2, "the default is the partition-id, 3"


def test_nothing_in_the_message_is_ever_changed() -> None:
    server, client = Server(), Client(moved)
    for msg in (
        message(Packet(session=SESSION, greeting=True)),
        message(server.update(2, VECTOR)),  # no contract yet
        message(server.first()),
        message(server.first()),  # a duplicate
        message(server.update(2, VECTOR)),
        message(b"not a packet"),
        evaluate_message(),
        evaluate_message(session=1),
    ):
        content, metadata = msg.content, dict(msg.metadata.__dict__)
        before = contents(msg)
        client.handle(msg)
        assert msg.content is content
        assert contents(msg) == before
        assert msg.metadata.__dict__ == metadata
    assert len(client.seen) == 3


# -- what the client remembers ---------------------------------------------------------


def test_a_client_that_raises_has_not_moved() -> None:
    client, server = Client(), Server(Memory(StochasticQuantizer()))

    def fail(_: Message) -> Message:
        raise RuntimeError("out of memory")

    client.reply_with = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        client.send(server.first())
    assert client.state == {}
    client.reply_with = None
    packet_in(client.send(server.first()))
    before = client.state
    client.reply_with = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        client.send(server.update(2, VECTOR))
    assert client.state == before != {}
    client.reply_with = None
    packet_in(client.send(server.update(2, VECTOR)))
    np.testing.assert_array_equal(
        LAYOUT.flatten(record(client.received))[0],
        LAYOUT.flatten(LAYOUT.unflatten(VECTOR + VECTOR, EXACT))[0],
    )


def test_an_error_reply_of_the_app_is_passed_on_and_nothing_moves() -> None:
    client, server = Client(), Server()
    client.send(server.first())
    before = client.state
    error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "no data today")
    client.reply_with = lambda msg: Message(error, reply_to=msg)
    reply = client.send(server.update(2, VECTOR))
    assert reply.has_error()
    assert reply.error.reason == "no data today"
    assert client.state == before


def test_duplicates_get_an_error_and_do_not_train_again() -> None:
    client, server = Client(), Server()
    for packet in (server.first(), server.update(2, VECTOR)):
        packet_in(client.send(packet))
        trained, before = len(client.seen), client.state
        reason = reason_of(client.send(packet))
        assert "StalePacketError" in reason
        assert f"version {packet.version}" in reason
        assert len(client.seen) == trained
        assert client.state == before
    assert "version 1 is not newer than version 2" in reason_of(
        client.send(server.first())
    )


def test_a_client_without_a_model_asks_for_one() -> None:
    server = Server()
    step = np.ones(DIM, dtype=np.float32)
    client = Client()
    answer = packet_in(client.send(server.update(2, step)))
    assert answer.resync
    assert (answer.session, answer.version) == (SESSION, 2)
    assert (answer.payloads, answer.snapshot) == ((), None)
    assert (client.seen, client.state) == ([], {})
    packet_in(client.send(server.first()))
    before = client.state
    assert packet_in(client.send(server.update(5, step))).resync, "it missed three"
    other = packet_in(client.send(server.packet(1, base=2, version=2)))
    assert (other.resync, other.session) == (True, 1), "it is in another run"
    assert client.state == before
    without_memory = Server(rate=None)
    nothing = without_memory.first(snapshot=None)
    assert packet_in(Client().send(nothing)).resync


def test_a_new_session_starts_from_nothing() -> None:
    uplink = Memory(StochasticQuantizer(levels=2))
    server = Server(uplink)
    old, new = Client(), Client()
    old.send(server.first(session=5))
    old.send(server.first(session=5, base=2, version=2, acked=1))
    answers = [client.send(server.first(acked=1)) for client in (old, new)]
    assert packet_in(answers[0]).data == packet_in(answers[1]).data
    assert old.state == new.state


def test_state_that_cannot_be_read_counts_as_lost() -> None:
    for stored in (b"", b"\xff" * 80, "text", 3):
        client = Client()
        client.context.state["flower_compress"] = ConfigRecord({"state": stored})
        assert packet_in(client.send(Server().update(2, VECTOR))).resync
        packet_in(client.send(Server().first()))
    client = Client()
    client.context.state["flower_compress"] = MetricRecord({"state": 1})
    packet_in(client.send(Server().first()))


# -- what is refused -------------------------------------------------------------------


def instead(name: str, array: Any) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, name: np.asarray(array)}


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (
            lambda arrays: {"module.weight": arrays["weight"]},
            [
                "LayoutMismatchError",
                "got 1: missing 'weight'",
                "unknown 'module.weight'",
            ],
        ),
        (lambda arrays: {}, ["LayoutMismatchError", "expected 5 arrays, got 0"]),
        (
            lambda arrays: {"weight": arrays["weight"], "extra": arrays["half"]},
            ["LayoutMismatchError", "expected 5 arrays", "unknown 'extra'"],
        ),
        (
            instead("extra", [1.0]),
            ["LayoutMismatchError", "expected 5 arrays, got 6", "unknown 'extra'"],
        ),
        (
            instead("weight", np.zeros((3, 2), np.float32)),
            ["LayoutMismatchError", "'weight'", "expected shape (2, 3), got (3, 2)"],
        ),
        (
            instead("scale", [0.5]),
            ["LayoutMismatchError", "'scale'", "expected shape (), got (1,)"],
        ),
        (
            instead("norm.running_mean", np.zeros(3, np.float32)),
            ["LayoutMismatchError", "'norm.running_mean'", "shape (2,), got (3,)"],
        ),
        (
            instead("weight", np.array([[0, NAN, 0], [INF, 0, 0]], np.float32)),
            ["NonFiniteError", "2 of 6 entries of 'weight'", "expected finite"],
        ),
        (
            instead("half", np.array([0, NAN], np.float16)),
            ["NonFiniteError", "1 of 2 entries of 'half'", "expected finite"],
        ),
        (
            instead("scale", 1e300),  # a float64 that no float32 can hold
            ["NonFiniteError", "1 of 1 entries of 'scale'", "expected finite"],
        ),
        (
            instead("norm.running_mean", np.array([NAN, 0], np.float32)),
            ["NonFiniteError", "1 of 2 entries of 'norm.running_mean'", "expected"],
        ),
        (
            instead("norm.num_batches_tracked", np.float32(NAN)),
            ["LayoutMismatchError", "'norm.num_batches_tracked'", "int64", "nan among"],
        ),
    ],
)
@pytest.mark.parametrize("returns", ["weights", "gradient"])
def test_a_reply_that_does_not_fit_names_the_array(
    answer: Callable[[Arrays], Arrays],
    parts: list[str],
    returns: Literal["weights", "gradient"],
) -> None:
    client = Client(None, returns)
    client.send(Server().first())
    before = client.state
    client.answer = answer
    reason = reason_of(client.send(Server().update(2, VECTOR)))
    for part in parts:
        assert part in reason
    assert client.state == before
    client.answer = lambda arrays: arrays
    packet_in(client.send(Server().update(2, VECTOR)))


@pytest.mark.parametrize("count", [0, 2])
def test_a_reply_holds_the_models_array_record(count: int) -> None:
    client = Client()
    client.reply_with = lambda msg: Message(
        RecordDict({f"arrays-{i}": record(MODEL) for i in range(count)}), reply_to=msg
    )
    reason = reason_of(client.send(Server().first()))
    assert "LayoutMismatchError" in reason
    assert f"expected one ArrayRecord in the client's reply, got {count}" in reason
    assert client.state == {}


def test_a_damaged_packet_is_refused() -> None:
    """Whichever byte is damaged, and wherever the packet is cut off."""
    server = Server()
    client = Client()
    packet_in(client.send(server.first()))
    before, trained = client.state, len(client.seen)
    data = server.update(2, VECTOR).data
    damaged = [
        data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :]
        for i in range(len(data))
    ]
    for wrong in (*damaged, *(data[:i] for i in range(len(data))), data + b"\0"):
        assert "CorruptPacket" in reason_of(client.send(wrong))
    assert (client.state, len(client.seen)) == (before, trained)
    packet_in(client.send(data))


def test_a_packet_that_makes_no_sense_is_refused() -> None:
    server = Server()
    contract = json.loads(server.contract)
    newer = json.dumps({**contract, "protocol": PROTOCOL + 1}).encode()
    rubbish = Payload(b"\xff" * 20, DIM)
    for packet, error, part in (
        (server.first(dim=3, snapshot=VECTOR[:3]), "CorruptPacket", f"length {DIM}"),
        (server.first(contract=b"{}"), "CorruptPacket", "not a contract"),
        (
            server.first(contract=newer),
            "CorruptPacket",
            f"expected protocol {PROTOCOL}",
        ),
        (server.first(exact=EXACT[:-1]), "LayoutMismatchError", "bytes of exact"),
        (server.first(version=2, payloads=(rubbish,)), "CorruptPacket", "id 63"),
    ):
        client = Client()
        reason = reason_of(client.send(packet))
        assert error in reason
        assert part in reason
        assert (client.seen, client.state) == ([], {})


# -- greeting and evaluation -----------------------------------------------------------


def test_a_greeting_is_answered_by_the_mod_itself() -> None:
    client = Client()
    answer = packet_in(client.send(Packet(session=SESSION, greeting=True)))
    assert answer.greeting
    assert answer.session == SESSION
    about = {"protocol": PROTOCOL, "identity": 3, "plain": True}
    assert json.loads(answer.contract) == {**about, "held": 0}
    assert (client.seen, client.state) == ([], {})
    first = Server().first()
    client.send(first)
    for session, held in ((SESSION, first.version), (SESSION + 1, 0)):
        answer = packet_in(client.send(Packet(session=session, greeting=True)))
        assert json.loads(answer.contract)["held"] == held
    other = Client(identity=lambda context: context.node_id * 2)
    answer = packet_in(other.send(Packet(session=SESSION, greeting=True)))
    assert json.loads(answer.contract)["identity"] == 9422


def test_the_identity_is_the_partition_or_else_the_node() -> None:
    context = Client().context
    assert stable_identity(context) == 3
    context.node_config = {}
    assert stable_identity(context) == 4711


def evaluate_message(session: int = SESSION, **config: Any) -> Message:
    settings = ConfigRecord({SESSION_KEY: session, "batch-size": 8, **config})
    return Message(RecordDict({"config": settings}), 4711, MessageType.EVALUATE)


def test_evaluation_uses_the_model_that_the_client_holds() -> None:
    client, server = Client(moved), Server()
    client.send(server.first())
    client.send(server.update(2, VECTOR))
    trained_on, before = client.received, client.state
    msg = evaluate_message(**{"arrayrecord-key": "model"})
    client.reply_with = lambda msg: Message(
        RecordDict({"metrics": MetricRecord({"loss": 1.0})}), reply_to=msg
    )
    reply = client.handle(msg)
    assert "model" not in msg.content, "no arrays were sent"
    given = client.seen[-1].content
    assert_equal({n: a.numpy() for n, a in given["model"].items()}, trained_on)
    assert given["config"]["batch-size"] == 8
    assert reply.content["metrics"]["loss"] == 1.0
    assert client.state == before


@pytest.mark.parametrize("trained_in", [None, 5])
def test_a_client_without_the_model_cannot_evaluate_it(trained_in: int | None) -> None:
    client = Client()
    if trained_in is not None:
        client.send(Server().first(session=trained_in))
    seen = len(client.seen)
    reason = reason_of(client.handle(evaluate_message()))
    assert "OutOfSyncError" in reason
    assert "holds no model of the run" in reason
    assert 'evaluate_on="received"' in reason
    assert len(client.seen) == seen


def evaluated(msg: Message) -> Message:
    return Message(RecordDict({"metrics": MetricRecord({"loss": 1.0})}), reply_to=msg)


def test_an_evaluation_brings_the_model_that_is_trained_on_next() -> None:
    client, server = Client(moved), Server()
    client.send(server.first())
    client.reply_with = evaluated
    reply = client.send(server.update(2, VECTOR), MessageType.EVALUATE)
    answer = packet_in(reply)
    assert (answer.session, answer.version, answer.payloads) == (SESSION, 2, ())
    assert reply.content["metrics"]["loss"] == 1.0
    assert len(reply.content) == 2
    given = client.received
    # Once more changes nothing, and is answered.
    before = client.state
    client.send(server.update(2, VECTOR), MessageType.EVALUATE)
    assert client.state == before
    # The training brings nothing but the question.
    client.reply_with = None
    bare = server.packet(SESSION, base=2, version=2, exact=None)
    answer = packet_in(client.send(bare))
    assert (answer.version, len(answer.payloads)) == (2, 1)
    assert_equal(client.received, given)
    # A version is trained on once; and what was evaluated late is what is held.
    trained = client.state
    assert "received before" in reason_of(client.send(bare))
    assert "received before" in reason_of(client.send(server.update(2, VECTOR)))
    client.reply_with = evaluated
    assert packet_in(client.send(bare, MessageType.EVALUATE)).version == 2
    assert_equal(client.received, given)
    assert client.state == trained


def test_what_is_sent_again_to_train_on_it_is_taken_in_once() -> None:
    """The answer to the evaluation was lost."""
    known, new = Client(moved), Client(moved)
    server = Server(rate=0.5, compressor=StochasticQuantizer(2), groups="client")
    update = server.update(2, VECTOR, final=False)
    for client in (known, new):
        client.send(server.first())
    known.reply_with = evaluated
    known.send(update, MessageType.EVALUATE)
    known.reply_with = None
    answers = [packet_in(client.send(update)).data for client in (known, new)]
    assert answers[0] == answers[1]
    assert known.state == new.state


@pytest.mark.parametrize("raises", [True, False])
def test_a_client_that_fails_to_evaluate_has_not_moved(raises: bool) -> None:
    client, server = Client(moved), Server()
    client.send(server.first())
    before = client.state

    def fail(msg: Message) -> Message:
        if raises:
            raise RuntimeError("no test data")
        return Message(Error(ErrorCode.UNKNOWN, "no test data"), reply_to=msg)

    client.reply_with = fail
    if raises:
        with pytest.raises(RuntimeError, match="no test data"):
            client.send(server.update(2, VECTOR), MessageType.EVALUATE)
    else:
        reply = client.send(server.update(2, VECTOR), MessageType.EVALUATE)
        assert reply.error.reason == "no test data"
    assert client.state == before


def test_a_client_without_the_contract_asks_for_it_to_evaluate() -> None:
    client, server = Client(), Server()
    reply = client.send(server.update(2, VECTOR), MessageType.EVALUATE)
    assert packet_in(reply).resync
    assert (client.seen, client.state) == ([], {})
    client.reply_with = evaluated
    first = server.first(memory=VECTOR, acked=7)
    assert packet_in(client.send(first, MessageType.EVALUATE)).version == 1
    assert_equal(client.received, MODEL)


def test_returns_is_checked() -> None:
    with pytest.raises(ConfigurationError, match="\"gradient\", got 'delta'"):
        CompressionMod("delta")  # type: ignore[arg-type]
