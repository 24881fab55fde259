"""Flower's own strategies over compressed links, beside themselves without."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import Callable, Iterable
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
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
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
    FedXgbBagging,
    FedXgbCyclic,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Result,
    Strategy,
)

from flower_compress import (
    CompressionMod,
    Direct,
    ErrorFeedback,
    Identity,
    Memory,
    RotatedQuantizer,
    StochasticQuantizer,
    TopK,
)
from flower_compress.errors import (
    ConfigurationError,
    LayoutMismatchError,
    MissingModError,
    UnknownNameError,
)
from flower_compress.links import Channel, SenderState
from flower_compress.strategies import MCM, MalcomPSGD, compress
from flower_compress.strategies.server.uplink import Uplinks
from flower_compress.strategies.server.vector_store import VectorStore
from flower_compress.strategies.topology import ring
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import FaultyGrid, InProcessGrid, RandomFaults
from flower_compress.wire.packet import Packet

CLIENTS, DIM, ROUNDS = 7, 600, 6
TARGETS = np.random.default_rng(0).normal(size=(CLIENTS, DIM)).astype(np.float32)
INITIAL = np.linspace(-1, 1, DIM, dtype=np.float32)
LOSSLESS: dict[str, Any] = {
    "uplink": Direct(Identity()),
    "downlink": Direct(Identity()),
}


@pytest.fixture(autouse=True)
def _no_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's QFedAvg and Bulyan collect garbage for every reply."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def make_app(
    *inner: Mod, outer: Iterable[Mod] = (), compressed: bool = True
) -> ClientApp:
    ours = [CompressionMod()] if compressed else []
    app = ClientApp(mods=[*outer, *ours, *inner])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        model, config = msg.content["arrays"], msg.content["config"]
        assert isinstance(model, ArrayRecord) and isinstance(config, ConfigRecord)
        w = np.concatenate([model["a"].numpy(), model["b"].numpy().reshape(-1)])
        mu = config.get("proximal-mu", 0.0)
        assert isinstance(mu, float)
        pull = np.float32(0.5 / (1 + mu))
        step = pull * (TARGETS[client] - w.astype(np.float32))
        trained = (w + step).astype(np.float32)
        loss = float(np.square(TARGETS[client] - w).mean())
        content = RecordDict(
            {
                "trained": to_record(trained, client),
                "metrics": MetricRecord(
                    {"num-examples": 1 + client, "train_loss": loss}
                ),
                "more": ConfigRecord({"about": f"client {client}"}),
            }
        )
        return Message(content, reply_to=msg)

    @app.evaluate()
    def evaluate(msg: Message, context: Context) -> Message:
        model, config = msg.content["arrays"], msg.content["config"]
        assert isinstance(model, ArrayRecord) and isinstance(config, ConfigRecord)
        metrics = {
            "num-examples": 1,
            "norm": float(np.linalg.norm(model["a"].numpy())),
            "told": float(config["server-round"]),
        }
        content = RecordDict({"metrics": MetricRecord(metrics)})
        return Message(content, reply_to=msg)

    return app


def to_record(w: np.ndarray, count: float = 0) -> ArrayRecord:
    return ArrayRecord(
        {
            "a": Array(w[:10].copy()),
            "b": Array(w[10:].reshape(10, -1).copy()),
            "running_mean": Array(np.array([count, count / 3], np.float32)),
        }
    )


def to_vector(result: Result) -> np.ndarray:
    a, b = (result.arrays[name].numpy().reshape(-1) for name in ("a", "b"))
    return np.concatenate([a, b])


def make_grid(strategy: Strategy, *inner: Mod) -> InProcessGrid:
    compressed = hasattr(strategy, "ledger")
    return InProcessGrid(make_app(*inner, compressed=compressed), CLIENTS)


def run(
    strategy: Strategy,
    *inner: Mod,
    rounds: int = ROUNDS,
    grid: Grid | None = None,
    **settings: Any,
) -> Result:
    random.seed(1)  # Flower's strategies sample with it.
    np.random.seed(1)  # noqa: NPY002 - Flower's wrappers draw their noise with it
    grid = grid or make_grid(strategy, *inner)
    return strategy.start(grid, to_record(INITIAL), rounds, **settings)


Make = Callable[..., Strategy]
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
@pytest.mark.parametrize("fraction", [1.0, 0.75])
def test_lossless_links_change_nothing(name: str, fraction: float) -> None:
    make, mods = PLAIN[name], mods_of(name)
    bare = run(make(fraction_train=fraction), *mods)
    strategy = compress(make(fraction_train=fraction), evaluate_on="global", **LOSSLESS)
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
def test_default_links_end_nearby_at_a_tenth_of_the_bytes(name: str) -> None:
    make, mods, rounds = PLAIN[name], mods_of(name), 12
    bare = to_vector(run(make(fraction_evaluate=0.0), *mods, rounds=rounds))
    strategy = compress(make(fraction_evaluate=0.0))
    result = run(strategy, *mods, rounds=rounds)
    distance = np.linalg.norm(to_vector(result) - bare)
    assert distance < 0.1 * np.linalg.norm(bare - INITIAL)
    metrics = result.train_metrics_clientapp[rounds]
    dense = CLIENTS * 4 * DIM
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
    strategy = compress(FedAvg(fraction_train=0.5), **LOSSLESS)
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
        assert f"Server step: {make.__name__}" in caplog.text


# --- Strategies of users --------------------------------------------------------------


class Spy(FedAvg):
    """Remembers what it saw: whom, how far from the model, and a sum."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen: list[str] = []
        self.distances: list[float] = []
        self.total: dict[str, np.ndarray] = {}
        self.compare = lambda replies, model: None
        self._model = ArrayRecord()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._model = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = [msg for msg in replies if not msg.has_error()]
        self.compare(replies, self._model)
        for msg in replies:
            assert [*msg.content] == ["trained", "metrics", "more"]
            self.seen.append(str(msg.content["more"]["about"]))
            record = msg.content["trained"]
            assert isinstance(record, ArrayRecord)
            change = [record[n].numpy() - self._model[n].numpy() for n in record]
            square = sum(float(np.square(entries).sum()) for entries in change)
            self.distances.append(square**0.5)
        arrays, metrics = super().aggregate_train(server_round, replies)
        for key, array in (arrays or {}).items():
            self.total[key] = self.total.get(key, 0.0) + array.numpy()
        return arrays, metrics


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
        (Renames(), LayoutMismatchError, r"expected the arrays \['a', 'b'"),
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


