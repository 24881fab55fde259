"""What a task is, what it is made from, and what all tasks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flower_compress.clients.objective import Arrays, Objective
from flower_compress.errors import ConfigurationError

from .dataset import Dataset
from .partition import partition

__all__ = ["Clients", "Evaluation", "Kind", "Options", "Task"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model measured on a task.

    Attributes
    ----------
    loss : float
        F(w), over the clients' training examples, every client with the same weight.
    accuracy : float
        Share of examples classified correctly, in [0, 1].
    """

    loss: float
    accuracy: float


class Task(Protocol):
    """A learning problem divided among clients."""

    @property
    def name(self) -> str:
        """Name of the problem, one of :data:`simulations.tasks.TASKS`."""

    @property
    def origin(self) -> str:
        """Where the examples are from, if that is not what the name says."""

    @property
    def num_clients(self) -> int:
        """Number of clients, N."""

    def initial_arrays(self) -> Arrays:
        """Return fresh arrays of the initial model, the same at every call."""

    def objective(self, client: int) -> Objective:
        """Return F_i of client i in 0, ..., N - 1, the same object at every call.

        Raises
        ------
        ConfigurationError
            There is no such client.
        """

    def evaluate(self, arrays: Arrays) -> Evaluation:
        """Return F at `arrays`, and the accuracy on the task's evaluation set."""

    def accuracy(self, arrays: Arrays) -> float:
        """Return the accuracy on the task's evaluation set."""

    def optimum(self) -> float | None:
        """Return min F, or None where it is not known."""

    def smoothness(self) -> float | None:
        """Return an L such that every F_i is L-smooth, or None where none is known."""

    def global_smoothness(self) -> float | None:
        """Return an L such that F is L-smooth, or None where none is known."""

    def strong_convexity(self) -> float:
        """Return a mu such that F is mu-strongly convex, 0 where none is known."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of a task; see :func:`simulations.tasks.make_task`."""

    model: str
    partition: str
    num_clients: int
    seed: int
    alpha: float
    l2: float | None
    data: str
    device: str
    examples: int = 0

    def divide(self, examples: Dataset) -> list[NDArray[np.intp]]:
        """Return the indices of each client's examples.

        Raises
        ------
        UnknownNameError
            No such partition scheme.
        PartitionError
            The examples cannot be divided as asked.
        """
        return partition(
            examples.classes,
            self.num_clients,
            self.partition,
            seed=self.seed,
            alpha=self.alpha,
            features=examples.features,
        )


@dataclass(frozen=True, slots=True)
class Kind:
    """A task as the registry knows it.

    Attributes
    ----------
    make : Callable[[Options], Task]
        Makes it. Raises ConfigurationError where it cannot honour an option.
    from_files : bool
        Whether it reads the files in the folder ``options.data``, which is empty for
        all others.
    stands_in : bool
        Whether it reads a file there, and is made up where ``options.data`` is empty.
    draws_weights : bool
        Whether the initial model is drawn from the seed.
    of_torch : bool
        Whether it takes any model of :data:`.models.MODELS`, on any device.
    """

    make: Callable[[Options], Task]
    from_files: bool = False
    stands_in: bool = False
    draws_weights: bool = False
    of_torch: bool = False


class Clients:
    """The part of a task that names it and counts its clients.

    Parameters
    ----------
    name : str
        Name of the problem.
    parts : list[NDArray[np.intp]]
        For each client the indices of its examples.
    origin : str
        See :class:`.dataset.Dataset`.
    """

    def __init__(
        self, name: str, parts: list[NDArray[np.intp]], origin: str = ""
    ) -> None:
        self._name = name
        self._parts = parts
        self._origin = origin

    @property
    def name(self) -> str:
        """Name of the problem."""
        return self._name

    @property
    def origin(self) -> str:
        """Where the examples are from, if that is not what the name says."""
        return self._origin

    @property
    def num_clients(self) -> int:
        """Number of clients, N."""
        return len(self._parts)

    def _weights(self) -> NDArray[np.float64]:
        """Return 1/(N n_i) for each example, in the order of the data set."""
        weights = np.empty(sum(map(len, self._parts)))
        for part in self._parts:
            weights[part] = 1.0 / (len(self._parts) * len(part))
        return weights

    def _check(self, client: int) -> int:
        if not 0 <= client < self.num_clients:
            raise ConfigurationError(
                f"expected a client in 0, ..., {self.num_clients - 1}, came {client}: "
                f"the task and the run must have the same number of clients"
            )
        return client
