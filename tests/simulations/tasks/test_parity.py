"""Logistic regression: gradients, minimum and smoothness agree with each other."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flower_compress.clients.objective import Arrays
from flower_compress.errors import ConfigurationError, LayoutMismatchError
from simulations.tasks import LogisticObjective, Task, make_task

PARITY = make_task("parity", partition="label", num_clients=20)


def parity_weights(seed: int, scale: float = 1.0) -> Arrays:
    generator = np.random.Generator(np.random.Philox(seed))
    return {"weights": (scale * generator.normal(size=65)).astype(np.float32)}


def mean_gradient(task: Task, arrays: Arrays) -> NDArray[np.float64]:
    gradients = [
        task.objective(i).gradient(arrays, None)[1]["weights"].astype(np.float64)
        for i in range(task.num_clients)
    ]
    return np.asarray(np.mean(gradients, axis=0))


# --- Logistic regression ------------------------------------------------------------


@given(seed=st.integers(0, 100), client=st.integers(0, 19), whole=st.booleans())
def test_logistic_gradient_is_that_of_the_loss(
    seed: int, client: int, whole: bool
) -> None:
    objective = PARITY.objective(client)
    generator = np.random.Generator(np.random.Philox(seed))
    indices = None if whole else generator.integers(0, objective.num_examples, 20)
    arrays = parity_weights(seed)
    direction = generator.normal(size=65)
    direction /= np.linalg.norm(direction)
    step = 1e-2  # The weights are float32, so a smaller step drowns in rounding.
    ends = [
        (arrays["weights"] + sign * step * direction).astype(np.float32)
        for sign in (1, -1)
    ]
    up, down = (objective.gradient({"weights": end}, indices)[0] for end in ends)
    _, gradient = objective.gradient(arrays, indices)
    moved = ends[0].astype(np.float64) - ends[1]
    slope = float(gradient["weights"].astype(np.float64) @ moved)
    assert up - down == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_logistic_loss_is_its_formula() -> None:
    features = np.array([[1.0, 2.0], [0.5, -1.0]])
    labels = np.array([1, -1])
    weights = np.array([0.5, -0.25], dtype=np.float32)
    objective = LogisticObjective(features, labels, l2=0.1)
    expected = np.mean(np.log1p(np.exp(-labels * (features @ weights))))
    expected += 0.05 * np.sum(weights.astype(np.float64) ** 2)
    assert objective.gradient({"weights": weights}, None)[0] == pytest.approx(expected)
    assert objective.evaluate({"weights": weights})["loss"] == pytest.approx(expected)


def test_logistic_is_stable_for_huge_margins_and_quiet_when_diverged() -> None:
    objective = LogisticObjective(np.array([[1.0], [-1.0]]), np.array([1, 1]), l2=0.0)
    loss, gradient = objective.gradient(
        {"weights": np.array([1e6], dtype=np.float32)}, None
    )
    assert loss == pytest.approx(5e5)
    assert gradient["weights"][0] == pytest.approx(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lost = {"weights": np.array([np.inf], dtype=np.float32)}
        assert not np.isfinite(objective.gradient(lost, None)[0])
        assert not np.isfinite(objective.local_steps(lost, [None], 1.0)[0])
        assert not np.isfinite(objective.evaluate(lost)["loss"])


def test_logistic_local_steps_are_gradient_steps() -> None:
    objective = PARITY.objective(3)
    arrays, before = parity_weights(0), parity_weights(0)
    batches = [np.arange(5), None, np.arange(3, 9)]
    loss, after = objective.local_steps(arrays, batches, 0.5)
    expected, losses = dict(arrays), []
    for batch in batches:
        value, gradient = objective.gradient(expected, batch)
        expected = {"weights": expected["weights"] - 0.5 * gradient["weights"]}
        losses.append(value)
    np.testing.assert_allclose(after["weights"], expected["weights"], rtol=1e-5)
    assert after["weights"].dtype == np.float32
    assert loss == pytest.approx(np.mean(losses), rel=1e-6)
    np.testing.assert_array_equal(arrays["weights"], before["weights"])


def test_logistic_refuses_what_has_no_meaning() -> None:
    objective = PARITY.objective(0)
    arrays = parity_weights(0)
    with pytest.raises(ConfigurationError, match="empty batch"):
        objective.gradient(arrays, np.array([], dtype=np.intp))
    with pytest.raises(ConfigurationError, match="at least one batch"):
        objective.local_steps(arrays, [], 0.1)
    with pytest.raises(LayoutMismatchError, match="weights"):
        objective.gradient({"weights": np.zeros(64, np.float32)}, None)
    with pytest.raises(LayoutMismatchError, match="bias"):
        objective.gradient({"bias": np.zeros(65, np.float32)}, None)
    with pytest.raises(ConfigurationError, match="labels in"):
        LogisticObjective(np.ones((2, 1)), np.array([0, 1]), l2=0.1)
    with pytest.raises(ConfigurationError, match="shape"):
        LogisticObjective(np.ones((2, 1)), np.array([1]), l2=0.1)
    with pytest.raises(ConfigurationError, match="l2"):
        LogisticObjective(np.ones((1, 1)), np.array([1]), l2=-0.1)


# --- parity ---------------------------------------------------------------------------


def test_parity_loss_is_the_mean_over_clients_not_over_examples() -> None:
    task = make_task("parity", partition="dirichlet", num_clients=7, alpha=0.2)
    arrays = parity_weights(1)
    losses = [task.objective(i).evaluate(arrays)["loss"] for i in range(7)]
    sizes = [task.objective(i).num_examples for i in range(7)]
    assert task.evaluate(arrays).loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert abs(np.average(losses, weights=sizes) - np.mean(losses)) > 1e-3


def test_parity_accuracy_counts_ties_half() -> None:
    assert PARITY.evaluate(PARITY.initial_arrays()).accuracy == 0.5
    always_even = PARITY.initial_arrays()
    always_even["weights"][-1] = 1.0
    assert PARITY.evaluate(always_even).accuracy == pytest.approx(891 / 1797)


@pytest.mark.parametrize(("scheme", "l2"), [("label", None), ("dirichlet", 1e-2)])
def test_parity_optimum_is_a_minimum(scheme: str, l2: float | None) -> None:
    task = make_task("parity", partition=scheme, num_clients=20, l2=l2)
    optimum = task.optimum()
    assert optimum is not None
    minimizer = task.minimizer()  # type: ignore[attr-defined]
    # The gradient at the minimiser, in float64, from the definition.
    gradient = np.zeros(65)
    for i in range(20):
        signed = task.objective(i)._rows  # type: ignore[attr-defined]
        slopes = 1.0 / (1.0 + np.exp(signed @ minimizer))
        gradient -= slopes @ signed / (20 * len(signed))
    gradient += (1.0 / 1797 if l2 is None else l2) * minimizer
    assert np.linalg.norm(gradient) < 1e-8
    nearest = {"weights": minimizer.astype(np.float32)}
    assert 0.0 <= task.evaluate(nearest).loss - optimum + 1e-15 < 1e-11
    generator = np.random.Generator(np.random.Philox(0))
    for scale in (1e-3, 1e-1, 10.0):
        moved = minimizer + scale * generator.normal(size=65)
        assert task.evaluate({"weights": moved.astype(np.float32)}).loss > optimum


def test_parity_without_l2_promises_no_optimum() -> None:
    assert make_task("parity", num_clients=2, l2=0.0).optimum() is None


@given(first=st.integers(0, 50), second=st.integers(51, 99), client=st.integers(0, 19))
def test_parity_gradients_are_lipschitz(first: int, second: int, client: int) -> None:
    smoothness = PARITY.smoothness()
    assert smoothness is not None
    one, two = parity_weights(first, 0.1), parity_weights(second, 0.1)
    objective = PARITY.objective(client)
    change = (
        objective.gradient(one, None)[1]["weights"]
        - objective.gradient(two, None)[1]["weights"]
    )
    distance = np.linalg.norm(one["weights"] - two["weights"])
    assert np.linalg.norm(change) <= smoothness * distance * (1 + 1e-5)


def test_parity_gradient_descent_at_one_over_smoothness_descends() -> None:
    smoothness = PARITY.smoothness()
    assert smoothness is not None
    arrays = PARITY.initial_arrays()
    losses = [PARITY.evaluate(arrays).loss]
    for _ in range(20):
        step = mean_gradient(PARITY, arrays) / smoothness
        arrays = {"weights": (arrays["weights"] - step).astype(np.float32)}
        losses.append(PARITY.evaluate(arrays).loss)
    assert (np.diff(losses) < 0.0).all()
    optimum = PARITY.optimum()
    assert optimum is not None and losses[-1] > optimum


def test_parity_does_not_depend_on_the_number_of_blas_threads() -> None:
    script = textwrap.dedent(
        """
        import numpy as np
        from simulations.tasks import make_task
        task = make_task("parity", num_clients=2)
        weights = np.random.Generator(np.random.Philox(0)).normal(size=65)
        arrays = {"weights": weights.astype(np.float32)}
        loss, gradient = task.objective(0).gradient(arrays, None)
        print(loss.hex(), gradient["weights"].tobytes().hex(), task.evaluate(arrays))
        """
    )
    # Started together: most of their time is that of the imports.
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "OPENBLAS_NUM_THREADS": threads,
                "OMP_NUM_THREADS": threads,
                "PYTHONPATH": ":".join(path for path in sys.path if path),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads in ("1", "2")
    ]
    outputs = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(outputs) == 1