# --- Clients that fail ----------------------------------------------------------------


def test_under_faults_every_plain_reply_is_what_the_client_returned() -> None:
    inside = Spy(fraction_train=0.75, fraction_evaluate=0.0)
    errors: list[float] = []

    def compare(replies: list[Message], model: ArrayRecord) -> None:
        w = model["a"].numpy()
        for msg in replies:
            client = int(str(msg.content["more"]["about"]).split()[1])
            expected = w + 0.5 * (TARGETS[client][:10] - w)
            errors.append(np.abs(msg.content["trained"]["a"].numpy() - expected).max())

    inside.compare = compare
    uplink = Memory(RotatedQuantizer(step=0.02))
    strategy = compress(inside, uplink=uplink, downlink=Direct(Identity()))
    faults = RandomFaults(
        seed=3,
        lose_messages=0.1,
        lose_replies=0.15,
        error_replies=0.05,
        duplicate=0.1,
        delay=0.1,
        restart_every=10,
    )
    run(strategy, grid=FaultyGrid(make_grid(strategy), faults), rounds=40)
    assert len(errors) > 40 * 5 / 3
    assert max(errors) < 0.05


def test_error_feedback_gives_the_mean_of_what_a_payload_brings() -> None:
    link = ErrorFeedback(Identity())
    uplinks = Uplinks(link, 4, "sampled", VectorStore(4, None), None)
    end, sender = uplinks.begin(), SenderState()
    channel = Channel(Stream(1, Purpose.UPLINK, 0, 1))
    for version in (1, 2):  # The first payload is lost.
        x = np.full(4, version, np.float32)
        sender = link.acknowledge(sender, *uplinks.acked(end))
        sender, payload = link.send(sender, x, version, channel.at(version))
        end.asked += 1
    packet = Packet(
        1, 0, 2, dim=4, payloads=(payload,), detail=max(1, sender.num_inputs)
    )
    part = uplinks.check(end, packet, 1.0)
    assert uplinks.value(part).tolist() == [1.5] * 4
    uplinks.take_in([part])
    assert uplinks.acked(end) == (2, payload.crc)


