"""Flower's own strategies over compressed links, beside themselves without."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Iterable
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
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from flower_compress import (
    CompressionMod,
    Direct,
    Identity,
    Memory,
    RotatedQuantizer,
    StochasticQuantizer,
)
from flower_compress.errors import (
    ConfigurationError,
    LayoutMismatchError,
)
from flower_compress.strategies import compress
from flower_compress.testing import FaultyGrid, InProcessGrid, RandomFaults
from flower_compress.wire.arrays import array_of_bytes
from tests.strategies.classes import accuracy, app_of_classes, initial
from tests.strategies.pulls import (
    CLIENTS,
    INITIAL,
    LOSSLESS,
    ROUNDS,
    Make,
    Spy,
    make_app,
    make_grid,
    run,
    to_record,
    to_vector,
)


@pytest.fixture(autouse=True)
def _no_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's QFedAvg and Bulyan collect garbage for every reply."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


class ByLoss(FedAvg):
    """A user's own: weighs clients by their losses."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = [msg for msg in replies if not msg.has_error()]
        for msg in replies:
            metrics = msg.content.metric_records["metrics"]
            metrics["num-examples"] = float(metrics["train_loss"])  # type: ignore[arg-type]
        return super().aggregate_train(server_round, replies)


PLAIN: dict[str, Make] = {
    "fedavg": FedAvg,
    "fedadam": lambda **kw: FedAdam(eta=0.05, **kw),
    "fedyogi": lambda **kw: FedYogi(eta=0.05, **kw),
    "fedadagrad": lambda **kw: FedAdagrad(eta=0.05, **kw),
    "fedavgm": lambda **kw: FedAvgM(
        server_momentum=0.5, server_learning_rate=0.7, **kw
    ),
    "fedprox": lambda **kw: FedProx(proximal_mu=0.5, **kw),
    "fedmedian": FedMedian,
    "fedtrimmedavg": lambda **kw: FedTrimmedAvg(beta=0.2, **kw),
    "krum": lambda **kw: Krum(num_malicious_nodes=1, **kw),
    "multikrum": lambda **kw: MultiKrum(
        num_malicious_nodes=1, num_nodes_to_select=3, **kw
    ),
    "bulyan": lambda **kw: Bulyan(num_malicious_nodes=0, **kw),
    "qfedavg": lambda **kw: QFedAvg(client_learning_rate=0.5, q=0.2, **kw),
    "own": lambda **kw: ByLoss(**kw),
    "dp-server": lambda **kw: DifferentialPrivacyServerSideFixedClipping(
        FedAvg(**kw), 0.1, 5.0, CLIENTS
    ),
    "dp-server-adaptive": lambda **kw: DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(**kw), 0.1, CLIENTS, initial_clipping_norm=5.0
    ),
    "dp-client": lambda **kw: DifferentialPrivacyClientSideFixedClipping(
        FedAvg(**kw), 0.1, 5.0, CLIENTS
    ),
    "dp-client-adaptive": lambda **kw: DifferentialPrivacyClientSideAdaptiveClipping(
        FedAvg(**kw), 0.1, CLIENTS, initial_clipping_norm=5.0
    ),
}
MODS: dict[str, Mod] = {
    "dp-client": fixedclipping_mod,
    "dp-client-adaptive": adaptiveclipping_mod,
}
EVERY = pytest.mark.parametrize("name", PLAIN)


def mods_of(name: str) -> list[Mod]:
    return [MODS[name]] if name in MODS else []


@EVERY
def test_lossless_links_change_nothing(name: str) -> None:
    make, mods, fraction = PLAIN[name], mods_of(name), 0.75
    bare = run(make(fraction_train=fraction), *mods)
    strategy = compress(make(fraction_train=fraction), **LOSSLESS)
    ours = run(strategy, *mods)
    np.testing.assert_allclose(to_vector(ours), to_vector(bare), rtol=0, atol=2e-5)
    exact = [result.arrays["running_mean"].numpy() for result in (ours, bare)]
    np.testing.assert_allclose(*exact, rtol=1e-5)
    for rows, expected in (
        (ours.train_metrics_clientapp, bare.train_metrics_clientapp),
        (ours.evaluate_metrics_clientapp, bare.evaluate_metrics_clientapp),
    ):
        assert rows.keys() == expected.keys()
        for number, row in expected.items():
            for key, value in row.items():
                assert rows[number][key] == pytest.approx(value, rel=1e-4)


