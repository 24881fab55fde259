"""What a Flower user meets: arguments, errors, summary, evaluation."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
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

from flower_compress import (
    CompressionMod,
    Direct,
    ErrorFeedback,
    Identity,
    Memory,
    StochasticQuantizer,
    TopK,
)
from flower_compress.errors import (
    ConfigurationError,
    LayoutMismatchError,
    MissingModError,
    NonFiniteError,
    RoundFailedError,
    UnknownNameError,
)
from flower_compress.strategies import (
    ALGORITHMS,
    MCM,
    SGD,
    Artemis,
    CompressedStrategy,
    Diana,
    RandMCM,
    get_algorithm,
)
from flower_compress.testing import InProcessGrid
from flower_compress.testing.messages import GREETING, kind_of
from tests.strategies.problem import (
    DIM,
    GAMMA,
    INITIAL,
    NUM_CLIENTS,
    make_app,
    to_record,
    to_vector,
)


def app_that(change: Any, mods: list[Any]) -> ClientApp:
    """A client app whose reply's arrays are `change(w, context)`."""
    app = ClientApp(mods=mods)

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        arrays = change(msg.content["arrays"], context)
        client = int(context.node_config["partition-id"])
        metrics = MetricRecord({"num-examples": 1, "weight": 1 + client})
        content = RecordDict({"arrays": arrays, "metrics": metrics})
        return Message(content, reply_to=msg)

    return app


def start(strategy: CompressedStrategy, app: ClientApp, rounds: int = 5) -> Any:
    return strategy.start(InProcessGrid(app, NUM_CLIENTS), to_record(INITIAL), rounds)


def test_unknown_algorithm_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"'fedfoo'.*artemis.*rand-mcm"):
        get_algorithm("fedfoo")


def test_a_client_without_the_mod_is_told_what_to_do() -> None:
    app = app_that(lambda record, _: record, mods=[])
    with pytest.raises(MissingModError, match=r"ClientApp\(mods=\[CompressionMod\(\)"):
        start(MCM(), app)


def test_a_client_without_the_mod_that_raises_is_told_what_to_do() -> None:
    app = app_that(lambda record, _: record["weight"], mods=[])
    with pytest.raises(MissingModError, match=r"ClientApp\(mods="):
        start(SGD(), app)


def test_arrays_of_another_shape_name_tensor_and_shapes() -> None:
    def change(record: ArrayRecord, _: Context) -> ArrayRecord:
        other = Array(np.zeros((4, 5), dtype=np.float32))
        return ArrayRecord({"bias": record["bias"], "weight": other})

    app = app_that(change, mods=[CompressionMod()])
    with pytest.raises(RoundFailedError, match=r"'weight'.*\(5, 4\).*\(4, 5\)"):
        start(MCM(), app)


def test_nan_in_an_update_names_tensor_and_count() -> None:
    def change(record: ArrayRecord, _: Context) -> ArrayRecord:
        bad = record["weight"].numpy().copy()
        bad[0, :3] = np.nan
        return ArrayRecord({"bias": record["bias"], "weight": Array(bad)})

    app = app_that(change, mods=[CompressionMod()])
    with pytest.raises(RoundFailedError, match=r"3 of 20 entries of 'weight' are NaN"):
        start(MCM(), app)


def test_one_bad_client_does_not_stop_the_others() -> None:
    def change(record: ArrayRecord, context: Context) -> ArrayRecord:
        w = to_vector(record)
        if context.node_config["partition-id"] == 2:
            w = w * np.float32(np.nan)
        return to_record(np.float32(0.5) * w)

    app = app_that(change, mods=[CompressionMod()])
    result = start(SGD(), app, rounds=3)
    np.testing.assert_array_equal(to_vector(result.arrays), INITIAL / 8)


def test_too_few_nodes_in_one_process_are_not_waited_for() -> None:
    strategy = MCM(min_available_nodes=3, fraction_evaluate=0.0)
    with pytest.raises(ConfigurationError, match="expected 3 nodes or more, got 2 in"):
        strategy.start(InProcessGrid(make_app(), 2), to_record(INITIAL), 1)


