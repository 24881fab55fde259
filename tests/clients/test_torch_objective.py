"""TorchObjective: the gradient, the state dict and reproducibility."""

from __future__ import annotations

import doctest
import functools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("flwr")

from flower_compress.clients import torch_objective
from flower_compress.clients.objective import Arrays, Objective
from flower_compress.clients.torch_objective import (
    TorchObjective,
    arrays_of,
)
from flower_compress.errors import (
    ConfigurationError,
    LayoutMismatchError,
)

NUM_EXAMPLES = 40


def examples(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(NUM_EXAMPLES, 6, generator=generator, dtype=dtype)
    return features, torch.randint(0, 3, (NUM_EXAMPLES,), generator=generator)


def network(*, norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers: list[nn.Module] = [nn.Linear(6, 5)]
        if norm:
            layers.append(nn.BatchNorm1d(5))
        return nn.Sequential(*layers, nn.Tanh(), nn.Linear(5, 3))


def make(*, norm: bool = False, **options: object) -> tuple[TorchObjective, Arrays]:
    model = network(norm=norm)
    objective = TorchObjective(
        model,
        nn.functional.cross_entropy,
        *examples(),
        **options,  # type: ignore[arg-type]
    )
    return objective, arrays_of(model)


def assert_equal(one: Arrays, two: Arrays) -> None:
    assert list(one) == list(two)
    for name in one:
        assert one[name].dtype == two[name].dtype
        np.testing.assert_array_equal(one[name], two[name])


def test_it_is_an_objective() -> None:
    objective, _ = make()
    assert isinstance(objective, Objective)
    assert objective.num_examples == NUM_EXAMPLES


@given(seed=st.integers(0, 1000), whole=st.booleans())
def test_gradient_is_that_of_the_loss(seed: int, whole: bool) -> None:
    # The module in float64, so that differences are those of the loss, not rounding.
    model = network().double()
    objective = TorchObjective(
        model, nn.functional.cross_entropy, *examples(torch.float64)
    )
    generator = np.random.Generator(np.random.Philox(seed))
    indices = None if whole else generator.integers(0, NUM_EXAMPLES, 8)
    arrays = arrays_of(model)
    _, gradient = objective.gradient(arrays, indices)
    losses, slope = [], 0.0
    direction = {n: generator.normal(size=a.shape) for n, a in arrays.items()}
    ends = [
        {
            n: (a + sign * 1e-3 * direction[n]).astype(np.float32)
            for n, a in arrays.items()
        }
        for sign in (1, -1)
    ]
    losses = [objective.gradient(end, indices)[0] for end in ends]
    for name, array in gradient.items():
        slope += float(
            np.sum(array * (ends[0][name].astype(np.float64) - ends[1][name]))
        )
    assert losses[0] - losses[1] == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_repeated_indices_count_repeatedly() -> None:
    objective, arrays = make()
    one = objective.gradient(arrays, np.array([4, 4, 4, 7]))[0]
    four = objective.gradient(arrays, np.array([4]))[0]
    seven = objective.gradient(arrays, np.array([7]))[0]
    assert one == pytest.approx((3 * four + seven) / 4, rel=1e-6)


@pytest.mark.parametrize("norm", [False, True])
def test_methods_change_no_input_and_remember_nothing(norm: bool) -> None:
    objective, arrays = make(norm=norm)
    copy = {name: array.copy() for name, array in arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False
    indices = np.arange(10)
    first = objective.gradient(arrays, indices)
    metrics = objective.evaluate(arrays)
    stepped = objective.local_steps(arrays, [indices, None], 0.1)
    assert_equal(arrays, copy)
    again = objective.gradient(arrays, indices)
    assert first[0] == again[0]
    assert_equal(first[1], again[1])
    assert objective.evaluate(arrays) == metrics
    assert_equal(objective.local_steps(arrays, [indices, None], 0.1)[1], stepped[1])


def test_results_share_no_memory_with_the_module() -> None:
    objective, arrays = make(norm=True)
    _, gradient = objective.gradient(arrays, None)
    _, after = objective.local_steps(arrays, [None], 0.1)
    kept = [{n: a.copy() for n, a in result.items()} for result in (gradient, after)]
    objective.local_steps(arrays, [None] * 3, 1.0)
    assert_equal(gradient, kept[0])
    assert_equal(after, kept[1])


def test_gradient_has_the_buffers_after_the_forward_pass() -> None:
    objective, arrays = make(norm=True)
    _, gradient = objective.gradient(arrays, None)
    _, after = objective.local_steps(arrays, [None], 0.0)
    assert list(gradient) == list(arrays)
    assert {n: g.shape for n, g in gradient.items()} == {
        n: a.shape for n, a in arrays.items()
    }
    assert gradient["1.num_batches_tracked"].dtype == np.int64
    assert gradient["1.num_batches_tracked"] == arrays["1.num_batches_tracked"] + 1
    for buffer in ("1.running_mean", "1.running_var"):
        assert not np.array_equal(gradient[buffer], arrays[buffer])
        np.testing.assert_array_equal(gradient[buffer], after[buffer])


def test_buffers_are_used_for_evaluation_and_not_changed_by_it() -> None:
    objective, arrays = make(norm=True)
    moved = dict(arrays)
    moved["1.running_mean"] = arrays["1.running_mean"] + np.float32(1.0)
    assert objective.evaluate(moved)["loss"] != objective.evaluate(arrays)["loss"]
    assert objective.evaluate(arrays) == objective.evaluate(arrays)


def test_frozen_and_unused_parameters_have_zero_gradient() -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(6, 3)
            self.unused = nn.Linear(2, 2)
            self.used.bias.requires_grad = False

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return self.used(features)  # type: ignore[no-any-return]

    model = Partial()
    objective = TorchObjective(model, nn.functional.cross_entropy, *examples())
    arrays = arrays_of(model)
    _, gradient = objective.gradient(arrays, None)
    assert np.any(gradient["used.weight"])
    for name in ("used.bias", "unused.weight", "unused.bias"):
        assert not np.any(gradient[name])
    _, after = objective.local_steps(arrays, [None], 0.5)
    np.testing.assert_array_equal(after["used.bias"], arrays["used.bias"])


def test_tied_weights_have_one_gradient_under_both_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.second = self.first
            self.output = nn.Linear(6, 3)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            hidden = self.second(torch.tanh(self.first(features)))
            return self.output(hidden)  # type: ignore[no-any-return]

    model = Tied()
    objective = TorchObjective(model, nn.functional.cross_entropy, *examples())
    _, gradient = objective.gradient(arrays_of(model), None)
    assert np.any(gradient["first.weight"])
    np.testing.assert_array_equal(gradient["first.weight"], gradient["second.weight"])


def test_local_steps_are_gradient_steps() -> None:
    objective, arrays = make()
    batches = [np.arange(8), None, np.arange(5, 20)]
    loss, after = objective.local_steps(arrays, iter(batches), 0.3)
    expected, losses = arrays, []
    for batch in batches:
        value, gradient = objective.gradient(expected, batch)
        expected = {n: a - np.float32(0.3) * gradient[n] for n, a in expected.items()}
        losses.append(value)
    for name, array in after.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
    assert loss == pytest.approx(np.mean(losses))


def test_optimizer_factory_takes_the_step_size_and_starts_anew() -> None:
    momentum = functools.partial(torch.optim.SGD, lr=123.0, momentum=0.9)
    objective, arrays = make(optimizer=momentum)
    plain, _ = make()
    one_step = objective.local_steps(arrays, [None], 0.1)[1]
    assert_equal(one_step, plain.local_steps(arrays, [None], 0.1)[1])
    two_steps = objective.local_steps(arrays, [None] * 2, 0.1)[1]
    without = plain.local_steps(arrays, [None] * 2, 0.1)[1]
    assert not np.array_equal(two_steps["0.weight"], without["0.weight"])
    assert_equal(objective.local_steps(arrays, [None] * 2, 0.1)[1], two_steps)


def test_evaluation_in_batches_is_evaluation_of_all() -> None:
    whole, arrays = make()
    pieces, _ = make(evaluation_batch_size=7)
    one, two = whole.evaluate(arrays), pieces.evaluate(arrays)
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-6)
    assert one["accuracy"] == two["accuracy"]
    assert one["loss"] == pytest.approx(whole.gradient(arrays, None)[0], rel=1e-6)


def test_a_regression_has_no_accuracy() -> None:
    features, _ = examples()
    model = nn.Linear(6, 1)
    objective = TorchObjective(
        model, nn.functional.mse_loss, features, features[:, :1].clone()
    )
    assert objective.evaluate(arrays_of(model)).keys() == {"loss"}


def test_results_do_not_depend_on_threads_and_settings_are_restored() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2000, 300, generator=generator)
    labels = torch.randint(0, 10, (2000,), generator=generator)
    model = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 10))
    objective = TorchObjective(model, nn.functional.cross_entropy, features, labels)
    arrays = arrays_of(model)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(objective.gradient(arrays, None))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert results[0][0] == results[1][0]
    assert_equal(results[0][1], results[1][1])