@EVERY
def test_default_links_learn_as_much_at_a_tenth_of_the_bytes(name: str) -> None:
    """Within one point of the accuracy of the strategy without compression."""
    make, mods, rounds = PLAIN[name], mods_of(name), 10
    ended = []
    for compressed in (False, True):
        strategy = make(fraction_evaluate=0.0)
        strategy = compress(strategy) if compressed else strategy
        app = app_of_classes(*mods, compressed=compressed)
        grid = InProcessGrid(app, CLIENTS)
        ended.append(run(strategy, grid=grid, rounds=rounds, arrays=initial()))
    bare, ours = (accuracy(result.arrays) for result in ended)
    assert bare > 0.45  # Of ten classes.
    assert abs(ours - bare) <= 0.01
    metrics = ended[1].train_metrics_clientapp[rounds]
    dense = CLIENTS * sum(len(array.data) for array in initial().values())
    assert 0 < metrics["uplink-bytes"] < dense / 10
    assert 0 < metrics["downlink-bytes"] < dense / 10


@pytest.mark.parametrize(
    "links",
    [
        {"groups": 2},
        {"groups": "client"},
        {"groups": "client", "downlink_memory": "average", "reset_every": 4},
        {"uplink": Direct(RotatedQuantizer(step=1.0))},
        {"downlink": Direct(Identity())},
        {"memory_budget": 0},
    ],
    ids=lambda links: "-".join(links),
)
def test_other_links_end_nearby(links: dict[str, Any]) -> None:
    bare = to_vector(run(FedAvg(fraction_evaluate=0.0), rounds=12))
    ours = to_vector(run(compress(FedAvg(fraction_evaluate=0.0), **links), rounds=12))
    assert np.linalg.norm(ours - bare) < 0.15 * np.linalg.norm(bare - INITIAL)


def test_clients_evaluate_what_they_hold_and_are_sent_what_they_lack() -> None:
    evaluated: list[tuple[int, float, int]] = []

    def note(msg: Message, reply: Message) -> None:
        if msg.metadata.message_type == MessageType.EVALUATE:
            norm = float(reply.content["metrics"]["norm"])
            sent = sum(isinstance(r, ArrayRecord) for r in msg.content.values())
            evaluated.append((msg.metadata.dst_node_id, norm, sent))

    grid = InProcessGrid(make_app(), CLIENTS, on_message=note)
    strategy = compress(FedAvg(fraction_train=0.5), evaluate_on="held", **LOSSLESS)
    result = run(strategy, grid=grid, rounds=1)
    new, old = (np.linalg.norm(w[:10]) for w in (to_vector(result), INITIAL))
    assert len(evaluated) == CLIENTS
    assert sorted(sent for _, _, sent in evaluated) == [0] * 3 + [1] * 4
    for _, norm, sent in evaluated:
        assert norm == pytest.approx(new if sent else old, rel=1e-5)
    assert result.evaluate_metrics_clientapp[1]["told"] == pytest.approx(1.0)


def test_links_that_do_not_bear_averaging_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    noisy = {"downlink": Memory(StochasticQuantizer(levels=1, bucket_size=None))}
    for make, is_told in ((FedAvg, True), (FedAdam, False)):
        caplog.clear()
        run(compress(make(), **noisy), rounds=1)
        assert ("compressed FedAvg with these operators diverges" in caplog.text) == (
            is_told
        )
        step = "GradientDescent" if is_told else "StepInside(strategy='FedAdam')"
        assert f"Server step: {step}" in caplog.text


# --- Strategies of users --------------------------------------------------------------


