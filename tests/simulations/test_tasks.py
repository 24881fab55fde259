"""Tasks: gradients, minimum, smoothness and evaluation agree with each other."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torchvision
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flower_compress.clients.objective import Arrays, Objective
from flower_compress.errors import (
    ConfigurationError,
    LayoutMismatchError,
    MissingExtraError,
    UnknownNameError,
)
from flower_compress.wire.layout import Layout
from simulations import tasks
from simulations.data import Dataset
from simulations.partition import PartitionError
from simulations.tasks import MODELS, LogisticObjective, Task, make_task

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
        signed = task.objective(i)._signed  # type: ignore[attr-defined]
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


# --- digits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "dimension"),
    [
        ("digits", "softmax", 650),
        ("digits", "mlp", 9610),
        ("digits", "mlp-512", 301_066),
        ("digits", "cnn", 6090),
        ("digits28", "softmax", 7850),
        ("digits28", "mlp", 101_770),
        ("digits28", "mlp-512", 669_706),
        ("digits28", "cnn", 20_490),
    ],
)
def test_digits_models_have_their_dimension(
    name: str, model: str, dimension: int
) -> None:
    arrays = make_task(name, model=model, num_clients=20).initial_arrays()
    assert sum(array.size for array in arrays.values()) == dimension
    assert all(array.dtype == np.float32 for array in arrays.values())


@pytest.mark.parametrize("model", [model for model in MODELS if model != "resnet18"])
def test_digits_initial_weights_come_from_the_seed_alone(model: str) -> None:
    drawn = []
    for state, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        # A different number of clients, so that the cache does not answer.
        task = make_task("digits", model=model, num_clients=10 + state, seed=seed)
        assert torch.equal(before, torch.get_rng_state())
        drawn.append(task.initial_arrays())
    for name, array in drawn[0].items():
        np.testing.assert_array_equal(array, drawn[1][name])
        assert not np.array_equal(array, drawn[2][name])
        fan_in = drawn[0][name.replace("bias", "weight")][0].size
        assert np.abs(array).max() <= fan_in**-0.5


@pytest.mark.parametrize(
    ("model", "last"),
    [
        ("softmax", [-0.074014172, 0.017933309, 0.039898932]),
        ("mlp", [0.077608362, 0.016721573, -0.017121356]),
        ("mlp-512", [0.024025057, 0.026637919, -0.0031404882]),
        ("cnn", [0.076564305, 0.087578028, 0.029272692]),
    ],
)
def test_digits_initial_weights_stay_the_same(model: str, last: list[float]) -> None:
    arrays = make_task("digits", model=model, num_clients=20).initial_arrays()
    # Drawn after all others; a machine may round the last bit otherwise.
    assert arrays["output.bias"][:3].tolist() == pytest.approx(last, rel=1e-6)


def test_digits_loss_is_the_mean_over_clients() -> None:
    task = make_task("digits", partition="dirichlet", num_clients=7, alpha=0.2)
    arrays = task.initial_arrays()
    losses = [task.objective(i).evaluate(arrays)["loss"] for i in range(7)]
    assert task.evaluate(arrays).loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert task.optimum() is None


def test_digits_softmax_learns_at_one_over_smoothness() -> None:
    task = make_task("digits", num_clients=4)
    smoothness = task.smoothness()
    assert smoothness is not None
    arrays = task.initial_arrays()
    before = task.evaluate(arrays)
    for _ in range(60):
        gradients = [task.objective(i).gradient(arrays, None)[1] for i in range(4)]
        arrays = {
            name: array - np.mean([g[name] for g in gradients], axis=0) / smoothness
            for name, array in arrays.items()
        }
    after = task.evaluate(arrays)
    assert after.loss < before.loss
    assert after.accuracy > 0.8


@pytest.mark.parametrize(
    ("name", "model"), [("digits", "mlp"), ("digits", "cnn"), ("digits28", "mlp-512")]
)
def test_digits_networks_learn(name: str, model: str) -> None:
    task = make_task(name, model=model, num_clients=1)
    generator = np.random.Generator(np.random.Philox(0))
    batches = [generator.integers(0, 1437, 32) for _ in range(100)]
    _, arrays = task.objective(0).local_steps(task.initial_arrays(), batches, 0.2)
    assert task.evaluate(arrays).accuracy > 0.7
    assert task.smoothness() is None


# --- resnet18 -------------------------------------------------------------------------


@pytest.fixture
def make_colours(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Task]]:
    """Make a task of 16 random colour images in two clients, uncached."""
    tasks._make_task.cache_clear()
    generator = np.random.Generator(np.random.Philox(0))
    features = generator.random((16, 3 * 32 * 32), dtype=np.float32)
    labels = np.arange(16, dtype=np.int64) % 10
    examples = Dataset("cifar10", features, labels, labels, (3, 32, 32))
    taken = examples.take(np.arange(6))
    monkeypatch.setattr(tasks, "load_files", lambda name, data: (examples, taken))
    yield lambda seed: make_task(
        "cifar10", model="resnet18", num_clients=2, seed=seed, data="none"
    )
    tasks._make_task.cache_clear()


def test_resnet18_is_that_of_torchvision(make_colours: Callable[[int], Task]) -> None:
    task = make_colours(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    arrays = task.initial_arrays()
    assert list(arrays) == list(model.state_dict())
    assert sum(p.numel() for p in model.parameters()) == 11_181_642
    model.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()})
    part = task.objective(0)
    images = part._features.unflatten(1, (3, 32, 32))  # type: ignore[attr-defined]
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(
            model(images),
            part._labels,  # type: ignore[attr-defined]
        ).item()
    # In evaluation mode: with the statistics given, not those of the batch.
    assert part.evaluate(arrays)["loss"] == pytest.approx(expected, rel=1e-5)


def test_resnet18_weights_come_from_the_seed_alone(
    make_colours: Callable[[int], Task],
) -> None:
    before = torch.get_rng_state()
    one = make_colours(1).initial_arrays()
    two = make_colours(2).initial_arrays()
    tasks._make_task.cache_clear()
    again = make_colours(1).initial_arrays()
    assert torch.equal(before, torch.get_rng_state())
    for name, array in one.items():
        np.testing.assert_array_equal(array, again[name])
        if array.ndim > 1:
            bound = np.float32(array[0].size ** -0.5)
            assert 0.9 * bound < np.abs(array).max() <= bound
            assert not np.array_equal(array, two[name])
        elif name != "fc.bias":
            ones = name.endswith(("weight", "running_var"))
            np.testing.assert_array_equal(array, np.full_like(array, int(ones)))


def test_resnet18_has_gradients_and_values_of_its_statistics(
    make_colours: Callable[[int], Task],
) -> None:
    task = make_colours(0)
    objective, arrays = task.objective(0), task.initial_arrays()
    layout = Layout.of(ArrayRecord({n: Array(a) for n, a in arrays.items()}))
    exact = {tensor.name for tensor in layout.tensors if tensor.exact}
    assert (layout.dim, len(exact)) == (11_181_642, 60)
    indices, losses = np.arange(4), []
    for step in range(1, 4):
        loss, gradient = objective.gradient(arrays, indices)
        losses.append(loss)
        assert list(gradient) == list(arrays)
        for name, array in gradient.items():
            assert (array.shape, array.dtype) == (
                arrays[name].shape,
                arrays[name].dtype,
            )
            if name.endswith("num_batches_tracked"):
                assert array.dtype == np.int64 and array == step
            elif name in exact:
                assert not np.array_equal(array, arrays[name])
        arrays = {
            name: gradient[name] if name in exact else array - 0.01 * gradient[name]
            for name, array in arrays.items()
        }
    assert losses[-1] < losses[0]
    measured = task.evaluate(arrays)
    assert np.isfinite(measured.loss) and 0.0 <= measured.accuracy <= 1.0
    assert task.evaluate(arrays) == measured


def test_resnet18_is_refused_without_colours_or_torchvision(
    make_colours: Callable[[int], Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="3 channels, came digits28 with 1"):
        make_task("digits28", model="resnet18", num_clients=2)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(MissingExtraError, match=r'"flower-compress\[simulation\]"'):
        make_colours(0)


# --- make_task ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["parity", "digits"])
def test_the_same_arguments_give_the_same_objects(name: str) -> None:
    task = make_task(name, num_clients=5)
    assert task is make_task(name, num_clients=5, model="softmax", seed=0)
    assert task.objective(2) is task.objective(2)
    assert isinstance(task.objective(2), Objective)
    assert (task.name, task.num_clients) == (name, 5)


@pytest.mark.parametrize("name", ["parity", "digits"])
def test_initial_arrays_are_fresh(name: str) -> None:
    task = make_task(name, num_clients=5)
    for array in task.initial_arrays().values():
        array += 1.0
    for mine, other in zip(
        task.initial_arrays().values(), task.initial_arrays().values(), strict=True
    ):
        np.testing.assert_array_equal(mine, other)
        assert np.abs(mine).max() < 1.0


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(
        UnknownNameError, match="cifar10, digits, digits28, mnist, parity"
    ):
        make_task("imagenet", num_clients=2)
    with pytest.raises(UnknownNameError, match="cnn, mlp, mlp-512, resnet18, softmax"):
        make_task("digits", model="resnet", num_clients=2)
    with pytest.raises(ConfigurationError, match="no other model"):
        make_task("parity", model="cnn", num_clients=2)
    with pytest.raises(ConfigurationError, match="no L2 term"):
        make_task("digits", num_clients=2, l2=0.1)
    with pytest.raises(ConfigurationError, match="l2"):
        make_task("parity", num_clients=2, l2=float("nan"))
    with pytest.raises(ConfigurationError, match="seed"):
        make_task("parity", num_clients=2, seed=-1)
    with pytest.raises(PartitionError, match="at most 1797"):
        make_task("parity", num_clients=1798)
    for name in ("parity", "digits"):
        with pytest.raises(ConfigurationError, match="0, ..., 1"):
            make_task(name, num_clients=2).objective(2)
