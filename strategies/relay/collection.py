"""The nodes' models, where the relay was told to collect them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord

from flower_compress.compressors import Vector
from flower_compress.wire.layout import Layout
from flower_compress.wire.mail import Posting

__all__ = ["Collection"]


class Collection:
    """The models collected last, and their mean.

    Parameters
    ----------
    layout : Layout
        The model's arrays.
    mean : ArrayRecord
        What stands for the mean until models were collected: the initial model.

    Attributes
    ----------
    models : dict[int, ArrayRecord]
        By node.
    distances : dict[int, float]
        ||x_i - mean x||^2 of those, by node.
    """

    def __init__(self, layout: Layout, mean: ArrayRecord) -> None:
        self._layout, self.mean = layout, mean
        self.models: dict[int, ArrayRecord] = {}
        self.distances: dict[int, float] = {}

    @property
    def mean_distance(self) -> float:
        """The consensus distance."""
        return sum(self.distances.values()) / len(self.distances)

    def take(self, postings: Mapping[int, Posting]) -> bool:
        """Take the models over that postings hold, and say whether there are any."""
        layout = self._layout
        vectors: dict[int, Vector] = {
            node: posting.model
            for node, posting in postings.items()
            if posting.model is not None and not posting.resync
        }
        if not vectors:
            return False
        exacts = {node: postings[node].exact for node in vectors}
        self.models = {
            node: layout.unflatten(vector, exacts[node])
            for node, vector in vectors.items()
        }
        mean = np.zeros(layout.dim)
        for vector in vectors.values():
            mean += vector
        mean /= len(vectors)
        self.distances = {
            node: float(np.square(vector - mean).sum())
            for node, vector in vectors.items()
        }
        exact = b""
        if any(exacts.values()):
            exact = layout.average_exact([*exacts.values()], [1.0] * len(exacts))
        self.mean = layout.unflatten(mean.astype(np.float32), exact)
        return True
