"""Mini-batches that depend on the run's seed, the client and the round alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from flwr.app import ConfigRecord
from numpy.typing import NDArray

from flower_compress.errors import ConfigurationError
from flower_compress.streams import Purpose, Stream

__all__ = ["batches", "number", "server_round"]


def batches(
    num_examples: int,
    batch_size: int,
    *,
    seed: int,
    client: int,
    server_round: int,
    count: int = 1,
) -> Iterator[NDArray[np.intp] | None]:
    """Yield `count` batches of indices, drawn without replacement.

    Parameters
    ----------
    num_examples : int
        Number of local examples, n_i.
    batch_size : int
        Examples a batch; 0, or n_i and more, for all of them (None is yielded).
    seed, client, server_round : int
        What the draw depends on.
    count : int
        Number of batches. An epoch is gone through before the next one starts.
    """
    if batch_size < 0:
        raise ConfigurationError(
            f"batch-size must be 0 (all examples) or positive, got {batch_size}"
        )
    if batch_size == 0 or batch_size >= num_examples:
        for _ in range(count):
            yield None
        return
    stream = Stream(seed, Purpose.BATCHES, client, server_round)
    order, start, generator = stream.permutation(num_examples), 0, None
    for _ in range(count):
        if start + batch_size > num_examples:
            if generator is None:  # It takes longer to make than the first epoch.
                generator = stream.generator()
                generator.permutation(num_examples)
            order, start = generator.permutation(num_examples), 0
        yield order[start : start + batch_size]
        start += batch_size


def number(config: ConfigRecord, key: str, default: float) -> float:
    """Return the number under `key`, or `default` if there is none.

    Raises
    ------
    ConfigurationError
        If there is something else.
    """
    value = config.get(key, default)
    if not isinstance(value, (int, float)):
        raise ConfigurationError(f"{key} must be a number, got {value!r}")
    return value


def server_round(config: ConfigRecord) -> int:
    """Return the round that the server put into the config."""
    return int(number(config, "server-round", 0))
