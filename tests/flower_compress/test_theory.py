"""Theory: each formula against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from flower_compress.compressors import (
    DitheredQuantizer,
    RandomSparsifier,
    StochasticQuantizer,
    TopK,
)
from flower_compress.errors import BiasedCompressorError, ConfigurationError
from flower_compress.strategies.topology import ring
from flower_compress.streams import Purpose, Stream
from flower_compress.theory import (
    choco_consensus_step,
    gossip_contraction,
    malcom_consensus_bound,
    malcom_step_size,
    max_step_size_diana,
    max_step_size_dore,
    max_step_size_ghost,
    max_step_size_mcm,
    max_step_size_mcm_heterogeneous,
    max_step_size_mcm_nonconvex,
    max_step_size_mcm_quadratic,
    memory_rate,
    memory_rate_theory,
)
from tests.cases import in_one_test

exactly = pytest.approx


@pytest.mark.parametrize(
    ("omega", "expected"), [(0.0, 0.5), (1.0, 0.25), (4.0, 0.1), (9.0, 0.05)]
)
def test_memory_rate(omega: float, expected: float) -> None:
    assert memory_rate(omega) == exactly(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("omega", "expected"),
    [(0.0, 1.0), (0.1, 1.0), (0.125, 1.0), (0.25, 0.5), (1.0, 0.125), (5.0, 0.025)],
)
def test_memory_rate_theory(omega: float, expected: float) -> None:
    assert memory_rate_theory(omega) == exactly(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("smoothness", "omega_up", "num_clients", "expected"),
    [
        (1.0, 0.0, 1, 1 / 2),  # uncompressed
        (1.0, 3.0, 1, 1 / 8),  # 2 (1 + 3)
        (0.5, 20.0, 10, 1 / 3),  # 2 * 1/2 * (1 + 2)
        (4.0, 8.0, 20, 5 / 56),  # 8 (1 + 2/5)
    ],
)
def test_max_step_size_diana(
    smoothness: float, omega_up: float, num_clients: int, expected: float
) -> None:
    step_size = max_step_size_diana(smoothness, omega_up, num_clients)
    assert step_size == exactly(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("smoothness", "omega_up", "omega_down", "num_clients", "expected"),
    [
        (1.0, 0.0, 0.0, 1, 1 / 8),
        (2.0, 0.0, 3.0, 1, 1 / 64),  # 8 * 2 * 4
        (0.5, 20.0, 1.0, 10, 1 / 24),  # 8 * 1/2 * 2 * 3
    ],
)
def test_max_step_size_dore(
    smoothness: float,
    omega_up: float,
    omega_down: float,
    num_clients: int,
    expected: float,
) -> None:
    step_size = max_step_size_dore(smoothness, omega_up, omega_down, num_clients)
    assert step_size == exactly(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("smoothness", "omega_up", "omega_down", "num_clients", "expected"),
    [
        # No compression downwards: Diana's limit.
        (1.0, 3.0, 0.0, 1, 1 / 8),
        # Diana's limit 1 / (2 * 101) is the least: the others are 1/0.08 and
        # 1 / (8 sqrt(2) * 0.01 * sqrt(0.08 + 100)) = 0.88...
        (1.0, 100.0, 0.01, 1, 1 / 202),
        # The third is the least: 8 sqrt(2) * 2 * sqrt(16 + 2) = 16 * 6.
        (1.0, 2.0, 2.0, 1, 1 / 96),
        (3.0, 20.0, 2.0, 10, 1 / 288),
        # Diana's again, 2 * 2: the others are 1 / 1.6 and 1 / 2.02...; the second is
        # never the least, for it needs omega_down > 1/4 and omega_down < 1/16.
        (2.0, 0.0, 0.1, 5, 1 / 4),
    ],
)
def test_max_step_size_mcm(
    smoothness: float,
    omega_up: float,
    omega_down: float,
    num_clients: int,
    expected: float,
) -> None:
    step_size = max_step_size_mcm(smoothness, omega_up, omega_down, num_clients)
    assert step_size == exactly(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("omega_up", "omega_down", "num_clients", "rate", "expected"),
    [
        (0.0, 2.0, 3, None, max_step_size_mcm(1.0, 0.0, 2.0, 3)),
        (4.0, 1 / 8, 2, None, 1 / 32),  # N / (16 omega_up)
        (4.0, 0.0, 2, None, 1 / 32),
        # omega_down / alpha_down = 32, 1 / alpha_down + 4 omega_up / N = 20
        (5.0, 2.0, 5, None, 1 / (4 * math.sqrt(640))),
        (5.0, 2.0, 5, 1 / 32, 1 / (4 * math.sqrt(64 * 36))),
    ],
)
def test_max_step_size_where_clients_differ(
    omega_up: float,
    omega_down: float,
    num_clients: int,
    rate: float | None,
    expected: float,
) -> None:
    for smoothness in (1.0, 8.0):
        step_size = max_step_size_mcm_heterogeneous(
            smoothness, omega_up, omega_down, num_clients, rate
        )
        assert step_size == exactly(expected / smoothness, rel=1e-14)


def test_the_limits_of_the_other_theorems() -> None:
    # omega_up / N = 2, omega_down = 2: 1 / alpha_down = 16.
    assert max_step_size_mcm_nonconvex(2.0, 4.0, 2.0, 2) == exactly(
        1 / (2 * 8 * 2 * math.sqrt(18)), rel=1e-14
    )
    assert max_step_size_ghost(2.0, 4.0, 12.0, 2) == exactly(1 / 24, rel=1e-14)
    root = 1 / (2 * 8 * 2 * math.sqrt(3))
    assert max_step_size_mcm_quadratic(2.0, 4.0, 2.0, 2) == exactly(root, rel=1e-14)
    # The cube root is the least: of 8 * 2 * 16 * 16 / 8 = 8^3.
    assert max_step_size_mcm_quadratic(2.0, 0.0, 2.0, 8, 8) == exactly(1 / 16)
    # More draws that are independent of each other never ask for less.
    steps = [max_step_size_mcm_quadratic(1.0, 4.0, 2.0, 20, c) for c in (1, 4, 20)]
    assert steps == sorted(steps) and steps[0] < steps[-1]
    for limit in (
        max_step_size_ghost,
        max_step_size_mcm_nonconvex,
        max_step_size_mcm_quadratic,
    ):
        diana = max_step_size_diana(2.0, 4.0, 2)
        assert limit(2.0, 4.0, 0.0, 2) == diana >= limit(2.0, 4.0, 0.3, 2)
    with pytest.raises(ConfigurationError, match="num_draws must be at least 1"):
        max_step_size_mcm_quadratic(1.0, 1.0, 1.0, 2, 0)


@pytest.mark.parametrize("algorithm", ["mcm", "rand-mcm", "ghost"])
def test_a_quadratic_converges_as_the_theorem_says(algorithm: str) -> None:
    """F(mean w_k) - F* <= ||w_0 - w*||^2 / (gamma K), without noise of gradients."""
    num_clients, dim, num_rounds, p = 4, 12, 600, 0.25
    omega = (1 - p) / p
    generator = np.random.Generator(np.random.Philox(3))
    curvature = np.linspace(0.05, 1.0, dim)  # L = 1
    draws = num_clients if algorithm == "rand-mcm" else 1
    step = max_step_size_mcm_quadratic(1.0, omega, omega, num_clients, draws)
    if algorithm == "ghost":
        step = max_step_size_ghost(1.0, omega, omega, num_clients)
    alpha = memory_rate_theory(omega)
    w = before = generator.normal(size=dim)
    first, memories, total = w, np.tile(w, (draws, 1)), np.zeros(dim)

    def sparsify(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x * (generator.random(x.shape) < p) / p

    for _ in range(num_rounds):
        total += w
        if algorithm == "ghost":
            received = np.tile(before + sparsify(w - before), (num_clients, 1))
        else:
            payload = sparsify(w - memories)
            received = np.resize(memories + payload, (num_clients, dim))
            memories = memories + alpha * payload
        before, w = w, w - step * sparsify(curvature * received).mean(0)
    mean = total / num_rounds
    bound = float(first @ first) / (step * num_rounds)
    assert 0.5 * float(curvature @ mean**2) <= bound
    assert 0.5 * float(curvature @ w**2) < 1e-3 * float(curvature @ first**2)


def test_the_theorem_holds_for_small_rates_alone() -> None:
    for rate in (0.0, 1 / 15, math.nan):
        with pytest.raises(ConfigurationError, match="downlink_rate must lie in"):
            max_step_size_mcm_heterogeneous(1.0, 5.0, 2.0, 5, rate)


def test_mcm_is_never_above_one_way_compression() -> None:
    for omega_up in (0.0, 1.0, 30.0):
        for omega_down in (0.0, 0.05, 0.3, 1.0, 30.0):
            mcm = max_step_size_mcm(2.0, omega_up, omega_down, 4)
            assert mcm <= max_step_size_diana(2.0, omega_up, 4)
            if omega_down:
                assert mcm <= 1 / (16 * omega_down)


@pytest.mark.parametrize(
    ("compressor", "dim", "omega"),
    [
        (StochasticQuantizer(1), 100, 10.0),  # sqrt(d) / s < d / s^2
        (StochasticQuantizer(20), 100, 0.25),  # d / s^2 < sqrt(d) / s
        (StochasticQuantizer(1, bucket_size=16), 100, 4.0),
        (StochasticQuantizer(1, bucket_size=400), 100, 10.0),
        (StochasticQuantizer(1, "inf"), 100, 5.5),  # (1 + 10) / 2 < 25
        (StochasticQuantizer(10, "inf"), 100, 0.25),  # 100 / 400 < 11 / 20
        (RandomSparsifier(0.25), 7, 3.0),
        (RandomSparsifier(1.0), 7, 0.0),
    ],
)
def test_omega(
    compressor: StochasticQuantizer | RandomSparsifier, dim: int, omega: float
) -> None:
    assert compressor.omega(dim) == exactly(omega, rel=1e-15)
    assert compressor.contraction(dim) == exactly(max(0.0, 1 - omega))


def test_biased_has_a_contraction_and_no_omega() -> None:
    assert TopK(k=3).contraction(12) == 0.25
    assert TopK(k=30).contraction(12) == 1.0
    assert TopK(fraction=0.25).contraction(10) == 0.3  # ceil(2.5) of 10
    assert TopK(k=1).contraction(0) == 1.0
    with pytest.raises(BiasedCompressorError, match=r"top-k.*ErrorFeedback"):
        TopK(k=3).omega(12)


FORMULAS: list[Callable[[float], float]] = [
    memory_rate,
    memory_rate_theory,
    lambda omega: max_step_size_diana(1.0, omega, 2),
    lambda omega: max_step_size_dore(1.0, omega, 1.0, 2),
    lambda omega: max_step_size_dore(1.0, 1.0, omega, 2),
    lambda omega: max_step_size_mcm(1.0, omega, 1.0, 2),
    lambda omega: max_step_size_mcm(1.0, 1.0, omega, 2),
    lambda omega: max_step_size_mcm_heterogeneous(1.0, omega, 1.0, 2),
    lambda omega: max_step_size_mcm_quadratic(1.0, 1.0, omega, 2),
    lambda omega: max_step_size_mcm_nonconvex(1.0, 1.0, omega, 2),
    lambda omega: max_step_size_ghost(1.0, 1.0, omega, 2),
]


@in_one_test("formula", FORMULAS)
@in_one_test("omega", [-0.1, math.nan, math.inf, -math.inf])
def test_omega_must_be_finite_and_not_negative(
    formula: Callable[[float], float], omega: float
) -> None:
    with pytest.raises(ConfigurationError, match=f"omega.*got {omega}"):
        formula(omega)


PROBLEMS: list[Callable[[float, int], float]] = [
    lambda smoothness, clients: max_step_size_diana(smoothness, 1.0, clients),
    lambda smoothness, clients: max_step_size_dore(smoothness, 1.0, 1.0, clients),
    lambda smoothness, clients: max_step_size_mcm(smoothness, 1.0, 1.0, clients),
]


@pytest.mark.parametrize("formula", PROBLEMS)
def test_problem_must_make_sense(formula: Callable[[float, int], float]) -> None:
    for smoothness in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigurationError, match=f"smoothness.*{smoothness}"):
            formula(smoothness, 2)
    for clients in (0, -3):
        with pytest.raises(ConfigurationError, match=f"num_clients.*{clients}"):
            formula(1.0, clients)


def test_malcoms_constants() -> None:
    assert gossip_contraction(0.5, 2.0) == exactly(0.25 / 164)
    assert malcom_consensus_bound(0.1, 0.5, 3.0) == exactly(24 * 0.01 * 3 / 0.25)
    # 16/2 + 1/4 + 4 + 1 - 8/4
    assert choco_consensus_step(0.5, 1.0, 2.0) == exactly(0.125 / 11.25)
    step = malcom_step_size(2.0, 0.5, 3.0, 4.0, 5.0, 8, 99)
    b, e = 2 * 4 / (8 * 0.5), 12 * 4 * 5 / 0.25
    assert step == exactly(min((0.06 / b) ** 0.5, (0.06 / e) ** (1 / 3), 1 / 8))
    assert malcom_step_size(2.0, 1.0, 1e9, 0.0, 0.0, 8, 99) == 1 / 8
    for wrong in ((0.0, 2.0), (1.5, 2.0), (0.5, 0.5), (0.5, math.inf)):
        with pytest.raises(ConfigurationError, match="gap|tau"):
            gossip_contraction(*wrong)


def test_gossip_contracts_as_the_theorem_says() -> None:
    """Nodes that only average, in expectation over the operator's draws."""
    topology, dim, levels = ring(6), 32, 8
    w = np.asarray(topology.mixing)
    eigenvalues = np.sort(np.abs(np.linalg.eigvalsh(w)))
    gap, beta = 1 - eigenvalues[-2], np.linalg.norm(np.eye(6) - w, 2)
    operator = DitheredQuantizer(levels, tau="lemma")
    tau = 1 + dim / levels**2
    gamma = choco_consensus_step(gap, beta, tau)
    x = np.random.default_rng(4).standard_normal((6, dim))
    y, version = x.copy(), 0  # What is left is to agree: without a step nothing moves.

    def potential(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        return float(np.sum((x - x.mean(axis=0)) ** 2) + np.sum((x - y) ** 2))

    start, rounds = potential(x, y), 60
    for _ in range(rounds):
        for i in range(6):
            version += 1
            residual = (x[i] - y[i]).astype(np.float32)
            stream = Stream(1, Purpose.GOSSIP, i, version)
            y[i] += operator.decompress(operator.compress(residual, stream))
        x = x + gamma * (w - np.eye(6)) @ y
    assert potential(x, y) < (1 - gossip_contraction(gap, tau)) ** rounds * start
