"""The part of the settings that names the learning problem."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from flower_compress.errors import ConfigurationError

from ..tasks import (
    FILED,
    MODELS,
    OF_TORCH,
    SCHEMES,
    STANDING_IN,
    TASKS,
    Task,
    make_task,
)
from ..tasks.openml import ON_OPENML, OPENML
from .option import check_values, one_of, option

__all__ = ["TASK_KEY", "Problem", "device_of", "task_of"]

TASK_KEY = "task"
"""Key of a train config: the arguments of the clients' task, as JSON."""


@dataclass(frozen=True)
class Problem:
    """What is learned, and how its examples are divided.

    Parameters
    ----------
    task, model, partition, clients, alpha, data, examples, device
        See :func:`simulations.tasks.make_task`; `clients` is the number N. `data` is a
        folder of every machine that computes.
    """

    task: str = option(
        "parity",
        "The learning problem.",
        panel="Problem",
        choices=TASKS,
    )
    model: str = option(
        "softmax",
        "The model, with a task of images.",
        panel="Problem",
        choices=MODELS,
        needs=(one_of("task", *OF_TORCH),),
    )
    partition: str = option(
        "label",
        "How the examples are divided among clients.",
        panel="Problem",
        choices=SCHEMES,
    )
    clients: int = option(20, "Number of clients N.", panel="Problem", least=1)
    alpha: float = option(
        0.5,
        "Concentration of the dirichlet and quantity partitions.",
        panel="Problem",
        needs=(one_of("partition", "dirichlet", "quantity"),),
    )
    data: str = option(
        "",
        f"Folder with the files of {', '.join((*FILED, *STANDING_IN))}; nothing is "
        f'downloaded, unless it is "{OPENML}", which fetches {", ".join(ON_OPENML)}. '
        "Without it made-up examples stand in for the tables.",
        panel="Problem",
        needs=(one_of("task", *FILED, *STANDING_IN),),
    )
    examples: int = option(
        0,
        "Examples of a table at most; 0 for all.",
        panel="Problem",
        least=0,
        needs=(one_of("task", *STANDING_IN),),
    )
    device: str = option(
        "cpu",
        "Where clients compute, as torch names it: cpu, cuda.",
        panel="Run",
        needs=(one_of("task", *OF_TORCH),),
    )

    def __post_init__(self) -> None:
        check_values(self)

    def check_files(self) -> None:
        """Check that a task that is read from files has a folder.

        Raises
        ------
        ConfigurationError
            If it has none.
        """
        if self.task in FILED and not self.data:
            raise ConfigurationError(
                f"task {self.task} is read from files: say in which folder they are "
                "with --data FOLDER"
            )
        if self.data == OPENML and self.task not in ON_OPENML:
            raise ConfigurationError(
                f"only {', '.join(ON_OPENML)} are fetched from openml.org, not "
                f"{self.task}: give the folder with its files (--data FOLDER; one that "
                f'is called "{OPENML}" is ./{OPENML})'
            )

    def key(self, seed: int) -> str:
        """Return the task with that seed as JSON, for :func:`task_of`."""
        return json.dumps(
            [
                self.task,
                self.model,
                self.partition,
                self.clients,
                seed,
                self.alpha,
                self.data,
                self.device,
                *([self.examples] if self.examples else []),
            ]
        )


@lru_cache(maxsize=32)
def device_of(key: str) -> str:
    """Return where the clients of the task that a train config names compute."""
    return str(json.loads(key)[7])


@lru_cache(maxsize=32)
def task_of(key: str) -> Task:
    """Return the task that a train config names under :data:`TASK_KEY`."""
    name, model, partition, clients, seed, alpha, data, device, *rest = json.loads(key)
    return make_task(
        name,
        model=model,
        partition=partition,
        num_clients=clients,
        seed=seed,
        alpha=alpha,
        data=data,
        device=device,
        examples=rest[0] if rest else 0,
    )
