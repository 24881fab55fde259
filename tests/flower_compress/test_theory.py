"""Theory: each formula against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from flower_compress.compressors import RandomSparsifier, StochasticQuantizer, TopK
from flower_compress.errors import BiasedCompressorError, ConfigurationError
from flower_compress.theory import (
    max_step_size_diana,
    max_step_size_dore,
    max_step_size_mcm,
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
