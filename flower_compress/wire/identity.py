"""A client's number, of what its operator calls it."""

from __future__ import annotations

import hashlib

import numpy as np

from ..errors import ConfigurationError, shown

__all__ = ["number_of"]


def number_of(value: object) -> int:
    """Return a client's number: a whole number as it is, of a name its hash.

    A name, as ``"hospital-a"``, becomes the first 63 bits of its SHA-256.

    Raises
    ------
    ConfigurationError
        If it is neither a whole number nor a name.
    """
    if type(value) is int:
        return value
    if isinstance(value, str) and value.strip():
        try:
            return int(value)
        except ValueError:
            digest = hashlib.sha256(value.encode()).digest()
            return int.from_bytes(digest[:8], "big") >> 1
    if (
        isinstance(value, (int, float, np.integer))
        and not isinstance(value, bool)
        and value % 1 == 0
    ):
        return int(value)
    raise ConfigurationError(
        f"partition-id must be a whole number or a name, got {shown(value)}"
    )
