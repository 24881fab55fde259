"""SPARS-AMS and what it is set against, as plain NumPy loops, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord

from flower_compress import (
    Direct,
    ErrorFeedback,
    Identity,
    Memory,
    MinVarianceSparsifier,
    RandK,
    StochasticQuantizer,
    TopK,
)
from flower_compress.compressors import Compressor
from flower_compress.errors import ConfigurationError, NonFiniteError
from flower_compress.strategies import (
    ALGORITHMS,
    AMSGrad,
    CompressedStrategy,
    GradientDescent,
    SparsAMS,
    amsgrad,
    qadam,
    stoc_mv,
    stoc_unif,
    topk,
)
from flower_compress.strategies.run.checkpoint import Checkpoints
from flower_compress.strategies.server.optimizers import OptimizerState
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import InProcessGrid
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
    down,
    mean,
    zeros,
)

TOP_3 = TopK(k=3)
BETA1, BETA2, EPS = 0.8, 0.95, 1e-4


def up(c: Compressor, x: Vector, client: int, version: int) -> Vector:
    """C(x) of a client, in the round whose downlink had that version."""
    stream = Stream(SEED, Purpose.UPLINK, client, version)
    return c.decompress(c.compress(x, stream), stream)


def eta(k: int) -> float:
    """A learning rate that decreases."""
    return 0.1 / k**0.5


def everyone(k: int) -> list[int]:
    return list(CLIENTS)


def two_of_them(k: int) -> list[int]:
    draw = Stream(SEED, Purpose.SAMPLING, 0, k).generator()
    return sorted(draw.choice(NUM_CLIENTS, 2, replace=False).tolist())


def algorithm_1(
    c: Compressor,
    feedback: bool,
    sampled: Callable[[int], Sequence[int]] = everyone,
    memory_downlink: bool = False,
) -> Vector:
    """Algorithm 1 of the paper; with MCM's downlink its theta_t is what arrives."""
    f = np.float32
    theta, e, memory = INITIAL, zeros(), INITIAL
    m = v = v_hat = np.zeros(DIM, f)
    for t in range(1, ROUNDS + 1):
        received = theta
        if memory_downlink:
            omega = down(QUANTIZER, theta - memory, 0, t + 1)
            received, memory = memory + omega, memory + ALPHA * omega
        sent = []
        for i in sampled(t):
            corrected = gradient(i, received, t) + e[i]
            sent.append(up(c, corrected, i, t + 1))
            if feedback:
                e[i] = corrected - sent[-1]
        g = mean(sent).astype(f)
        m = f(BETA1) * m + f(1 - BETA1) * g
        v = f(BETA2) * v + f(1 - BETA2) * g**2
        v_hat = np.maximum(v, v_hat)
        theta = theta + f(-eta(t)) * m / np.sqrt(v_hat + f(EPS))
    return theta


OPTIONS: dict[str, Any] = {
    "step_size": eta,
    "beta1": BETA1,
    "beta2": BETA2,
    "eps": EPS,
    "seed": SEED,
    "weighted_by_key": None,
    "fraction_evaluate": 0.0,
}


def run(strategy: CompressedStrategy, app: Any = None) -> Vector:
    grid = InProcessGrid(app or make_app(), NUM_CLIENTS)
    return to_vector(strategy.start(grid, to_record(INITIAL), ROUNDS).arrays)


MV, RAND = MinVarianceSparsifier(density=0.2), RandK(k=3)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: SparsAMS(TOP_3, **OPTIONS), lambda: algorithm_1(TOP_3, True)),
        (
            lambda: SparsAMS(TOP_3, **OPTIONS, fraction_train=0.4),
            lambda: algorithm_1(TOP_3, True, two_of_them),
        ),
        (
            lambda: SparsAMS(TOP_3, downlink=Memory(QUANTIZER), **OPTIONS),
            lambda: algorithm_1(TOP_3, True, memory_downlink=True),
        ),
        (lambda: amsgrad(**OPTIONS), lambda: algorithm_1(Identity(), False)),
        (lambda: topk(TOP_3, **OPTIONS), lambda: algorithm_1(TOP_3, False)),
        (lambda: stoc_mv(MV, **OPTIONS), lambda: algorithm_1(MV, False)),
        (lambda: stoc_unif(RAND, **OPTIONS), lambda: algorithm_1(RAND, False)),
    ],
    ids=["all", "two-a-round", "mcm-downlink", "amsgrad", "topk", "mv", "unif"],
)
def test_equals_algorithm_1_bit_for_bit(
    make: Callable[[], CompressedStrategy], expected: Callable[[], Vector]
) -> None:
    theta = expected()
    assert run(make()).tobytes() == theta.tobytes()
    assert np.linalg.norm(theta - INITIAL) > 0.1  # it went somewhere


