"""What objectives of linear models share: steps on one vector of weights, in NumPy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from flower_compress.clients.objective import Arrays
from flower_compress.errors import ConfigurationError

from .margins import WEIGHTS, load_weights

__all__ = ["LinearObjective"]


class LinearObjective(ABC):
    """An objective of the inner products <x_j, w> of one client's examples.

    Arrays are float32 under the name ``"weights"``, shape (d,); everything inside is
    float64. A run that diverges shows as a loss that is not finite, without warnings.
    """

    _rows: NDArray[np.float64]
    """What the weights are multiplied with, an example a row, shape (n_i, d)."""

    @abstractmethod
    def _loss_and_gradient(
        self, weights: NDArray[np.float64], indices: NDArray[np.intp] | None
    ) -> tuple[float, NDArray[np.float64]]:
        """Return the loss over some examples (None: all) and its gradient."""

    @property
    def num_examples(self) -> int:
        """Number of local examples, n_i."""
        return len(self._rows)

    def gradient(
        self, arrays: Arrays, indices: NDArray[np.intp] | None
    ) -> tuple[float, Arrays]:
        """Return the loss over the examples `indices` (None: all) and its gradient.

        Raises
        ------
        ConfigurationError
            `indices` is empty.
        LayoutMismatchError
            `arrays` has no ``"weights"`` of shape (d,).
        """
        with np.errstate(over="ignore", invalid="ignore"):
            weights = load_weights(arrays, self._rows)
            loss, gradient = self._loss_and_gradient(weights, indices)
            return loss, {WEIGHTS: gradient.astype(np.float32)}

    def local_steps(
        self,
        arrays: Arrays,
        batches: Iterable[NDArray[np.intp] | None],
        step_size: float,
    ) -> tuple[float, Arrays]:
        """Take the SGD steps w <- w - step_size * grad F_i(w; batch), in float64.

        Returns the mean of the losses before each step, and the last weights.

        Raises
        ------
        ConfigurationError
            There is no batch, or one is empty.
        LayoutMismatchError
            `arrays` has no ``"weights"`` of shape (d,).
        """
        losses = []
        with np.errstate(over="ignore", invalid="ignore"):
            weights = load_weights(arrays, self._rows)
            for indices in batches:
                loss, gradient = self._loss_and_gradient(weights, indices)
                weights -= step_size * gradient
                losses.append(loss)
            if not losses:
                raise ConfigurationError(
                    "expected at least one batch, came none: ask for one local step "
                    "or more"
                )
            return sum(losses) / len(losses), {WEIGHTS: weights.astype(np.float32)}