def test_settings_are_restored_after_an_error() -> None:
    objective, arrays = make()
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.benchmark, cudnn.deterministic
    with pytest.raises(ConfigurationError):
        objective.local_steps(arrays, [], 0.1)
    assert before == (torch.get_num_threads(), cudnn.benchmark, cudnn.deterministic)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_agrees_with_cpu() -> None:
    cpu, arrays = make(norm=True)
    gpu, _ = make(norm=True, device="cuda")
    for name, array in gpu.gradient(arrays, None)[1].items():
        np.testing.assert_allclose(
            array, cpu.gradient(arrays, None)[1][name], rtol=1e-4, atol=1e-5
        )


def test_wrong_arrays_are_refused() -> None:
    objective, arrays = make()
    with pytest.raises(LayoutMismatchError, match="unknown 'other'"):
        objective.gradient({**arrays, "other": arrays["0.bias"]}, None)
    with pytest.raises(LayoutMismatchError, match="missing '0.bias'"):
        objective.evaluate({n: a for n, a in arrays.items() if n != "0.bias"})
    with pytest.raises(LayoutMismatchError, match=r"0.bias: expected shape \(5,\)"):
        objective.local_steps(
            {**arrays, "0.bias": np.zeros((1,), np.float32)}, [None], 1
        )


