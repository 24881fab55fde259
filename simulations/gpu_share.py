"""How many of Ray's actors share a GPU, from what the first client takes of it."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from flower_compress.errors import ConfigurationError

from .settings import Settings

__all__ = ["GpuMemory", "choose_gpus", "measure_first_client"]

_log = logging.getLogger("flwr")
_SLACK, _PROCESS_BYTES = 1.25, 600 << 20
_GIBI = 1 << 30


class GpuMemory(NamedTuple):
    """Bytes that torch reserved for one client at most, and those of the GPU."""

    client_bytes: int
    total_bytes: int


def choose_gpus(
    job: Settings, gpus: float, measure: Callable[[Settings], GpuMemory]
) -> float:
    """Return the part of a GPU that an actor takes.

    As many actors share one as there is room for, where each takes a quarter more than
    the first client did, and 600 MiB that its process takes before torch does anything.

    Parameters
    ----------
    job : Settings
        The run.
    gpus : float
        The part that was asked for; 0 for none, and to measure for a run on a GPU.
    measure : Callable[[Settings], GpuMemory]
        What the first client of a run takes.

    Raises
    ------
    ConfigurationError
        If not even one has room.
    """
    if gpus or not job.problem.device.startswith("cuda"):
        return gpus
    client_bytes, total_bytes = measure(job)
    needed = int(_SLACK * client_bytes) + _PROCESS_BYTES
    sharing = total_bytes // needed
    if not sharing:
        raise ConfigurationError(
            f"a client of {job.label} took {client_bytes / _GIBI:.2f} GiB, which with "
            f"a quarter more does not fit a GPU of {total_bytes / _GIBI:.2f} GiB: take "
            "a smaller batch-size or model, or --gpus 1"
        )
    _log.info(
        "%d actors share a GPU of %.1f GiB: the first client took %.2f GiB, and an "
        "actor is given a quarter more and 0.59 GiB for its process",
        sharing,
        total_bytes / _GIBI,
        client_bytes / _GIBI,
    )
    # Ray counts in ten-thousandths.
    return max(1, 10_000 // sharing) / 10_000


def measure_first_client(job: Settings) -> GpuMemory:
    """Return what one batch takes, in a process that gives the GPU back."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_measure, job).result()


def _measure(job: Settings) -> GpuMemory:
    import torch

    task, device = job.task, job.problem.device
    objective = task.objective(0)
    size = min(job.batch_size or objective.num_examples, objective.num_examples)
    objective.gradient(task.initial_arrays(), np.arange(size))
    _, total = torch.cuda.mem_get_info(device)
    return GpuMemory(torch.cuda.max_memory_reserved(device), total)
