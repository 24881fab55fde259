"""Step sizes: what is refused, and a schedule that reaches zero."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord

from flower_compress.errors import ConfigurationError
from flower_compress.strategies import (
    MCM,
    CDProxSGT,
    CompressedStrategy,
    Dore,
    MalcomPSGD,
    SparsAMS,
)
from flower_compress.strategies.topology import ring
from flower_compress.testing import InProcessGrid
from tests.cases import in_one_test
from tests.strategies.problem import (
    INITIAL,
    NUM_CLIENTS,
    make_app,
    to_record,
    to_vector,
)
from tests.strategies.test_decentralized import run as run_relay

LAST = 4


def until_round_four(server_round: int) -> float:
    return 0.05 if server_round <= LAST else 0.0


@in_one_test("value", [0, -0.1, float("nan"), float("inf"), "0.1", None])
@in_one_test("make", [MCM, SparsAMS, lambda **o: MalcomPSGD(ring(5), **o)])
def test_what_is_no_positive_number_is_refused(make: Any, value: Any) -> None:
    expected = f"step_size must be positive, .*got {re.escape(repr(value))}$"
    with pytest.raises(ConfigurationError, match=expected):
        make(step_size=value)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.1", None])
def test_what_a_function_gives_is_checked(value: Any) -> None:
    grid = InProcessGrid(make_app(), NUM_CLIENTS)
    strategy = MCM(step_size=lambda k: 0.1 if k < 2 else value)
    with pytest.raises(ConfigurationError, match=f"got {value!r} for round 2"):
        strategy.start(grid, to_record(INITIAL), 3)


@pytest.mark.parametrize("cls", [MCM, SparsAMS])
def test_a_schedule_that_reaches_zero_leaves_the_model_and_goes_on(
    cls: type[CompressedStrategy],
) -> None:
    models: dict[int, Any] = {}

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        models[server_round] = to_vector(arrays)
        return MetricRecord()

    grid = InProcessGrid(make_app(), NUM_CLIENTS)
    strategy = cls(step_size=until_round_four)
    strategy.start(grid, to_record(INITIAL), LAST + 3, evaluate_fn=evaluate)
    assert not np.array_equal(models[LAST], models[LAST - 1])
    for server_round in range(LAST + 1, LAST + 4):
        np.testing.assert_array_equal(models[server_round], models[LAST])


def test_a_degraded_model_and_a_node_bear_a_step_of_zero() -> None:
    grid = InProcessGrid(make_app(), NUM_CLIENTS)
    result = Dore(step_size=until_round_four).start(grid, to_record(INITIAL), LAST + 3)
    assert np.isfinite(to_vector(result.arrays)).all()
    for cls in (MalcomPSGD, CDProxSGT):
        models = run_relay(cls(ring(NUM_CLIENTS), step_size=until_round_four), LAST + 3)
        assert all(np.isfinite(model).all() for model in models.values())
