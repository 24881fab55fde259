"""What operators check: the numbers they compute with, and their own parameters."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from ..errors import ConfigurationError, CorruptPacket, NonFiniteError
from .arrays import NUMPY, Array, ArrayOps

__all__ = [
    "LARGEST",
    "check_flag",
    "check_integer",
    "check_probability",
    "check_scales",
    "plain_fields",
    "plain_number",
    "require_finite",
    "require_scales",
]

LARGEST = float(np.finfo(np.float32).max)
"""The largest float32."""


def require_finite(x: Array, ops: ArrayOps = NUMPY) -> None:
    """Raise NonFiniteError if `x` holds NaN or infinity."""
    if not ops.within(x, -LARGEST, LARGEST):
        bad, first = ops.num_infinite(x)
        raise NonFiniteError(
            f"{bad} of {x.shape[0]} entries are NaN or infinite, the first at {first}: "
            "expected finite values; lower the step size or check the data"
        )


def require_scales(
    scales: Array,
    ops: ArrayOps,
    table: Array | None = None,
    bound: float = LARGEST,
    what: str = "the scale of a bucket",
) -> None:
    """Raise NonFiniteError if a scale, or `what` else they are, is beyond `bound`.

    Or not finite because `table` is not: that is what the error says then.
    """
    if not ops.within(scales, -bound, bound):
        if table is not None:
            require_finite(table.reshape(-1), ops)
        raise NonFiniteError(
            f"{what} exceeds {bound:.3g}: expected a vector of smaller "
            "entries; lower the step size"
        )


def check_scales(scales: Array, ops: ArrayOps, bound: float = LARGEST) -> None:
    """Raise CorruptPacket unless the scales lie in [0, bound]."""
    if not ops.within(scales, 0.0, bound):
        raise CorruptPacket(
            f"expected scales between 0 and {bound:.3g}, got some outside"
        )


def plain_number(value: Any) -> Any:
    """Return a number of NumPy's as Python's, and anything else as it is.

    JSON holds no others, and float32 times an int64 of NumPy's is a float64.
    """
    return value.item() if isinstance(value, np.generic) else value


def plain_fields(instance: Any) -> None:
    """Let the fields of a frozen dataclass be :func:`plain_number`, as it begins."""
    for item in fields(instance):
        value = getattr(instance, item.name)
        if isinstance(value, np.generic):
            object.__setattr__(instance, item.name, plain_number(value))


def check_integer(name: str, value: object, highest: int) -> None:
    """Raise ConfigurationError unless `value` is an integer in [1, highest]."""
    if not isinstance(value, (int, np.integer)) or not 1 <= value <= highest:
        raise ConfigurationError(
            f"{name} must be an integer between 1 and {highest}, got {value!r}"
        )


def check_flag(name: str, value: object) -> None:
    """Raise ConfigurationError unless `value` is true or false, as 1 or 0 too."""
    if not isinstance(value, (bool, np.bool_, int, np.integer)) or value not in (0, 1):
        raise ConfigurationError(f"{name} must be true or false, got {value!r}")


def check_probability(name: str, value: object) -> None:
    """Raise ConfigurationError unless 0 < value <= 1."""
    if not isinstance(value, (int, float)) or not 0.0 < value <= 1.0:
        raise ConfigurationError(f"{name} must lie in (0, 1], got {value!r}")
