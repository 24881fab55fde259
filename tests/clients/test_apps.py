"""The ready-made client apps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from numpy.typing import NDArray

from flower_compress.clients import (
    Arrays,
    Objective,
    batches,
    gradient_client,
    local_steps_client,
)
from flower_compress.errors import ConfigurationError, RoundFailedError
from flower_compress.strategies import SGD
from flower_compress.testing import InProcessGrid


class Quadratic:
    """F_i(w) = mean_j |w - x_j|^2 / 2 over the client's points x_j."""

    def __init__(self, points: NDArray[np.float32]) -> None:
        self.points = points
        self.seen: list[NDArray[np.intp] | None] = []

    @property
    def num_examples(self) -> int:
        return len(self.points)

    def gradient(
        self, arrays: Arrays, indices: NDArray[np.intp] | None
    ) -> tuple[float, Arrays]:
        self.seen.append(indices)
        points = self.points if indices is None else self.points[indices]
        return 0.0, {"w": arrays["w"] - points.mean(axis=0)}

    def local_steps(
        self,
        arrays: Arrays,
        chosen: Iterable[NDArray[np.intp] | None],
        step_size: float,
    ) -> tuple[float, Arrays]:
        w = arrays["w"]
        for indices in chosen:
            w = w - np.float32(step_size) * self.gradient({"w": w}, indices)[1]["w"]
        return 0.0, {"w": w}

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        distances = np.square(self.points - arrays["w"]).sum(axis=1)
        return {"loss": float(distances.mean() / 2)}


POINTS = np.random.default_rng(0).normal(size=(3, 10, 4)).astype(np.float32)


def start(client: str, config: dict[str, int | float], rounds: int = 4) -> ArrayRecord:
    problems = [Quadratic(points) for points in POINTS]
    assert all(isinstance(problem, Objective) for problem in problems)

    def objective(context: Context, _: ConfigRecord) -> Objective:
        return problems[int(context.node_config["partition-id"])]

    make = gradient_client if client == "gradient" else local_steps_client
    strategy = SGD(step_size=0.5 if client == "gradient" else 1.0)
    initial = ArrayRecord({"w": Array(np.zeros(4, dtype=np.float32))})
    result = strategy.start(
        InProcessGrid(make(objective), 3),
        initial,
        rounds,
        train_config=ConfigRecord(dict(config)),
    )
    assert result.evaluate_metrics_clientapp[rounds]["loss"] > 0
    return result.arrays


def test_gradient_client_descends_the_full_gradient() -> None:
    w = start("gradient", {})["w"].numpy()
    target = POINTS.reshape(-1, 4).mean(axis=0)
    np.testing.assert_allclose(w, target * (1 - 0.5**4), rtol=1e-5)


def test_local_steps_client_takes_k_steps() -> None:
    w = start("local", {"local-steps": 3, "local-step-size": 0.2})["w"].numpy()
    target = POINTS.reshape(-1, 4).mean(axis=0)
    np.testing.assert_allclose(w, target * (1 - 0.8**12), rtol=1e-5)


def test_bad_config_is_a_clear_error() -> None:
    with pytest.raises(RoundFailedError, match="local-steps and local-step-size"):
        start("local", {"local-steps": 0})
    with pytest.raises(RoundFailedError, match="batch-size"):
        start("gradient", {"batch-size": -1})


def draw(count: int = 1, **change: int) -> list[NDArray[np.intp] | None]:
    keys = {"seed": 1, "client": 2, "server_round": 3, **change}
    return list(batches(10, 4, count=count, **keys))


def test_batches_depend_on_seed_client_and_round_alone() -> None:
    (first,), (again,) = draw(), draw()
    assert first is not None and again is not None
    np.testing.assert_array_equal(first, again)
    for key in ("seed", "client", "server_round"):
        (other,) = draw(**{key: 9})
        assert other is not None
        assert first.tolist() != other.tolist()


def test_an_epoch_draws_no_example_twice() -> None:
    drawn = draw(count=4)  # two batches of four out of ten, then a new epoch
    for pair in (drawn[:2], drawn[2:]):
        seen = Counter(int(i) for batch in pair if batch is not None for i in batch)
        assert len(seen) == 8 and set(seen.values()) == {1}


@pytest.mark.parametrize("size", [0, 10, 11])
def test_a_batch_of_everything_is_none(size: int) -> None:
    chosen = batches(10, size, seed=0, client=0, server_round=0, count=2)
    assert list(chosen) == [None, None]


def test_negative_batch_size() -> None:
    with pytest.raises(ConfigurationError, match="batch-size"):
        next(batches(10, -1, seed=0, client=0, server_round=0))
