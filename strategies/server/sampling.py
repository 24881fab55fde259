"""Which clients take part in a round."""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np

from flower_compress.streams import Purpose, Stream

__all__ = ["Sampling", "sample"]

Sampling = Literal["fixed", "bernoulli"]
"""A fixed number of clients a round, or each one with that probability."""

T = TypeVar("T")


def sample(
    items: list[T], fraction: float, least: int, sampling: Sampling, seed: int, at: int
) -> list[T]:
    """Draw some of `items`, in their order.

    Parameters
    ----------
    items : list[T]
        What is drawn from.
    fraction : float
        ``"fixed"``: max(floor(fraction * n), least) of the n items, without
        replacement. ``"bernoulli"``: every item with that probability, on its own, so
        perhaps none.
    least : int
        See above.
    sampling : {"fixed", "bernoulli"}
        See above.
    seed, at : int
        The draw is a function of these two and n.
    """
    size = max(int(len(items) * fraction), least)
    if sampling == "fixed" and size >= len(items):
        return items
    generator = Stream(seed, Purpose.SAMPLING, 0, at).generator()
    if sampling == "bernoulli":
        drawn = np.flatnonzero(generator.random(len(items)) < fraction)
    else:
        drawn = np.sort(generator.choice(len(items), size, replace=False))
    return [items[i] for i in drawn]
