"""One client that lies: what it sends is left out, counted, told; the run goes on."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp.strategy import FedAvg

from flower_compress import (
    CompressionMod,
    DitheredQuantizer,
    Identity,
    StochasticQuantizer,
)
from flower_compress.compressors import Parts, Tied
from flower_compress.errors import RoundFailedError
from flower_compress.links import Channel, Payload
from flower_compress.strategies import (
    MCM,
    CompressedStrategy,
    Diana,
    DoubleSqueeze,
    compress,
)
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import InProcessGrid
from flower_compress.wire.framing import seal
from flower_compress.wire.packet import Packet, find_packet, packet_record
from tests.steps import at_most_steps
from tests.strategies.problem import (
    DIM,
    INITIAL,
    NUM_CLIENTS,
    Vector,
    make_app,
    to_record,
    to_vector,
)

LIAR, ROUNDS = 3, 6
Alter = Callable[[Message, int], None]
"""Changes the reply of the liar to its n-th message."""


class Liar:
    """A mod of the hostile client, around ours or next to the train function."""

    def __init__(self, alter: Alter) -> None:
        self.alter, self.number = alter, 0

    def __call__(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        reply = call_next(msg, context)
        if context.node_config["partition-id"] == LIAR and not reply.has_error():
            found = find_packet(reply.content)
            if found is None or not Packet.parse(found[1]).greeting:
                self.number += 1
                self.alter(reply, self.number)
        return reply


def run(
    strategy: Any, rounds: int = ROUNDS, returns: str = "gradient", **mods: Any
) -> Vector:
    grid = InProcessGrid(make_app(returns, **mods), NUM_CLIENTS)
    return to_vector(strategy.start(grid, to_record(INITIAL), rounds).arrays)


def put(reply: Message, data: bytes) -> None:
    found = find_packet(reply.content)
    assert found is not None
    record = packet_record(Packet(1))
    record["packet"].data, record["packet"].shape = data, (len(data),)
    reply.content[found[0]] = record


def packet_in(reply: Message) -> Packet:
    found = find_packet(reply.content)
    assert found is not None
    return Packet.parse(found[1])


# --- Metrics and weights --------------------------------------------------------------


def say(**values: Any) -> Alter:
    """As another program would: Flower's own MetricRecord refuses some of it."""

    def alter(reply: Message, _: int) -> None:
        record = reply.content["metrics"]
        assert isinstance(record, MetricRecord)
        changed = MetricRecord(dict(record))
        changed.__dict__["_data"].update(values)
        reply.content["metrics"] = changed

    return alter


def once_huge(reply: Message, number: int) -> None:
    say(**{"num-examples": 1e18 if number == 1 else 1.0})(reply, number)


def second_record(reply: Message, _: int) -> None:
    reply.content["more"] = MetricRecord({"num-examples": 1.0, "x": [1.0, 2.0]})


BAD_WEIGHTS = [1e308, -1.0, float("nan"), float("inf"), True, "7", [4.0], 1e-300]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_weight_that_is_none_is_left_out(wrapped: bool) -> None:
    def alter(reply: Message, number: int) -> None:
        say(**{"num-examples": BAD_WEIGHTS[number - 1]})(reply, number)

    strategy: Any = Diana(step_size=0.05, fraction_evaluate=0.0)
    if wrapped:
        strategy = compress(FedAvg(fraction_evaluate=0.0))
    returns, rounds = "weights" if wrapped else "gradient", len(BAD_WEIGHTS)
    model = run(strategy, rounds, returns, inner=[Liar(alter)])
    assert np.isfinite(model).all()
    assert strategy.refused == {LIAR: rounds}