class Own(Spy):
    """Its own schedule, and records of its own in every message."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        config["lr"] = 1.0 / server_round
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for msg in messages:
            node_id = msg.metadata.dst_node_id
            msg.content = RecordDict(
                {
                    "own": ConfigRecord({"node": node_id}),
                    **dict(msg.content.items()),
                    "control": ArrayRecord({"c": Array(np.ones(3))}),
                }
            )
        return messages


def test_a_strategy_of_ones_own_sends_and_receives_its_own_records() -> None:
    bare, inside = Own(), Own()
    expected = to_vector(run(bare))
    strategy = compress(inside, **LOSSLESS)
    told = []

    def note(msg: Message, reply: Message) -> None:
        if msg.metadata.message_type == MessageType.TRAIN and "own" in msg.content:
            told.append((msg.metadata.dst_node_id, msg.content))

    grid = InProcessGrid(make_app(), CLIENTS, on_message=note)
    np.testing.assert_allclose(to_vector(run(strategy, grid=grid)), expected, atol=2e-5)
    assert inside.seen[:CLIENTS] == [f"client {i}" for i in range(CLIENTS)]
    np.testing.assert_allclose(
        sorted(inside.distances), sorted(bare.distances), atol=1e-3
    )
    assert len(told) == CLIENTS * ROUNDS
    for node_id, content in told:
        assert content["own"]["node"] == node_id
        assert np.array_equal(content["control"]["c"].numpy(), np.ones(3))
    assert told[-1][1]["config"]["lr"] == pytest.approx(1 / ROUNDS)
    # The control is dense, and billed: 3 float64 and NumPy's header.
    lean = compress(FedAvg(), **LOSSLESS)
    run(lean)
    more = strategy.ledger.downlink.num_bytes - lean.ledger.downlink.num_bytes
    assert more == CLIENTS * ROUNDS * (128 + 24)


class Asks(FedAvg):
    """Asks one node for something else, in the same round."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        trained, *others = super().configure_train(server_round, arrays, config, grid)
        content = RecordDict({"config": ConfigRecord({"how": "are you"})})
        node_id = trained.metadata.dst_node_id
        return [*others, Message(content, node_id, "train.ask")]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        told = [msg for msg in replies if "said" in msg.content]
        assert [msg.content["said"]["text"] for msg in told] == ["well"]
        others = [msg for msg in replies if msg not in told]
        assert len(others) == CLIENTS - 1
        return super().aggregate_train(server_round, others)


def test_messages_without_a_model_pass_as_they_are() -> None:
    app = make_app()

    @app.train("ask")
    def ask(msg: Message, context: Context) -> Message:
        content = RecordDict({"said": ConfigRecord({"text": "well"})})
        return Message(content, reply_to=msg)

    result = run(compress(Asks()), grid=InProcessGrid(app, CLIENTS))
    assert len(result.train_metrics_clientapp) == ROUNDS


class Ahead(FedAvg):
    """Sends another model than the one it was given: a look ahead."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        ahead = {k: Array(np.float32(0.9) * v.numpy()) for k, v in arrays.items()}
        record = ArrayRecord(ahead)
        return super().configure_train(server_round, record, config, grid)


def test_the_model_is_the_one_that_the_strategy_sends() -> None:
    bare = to_vector(run(Ahead()))
    ours = to_vector(run(compress(Ahead(), **LOSSLESS)))
    np.testing.assert_allclose(ours, bare, rtol=0, atol=2e-5)


class Personal(FedAvg):
    """Sends each client a model of its own."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        own = to_record(INITIAL + 1)
        messages[0].content = RecordDict({**dict(messages[0].content), "arrays": own})
        return messages


class Twice(FedAvg):
    """Sends one client two models."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        content, node_id = messages[0].content, messages[0].metadata.dst_node_id
        return [*messages, Message(content, node_id, MessageType.TRAIN)]


class Renames(FedAvg):
    """Returns arrays of other names."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert arrays is not None
        return ArrayRecord(arrays.to_numpy_ndarrays()), metrics


