"""The tasks there are. A new one is a file of its own and a line in :data:`KINDS`."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

from flower_compress.errors import ConfigurationError, UnknownNameError

from .base import Kind, Options, Task
from .digits import load_digits, load_digits28
from .files import FILES
from .images import filed_images, images
from .made_up import load_made_up32
from .models import MODELS
from .parity import linear, make_parity
from .partition import SEEDLESS
from .shipped import load_breast_cancer, load_diabetes, load_toy, load_wine
from .tables import TABLES, tabular

__all__ = ["FILED", "KINDS", "OF_TORCH", "STANDING_IN", "TASKS", "make_task"]

KINDS: Final[dict[str, Kind]] = {
    "parity": Kind(make_parity),
    "breast-cancer": linear(load_breast_cancer),
    "wine": linear(load_wine),
    "diabetes": linear(load_diabetes),
    "toy": linear(load_toy),
    **{name: tabular(name) for name in TABLES},
    "digits": images(load_digits),
    "digits28": images(load_digits28),
    "made-up32": images(load_made_up32),
    **{name: filed_images(name) for name in FILES},
}
"""Name of a task -> how it is made."""

TASKS: Final = tuple(KINDS)
"""Names of the known tasks."""

FILED: Final = tuple(name for name, kind in KINDS.items() if kind.from_files)
"""Names of the tasks that are read from a folder of files."""

STANDING_IN: Final = tuple(name for name, kind in KINDS.items() if kind.stands_in)
"""Names of the tasks read from one file, or made up where there is no folder."""

OF_TORCH: Final = tuple(name for name, kind in KINDS.items() if kind.of_torch)
"""Names of the tasks that take a model of torch, on any device."""


def make_task(
    name: str,
    *,
    model: str = "softmax",
    partition: str = "iid",
    num_clients: int,
    seed: int = 0,
    alpha: float = 0.5,
    l2: float | None = None,
    data: str = "",
    device: str = "cpu",
    examples: int = 0,
) -> Task:
    """Return a task; the same arguments give the same object.

    Parameters
    ----------
    name : str
        One of :data:`TASKS`.
    model : str
        One of :data:`simulations.tasks.MODELS`. ``parity`` has one model, and takes
        the default only.
    partition : str
        One of :data:`simulations.tasks.SCHEMES`.
    num_clients : int
        Number of clients, N.
    seed : int
        Of the partition and of the initial weights, in [0, 2**63).
    alpha : float
        Concentration of the ``dirichlet`` and ``quantity`` partitions.
    l2 : float, optional
        lambda of the tasks with a linear model, 1/n by default. Images have no L2 term.
    data : str
        Folder with the files of the tasks in :data:`FILED` and :data:`STANDING_IN`; see
        :func:`simulations.tasks.files.load_files` and
        :func:`simulations.tasks.tables.load_table`.
    device : str
        Where torch computes: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    examples : int
        How many examples of a table in :data:`STANDING_IN` are taken; 0 for all.

    Raises
    ------
    UnknownNameError
        No such task, model or partition scheme.
    PartitionError
        The examples cannot be divided as asked.
    ConfigurationError
        An argument that the task cannot honour.
    MissingExtraError
        scikit-learn, for images torch, or for ``resnet18`` torchvision is missing.
    """
    options = Options(
        model, partition, num_clients, seed, alpha, l2, data, device, examples
    )
    if name not in KINDS:
        raise UnknownNameError("task", name, KINDS)
    if not 0 <= seed < 2**63:
        raise ConfigurationError(f"expected a seed in [0, 2**63), came seed={seed}")
    if partition in SEEDLESS and not KINDS[name].draws_weights:
        options = replace(options, seed=0)  # All seeds share one.
    return _make_task(name, options)


@lru_cache(maxsize=32)
def _make_task(name: str, options: Options) -> Task:
    kind = KINDS[name]
    if options.model not in MODELS:
        raise UnknownNameError("model", options.model, MODELS)
    if not kind.stands_in and kind.from_files != bool(options.data):
        raise ConfigurationError(
            f"expected a folder of data for {' and '.join(FILED)} alone, came "
            f"data={options.data!r} for {name}"
        )
    return kind.make(options)
