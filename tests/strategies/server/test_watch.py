"""Divergence that compression causes is told, and nothing else is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_compress import (
    CompressionMod,
    Direct,
    Identity,
    Memory,
    RotatedQuantizer,
    StochasticQuantizer,
    TopK,
)
from flower_compress.strategies import (
    MCM,
    SGD,
    AMSGrad,
    Artemis,
    CompressedStrategy,
    Diana,
    Dore,
    DoubleSqueeze,
    RandMCM,
    SparsAMS,
)
from flower_compress.strategies.server.composition import Composition
from flower_compress.strategies.server.sampling import sample
from flower_compress.strategies.server.watch import NoiseWatch
from flower_compress.testing import InProcessGrid

DIM, CLIENTS, ROUNDS = 600, 6, 25
NOISY = StochasticQuantizer(levels=1, bucket_size=None)
BEFORE, DURING = "diverges once", "have grown"


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    logger = logging.getLogger("flwr")
    before, logger.propagate = logger.propagate, True
    caplog.set_level(logging.INFO, "flwr")
    yield
    logger.propagate = before


def make_app(share: float) -> ClientApp:
    """Clients that go a share of the way to optima of their own."""
    app = ClientApp(mods=[CompressionMod()])
    targets = np.random.default_rng(1).standard_normal((CLIENTS, DIM))
    targets = targets.astype(np.float32)

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        w = msg.content["arrays"]["w"].numpy()
        target = targets[int(context.node_config["partition-id"])]
        record = ArrayRecord({"w": Array(w - np.float32(share) * (w - target))})
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=msg)

    return app


def warnings(
    caplog: pytest.LogCaptureFixture, strategy: CompressedStrategy, share: float
) -> list[str]:
    """Run, and return what was said at WARNING."""
    initial = ArrayRecord({"w": Array(np.zeros(DIM, np.float32))})
    caplog.clear()
    grid = InProcessGrid(make_app(share), CLIENTS)
    strategy.start(grid, initial, num_rounds=ROUNDS)
    found = [r for r in caplog.records if r.levelno >= logging.WARNING]
    return [record.getMessage() for record in found]


def make(kind: Callable[..., CompressedStrategy], *args: Any) -> CompressedStrategy:
    return kind(*args, fraction_evaluate=0.0)


@pytest.mark.parametrize("kind", [MCM, RandMCM, Artemis, Dore])
def test_noisy_links_are_told_of_before_and_in_a_run(
    caplog: pytest.LogCaptureFixture, kind: Callable[..., CompressedStrategy]
) -> None:
    found = warnings(caplog, make(kind, NOISY), share=0.9)
    assert [BEFORE in found[0], DURING in found[1]] == [True, True]
    assert len(found) == 2, "each once"
    assert "RotatedQuantizer(step=1.5)" in found[0]
    assert int(found[1].split()[1].rstrip(":")) <= 11, "within ten rounds"


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize(
    "strategy",
    [
        lambda: make(SGD),
        lambda: make(Diana, StochasticQuantizer(levels=4, bucket_size=128)),
        lambda: make(MCM, RotatedQuantizer(step=1.5)),
        lambda: make(RandMCM, RotatedQuantizer(step=1.5)),
        lambda: make(Artemis, RotatedQuantizer(step=1.5)),
        lambda: make(Dore, RotatedQuantizer(step=1.0)),
    ],
)
def test_what_converges_is_not_warned_of(
    caplog: pytest.LogCaptureFixture,
    strategy: Callable[[], CompressedStrategy],
    share: float,
) -> None:
    assert warnings(caplog, strategy(), share) == []


def test_a_biased_operator_is_told_of_when_it_diverges(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strategy = make(DoubleSqueeze, TopK(fraction=0.01))
    strategy.optimizer = type(strategy.optimizer)(step_size=30.0)
    (found,) = warnings(caplog, strategy, share=1.0)
    assert DURING in found


def test_a_smaller_step_is_one_for_gradients(caplog: pytest.LogCaptureFixture) -> None:
    strategy = MCM(NOISY, step_size=0.05, fraction_evaluate=0.0)
    assert warnings(caplog, strategy, share=1.0) == []
    assert any(BEFORE in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("kind", "fraction", "payloads"),
    [(MCM, 1 / 6, 6), (Dore, 1 / 6, 6), (MCM, 0.5, 0), (RandMCM, 1 / 6, 0)],
)
def test_what_a_shared_downlink_costs_those_who_are_away(
    caplog: pytest.LogCaptureFixture, kind: Any, fraction: float, payloads: int
) -> None:
    """And it does: 6 payloads of 1.7 bits (2.2 of Dore), where one is enough."""
    strategy = kind(fraction_train=fraction, min_train_nodes=1, fraction_evaluate=0.0)
    found = [text for text in warnings(caplog, strategy, 0.5) if "missed" in text]
    assert len(found) == (payloads > 0)
    assert not found or f"about {payloads} at once" in found[0]
    down = strategy.ledger.downlink
    bits = down.payload_bits - 8 * down.snapshot_bytes
    sent = bits / (ROUNDS * fraction * CLIENTS * DIM)
    assert (sent > 5.0) == (payloads > 0)


def test_one_small_draw_is_not_taken_for_the_usual(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def drawn(seed: int) -> int:
        return len(sample(list(range(CLIENTS)), 0.5, 2, "bernoulli", seed, 1))

    seed = next(seed for seed in range(100) if drawn(seed) == 1)
    strategy = MCM(
        fraction_train=0.5, sampling="bernoulli", seed=seed, fraction_evaluate=0.0
    )
    initial = ArrayRecord({"w": Array(np.zeros(DIM, np.float32))})
    strategy.start(InProcessGrid(make_app(0.5), CLIENTS), initial, num_rounds=1)
    assert "sampled 1 nodes" in caplog.text and "missed" not in caplog.text


@pytest.mark.parametrize(
    "strategy",
    [SparsAMS(), DoubleSqueeze(TopK(fraction=0.01)), MCM(optimizer=AMSGrad())],
    ids=["spars-ams", "double-squeeze", "mcm-amsgrad"],
)
def test_where_no_limit_is_known(strategy: CompressedStrategy) -> None:
    assert strategy._compose().largest_share(1000, 10, 10) is None


def test_the_limit_is_that_of_the_links() -> None:
    def limit(up: Any, down: Any, **options: Any) -> float | None:
        return Composition(up, down, **options).largest_share(1000, 10, 5)

    dense = Direct(Identity())
    assert limit(dense, dense) == 1.0
    quiet = Memory(RotatedQuantizer(step=1.5))
    assert limit(quiet, quiet) == 1.0
    noisy = Memory(StochasticQuantizer(4, bucket_size=512))
    shared, private = limit(noisy, noisy), limit(noisy, noisy, groups="client")
    assert shared is not None and private is not None
    assert 0 < shared < private < 0.3
    assert limit(Memory(StochasticQuantizer(4, bucket_size=64)), dense) == 1.0


@pytest.mark.parametrize(
    "norms",
    [
        [1.0] * 30,
        [0.9**k for k in range(30)],
        [1.0 + 0.5 * (-1) ** k for k in range(30)],
        [1e-3, 1.0, 5.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0],
        [float(k) for k in range(10, 40)],
        [0.0] * 30,
        [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    ],
)
def test_norms_that_do_not_grow_exponentially(
    norms: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    composition = Composition(Memory(NOISY), Memory(NOISY))
    watch = NoiseWatch("MCM", composition, DIM)
    for server_round, norm in enumerate(norms, 1):
        watch.note(server_round, norm)
    assert not caplog.records


def test_fine_operators_and_clients_that_overshoot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """FedAvg bears them; what grows as training begins, in small steps, is no noise."""
    fine = Memory(RotatedQuantizer(step=1.5))
    norms = [1.1**k for k in range(80)]
    for of_model, is_told in ((0.1, False), (0.9, True)):
        watch = NoiseWatch("MCM", Composition(fine, fine), DIM)
        watch.begin(CLIENTS, CLIENTS)
        assert watch.bearable == 1.0
        told = [
            watch.note(k, norm, np.full(1, norm / of_model, np.float32))
            for k, norm in enumerate(norms)
        ]
        assert sum(told) == is_told
    (record,) = (r for r in caplog.records if DURING in r.getMessage())
    assert "overshoot their optima" in record.getMessage()
    assert "RotatedQuantizer(step=0.5)" in record.getMessage()


def test_a_run_of_clients_that_overshoot(caplog: pytest.LogCaptureFixture) -> None:
    """It diverges, and is told; with steps of half the size it converges."""
    ends = {}
    for on_divergence in ("warn", "repair"):
        caplog.clear()
        strategy = MCM(fraction_evaluate=0.0, on_divergence=on_divergence)
        initial = ArrayRecord({"w": Array(np.zeros(DIM, np.float32))})
        grid = InProcessGrid(make_app(1.7), CLIENTS)
        w = strategy.start(grid, initial, 120).arrays["w"].numpy()
        ends[on_divergence] = float(np.linalg.norm(w))
        assert "any up to 1." in caplog.text
        assert sum(DURING in each.getMessage() for each in caplog.records) == 1
    assert ends["repair"] < 20 < 1e3 < ends["warn"]


@pytest.mark.parametrize(
    ("norms", "latest"),
    [
        ([1.1**k for k in range(80)], 45),  # Slow.
        ([38.8, 573, 7.26, 14.8, 8.62, 7.69, 86.5, 4.3e7, 1.4e12], 9),  # Jumpy.
        ([17.0, 590.0, 1.9e5, np.inf], 4),  # Soon beyond float32.
    ],
)
def test_growth_of_any_kind_is_seen(norms: list[float], latest: int) -> None:
    watch = NoiseWatch("MCM", Composition(Memory(NOISY), Memory(NOISY)), DIM)
    told = [watch.note(number, norm) for number, norm in enumerate(norms, 1)]
    assert sum(told) == 1, "once"
    assert told.index(True) < latest