def test_a_client_that_diverges_is_an_error_to_the_strategy() -> None:
    def spoil(msg: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(msg, context)
        if context.node_config["partition-id"] == 2:
            reply.content["trained"]["a"] = Array(np.full(10, np.nan, np.float32))
        return reply

    inside = Spy(fraction_evaluate=0.0)
    strategy = compress(inside)
    result = run(strategy, spoil)
    assert "client 2" not in inside.seen and len(inside.seen) == 6 * ROUNDS
    assert strategy.refused == {2: ROUNDS}
    assert result.train_metrics_clientapp[ROUNDS]["refused-updates"] == 1


def test_weights_that_do_not_fit_their_dtype_are_refused() -> None:
    app = ClientApp(mods=[CompressionMod()])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        w = msg.content["arrays"]["w"].numpy()
        client = int(context.node_config["partition-id"])
        far = np.full_like(w, 65000 if client == 1 else 1)
        metrics = MetricRecord({"num-examples": 3})
        arrays = ArrayRecord({"w": Array(far)})
        content = RecordDict({"arrays": arrays, "metrics": metrics})
        return Message(content, reply_to=msg)

    strategy = compress(FedAvg(fraction_evaluate=0.0))
    initial = ArrayRecord({"w": Array(np.zeros(400, np.float16))})
    result = strategy.start(InProcessGrid(app, 3), initial, 3)
    assert strategy.refused == {1: 3}
    assert 0.5 < result.arrays["w"].numpy().mean() < 1.5


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


# --- Differential privacy; docs/composing.md ------------------------------------------

NORM = 0.5


def clip_at_clients(inside: Strategy) -> Strategy:
    return DifferentialPrivacyClientSideFixedClipping(inside, 0.0, NORM, CLIENTS)


def clip_at_server(inside: Strategy) -> Strategy:
    return DifferentialPrivacyServerSideFixedClipping(inside, 0.0, NORM, CLIENTS)


def test_a_clipped_update_is_longer_once_it_is_compressed() -> None:
    inside = Spy(fraction_evaluate=0.0)
    told = ConfigRecord({"clipping_norm": NORM})
    run(compress(inside), fixedclipping_mod, train_config=told)
    assert max(inside.distances) > 1.05 * NORM


@pytest.mark.parametrize(
    ("wrap", "mods"),
    [(clip_at_clients, [fixedclipping_mod]), (clip_at_server, [])],
    ids=["clients", "server"],
)
def test_inside_compress_every_contribution_is_within_the_bound(
    wrap: Callable[[Strategy], Strategy], mods: list[Mod]
) -> None:
    inside = Spy(fraction_evaluate=0.0)
    run(compress(wrap(inside)), *mods)
    assert len(inside.distances) == CLIENTS * ROUNDS
    assert max(inside.distances) <= NORM * (1 + 1e-5)
    assert max(inside.distances) > 0.99 * NORM


def test_adaptive_clipping_at_clients_is_within_its_own_bound() -> None:
    inside = Spy(fraction_evaluate=0.0)
    wrapper = DifferentialPrivacyClientSideAdaptiveClipping(
        inside, 0.0, CLIENTS, initial_clipping_norm=NORM
    )
    bounds = []

    def note(number: int, _: Any) -> None:
        bounds.append(wrapper.clipping_norm)

    run(compress(wrapper), adaptiveclipping_mod, evaluate_fn=note)
    assert len(set(bounds)) > 1
    for number, bound in enumerate(bounds[:-1]):
        of_round = inside.distances[number * CLIENTS : (number + 1) * CLIENTS]
        assert max(of_round) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("wrap", [clip_at_clients, clip_at_server])
def test_around_compress_it_is_refused(wrap: Callable[[Strategy], Strategy]) -> None:
    strategy = wrap(compress(FedAvg()))
    grid = InProcessGrid(make_app(fixedclipping_mod), CLIENTS)
    with pytest.raises(ConfigurationError, match="compress is the outermost wrapper"):
        strategy.start(grid, to_record(INITIAL), 1)


def test_around_a_strategy_of_ours_the_server_cannot_clip() -> None:
    with pytest.raises(TypeError, match="flower_compress/1"):
        clip_at_server(MCM()).start(
            InProcessGrid(make_app(), CLIENTS), to_record(INITIAL), 1
        )


def test_a_clipping_mod_before_ours_is_told_at_the_greeting() -> None:
    app = make_app(outer=[fixedclipping_mod])
    strategy = compress(clip_at_clients(FedAvg()))
    with pytest.raises(MissingModError, match="through CompressionMod"):
        strategy.start(InProcessGrid(app, CLIENTS), to_record(INITIAL), 1)


def test_local_privacy_stands_before_compression() -> None:
    noise = LocalDpMod(clipping_norm=5.0, sensitivity=0.1, epsilon=1.0, delta=1e-5)
    bare = to_vector(run(FedAvg(), noise))
    ours = to_vector(run(compress(FedAvg(), **LOSSLESS), noise))
    np.testing.assert_allclose(ours, bare, rtol=0, atol=2e-5)
    run(compress(FedAvg()), noise)


# --- What cannot work -----------------------------------------------------------------


class OwnStart(FedAvg):
    def start(self, *args: Any, **kwargs: Any) -> Result:
        return super().start(*args, **kwargs)


class Workflow:
    """Stands for flwr.server.workflow.SecAggPlusWorkflow."""


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (FedAdam, r"got the class FedAdam: make one of it, compress\(FedAdam"),
        (None, "expected a strategy of flwr.serverapp.strategy, got NoneType"),
        (Workflow(), "secure aggregation adds masked integers"),
        (MCM(), "MCM is compressed already"),
        (compress(FedAvg()), "Compressed is compressed already"),
        (clip_at_server(MCM()), "MCM is compressed already"),
        (MalcomPSGD(ring(4)), "MalcomPSGD is compressed already"),
        (FedXgbBagging(), "FedXgbBagging sends trees"),
        (clip_at_server(FedXgbCyclic()), "FedXgbCyclic sends trees"),
        (OwnStart(), "OwnStart has a start of its own"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_strategies_that_cannot_be_compressed(strategy: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        compress(strategy)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"uplink": TopK(k=3)}, r"expected uplink to be a link.*Memory\(C\)"),
        ({"downlink": "mcm"}, "expected downlink to be a link, got 'mcm'"),
        ({"downlink": ErrorFeedback(TopK(k=3))}, "expected Memory or Direct"),
        ({"uplink_memory": "mean"}, "takes no uplink_memory: each reply is rebuilt"),
        ({"optimizer": None}, "takes no optimizer: the strategy inside"),
        ({"fraction_train": 0.5}, r"compress\(FedAvg\(fraction_train=...\)\)"),
        ({"uplnk": None}, "unknown argument of compress 'uplnk'.*mean 'uplink'"),
        ({"evaluate_on": "here"}, "unknown evaluate_on 'here'"),
        ({"groups": 0}, "groups must be a positive number"),
        ({"max_update_norm": 0.0}, "max_update_norm must be positive"),
        ({"resume": True}, "give checkpoint_dir"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_arguments_that_cannot_work(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        compress(FedAvg(), **arguments)
    assert issubclass(UnknownNameError, ConfigurationError)
