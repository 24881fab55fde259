"""Which library computes."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import numpy as np

from .numpy_ops import NUMPY
from .ops import Array, ArrayOps

__all__ = ["COMPILE", "array_ops"]

COMPILE = "FLOWER_COMPRESS_TORCH_COMPILE"
"""Environment variable: not empty, and ``torch.compile`` fuses what devices compute."""


def array_ops(x: Array) -> ArrayOps:
    """Return the functions for `x`, a NumPy array or a torch tensor."""
    if isinstance(x, np.ndarray):
        return NUMPY
    # Who made a tensor has imported torch.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _torch_ops(x.device)
    return NUMPY


@lru_cache(maxsize=64)
def _torch_ops(device: Any) -> ArrayOps:
    from .torch_ops import TorchOps

    return TorchOps(device)