@pytest.mark.parametrize(
    ("strategy", "error", "text"),
    [
        (Personal(), ConfigurationError, "expected the same arrays for all"),
        (Twice(), ConfigurationError, "expected one message with a model"),
        (Renames(), LayoutMismatchError, "expected the names 'a', ..., got '0'"),
    ],
    ids=lambda value: getattr(type(value), "__name__", None),
)
def test_what_the_links_cannot_carry_ends_the_run(
    strategy: Strategy, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run(compress(strategy))


def test_a_mean_of_integers_is_an_integer_again() -> None:
    app = ClientApp(mods=[CompressionMod()])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        arrays = {
            "w": msg.content["arrays"]["w"],
            "count": Array(np.array([7, 2**40 + client])),
            "on": Array(np.array([True, client == 0])),
        }
        metrics = MetricRecord({"num-examples": 3})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
        return Message(content, reply_to=msg)

    initial = {
        "w": Array(np.zeros(4, np.float16)),
        "count": Array(np.zeros(2, np.int64)),
        "on": Array(np.zeros(2, bool)),
    }
    strategy = compress(FedAvg(fraction_evaluate=0.0))
    result = strategy.start(InProcessGrid(app, 3), ArrayRecord(initial), 2)
    got = {name: array.numpy() for name, array in result.arrays.items()}
    assert {name: entries.dtype.name for name, entries in got.items()} == {
        "w": "float16",
        "count": "int64",
        "on": "bool",
    }
    assert got["count"].tolist() == [7, 2**40 + 1]
    assert got["on"].tolist() == [True, False]


# --- Checkpoints ----------------------------------------------------------------------

RESUMED: dict[str, Make] = {
    **{name: PLAIN[name] for name in ("fedadam", "fedavgm", "qfedavg")},
    "own": Spy,
    "dp": lambda: DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(), 0.0, CLIENTS, initial_clipping_norm=5.0
    ),
}


@pytest.mark.parametrize("make", RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_ends_as_if_it_had_not_stopped(
    make: Make, tmp_path: Path
) -> None:
    whole = run(compress(make()))
    saving: dict[str, Any] = {"checkpoint_dir": tmp_path, "checkpoint_every": 2}
    inside = make()
    stopped = compress(inside, **saving)
    run(stopped, should_stop=lambda number, _: number == 3)
    resumed = compress(make(), resume=True, **saving)
    result = run(resumed)
    assert resumed.resumed_from == 3
    assert to_vector(result).tobytes() == to_vector(whole).tobytes()
    assert result.train_metrics_clientapp == whole.train_metrics_clientapp


def test_a_resumed_run_whose_clients_are_new_goes_on(tmp_path: Path) -> None:
    bare = to_vector(run(FedAvgM(server_momentum=0.5), rounds=12))
    saving: dict[str, Any] = {"checkpoint_dir": tmp_path, "checkpoint_every": 2}
    for rounds in (5, 12):
        inside = FedAvgM(server_momentum=0.5)
        strategy = compress(inside, resume=rounds > 5, **saving)
        grid = FaultyGrid(make_grid(strategy), RandomFaults())  # saves no clients
        result = run(strategy, grid=grid, rounds=rounds)
    assert strategy.resumed_from == 5
    distance = np.linalg.norm(to_vector(result) - bare)
    assert distance < 0.1 * np.linalg.norm(bare - INITIAL)


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    run(compress(FedAdam(eta=0.1), checkpoint_dir=tmp_path), rounds=1)
    for other in (FedAdam(eta=0.2), FedYogi(eta=0.1)):
        strategy = compress(other, checkpoint_dir=tmp_path, resume=True)
        with pytest.raises(ConfigurationError, match="is of another run"):
            run(strategy)


class Unsavable(FedAvg):
    def __init__(self) -> None:
        super().__init__()
        self.source = iter(())


def test_what_cannot_be_saved_is_refused_at_once(tmp_path: Path) -> None:
    text = "cannot hold Unsavable.source, a tuple_iterator"
    with pytest.raises(ConfigurationError, match=text):
        compress(Unsavable(), checkpoint_dir=tmp_path)
    dp = DifferentialPrivacyServerSideFixedClipping(Unsavable(), 0.0, 1.0, 7)
    with pytest.raises(ConfigurationError, match=r"\.strategy\.source"):
        compress(dp, checkpoint_dir=tmp_path)
    run(compress(Unsavable()), rounds=1)


def trial_app(*mods: Mod) -> ClientApp:
    """Clients that add 0.1 to a weight and 5 to a counter, and say what they saw."""
    app = ClientApp(mods=[CompressionMod(), *mods])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        arrays = msg.content.array_records["arrays"]
        w, count = arrays["w"].numpy(), arrays["num_batches_tracked"].numpy()
        trained = {
            "w": Array(w + np.float32(0.1)),
            "num_batches_tracked": Array(np.asarray(count + 5)),
        }
        metrics = {"num-examples": 1, "lr": msg.content.config_records["config"]["lr"]}
        return Message(
            RecordDict(
                {
                    "arrays": ArrayRecord(trained),
                    "metrics": MetricRecord(metrics),  # type: ignore[arg-type]
                }
            ),
            reply_to=msg,
        )

    @app.evaluate()
    def evaluate(msg: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"metrics": metrics}), reply_to=msg)

    return app