def test_one_step_by_hand() -> None:
    """No bias correction, and eps inside the root."""
    optimizer = AMSGrad(step_size=2.0, beta1=0.5, beta2=0.75, eps=0.11)
    state = optimizer.init(2)
    state, update = optimizer.step(state, np.array([0.6, 0.0], np.float32), 1)
    np.testing.assert_allclose(state["m"], [0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(state["v"], [0.09, 0.0], rtol=1e-6)
    np.testing.assert_allclose(update, [-2.0 * 0.3 / 0.2**0.5, 0.0], rtol=1e-6)
    state, update = optimizer.step(state, np.zeros(2, np.float32), 2)
    np.testing.assert_allclose(state["v"], [0.0675, 0.0], rtol=1e-6)
    np.testing.assert_allclose(state["v_hat"], [0.09, 0.0], rtol=1e-6)
    np.testing.assert_allclose(update, [-2.0 * 0.15 / 0.2**0.5, 0.0], rtol=1e-6)


def test_amsgrad_is_pure_and_keeps_float32() -> None:
    optimizer = AMSGrad()
    before = optimizer.init(3)
    copies = {name: vector.copy() for name, vector in before.items()}
    after, update = optimizer.step(before, np.ones(3, np.float32), 1)
    for name, vector in copies.items():
        np.testing.assert_array_equal(before[name], vector)
        assert after[name].dtype == np.float32 and (after[name] > 0).all()
    assert update.dtype == np.float32


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"beta1": 1.0}, r"beta1 must lie in \[0, 1\), got 1.0"),
        ({"beta2": -0.1}, r"beta2 must lie in \[0, 1\)"),
        ({"eps": 0.0}, "eps must be positive, got 0.0"),
        ({"eps": float("nan")}, "eps must be positive"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        SparsAMS(**wrong)


def test_the_default_step_is_for_clients_that_return_weights() -> None:
    """The slow test of tests/simulations/test_spars_ams.py says why it is this one."""
    for strategy in (SparsAMS(), topk(), amsgrad()):
        assert strategy.optimizer == AMSGrad(0.003)


def test_a_schedule_is_checked_when_it_is_used() -> None:
    strategy = SparsAMS(TOP_3, step_size=lambda k: 0.1 * (2 - k))
    with pytest.raises(ConfigurationError, match="got -0.1 for round 3"):
        run(strategy)


def test_a_moment_beyond_float32_is_an_error() -> None:
    optimizer = AMSGrad()
    huge = np.full(2, 1e30, np.float32)
    with np.errstate(over="ignore"), pytest.raises(NonFiniteError, match="max_update"):
        optimizer.step(optimizer.init(2), huge, 1)


def test_the_compositions() -> None:
    """The curves of the figure: which link, which step."""
    dense = Direct(Identity())
    made = {name: ALGORITHMS[name]() for name in list(ALGORITHMS)[-6:]}
    assert {name: strategy.uplink for name, strategy in made.items()} == {
        "amsgrad": dense,
        "spars-ams": ErrorFeedback(TopK(fraction=0.01)),
        "topk": Direct(TopK(fraction=0.01)),
        "stoc-mv": Direct(MinVarianceSparsifier(density=0.01)),
        "stoc-unif": Direct(RandK(fraction=0.01)),
        "qadam": ErrorFeedback(TopK(fraction=0.01)),
    }
    for name, strategy in made.items():
        assert strategy.downlink == dense and strategy.preserved
        plain = GradientDescent(1e-3)
        assert strategy.optimizer == (plain if name == "qadam" else AMSGrad(3e-3))
    assert qadam(step_size=0.5).optimizer == GradientDescent(0.5)


# --- Checkpoints ----------------------------------------------------------------------


class KilledError(Exception):
    """The server is gone."""


def saved(folder: Path, last: int = ROUNDS, **more: Any) -> CompressedStrategy:
    """Run until round `last`, then die."""

    def evaluate(server_round: int, _: ArrayRecord) -> MetricRecord | None:
        if server_round > last:
            raise KilledError
        return None

    strategy = SparsAMS(
        TOP_3,
        downlink=Memory(StochasticQuantizer(levels=2)),
        checkpoint_dir=folder,
        checkpoint_every=4,
        resume=True,
        **{**OPTIONS, "fraction_train": 0.6, **more},
    )
    grid = InProcessGrid(make_app(), NUM_CLIENTS)
    strategy.start(grid, to_record(INITIAL), ROUNDS, evaluate_fn=evaluate)
    return strategy


def contents(folder: Path) -> tuple[bytes, OptimizerState]:
    """The model and the moments of the newest checkpoint."""
    newest = Checkpoints(folder).latest()
    assert newest is not None and newest.server_round == ROUNDS
    moments = {name: newest.array(f"optimizer/{name}") for name in ("m", "v", "v_hat")}
    return newest.array("model").tobytes(), moments


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    saved(tmp_path / "whole")
    with pytest.raises(KilledError):
        saved(tmp_path / "killed", 13)
    assert saved(tmp_path / "killed").resumed_from == 12
    (model, moments), (again, resumed) = (
        contents(tmp_path / name) for name in ("whole", "killed")
    )
    assert again == model
    for name, vector in moments.items():
        assert np.count_nonzero(vector) > DIM / 2
        np.testing.assert_array_equal(resumed[name], vector)


def test_a_checkpoint_without_the_moments_is_of_another_run(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        saved(tmp_path, 13)
    plain = CompressedStrategy(
        uplink=ErrorFeedback(TOP_3),
        downlink=Memory(StochasticQuantizer(levels=2)),
        seed=SEED,
        checkpoint_dir=tmp_path,
        resume=True,
    )
    grid = InProcessGrid(make_app(), NUM_CLIENTS)
    with pytest.raises(ConfigurationError, match=r'optimizer was \["m", .* is \[\]'):
        plain.start(grid, to_record(INITIAL), ROUNDS)