def test_wrong_batches_and_losses_are_refused() -> None:
    objective, arrays = make()
    with pytest.raises(ConfigurationError, match="empty batch"):
        objective.gradient(arrays, np.array([], dtype=np.intp))
    with pytest.raises(ConfigurationError, match="at least one batch"):
        objective.local_steps(arrays, [], 0.1)
    per_example = nn.CrossEntropyLoss(reduction="none")
    with pytest.raises(ConfigurationError, match="reduction='mean'"):
        TorchObjective(network(), per_example, *examples()).gradient(arrays, None)


def test_wrong_construction_is_refused() -> None:
    features, labels = examples()
    with pytest.raises(ConfigurationError, match="40 features and 39 labels"):
        TorchObjective(network(), nn.CrossEntropyLoss(), features, labels[1:])
    with pytest.raises(ConfigurationError, match="at least one"):
        TorchObjective(network(), nn.CrossEntropyLoss(), features[:0], labels[:0])
    with pytest.raises(ConfigurationError, match="evaluation_batch_size"):
        make(evaluation_batch_size=0)

    class Extra(nn.Linear):
        def get_extra_state(self) -> str:
            return "text"

    with pytest.raises(ConfigurationError, match="_extra_state"):
        TorchObjective(Extra(6, 3), nn.CrossEntropyLoss(), features, labels)


def test_the_example_runs() -> None:
    assert doctest.testmod(torch_objective).failed == 0


def test_without_torch_the_error_says_what_to_install() -> None:
    script = textwrap.dedent(
        """
        import sys
        sys.modules["torch"] = None
        from flower_compress.errors import MissingExtraError
        try:
            import flower_compress.clients.torch_objective
        except MissingExtraError as error:
            assert 'pip install "flower-compress[torch]"' in str(error), error
        else:
            sys.exit("imported without torch")
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True)
