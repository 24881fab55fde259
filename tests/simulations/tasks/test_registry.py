"""make_task: the same arguments give the same task, wrong ones an error."""

from __future__ import annotations

import numpy as np
import pytest

from flower_compress.clients.objective import Objective
from flower_compress.errors import ConfigurationError, UnknownNameError
from simulations import tasks
from simulations.tasks import FILED, MODELS, TASKS, make_task, models
from simulations.tasks.partition import PartitionError


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


def test_every_task_and_model_is_described() -> None:
    assert tasks.__doc__ is not None and models.__doc__ is not None
    assert [name for name in TASKS if f"``{name}``" not in tasks.__doc__] == []
    described = [line.split()[0] for line in models.__doc__.splitlines() if line]
    assert [name for name in MODELS if name not in described] == []
    assert FILED == ("mnist", "fashion-mnist", "emnist", "cifar10")


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(
        UnknownNameError, match="a9a, breast-cancer, cifar10, diabetes, digits"
    ):
        make_task("imagenet", num_clients=2)
    with pytest.raises(UnknownNameError, match="cnn, lenet, mlp, mlp-512, resnet18"):
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
