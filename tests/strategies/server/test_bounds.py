"""What is ordinary, by the clients themselves."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from flower_compress.strategies.server.bounds import (
    Bounds,
    ExactBounds,
    Given,
    NormBound,
    WeightCap,
)
from flower_compress.wire.layout import Layout

LARGEST = 1e19


def refused(bound: NormBound, norms: list[float]) -> list[int]:
    given = dict(enumerate(norms))
    limit = bound.limit(given)
    return [i for i, norm in given.items() if norm > limit]


def test_a_long_update_is_refused_in_the_first_round_and_later() -> None:
    bound = NormBound(100.0)
    assert refused(bound, [1.0, 2.0, 3.0, 1e38]) == [3]
    assert refused(bound, [1.0, 1e3]) == [1], "by the rounds before"
    assert refused(bound, [1.0, 150.0]) == []


def test_fewer_than_three_have_no_median() -> None:
    bound = NormBound(100.0)
    assert refused(bound, [1e-9, 1.0]) == []
    assert refused(bound, [0.0, 0.0, 0.0, 5.0]) == [], "zeros say nothing"
    assert refused(NormBound(100.0), [LARGEST]) == [0], "whose square overflows"
    assert refused(NormBound(None), [1e38, 1.0, 1.0, 1.0]) == []


@pytest.mark.parametrize("growth", [0.01, 0.5, 3.0, 90.0])
def test_what_all_do_is_ordinary(growth: float) -> None:
    """Convergence, a warm-up, a run that diverges: a client unlike others by ten."""
    bound = NormBound(100.0)
    for k in range(8):
        assert refused(bound, [growth**k * s for s in (0.1, 1.0, 3.0, 10.0)]) == []


def test_one_that_joins_a_converged_run_is_not_refused() -> None:
    bound = NormBound(100.0)
    for k in range(50):
        refused(bound, [0.5**k * s for s in (1.0, 2.0, 3.0)])
    assert refused(bound, [1e-15, 1e-15, 1e-15, 20.0]) == []


def test_a_jump_of_all_is_ordinary_once_half_of_them_were_heard() -> None:
    """Two of ten take part: the rounds' own medians say nothing."""
    bound = NormBound(100.0)
    for k in range(0, 10, 2):
        bound.limit({k: 1.0, k + 1: 1.0})
    left_out = []
    for k in range(0, 20, 2):
        given = {k % 10: 1e3, k % 10 + 1: 1e3}
        left_out.append(max(given.values()) > bound.limit(given))
    assert left_out == [True] * 2 + [False] * 8


def test_a_minority_moves_no_median_however_long_it_tries() -> None:
    bound = NormBound(100.0)
    for _ in range(50):
        limit = bound.limit({0: 1.0, 1: 1.0, 2: 1.0, 3: 99.0, 4: 1e15})
        assert limit == 100.0


def test_the_operators_own_noise_is_allowed_for() -> None:
    assert NormBound(10.0, omega=99.0).limit({0: 1.0, 1: 1.0, 2: 1.0}) == 100.0


def test_weights_are_capped_by_the_median_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cap = WeightCap(1000.0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            capped = cap.capped({0: 10.0, 1: 30.0, 2: 1e18, 3: 0.0})
    assert capped == {0: 10.0, 1: 30.0, 2: 30_000.0, 3: 0.0}
    assert caplog.text.count("max_weight_ratio") == 1
    assert cap.capped({5: 1e18}) == {5: 30_000.0}, "a round of its own does not help"
    assert WeightCap(None).capped({0: 1.0, 1: 1.0, 2: 1e18})[2] == 1e18


LAYOUT = Layout.of(
    ArrayRecord(
        {
            "w": Array(np.zeros(3, np.float32)),
            "bn.running_mean": Array(np.zeros(2, np.float32)),
            "bn.running_var": Array(np.ones(2, np.float32)),
            "bn.num_batches_tracked": Array(np.array(0, np.int64)),
        }
    )
)


def exact(mean: float, var: float, batches: int) -> bytes:
    return (
        np.full(2, mean, np.float32).tobytes()
        + np.full(2, var, np.float32).tobytes()
        + np.array(batches, np.int64).tobytes()
    )


MODEL = exact(0.0, 1.0, 0)
HOSTILE = {
    "variance": exact(0.1, -1e30, 10),
    "small negative variance": exact(0.1, -1e-3, 10),
    "largest float32": exact(3.4e38, 1.0, 10),
    "largest int64": exact(0.1, 1.0, 2**63 - 1),
    "negative counter": exact(0.1, 1.0, -5),
}


@pytest.mark.parametrize("honest", [0, 1, 4])
@pytest.mark.parametrize("name", HOSTILE)
def test_exact_arrays_of_strangers_are_refused(name: str, honest: int) -> None:
    given = {i: exact(0.1 * i, 1.0 + i, 10 + i) for i in range(honest)}
    given[9] = HOSTILE[name]
    assert ExactBounds(LAYOUT, 1000.0).refused(MODEL, given).keys() == {9}


def test_exact_arrays_of_honest_clients_are_not() -> None:
    """Counters grow, data is not normalised, and one client has far more of it."""
    for num in (1, 2, 5):
        bounds, batches = ExactBounds(LAYOUT, 1000.0), 0
        for k in range(20):
            model = exact(0.0, 1.0, batches) if k == 0 else exact(100.0, 1e4, batches)
            given = {i: exact(90.0, 9e3, batches + 7) for i in range(num)}
            given[num] = exact(-110.0, 2e4, batches + 50_000)
            given[num + 1] = model
            assert bounds.refused(model, given) == {}
            batches += 10_000


def test_all_bounds_go_on_from_a_checkpoint() -> None:
    def new() -> Bounds:
        return Bounds(LAYOUT, 100.0, 1000.0, 0.0)

    def judge(bounds: Bounds, k: int) -> str:
        generator = np.random.default_rng(k)
        given = {
            i: Given(
                float(generator.pareto(0.2)),
                float(generator.pareto(0.2)),
                exact(float(generator.pareto(0.2)), 1.0, 3),
            )
            for i in generator.permutation(12)[:4].tolist()
        }
        errors, weights = bounds.judge(MODEL, given)
        return repr(({i: str(e) for i, e in errors.items()}, weights))

    whole, resumed = new(), new()
    outcomes = set()
    for k in range(40):
        saved = json.loads(json.dumps(resumed.save()))
        resumed = new()
        resumed.restore(saved)
        outcomes.add(outcome := judge(whole, k))
        assert judge(resumed, k) == outcome
    assert any("max_norm_ratio" in outcome for outcome in outcomes)
