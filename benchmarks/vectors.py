"""The vectors that are compressed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import Vector

DIMS = (669_706, 11_700_000)
"""MALCOM's network 784-512-512-10, and a ResNet-18."""


@lru_cache(maxsize=2)
def random_vector(kind: str, dim: int) -> Vector:
    """Independent entries of unit variance, "gaussian" or "laplace"."""
    generator = np.random.Generator(np.random.Philox(2026))
    if kind == "gaussian":
        return generator.standard_normal(dim, dtype=np.float32)
    entries: NDArray[np.float64] = generator.laplace(scale=2**-0.5, size=dim)
    return entries.astype(np.float32)


@lru_cache(maxsize=1)
def gradient_of_cnn() -> Vector:
    """The digits' CNN at its initial weights, all examples of one of 20 clients."""
    from simulations.tasks import make_task

    task = make_task("digits", model="cnn", partition="iid", num_clients=20, seed=0)
    objective = task.objective(0)
    arrays = task.initial_arrays()
    _, gradient = objective.gradient(arrays, None)
    return np.concatenate(
        [np.asarray(part, dtype=np.float32).reshape(-1) for part in gradient.values()]
    )


def entropy_bits(entries: NDArray[np.integer]) -> float:
    """d times the zero-order entropy of the entries, in bits."""
    _, counts = np.unique(entries, return_counts=True)
    shares = counts / entries.size
    return float(-(counts * np.log2(shares)).sum())