def test_initial_model_with_nan_is_refused() -> None:
    record = to_record(INITIAL * np.float32(np.nan))
    with pytest.raises(NonFiniteError, match="initial model"):
        SGD().start(InProcessGrid(make_app(), 2), record, 1)


def test_a_divergent_step_size_ends_with_an_error_that_says_so() -> None:
    strategy = SGD(step_size=1e30, weighted_by_key=None)
    with pytest.raises((NonFiniteError, RoundFailedError), match="step size"):
        start(strategy, make_app(), rounds=50)


def test_missing_weight_is_a_clear_error() -> None:
    with pytest.raises(RoundFailedError, match="weighted_by_key=None"):
        start(SGD(weighted_by_key="size"), make_app())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"downlink_carries": "models"}, "downlink_carries"),
        ({"groups": 0}, "groups"),
        ({"preserved": False}, "degraded"),
        ({"downlink_carries": "update", "groups": "client"}, "none may be dropped"),
        (
            {
                "downlink": Memory(StochasticQuantizer(1)),
                "downlink_carries": "update",
            },
            "Memory link carries the model",
        ),
        ({"evaluate_on": "server"}, "evaluate_on"),
        ({"min_replies": 0}, "min_replies"),
        ({"step_size": 0.0}, "step_size"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(
    arguments: dict[str, Any], match: str
) -> None:
    links: dict[str, Any] = {
        "uplink": Direct(Identity()),
        "downlink": Direct(Identity()),
    }
    with pytest.raises(ConfigurationError, match=match):
        CompressedStrategy(**{**links, **arguments})


def test_any_mixture_of_links_trains() -> None:
    strategy = CompressedStrategy(
        uplink=ErrorFeedback(TopK(fraction=0.2)),
        downlink=Memory(StochasticQuantizer(levels=4)),
        step_size=GAMMA,
    )
    result = start(strategy, make_app(), rounds=100)
    reference = start(SGD(step_size=GAMMA), make_app(), rounds=100)
    distance = np.linalg.norm(to_vector(result.arrays) - to_vector(reference.arrays))
    start_distance = np.linalg.norm(INITIAL - to_vector(reference.arrays))
    assert distance < 0.2 * start_distance


@pytest.fixture
def _log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Flower's log reach pytest."""
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)


@pytest.mark.usefixtures("_log")
def test_summary_prints_links_omega_and_alpha(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="flwr")
    start(MCM(StochasticQuantizer(levels=1)), make_app(), rounds=1)
    text = "\n".join(record.getMessage() for record in caplog.records)
    omega = np.sqrt(DIM)
    assert "Uplink: Memory(StochasticQuantizer(levels=1" in text
    assert f"omega {omega:.4g}, alpha {1 / (2 * (omega + 1)):.4g}" in text
    assert "├──> Sampling:" in text
    limit = re.search(r"that (\d+) clients may do: up to (\S+) of the way", text)
    assert limit is not None and limit[1] == "2" and 0 < float(limit[2]) < 0.3


@pytest.mark.usefixtures("_log")
def test_summary_says_what_local_training_is_borne(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="flwr")
    start(MCM(), make_app(), rounds=1)
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "Local training that 2 clients may do: any" in text


def test_step_size_may_depend_on_the_round() -> None:
    fading = start(SGD(step_size=lambda k: GAMMA if k == 1 else 1e-12), make_app())
    single = start(SGD(step_size=GAMMA), make_app(), rounds=1)
    np.testing.assert_allclose(
        to_vector(fading.arrays), to_vector(single.arrays), atol=1e-6
    )


def test_held_evaluation_uses_each_clients_own_model() -> None:
    held = RandMCM(
        StochasticQuantizer(1),
        step_size=GAMMA,
        weighted_by_key=None,
        evaluate_on="held",
    )
    result = start(held, make_app(), rounds=4)
    on_global = RandMCM(
        StochasticQuantizer(1),
        step_size=GAMMA,
        weighted_by_key=None,
        evaluate_on="global",
    )
    other = start(on_global, make_app(), rounds=4)
    assert to_vector(result.arrays).tobytes() == to_vector(other.arrays).tobytes()
    final = float(np.linalg.norm(to_vector(result.arrays)))
    held_norm = result.evaluate_metrics_clientapp[4]["norm"]
    global_norm = other.evaluate_metrics_clientapp[4]["norm"]
    assert global_norm == pytest.approx(final, rel=1e-6)
    assert held_norm != pytest.approx(final, rel=1e-6)


