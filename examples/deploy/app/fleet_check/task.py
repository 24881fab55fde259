"""The learning problem: device i wants the model to be its own vector c_i.

f_i(w) = 1/2 ||w - c_i||^2,   so that the optimum is the mean of the c_i
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


def target(device: int, entries: int) -> Vector:
    """Return c_i, float32 of shape (entries,), the same everywhere."""
    return np.random.default_rng(device).standard_normal(entries, dtype=np.float32)


def optimum(devices: int, entries: int) -> Vector:
    """Return the mean of the c_i of devices 0, 1, ..."""
    total = np.zeros(entries, dtype=np.float64)
    for device in range(devices):
        total += target(device, entries)
    return (total / devices).astype(np.float32)