@pytest.mark.parametrize(("cls", "returns"), [(Diana, "gradient"), (MCM, "weights")])
def test_a_huge_weight_is_capped_and_forgotten(
    cls: type[CompressedStrategy],
    returns: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """1e18 once and 1 after: a sum that it was taken from became 0."""
    strategy = cls(step_size=0.05, fraction_evaluate=0.0)
    model = run(strategy, 12, returns, inner=[Liar(once_huge)])
    honest = run(cls(step_size=0.05, fraction_evaluate=0.0), 12, returns)
    assert np.linalg.norm(model - honest) < 0.5 * np.linalg.norm(honest - INITIAL) + 1
    assert caplog.text.count("max_weight_ratio") == 1
    assert not strategy.refused


ODD_METRICS: dict[str, Alter] = {
    "a list": say(loss=[1.0, 2.0]),
    "not finite": say(loss=float("nan")),
    "a second record": second_record,
}
SAID = {
    "a list": "first: its metric 'loss' is a list of 2, that of most others a number",
    "not finite": "first: its metric 'loss' is NaN or infinite, that of most others a",
    "a second record": "first: unlike most others it has '",
}


def with_loss(msg: Message, context: Context, call_next: ClientAppCallable) -> Message:
    reply = call_next(msg, context)
    record = reply.content["metrics"]
    assert isinstance(record, MetricRecord)
    record["loss"] = 1.0
    return reply


@pytest.mark.parametrize("name", ODD_METRICS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_odd_metrics_are_left_out_of_the_mean(
    name: str, wrapped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    strategy: Any = Diana(step_size=0.05)
    if wrapped:
        strategy = compress(FedAvg())
    app = make_app(
        "weights" if wrapped else "gradient",
        inner=[Liar(ODD_METRICS[name]), with_loss],
    )
    result = strategy.start(InProcessGrid(app, NUM_CLIENTS), to_record(INITIAL), 2)
    for rows in (result.train_metrics_clientapp, result.evaluate_metrics_clientapp):
        assert [rows[k]["loss"] for k in (1, 2)] == pytest.approx([1.0, 1.0])
    assert strategy.odd_metrics == {LIAR: 4}
    assert SAID[name] in caplog.text
    # The update itself is fine, unless it has to go through the strategy with metrics
    # that are not the others'.
    alike = name == "not finite" or not wrapped
    assert strategy.refused == ({} if alike else {LIAR: 2})


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("holders", [1, 4])
def test_a_metric_that_only_some_report_is_the_mean_of_theirs(
    holders: int, wrapped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def some(msg: Message, context: Context, call_next: ClientAppCallable) -> Message:
        client = int(context.node_config["partition-id"])
        reply = call_next(msg, context)
        says = {"num-examples": 1 + client, "loss": 1.0}
        if client < holders:
            says["auc"] = float(client)
        reply.content["metrics"] = MetricRecord(says)
        return reply

    strategy: Any = compress(FedAvg()) if wrapped else MCM()
    grid = InProcessGrid(make_app("weights", inner=[some]), NUM_CLIENTS)
    result = strategy.start(grid, to_record(INITIAL), 2)
    weights = np.arange(1, 1 + holders)
    expected = np.average(np.arange(holders), weights=weights)
    for rows in (result.train_metrics_clientapp, result.evaluate_metrics_clientapp):
        for row in rows.values():
            assert row["loss"] == pytest.approx(1.0)
            if wrapped and 2 * holders <= NUM_CLIENTS:
                assert "auc" not in row, "most do not report it"
            else:
                assert row["auc"] == pytest.approx(expected)
    assert "num-examples" not in result.train_metrics_clientapp[2]
    assert not strategy.refused, "an update counts whatever its metrics"
    said = "'auc' in 'metrics'" if wrapped else f"as 'auc' in {holders} of 5 replies"
    assert said in caplog.text
    if not wrapped:
        assert caplog.text.count(said) == 1, "once a run"


def test_evaluations_that_all_fail_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As where the mod is given to the train function alone."""
    app = ClientApp()

    def answer(msg: Message, _: Context) -> Message:
        norm = float(np.linalg.norm(to_vector(msg.content["arrays"])))
        metrics = MetricRecord({"num-examples": 1, "norm": norm})
        arrays = msg.content["arrays"]
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)

    app.train(mods=[CompressionMod()])(answer)
    app.evaluate()(answer)
    strategy = MCM(fraction_evaluate=1.0)
    result = strategy.start(InProcessGrid(app, NUM_CLIENTS), to_record(INITIAL), 3)
    assert not result.evaluate_metrics_clientapp
    assert caplog.text.count("no evaluation: all 5 clients answered with an error") == 1
    assert "ClientApp(mods=[...])" in caplog.text


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_in_evaluation_are_looked_at(wrapped: bool) -> None:
    values = iter([-1, float("nan"), 1e308, [1.0]])

    def alter(reply: Message, _: int) -> None:
        if "norm" in reply.content["metrics"]:
            say(**{"num-examples": next(values), "norm": 1e30})(reply, 0)

    strategy: Any = MCM()
    if wrapped:
        strategy = compress(FedAvg())
    app = make_app("weights", inner=[Liar(alter)])
    result = strategy.start(InProcessGrid(app, NUM_CLIENTS), to_record(INITIAL), 4)
    norms = [row["norm"] for row in result.evaluate_metrics_clientapp.values()]
    assert len(norms) == 4
    assert max(norms) < 100
    assert strategy.odd_metrics == {LIAR: 4}


def test_a_function_of_the_users_that_raises_ends_no_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def mean(contents: list[RecordDict], key: str) -> MetricRecord:
        raise KeyError("loss")

    strategy = MCM(train_metrics_aggr_fn=mean, fraction_evaluate=0.0)
    run(strategy, 1, "weights")
    assert "raised KeyError" in caplog.text


# --- Vectors --------------------------------------------------------------------------


def scaled(factor: float) -> Alter:
    def alter(reply: Message, _: int) -> None:
        vector = to_vector(reply.content["arrays"])
        with np.errstate(over="ignore"):
            reply.content["arrays"] = to_record(
                np.clip(vector * np.float32(factor), -3e38, 3e38).astype(np.float32)
            )

    return alter


# Each with each of another column.
@pytest.mark.parametrize(
    ("cls", "memory", "factor"),
    [
        (Diana, "each", 3e38),
        (Diana, "mean", 1e12),
        (MCM, "each", 1e12),
        (MCM, "mean", 3e38),
        (DoubleSqueeze, "each", 3e38),
        (DoubleSqueeze, "mean", 1e12),
    ],
)
def test_huge_updates_are_refused_by_default(
    cls: type[CompressedStrategy], memory: Any, factor: float
) -> None:
    options = {"step_size": 0.05, "fraction_evaluate": 0.0, "uplink_memory": memory}
    if cls is DoubleSqueeze:
        options["compressor"] = StochasticQuantizer(64, "inf")
    strategy = cls(**options)
    model = run(strategy, inner=[Liar(scaled(factor))])
    assert strategy.refused == {LIAR: ROUNDS}
    assert np.abs(model).max() < 10


LIMIT = 20.0


@pytest.mark.parametrize("limit", [LIMIT, None])
def test_a_mean_memory_is_not_pushed_beyond_the_limit(limit: float | None) -> None:
    """||q_i|| is within the limit each time, and always the same way."""
    operator, held = StochasticQuantizer(4, "inf"), [0]

    def push(reply: Message, _: int) -> None:
        packet = packet_in(reply)
        channel = Channel(Stream(1, Purpose.UPLINK, LIAR, packet.version))
        vector = np.full(DIM, 0.9 * LIMIT / DIM**0.5, np.float32)
        payload = Payload.encode(vector, operator, "auto", channel)
        put(reply, replace(packet, base=held[0], payloads=(payload,)).data)
        if not strategy.refused:
            held[0] = packet.version

    strategy = Diana(
        compressor=operator,
        uplink_memory="mean",
        small_arrays="compressed",
        step_size=0.02,
        max_update_norm=limit,
        max_norm_ratio=None,
        weighted_by_key=None,
        fraction_evaluate=0.0,
    )
    run(strategy, 30, outer=[Liar(push)])
    saved: dict[str, Any] = {}
    strategy._running.uplinks.memories.save(saved)
    memory_sum = saved["uplink/sum"]
    # Half as much again, and what a sketch of 64 numbers may be wrong by.
    is_bounded = bool(np.linalg.norm(memory_sum) < 2 * LIMIT + 10)
    assert is_bounded is (limit is not None)
    assert strategy.refused.keys() == ({LIAR} if limit else set())


# --- Packets --------------------------------------------------------------------------


def own_operator(reply: Message, _: int) -> None:
    packet = packet_in(reply)
    channel = Channel(Stream(1, Purpose.UPLINK, LIAR, packet.version))
    vector = np.full(DIM, 1.0, np.float32)
    payload = Payload.encode(vector, Identity(), "auto", channel)
    put(reply, replace(packet, payloads=(payload,)).data)


def own_code(reply: Message, _: int) -> None:
    packet = packet_in(reply)
    channel = Channel(Stream(1, Purpose.UPLINK, LIAR, packet.version))
    vector = np.full(DIM, 1.0, np.float32)
    payload = Payload.encode(vector, StochasticQuantizer(5), "support-vector", channel)
    put(reply, replace(packet, payloads=(payload,)).data)


def many_payloads(reply: Message, _: int) -> None:
    """A final chain of 10^6 empty payloads, 4 MB."""
    p, count = packet_in(reply), 10**6
    header = struct.pack(
        "<BBIIIIII", 1, 4, p.session, 0, count, p.acked, p.detail, p.dim
    )
    put(reply, seal(header, [bytes(4 * count)]))


def empty_payload(reply: Message, _: int) -> None:
    p = packet_in(reply)
    header = struct.pack(
        "<BBIIIIII", 1, 0, p.session, p.base, p.version, p.acked, p.detail, p.dim
    )
    put(reply, seal(header, [b"\0"]))


def of_the_servers(**fields: Any) -> Alter:
    def alter(reply: Message, _: int) -> None:
        put(reply, replace(packet_in(reply), **fields).data)

    return alter


PACKETS: dict[str, Alter] = {
    "its own operator": own_operator,
    "its own code": own_code,
    "a million payloads": many_payloads,
    "an empty payload": empty_payload,
    "a snapshot": of_the_servers(snapshot=np.zeros(DIM, np.float32)),
    "a memory": of_the_servers(memory=np.zeros(DIM, np.float32)),
    "a contract": of_the_servers(contract=b"{}"),
    "final": of_the_servers(final=True),
}


@pytest.mark.parametrize("name", PACKETS)
def test_what_no_client_sends_is_refused_before_it_is_decoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = Diana(
        compressor=StochasticQuantizer(5), small_arrays="compressed",
        step_size=0.05, fraction_evaluate=0.0,
    )  # fmt: skip
    parse = Packet.parse

    def counted(data: bytes, *rest: Any) -> Packet:
        # A million payloads must not be built one by one.
        with at_most_steps(1000):
            return parse(data, *rest)

    app = make_app(outer=[Liar(PACKETS[name])])
    monkeypatch.setattr(Packet, "parse", counted)
    strategy.start(InProcessGrid(app, NUM_CLIENTS), to_record(INITIAL), 2)
    assert strategy.refused == {LIAR: 2}


def with_ties(change: Alter | None) -> Diana:
    """Run on two equal matrices and a bias, which travel as Tied of Parts."""
    first = np.linspace(-1, 1, 80, dtype=np.float32).reshape(8, 10)

    def model(scale: float) -> ArrayRecord:
        matrix, bias = np.float32(scale) * first, np.full(4, scale, np.float32)
        arrays = {"embed": matrix, "bias": bias, "head": matrix.copy()}
        return ArrayRecord({key: Array(value) for key, value in arrays.items()})

    def train(msg: Message, context: Context, _: Any) -> Message:
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({"arrays": model(0.1), "metrics": metrics})
        return Message(content, reply_to=msg)

    strategy = Diana(
        compressor=StochasticQuantizer(5), step_size=0.05, fraction_evaluate=0.0
    )
    outer = [] if change is None else [Liar(change)]
    grid = InProcessGrid(make_app(outer=outer, inner=[train]), NUM_CLIENTS)
    strategy.start(grid, model(1.0), 2)
    return strategy


def rewritten(place: int, *values: int) -> Alter:
    """Put other bytes into the payload, of which all decode but for what they say."""

    def alter(reply: Message, _: int) -> None:
        packet = packet_in(reply)
        data = bytearray(packet.payloads[0].data)
        # Tied, no code, the mask; Parts, no code, their number; length and operator.
        assert (data[0], data[2], data[3], data[5]) == TIED
        data[place : place + len(values)] = bytes(values)
        payload = Payload(bytes(data), packet.dim)
        put(reply, replace(packet, payloads=(payload,)).data)

    return alter


TIED = (Tied.wire_id, 1, Parts.wire_id, 2)
TIED_REPLIES: dict[str, Alter] = {
    "a tie that is none": rewritten(2, 3),
    "a code with ties": rewritten(1, 1),
    "no parts": rewritten(3, StochasticQuantizer.wire_id),
    "another number of parts": rewritten(5, 3),
    "a part longer than all": rewritten(6, 255, 255),
    "another operator in a part": rewritten(10, DitheredQuantizer.wire_id),
    "another code in a part": rewritten(11, 2),
    "one operator for all": own_operator,
}


def test_replies_of_tied_arrays_are_of_their_form() -> None:
    assert not with_ties(None).refused
    for name, change in TIED_REPLIES.items():
        assert with_ties(change).refused == {LIAR: 2}, name


# --- Requests to be synchronised ------------------------------------------------------


def ask(reply: Message, _: int) -> None:
    packet = packet_in(reply)
    put(reply, Packet(packet.session, version=packet.version, resync=True).data)


@pytest.mark.parametrize("wrapped", [False, True])
def test_requests_for_the_whole_model_have_a_budget(wrapped: bool) -> None:
    strategy: Any = MCM(fraction_evaluate=0.0)
    if wrapped:
        strategy = compress(FedAvg(fraction_evaluate=0.0))
    snapshots = 0

    def note(message: Message, _: Message) -> None:
        nonlocal snapshots
        found = find_packet(message.content)
        if message.metadata.dst_node_id == 1001 + LIAR and found is not None:
            snapshots += Packet.parse(found[1]).snapshot is not None

    app = make_app("weights", outer=[Liar(ask)])
    grid = InProcessGrid(app, NUM_CLIENTS, on_message=note)
    strategy.start(grid, to_record(INITIAL), 60)
    assert 4 < snapshots < 12


def test_rounds_of_nothing_but_requests_have_failed() -> None:
    class All(Liar):
        def __call__(self, msg: Message, context: Context, call_next: Any) -> Message:
            reply: Message = call_next(msg, context)
            if not packet_in(reply).greeting:
                ask(reply, 0)
            return reply

    with pytest.raises(RoundFailedError, match="asks to be synchronised"):
        run(MCM(fraction_evaluate=0.0), 10, "weights", outer=[All(ask)])


# --- Memories that are said to be lost ------------------------------------------------


@pytest.mark.parametrize(("every", "least", "most"), [(1, 9, 12), (3, 10, 10)])
def test_a_lost_memory_ends_the_epoch_of_all_a_few_times_only(
    every: int, least: int, most: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 30 rounds; one that restarts every third round is always taken in."""

    def claim(reply: Message, number: int) -> None:
        if number % every == 0:
            put(reply, replace(packet_in(reply), base=0).data)

    strategy = Diana(
        uplink_memory="mean", step_size=0.05, fraction_evaluate=0.0, forget_after=None
    )
    run(strategy, 30, outer=[Liar(claim)])
    assert least <= strategy._running.uplinks.memories.epoch <= most
    assert ("lost its memory too often" in caplog.text) is (every == 1)
    assert not strategy.refused


# --- Exact arrays ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1e30, 3.4e38])
@pytest.mark.parametrize("wrapped", [False, True])
def test_exact_arrays_are_bounded(value: float, wrapped: bool) -> None:
    def model(var: float, batches: int) -> ArrayRecord:
        return ArrayRecord(
            {
                "w": Array(np.ones(4, np.float32)),
                "bn.running_var": Array(np.full(2, var, np.float32)),
                "bn.num_batches_tracked": Array(np.array(batches, np.int64)),
            }
        )

    def train(msg: Message, context: Context, call_next: Any) -> Message:
        hostile = context.node_config["partition-id"] == LIAR
        held = msg.content["arrays"]["bn.num_batches_tracked"].numpy()
        batches = 2**63 - 1 if hostile and value > 0 else int(held) + 10
        content = RecordDict(
            {
                "arrays": model(value if hostile else 2.0, batches),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        return Message(content, reply_to=msg)

    strategy: Any = MCM(fraction_evaluate=0.0)
    if wrapped:
        strategy = compress(FedAvg(fraction_evaluate=0.0))
    app = make_app("weights", inner=[train])
    result = strategy.start(InProcessGrid(app, NUM_CLIENTS), model(1.0, 0), 3)
    assert strategy.refused == {LIAR: 3}
    assert result.arrays["bn.running_var"].numpy() == pytest.approx([2.0, 2.0])
    assert result.arrays["bn.num_batches_tracked"].numpy() == 30