@pytest.mark.parametrize("evaluate_on", ["received", "global", "held"])
def test_evaluations_are_one_of_each_client_in_no_networks_order(
    evaluate_on: Any,
) -> None:
    class Late(InProcessGrid):
        """Evaluations come in the other order, and one of them twice."""

        def send_and_receive(self, messages: Any, *, timeout: Any = None) -> Any:
            replies = list(super().send_and_receive(messages))
            if replies[0].metadata.message_type == "evaluate":
                replies = [*reversed(replies), replies[0]]
            return replies

    def sign(msg: Message, context: Context, call_next: Any) -> Message:
        reply: Message = call_next(msg, context)
        if msg.metadata.message_type == "evaluate":
            who = context.node_config["partition-id"]
            reply.content.metric_records["metrics"]["who"] = int(who)
        return reply

    def note(contents: list[RecordDict], _: str) -> MetricRecord:
        seen.append([c.metric_records["metrics"]["who"] for c in contents])
        return MetricRecord()

    seen: list[list[Any]] = []
    strategy = MCM(evaluate_on=evaluate_on, evaluate_metrics_aggr_fn=note)
    grid = Late(make_app(inner=[sign]), NUM_CLIENTS)
    strategy.start(grid, to_record(INITIAL), 2)
    assert seen == 2 * [list(range(NUM_CLIENTS))]


def test_train_metrics_hold_the_rounds_traffic() -> None:
    strategy = SGD(step_size=GAMMA, fraction_evaluate=0.0)
    result = start(strategy, make_app(), rounds=3)
    rounds = result.train_metrics_clientapp
    total = sum(int(rounds[k]["uplink-bytes"]) for k in (1, 2, 3))
    assert total == strategy.ledger.uplink.num_bytes


def test_flower_arguments_are_flowers_own() -> None:
    sampled: list[int] = []

    def note(message: Message, _: Message) -> None:
        config = message.content.get("config")
        if isinstance(config, ConfigRecord) and "server-round" in config:
            sampled.append(message.metadata.dst_node_id)

    strategy = SGD(
        fraction_train=0.2, min_train_nodes=3, fraction_evaluate=0.0, step_size=GAMMA
    )
    grid = InProcessGrid(make_app(), NUM_CLIENTS, on_message=note)
    strategy.start(grid, to_record(INITIAL), 2)
    assert len(sampled) == NUM_CLIENTS + 2 * 3  # the greetings, then 3 a round


