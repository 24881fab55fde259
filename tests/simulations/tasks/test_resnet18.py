"""torchvision's ResNet-18 on colour images: its layers, weights and statistics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from flower_compress.errors import ConfigurationError, MissingExtraError
from flower_compress.wire.layout import Layout
from simulations.tasks import Task, make_task, registry
from simulations.tasks.dataset import Dataset
from simulations.tasks.images import images


@pytest.fixture
def make_colours(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Task]]:
    """Make a task of 16 random colour images in two clients, uncached."""
    generator = np.random.Generator(np.random.Philox(0))
    features = generator.random((16, 3 * 32 * 32), dtype=np.float32)
    labels = np.arange(16, dtype=np.int64) % 10
    examples = Dataset("colours", features, labels, labels, (3, 32, 32))
    taken = examples.take(np.arange(6))
    kind = images(lambda: (examples, taken))
    monkeypatch.setitem(registry.KINDS, "colours", kind)

    def make(seed: int) -> Task:
        registry._make_task.cache_clear()
        return make_task("colours", model="resnet18", num_clients=2, seed=seed)

    yield make
    registry._make_task.cache_clear()


def test_resnet18_is_that_of_torchvision(make_colours: Callable[[int], Task]) -> None:
    # Seconds, which no worker takes that runs other tests.
    from torchvision.models import resnet18

    task = make_colours(0)
    model = resnet18(num_classes=10).eval()
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
