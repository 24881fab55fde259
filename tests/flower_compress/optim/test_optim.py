"""SPARS-AMS as a torch optimizer: algorithm 2 in NumPy, and torch's own conventions."""

from __future__ import annotations

import copy
import doctest
import io
import math
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import flower_compress.optim
from flower_compress.errors import NonFiniteError
from flower_compress.optim import SparsAMS, torch_spars_ams
from flower_compress.optim.torch_spars_ams import SparsAMS as SameClass

STEPS = 25
SHAPES = ((4, 5), (7,), (), (2, 3, 2))
DIM = sum(math.prod(shape) for shape in SHAPES)
STATE = ("error", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype))
        for shape in SHAPES
    ]


def gradients(params: list[nn.Parameter], step: int) -> None:
    """Set gradients that depend on the step alone."""
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = noise.to(p.dtype)


def run(
    optimizer: Any, params: list[nn.Parameter], steps: Iterator[int] | range
) -> None:
    for step in steps:
        gradients(params, step)
        optimizer.step()


def flat(tensors: Any) -> NDArray[Any]:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).numpy().copy()


def algorithm_2(
    theta: NDArray[Any],
    gradient: list[NDArray[Any]],
    *,
    k: int,
    eta: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Algorithm 2 of the paper: theta, and e, m, v and vhat."""
    f = theta.dtype.type
    e = m = v = v_hat = np.zeros_like(theta)
    for g in gradient:
        corrected = g + e
        sent = np.zeros_like(corrected)
        largest = np.argsort(-np.abs(corrected), kind="stable")[:k]
        sent[largest] = corrected[largest]
        e = corrected - sent
        m = f(beta1) * m + f(1 - beta1) * sent
        v = f(beta2) * v + f(1 - beta2) * sent**2
        v_hat = np.maximum(v, v_hat)
        theta = theta - f(eta) * (m / np.sqrt(v_hat + f(eps)))
    return theta, [e, m, v, v_hat]


def assert_equal(
    params: list[nn.Parameter], optimizer: SparsAMS, expected: Any
) -> None:
    """The state bit for bit, theta but for torch's root, which may be an ulp off."""
    theta, state = expected
    for name, vector in zip(STATE, state, strict=True):
        tensors = [optimizer.state[p][name] for p in params]
        np.testing.assert_array_equal(flat(tensors), vector, err_msg=name)
    np.testing.assert_allclose(flat(params), theta, rtol=1e-6, atol=1e-6)


def seen_gradients(steps: range, sign: float = 1.0) -> list[NDArray[Any]]:
    params = parameters()
    found = []
    for step in steps:
        gradients(params, step)
        found.append(np.float32(sign) * flat(p.grad for p in params))
    return found


@pytest.mark.parametrize(
    ("options", "k"),
    [
        ({}, 1),
        ({"fraction": 0.1, "lr": 0.3}, 4),
        ({"fraction": 1.0, "lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3}, DIM),
        ({"fraction": 0.3, "betas": (0.0, 0.0)}, 12),
    ],
)
def test_equals_algorithm_2(options: dict[str, Any], k: int) -> None:
    params = parameters()
    start = flat(params)
    optimizer = SparsAMS(params, **options)
    run(optimizer, params, range(STEPS))
    beta1, beta2 = options.get("betas", (0.9, 0.999))
    expected = algorithm_2(
        start,
        seen_gradients(range(STEPS)),
        k=k,
        eta=options.get("lr", 1e-3),
        beta1=beta1,
        beta2=beta2,
        eps=options.get("eps", 1e-8),
    )
    assert_equal(params, optimizer, expected)
    assert np.linalg.norm(flat(params) - start) > 1e-3


def test_maximize_ascends() -> None:
    params = parameters()
    start = flat(params)
    optimizer = SparsAMS(params, fraction=0.2, maximize=True)
    run(optimizer, params, range(STEPS))
    descent = algorithm_2(start, seen_gradients(range(STEPS), -1.0), k=8)
    assert_equal(params, optimizer, descent)


def test_float64_stays_near_float32() -> None:
    params, other = parameters(), parameters(torch.float64)
    for p, q in zip(params, other, strict=True):
        q.data.copy_(p.data)
    for group in (params, other):
        optimizer = SparsAMS(group, lr=0.01, fraction=0.5)
        run(optimizer, group, range(3))
        assert optimizer.state[group[0]]["exp_avg"].dtype == group[0].dtype
    for p, q in zip(params, other, strict=True):
        torch.testing.assert_close(q.float(), p, rtol=1e-6, atol=1e-6)


HALVES = [torch.float16, torch.bfloat16]


def small_gradients(params: list[nn.Parameter], step: int, dtype: torch.dtype) -> None:
    """Set gradients of which no square is a float16, rounded to `dtype`."""
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        noise = 1e-5 * torch.randn(p.shape, generator=generator)
        p.grad = noise.to(dtype).to(p.dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_state_of_half_precision_is_that_of_float32(dtype: torch.dtype) -> None:
    params, halves = parameters(), parameters(dtype)
    for p, half in zip(params, halves, strict=True):
        half.data.copy_(p.data)
        p.data.copy_(half.data)
    optimizer, of_halves = (
        SparsAMS(group, lr=0.01, fraction=0.3) for group in (params, halves)
    )
    for step in range(STEPS):
        for group, each in ((params, optimizer), (halves, of_halves)):
            small_gradients(group, step, dtype)
            each.step()
    for p, half in zip(params, halves, strict=True):
        assert half.dtype == dtype
        # Rounded at every step, by half of the last bit of a number below 4.
        near = STEPS * torch.finfo(dtype).eps * 2
        torch.testing.assert_close(half.float(), p, rtol=0, atol=near)
        for name in STATE:
            assert torch.equal(of_halves.state[half][name], optimizer.state[p][name])


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_goes_on_from_a_state_dict(dtype: torch.dtype) -> None:
    whole, parts = parameters(dtype), parameters(dtype)
    optimizer, first = SparsAMS(whole, fraction=0.3), SparsAMS(parts, fraction=0.3)
    for step in range(6):
        if step == 3:
            saved = copy.deepcopy(first.state_dict())
            first = SparsAMS(parts, fraction=0.3)
            first.load_state_dict(saved)
        for group, each in ((whole, optimizer), (parts, first)):
            small_gradients(group, step, dtype)
            each.step()
    for p, q in zip(whole, parts, strict=True):
        assert torch.equal(p, q)
        for name in STATE:
            assert torch.equal(optimizer.state[p][name], first.state[q][name])


def test_a_long_vector_keeps_exactly_k_entries() -> None:
    p = nn.Parameter(torch.zeros(200_000))
    p.grad = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    optimizer = SparsAMS([p], fraction=0.01)
    optimizer.step()
    moved = optimizer.state[p]["exp_avg"] != 0
    assert int(moved.sum()) == 2000
    assert p.grad[moved].abs().min() >= p.grad[~moved].abs().max()
    torch.testing.assert_close(optimizer.state[p]["error"][~moved], p.grad[~moved])
    assert (p[~moved] == 0).all() and (p[moved] != 0).all()


def test_error_feedback_loses_nothing() -> None:
    """What was taken plus the error is the sum of all gradients."""
    params = parameters(torch.float64)
    optimizer = SparsAMS(params, fraction=0.1, betas=(0.0, 0.0))
    total, taken = np.zeros(DIM), np.zeros(DIM)
    for step in range(STEPS):
        gradients(params, step)
        total += flat(p.grad for p in params)
        optimizer.step()
        taken += flat(optimizer.state[p]["exp_avg"] for p in params)  # beta1 = 0
    errors = flat(optimizer.state[p]["error"] for p in params)
    np.testing.assert_allclose(taken + errors, total, atol=1e-12)


# --- Groups, and parameters without gradients -----------------------------------------


def test_groups_have_their_own_settings_and_their_own_largest() -> None:
    params, others = parameters(), parameters()
    optimizer = SparsAMS(
        [{"params": params[:1], "lr": 0.1, "fraction": 0.5}, {"params": params[1:2]}],
        fraction=0.3,
    )
    optimizer.add_param_group({"params": params[2:], "betas": (0.5, 0.5)})
    run(optimizer, params, range(STEPS))
    alone = [
        SparsAMS(others[:1], lr=0.1, fraction=0.5),
        SparsAMS(others[1:2], fraction=0.3),
        SparsAMS(others[2:], betas=(0.5, 0.5), fraction=0.3),
    ]
    for step in range(STEPS):
        gradients(others, step)
        for one in alone:
            one.step()
    np.testing.assert_array_equal(flat(params), flat(others))


def test_a_group_may_come_in_the_middle() -> None:
    params, others = parameters(), parameters()
    optimizer = SparsAMS(params[:2], fraction=0.3)
    run(optimizer, params, range(10))
    optimizer.add_param_group({"params": params[2:]})
    run(optimizer, params, range(10, STEPS))
    run(SparsAMS(others[:2], fraction=0.3), others, range(STEPS))
    np.testing.assert_array_equal(flat(params[:2]), flat(others[:2]))
    run(SparsAMS(others[2:], fraction=0.3), others, range(10, STEPS))
    np.testing.assert_array_equal(flat(params[2:]), flat(others[2:]))


def test_a_parameter_without_a_gradient_stands_still() -> None:
    params = parameters()
    optimizer = SparsAMS(params, fraction=0.5)
    run(optimizer, params, range(3))
    before = params[1].detach().clone()
    state = {k: v.clone() for k, v in optimizer.state[params[1]].items()}
    for step in range(3, 6):
        gradients(params, step)
        params[1].grad = None
        optimizer.step()
    assert torch.equal(params[1], before)
    for name, tensor in optimizer.state[params[1]].items():
        assert torch.equal(tensor, state[name])
    run(optimizer, params, range(6, 9))
    assert not torch.equal(params[1], before)


def test_no_gradient_at_all_does_nothing() -> None:
    params = parameters()
    start = flat(params)
    optimizer = SparsAMS(params)
    optimizer.step()
    np.testing.assert_array_equal(flat(params), start)
    assert not optimizer.state


# --- State ----------------------------------------------------------------------------


def round_trip(optimizer: SparsAMS, params: list[nn.Parameter]) -> SparsAMS:
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    fresh = SparsAMS(params, lr=9.0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    return fresh


def test_state_dict_round_trip() -> None:
    params, others = parameters(), parameters()
    optimizer = SparsAMS(params, lr=0.1, fraction=0.2)
    run(optimizer, params, range(10))
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    resumed = round_trip(optimizer, others)
    assert resumed.param_groups[0]["lr"] == 0.1
    assert set(resumed.state[others[0]]) == set(STATE)
    for one, its in ((optimizer, params), (resumed, others)):
        run(one, its, range(10, STEPS))
    np.testing.assert_array_equal(flat(params), flat(others))


def test_a_used_optimizer_takes_over_another_state() -> None:
    params = parameters()
    optimizer = SparsAMS(params, fraction=0.2)
    run(optimizer, params, range(5))
    weights = [p.detach().clone() for p in params]
    saved = copy.deepcopy(optimizer.state_dict())
    run(optimizer, params, range(5, 10))
    expected = flat(params)
    optimizer.load_state_dict(saved)
    for p, weight in zip(params, weights, strict=True):
        p.data.copy_(weight)
    run(optimizer, params, range(5, 10))
    np.testing.assert_array_equal(flat(params), expected)


def test_a_cleared_state_begins_with_zeros() -> None:
    params, others = parameters(), parameters()
    optimizer = SparsAMS(params, fraction=0.2)
    run(optimizer, params, range(5))
    optimizer.state.clear()
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    run(optimizer, params, range(5, 10))
    run(SparsAMS(others, fraction=0.2), others, range(5, 10))
    np.testing.assert_array_equal(flat(params), flat(others))


def test_a_deep_copy_goes_its_own_way() -> None:
    model = nn.Linear(3, 2)
    both = model, SparsAMS(model.parameters(), fraction=0.5)
    model(torch.ones(1, 3)).sum().backward()
    both[1].step()
    other, optimizer = copy.deepcopy(both)
    before = flat(model.parameters())
    other(torch.ones(1, 3)).sum().backward()  # a copy has no gradients
    optimizer.step()
    np.testing.assert_array_equal(flat(model.parameters()), before)
    both[1].step()
    np.testing.assert_array_equal(flat(model.parameters()), flat(other.parameters()))


# --- Torch's conventions --------------------------------------------------------------


def test_the_closure_is_evaluated_with_gradients() -> None:
    model = nn.Linear(3, 1)
    nn.init.ones_(model.weight)
    optimizer = SparsAMS(model.parameters(), lr=0.01)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(200)]
    assert losses[-1] < 0.01 * losses[0]
    assert optimizer.step() is None


def test_a_scheduler_drives_the_learning_rate() -> None:
    params = parameters()
    optimizer = SparsAMS(params, lr=0.1, fraction=1.0, betas=(0.0, 0.0), eps=1e-20)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    for t in range(3):
        gradients(params, 0)
        before = flat(params)
        optimizer.step()
        schedule.step()
        # Full gradients without memory: the step of signSGD.
        np.testing.assert_allclose(
            np.abs(flat(params) - before), 0.1 * 0.5**t, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"eps": 0.0}, "Invalid epsilon value: 0.0"),
        ({"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        ({"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        ({"fraction": 0.0}, "Invalid fraction value: 0.0"),
        ({"fraction": 1.5}, "Invalid fraction value: 1.5"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SparsAMS(parameters(), **wrong)
    optimizer = SparsAMS(parameters())
    with pytest.raises(ValueError, match=match):
        optimizer.add_param_group({"params": parameters(), **wrong})
    assert len(optimizer.param_groups) == 1


def test_a_group_is_of_one_kind() -> None:
    mixed = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2).double())]
    with pytest.raises(ValueError, match="one dtype in a group, got cpu torch.float32"):
        SparsAMS(mixed)
    SparsAMS([{"params": [p]} for p in mixed])
    with pytest.raises(ValueError, match="does not support complex"):
        SparsAMS([nn.Parameter(torch.ones(2, dtype=torch.complex64))])


def test_sparse_gradients_are_refused() -> None:
    embedding = nn.Embedding(10, 3, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        SparsAMS(embedding.parameters()).step()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    params = parameters()
    optimizer = SparsAMS(params, fraction=0.5)
    run(optimizer, params, range(3))
    before = flat(params)
    gradients(params, 3)
    assert params[1].grad is not None
    params[1].grad[2] = bad
    with pytest.raises(NonFiniteError, match=f"1 of {DIM} entries"):
        optimizer.step()
    np.testing.assert_array_equal(flat(params), before)
    gradients(params, 3)
    optimizer.step()
    expected = algorithm_2(flat(parameters()), seen_gradients(range(4)), k=20)
    assert_equal(params, optimizer, expected)


def test_layouts_in_memory_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, 4, 4, generator=generator)
    results = []
    for form in (torch.contiguous_format, torch.channels_last):
        p = nn.Parameter(values.clone(memory_format=form))
        optimizer = SparsAMS([p], fraction=0.1)
        for _ in range(5):
            p.grad = values.clone(memory_format=form)
            optimizer.step()
        results.append(p.detach().contiguous())
    assert torch.equal(*results)


# --- The package ----------------------------------------------------------------------


def test_the_example_runs() -> None:
    assert doctest.testmod(torch_spars_ams).failed == 0


def test_the_package_has_the_class_and_nothing_else() -> None:
    assert flower_compress.optim.__all__ == ["SparsAMS"] and SparsAMS is SameClass
    with pytest.raises(AttributeError, match="no attribute 'Adam'"):
        flower_compress.optim.Adam  # noqa: B018


def test_torch_is_imported_when_it_is_needed() -> None:
    script = textwrap.dedent(
        """
        import sys
        sys.modules["torch"] = None
        import flower_compress.optim
        from flower_compress.errors import MissingExtraError
        try:
            flower_compress.optim.SparsAMS
        except MissingExtraError as error:
            assert 'pip install "flower-compress[torch]"' in str(error), error
        else:
            sys.exit("imported without torch")
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True)