def test_of_nodes_with_one_identity_the_first_takes_part(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trained: set[int] = set()

    def note(record: ArrayRecord, context: Context) -> ArrayRecord:
        trained.add(context.node_id)
        return record

    mod = CompressionMod(identity=lambda _: 7)
    start(SGD(), app_that(note, mods=[mod]))
    assert trained == {1001}
    for node_id in range(1002, 1001 + NUM_CLIENTS):
        assert f"node {node_id} is left out: it says that it is client 7" in caplog.text


@pytest.mark.parametrize(("key", "mean"), [(None, 2.0), ("weight", 40 / 15)])
def test_exact_arrays_are_averaged_and_never_compressed(
    key: str | None, mean: float
) -> None:
    def change(record: ArrayRecord, context: Context) -> ArrayRecord:
        client = int(context.node_config["partition-id"])
        return ArrayRecord(
            {
                "weight": record["weight"],
                "bn.running_mean": Array(np.array([client, 0.5], dtype=np.float32)),
                "bn.num_batches_tracked": Array(np.array(10 + client)),
            }
        )

    initial = ArrayRecord(
        {
            "weight": Array(np.ones(50, dtype=np.float32)),
            "bn.running_mean": Array(np.zeros(2, dtype=np.float32)),
            "bn.num_batches_tracked": Array(np.array(0)),
        }
    )
    app = app_that(change, mods=[CompressionMod()])
    for cls in (MCM, Artemis, Diana):
        strategy = cls(weighted_by_key=key, fraction_evaluate=0.0)
        result = strategy.start(InProcessGrid(app, NUM_CLIENTS), initial, 3)
        arrays = {name: array.numpy() for name, array in result.arrays.items()}
        expected = np.array([mean, 0.5], dtype=np.float32)
        np.testing.assert_array_equal(arrays["bn.running_mean"], expected)
        assert arrays["bn.num_batches_tracked"] == round(10 + mean)
        assert arrays["bn.num_batches_tracked"].dtype == np.int64


def test_layout_errors_are_value_errors() -> None:
    assert issubclass(LayoutMismatchError, ValueError)


class DeafGrid(InProcessGrid):
    """Delivers everything, but no reply to a training message of some rounds."""

    deaf_rounds: tuple[int, ...] = ()

    def send_and_receive(self, messages: Any, *, timeout: Any = None) -> Any:
        sent = list(messages)
        replies = super().send_and_receive(sent, timeout=timeout)
        rounds = {m.content["config"].get("server-round") for m in sent}
        return [] if rounds & set(self.deaf_rounds) else replies


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_a_round_without_replies_changes_nothing(name: str) -> None:
    models: list[bytes] = []

    def note(_: int, arrays: ArrayRecord) -> None:
        models.append(to_vector(arrays).tobytes())

    strategy = get_algorithm(name)(step_size=GAMMA, fraction_evaluate=0.0)
    grid = DeafGrid(make_app(), NUM_CLIENTS)
    grid.deaf_rounds = (3, 4)
    strategy.start(grid, to_record(INITIAL), 6, evaluate_fn=note)
    assert models[2] == models[3] == models[4]
    assert len(set(models)) == 5  # the initial model and rounds 1, 2, 5, 6


def test_a_second_answer_of_a_client_does_not_count_twice() -> None:
    class Echo(InProcessGrid):
        def send_and_receive(self, messages: Any, *, timeout: Any = None) -> Any:
            replies = list(super().send_and_receive(messages, timeout=timeout))
            return [*replies, *replies]

    strategy = Diana(step_size=GAMMA, fraction_evaluate=0.0, seed=3)
    echoed = strategy.start(Echo(make_app(), NUM_CLIENTS), to_record(INITIAL), 5)
    other = Diana(step_size=GAMMA, fraction_evaluate=0.0, seed=3)
    single = start(other, make_app())
    assert to_vector(echoed.arrays).tobytes() == to_vector(single.arrays).tobytes()


class ChangingGrid(InProcessGrid):
    """Nodes that never answer, and nodes that come back under another id."""

    silent: tuple[int, ...] = ()
    waits = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.greeted: Counter[int] = Counter()

    def send_and_receive(self, messages: Any, *, timeout: Any = None) -> Any:
        answered = self._answered(messages)
        if len(answered) < len(messages):
            self.waits += 1
            time.sleep(timeout)
        return super().send_and_receive(answered, timeout=timeout)

    def push_messages(self, messages: Any) -> Any:
        ids = list(super().push_messages(self._answered(messages)))
        return ids + [f"lost-{i}" for i in range(len(messages) - len(ids))]

    def _answered(self, messages: list[Message]) -> list[Message]:
        for message in messages:
            if kind_of(message) == GREETING:
                self.greeted[message.metadata.dst_node_id] += 1
        return [m for m in messages if m.metadata.dst_node_id not in self.silent]

    def restart(self, node_id: int, other_id: int) -> None:
        """The device forgets everything; its old node stays listed, and is silent."""
        context = self.contexts[node_id]
        self.contexts[other_id] = Context(
            1, other_id, context.node_config, RecordDict(), context.run_config
        )
        self.silent = (*self.silent, node_id)


def test_a_silent_node_does_not_cost_every_round_its_timeout() -> None:
    grid = ChangingGrid(make_app(), NUM_CLIENTS)
    grid.silent = (1003,)
    strategy = SGD(step_size=GAMMA, fraction_evaluate=0.0, greeting_timeout=0.01)
    strategy.start(grid, to_record(INITIAL), 60)
    assert grid.waits == 1  # where there is no client yet
    # In rounds 1 and 2, then after 2, 4, 8, ... calls.
    assert 4 <= grid.greeted[1003] <= 7


@pytest.mark.parametrize("identities", ["trusted", "claimed"])
def test_a_restarted_node_takes_over(identities: Any) -> None:
    """At once if identities are trusted, else when the old one is listed no more."""
    grid = ChangingGrid(make_app(), NUM_CLIENTS)
    models: list[Any] = []

    def restart(server_round: int, arrays: ArrayRecord) -> None:
        models.append(to_vector(arrays))
        if server_round == 5:
            grid.restart(1002, 2002)
        if identities == "claimed" and server_round == 7:
            assert not grid.contexts[2002].state
            del grid.contexts[1002]

    strategy = MCM(step_size=GAMMA, fraction_evaluate=0.0, identities=identities)
    strategy.start(grid, to_record(INITIAL), 10, 0.01, evaluate_fn=restart)
    # The old node is asked until the new one's answer is there, and believed.
    assert grid.waits == (1 if identities == "trusted" else 2)
    assert grid.contexts[2002].state
    # The new node has lost its state: it gets the model. Its uplink memory it gets back
    # if it is believed to be what it says.
    num_dense = NUM_CLIENTS + (2 if identities == "trusted" else 1)
    assert strategy.ledger.downlink.snapshot_bytes == num_dense * INITIAL.nbytes


def test_replies_without_a_packet_are_billed() -> None:
    received = 0
    ours = make_app()

    def partly(msg: Message, context: Context) -> Message:
        if context.node_config["partition-id"] != 0:
            return ours(msg, context)
        content = RecordDict({"arrays": to_record(INITIAL)})
        return Message(content, reply_to=msg)

    def weigh(_: Message, reply: Message) -> None:
        nonlocal received
        for record in reply.content.array_records.values():
            received += sum(len(array.data) for array in record.values())
        for values in reply.content.config_records.values():
            received += sum(len(v) for v in values.values() if isinstance(v, bytes))

    strategy = SGD(step_size=GAMMA, fraction_evaluate=0.0)
    grid = InProcessGrid(partly, NUM_CLIENTS, on_message=weigh)
    strategy.start(grid, to_record(INITIAL), 5)
    assert strategy.ledger.uplink.num_bytes == received


def test_other_mods_behind_ours_see_plain_arrays() -> None:
    seen: list[set[str]] = []

    def other(msg: Message, context: Context, call_next: Any) -> Message:
        seen.append(set(msg.content["arrays"]))
        reply = call_next(msg, context)
        seen.append(set(reply.content["arrays"]))
        return reply

    app = app_that(lambda record, _: record, mods=[CompressionMod(), other])
    start(MCM(fraction_evaluate=0.0), app, rounds=2)
    assert seen == [{"bias", "weight"}] * (2 * 2 * NUM_CLIENTS)


def test_small_steps_of_a_float16_model_add_up() -> None:
    """Clients see the model rounded; the difference is to what they saw."""

    def change(record: ArrayRecord, context: Context) -> ArrayRecord:
        w = record["w"].numpy()
        if context.node_config["partition-id"] == 0:
            w = w - np.float16(0.001)
        return ArrayRecord({"w": Array(w)})

    app = app_that(change, mods=[CompressionMod()])
    initial = ArrayRecord({"w": Array(np.ones(3, dtype=np.float16))})
    strategy = SGD(fraction_evaluate=0.0)
    result = strategy.start(InProcessGrid(app, NUM_CLIENTS), initial, 20)
    moved = 20 * 0.001 / NUM_CLIENTS
    np.testing.assert_allclose(result.arrays["w"].numpy(), 1 - moved, atol=1e-3)


def test_uniform_weights_with_an_explicit_none() -> None:
    strategy = SGD(weighted_by_key=None, train_metrics_aggr_fn=None)
    result = start(strategy, make_app(), rounds=1)
    assert result.train_metrics_clientapp[1]["num-examples"] == pytest.approx(3.4)