COUNTED = ArrayRecord(
    {
        "w": Array(np.zeros(100, np.float32)),
        "num_batches_tracked": Array(np.array(0, np.int64)),
    }
)
RATE = ConfigRecord({"lr": 0.1})


def test_a_counter_is_no_part_of_the_bound_that_clients_have_clipped_to() -> None:
    def start(strategy: Strategy) -> ArrayRecord:
        grid = InProcessGrid(trial_app(fixedclipping_mod), 4)
        return strategy.start(grid, COUNTED, 5, train_config=RATE).arrays

    def make() -> Strategy:
        plain = FedAvg(fraction_evaluate=0.0)
        return DifferentialPrivacyClientSideFixedClipping(plain, 0.0, 1.0, 4)

    bare, ours = start(make()), start(compress(make(), **LOSSLESS))
    for name in COUNTED:
        np.testing.assert_allclose(ours[name].numpy(), bare[name].numpy(), rtol=1e-5)


class EachItsOwn(FedAvg):
    """Changes the one content of all messages before it yields each."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        for msg in super().configure_train(server_round, arrays, config, grid):
            msg.content.config_records["config"]["lr"] = float(msg.metadata.dst_node_id)
            yield msg


def test_a_config_for_each_client_reaches_it() -> None:
    seen = {}

    def note(msg: Message, reply: Message) -> None:
        if "metrics" in reply.content:
            rate = reply.content.metric_records["metrics"]["lr"]
            seen[msg.metadata.dst_node_id] = rate

    grid = InProcessGrid(trial_app(), 3, on_message=note)
    strategy = compress(EachItsOwn(fraction_evaluate=0.0))
    strategy.start(grid, COUNTED, 1, train_config=RATE)
    assert seen == {node_id: node_id for node_id in (1001, 1002, 1003)}


class Controlled(FedAvg):
    """Sends another record with each evaluation."""

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        for msg in super().configure_evaluate(server_round, arrays, config, grid):
            msg.content["control"] = ArrayRecord({"c": Array(np.ones(10_000))})
            yield msg


@pytest.mark.parametrize("evaluate_on", ["received", "global", "held"])
def test_other_records_of_an_evaluation_are_billed(evaluate_on: Any) -> None:
    strategy = compress(Controlled(), evaluate_on=evaluate_on)
    strategy.start(InProcessGrid(trial_app(), 4), COUNTED, 2, train_config=RATE)
    extra = 2 * 4 * 80_000
    assert extra <= strategy.ledger.evaluation_downlink.num_bytes < extra + 8_000


def test_an_attribute_of_the_strategy_inside_is_told_where_it_is() -> None:
    strategy: Any = compress(FedAvg(fraction_train=0.5))
    expected = "no attribute 'fraction_train': the strategy inside has it, as .strat"
    with pytest.raises(AttributeError, match=expected):
        strategy.fraction_train  # noqa: B018
    with pytest.raises(AttributeError, match="'Compressed' object has no .*'nothing'$"):
        strategy.nothing  # noqa: B018
    assert not hasattr(strategy, "fraction_train")
    assert copy.copy(strategy).strategy is strategy.strategy


def test_bfloat16_is_for_strategies_of_this_package() -> None:
    half = ArrayRecord({"w": array_of_bytes("bfloat16", (2,), bytes(4))})
    with pytest.raises(ConfigurationError, match=r"bfloat16.*MCM\(\)"):
        compress(FedAvg()).start(InProcessGrid(trial_app(), 2), half, 1)


def test_a_state_dict_is_no_array_record() -> None:
    state: Any = {"w": np.zeros(3)}
    with pytest.raises(ConfigurationError, match="initial_arrays must be an ArrayRec"):
        compress(FedAvg()).start(InProcessGrid(trial_app(), 2), state, 1)
