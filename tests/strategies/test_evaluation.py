"""Evaluation by the clients: of this round's model, sent once, billed apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Result

from flower_compress import CompressionMod, StochasticQuantizer
from flower_compress.strategies import MCM, SGD, CompressedStrategy, RandMCM
from flower_compress.testing import InProcessGrid
from flower_compress.wire.packet import HEADER_BYTES, find_packet
from tests.strategies.problem import INITIAL, NUM_CLIENTS, make_app, to_record

MODEL = 4 * INITIAL.size
Exchange = tuple[str, Message, Message]


def start(
    strategy: FedAvg, app: ClientApp | None = None, rounds: int = 3
) -> tuple[Result, list[Exchange]]:
    """Run, and return what was exchanged: the kind, the message, the reply."""
    seen: list[Exchange] = []

    def note(message: Message, reply: Message) -> None:
        seen.append((message.metadata.message_type, message, reply))

    grid = InProcessGrid(app or make_app(), NUM_CLIENTS, on_message=note)
    return strategy.start(grid, to_record(INITIAL), rounds), seen


def evaluations(seen: list[Exchange]) -> list[tuple[Message, Message]]:
    return [(msg, reply) for kind, msg, reply in seen if kind == "evaluate"]


def answering(reply: Callable[[Message, Context], RecordDict]) -> ClientApp:
    """An app whose evaluation answers with what `reply` returns."""
    trains = make_app()
    app = ClientApp(mods=[CompressionMod("gradient")])
    app.train()(lambda msg, context: trains(msg, context))
    app.evaluate()(lambda msg, context: Message(reply(msg, context), reply_to=msg))
    return app


def plain_metrics(**more: float) -> MetricRecord:
    return MetricRecord({"num-examples": 1, **more})


@pytest.mark.parametrize("fraction_train", [1.0, 0.4])
def test_lossless_links_give_the_figures_of_fedavg(fraction_train: float) -> None:
    options = {"fraction_train": 1.0, "fraction_evaluate": 1.0}
    expected, _ = start(FedAvg(**options), make_app("weights"))
    strategy = SGD(**{**options, "fraction_train": fraction_train})
    result, seen = start(strategy, make_app("weights"))
    figures = result.evaluate_metrics_clientapp
    assert list(figures) == [1, 2, 3]
    assert len(evaluations(seen)) == 3 * NUM_CLIENTS, "those who never trained, too"
    assert all(reply.has_content() for _, reply in evaluations(seen))
    for server_round, metrics in figures.items():
        assert metrics.keys() == {"norm", "uplink-bytes", "downlink-bytes"}
        model_norm = expected.evaluate_metrics_clientapp[server_round]["norm"]
        if fraction_train == 1.0:
            assert metrics["norm"] == pytest.approx(model_norm, rel=1e-6)
    last = np.concatenate([a.numpy().ravel() for a in result.arrays.values()])
    assert figures[3]["norm"] == pytest.approx(float(np.linalg.norm(last)), rel=1e-6)


@pytest.mark.parametrize("cls", [MCM, RandMCM, SGD])
def test_what_an_evaluation_brings_is_not_sent_again(
    cls: Callable[..., CompressedStrategy],
) -> None:
    strategy = cls(step_size=0.05, fraction_evaluate=1.0)
    result, _ = start(strategy)
    without, _ = start(quiet := cls(step_size=0.05, fraction_evaluate=0.0))
    headers = NUM_CLIENTS * HEADER_BYTES
    rows = result.train_metrics_clientapp
    assert [rows[k]["downlink-bytes"] for k in (2, 3)] == [headers, headers]
    # What evaluation 1 and 2 brought is what training 2 and 3 would have.
    before = [without.train_metrics_clientapp[k]["downlink-bytes"] for k in (2, 3)]
    last = strategy.ledger.round_evaluation_downlink.num_bytes
    assert strategy.ledger.evaluation_downlink.num_bytes == sum(before) + last
    total = quiet.ledger.downlink.num_bytes + 2 * headers + last
    assert strategy.ledger.downlink.num_bytes == total
    assert last > headers, "the last round's model is sent to be evaluated"


def test_the_ledger_bills_evaluations_apart() -> None:
    strategy = MCM(step_size=0.05, fraction_evaluate=0.6, fraction_train=0.6)
    result, seen = start(strategy, rounds=4)
    down = up = 0
    for message, reply in evaluations(seen):
        down += len(find_packet(message.content)[1])
        up += len(find_packet(reply.content)[1])
    ledger = strategy.ledger
    assert ledger.evaluation_downlink.messages == 4 * 3
    assert ledger.evaluation_downlink.num_bytes == down
    assert ledger.evaluation_uplink.num_bytes == up == 4 * 3 * HEADER_BYTES
    assert ledger.evaluation_uplink.payload_bits == 0
    rows = result.train_metrics_clientapp
    tables = rows, result.evaluate_metrics_clientapp
    for key, traffic, evaluated in (
        ("uplink-bytes", ledger.uplink, up),
        ("downlink-bytes", ledger.downlink, down),
    ):
        # The metrics of a run add up to all that was sent.
        trained, apart = (sum(t[k][key] for k in t) for t in tables)
        assert apart == evaluated
        assert traffic.num_bytes == trained + apart
    apart = ledger.round_evaluation_downlink.num_bytes
    of_round = ledger.round_downlink.num_bytes
    assert of_round == rows[4]["downlink-bytes"] + apart


@pytest.mark.parametrize("evaluate_on", ["received", "global", "held"])
def test_arrays_in_an_answer_are_billed_dense(evaluate_on: Any) -> None:
    figures = np.ones(10, dtype=np.float32)

    def reply(msg: Message, context: Context) -> RecordDict:
        confusion = ArrayRecord({"confusion": Array(figures)})
        return RecordDict({"metrics": plain_metrics(), "extra": confusion})

    strategy = MCM(step_size=0.05, fraction_evaluate=1.0, evaluate_on=evaluate_on)
    start(strategy, answering(reply), rounds=2)
    up = strategy.ledger.evaluation_uplink
    assert up.payload_bits == 2 * NUM_CLIENTS * 8 * len(Array(figures).data)
    framing = HEADER_BYTES if evaluate_on == "received" else 0
    assert up.framing_bytes == 2 * NUM_CLIENTS * framing


def test_the_mean_of_the_metrics_sees_what_the_app_answered() -> None:
    seen: list[dict[str, Any]] = []

    def reply(msg: Message, context: Context) -> RecordDict:
        extra = ArrayRecord({"confusion": Array(np.ones(3, dtype=np.float32))})
        metrics = plain_metrics(client=float(context.node_config["partition-id"]))
        return RecordDict({"arrays": extra, "metrics": metrics})

    def mean(contents: list[RecordDict], key: str) -> MetricRecord:
        seen.extend(dict(content.items()) for content in contents)
        return plain_metrics()

    strategy = MCM(step_size=0.05, fraction_evaluate=1.0, evaluate_metrics_aggr_fn=mean)
    start(strategy, answering(reply), rounds=1)
    assert [content.keys() for content in seen] == [{"arrays", "metrics"}] * 5
    assert [content["metrics"]["client"] for content in seen] == [0, 1, 2, 3, 4]
    assert all("confusion" in content["arrays"] for content in seen)


@pytest.mark.parametrize("cls", [MCM, RandMCM])
def test_clients_that_fail_to_evaluate_train_on(
    cls: Callable[..., CompressedStrategy],
) -> None:
    def reply(msg: Message, context: Context) -> RecordDict:
        if context.node_config["partition-id"] == 1:
            raise RuntimeError("no test data")
        return RecordDict({"metrics": plain_metrics()})

    strategy = cls(step_size=0.05, fraction_evaluate=1.0)
    result, _ = start(strategy, answering(reply))
    without, _ = start(cls(step_size=0.05, fraction_evaluate=0.0))
    assert [a.data for a in result.arrays.values()] == [
        a.data for a in without.arrays.values()
    ]
    assert all(
        row["refused-updates"] == 0 for row in result.train_metrics_clientapp.values()
    )
    assert strategy.ledger.downlink.snapshot_bytes == NUM_CLIENTS * MODEL


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_model_that_replaces_the_evaluated_one_is_sent(is_replaced: bool) -> None:
    grid = InProcessGrid(make_app(), NUM_CLIENTS)
    strategy = SGD(step_size=0.05, fraction_evaluate=1.0)
    arrays = strategy.start(grid, to_record(INITIAL), 1).arrays
    arrays = to_record(INITIAL) if is_replaced else arrays
    messages = strategy.configure_train(2, arrays, ConfigRecord(), grid)
    sizes = {len(find_packet(message.content)[1]) for message in messages}
    assert len(sizes) == 1
    assert (max(sizes) > MODEL) is is_replaced
    assert is_replaced or sizes == {HEADER_BYTES}


@pytest.mark.parametrize("strategy_class", [MCM, RandMCM])
def test_a_seed_fixes_who_evaluates(strategy_class: Any, tmp_path: Path) -> None:
    asked = []
    for _ in range(2):
        strategy = strategy_class(StochasticQuantizer(2), fraction_evaluate=0.4)
        _, seen = start(strategy)
        asked.append([msg.metadata.dst_node_id for msg, _ in evaluations(seen)])
    assert asked[0] == asked[1]
    assert len(set(asked[0])) > 2
