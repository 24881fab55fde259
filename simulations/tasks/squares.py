"""Least squares on one client's examples, in NumPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from flower_compress.clients.objective import Arrays
from flower_compress.errors import ConfigurationError

from .linear_objective import LinearObjective
from .margins import half_square, load_weights, margins_of

__all__ = ["SquaresObjective", "determination"]


def determination(rest: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Return 1 - sum rest^2 / sum (y - mean y)^2, no less than 0."""
    spread = float(np.square(targets - targets.mean()).sum())
    if not spread:
        return 0.0
    share = 1.0 - float(np.square(rest).sum()) / spread
    return share if share > 0.0 else 0.0  # NaN too: a run that has diverged


class SquaresObjective(LinearObjective):
    """Least squares with an L2 term on one client's examples.

    F_i(w) = 1/(2 n_i) sum_j (<x_j, w> - y_j)^2 + (lambda/2) ||w||^2
    grad F_i = (1/n_i) sum_j (<x_j, w> - y_j) x_j + lambda w

    Parameters
    ----------
    features : NDArray
        x_j in the rows, shape (n_i, d).
    targets : NDArray
        y_j, shape (n_i,).
    l2 : float
        lambda >= 0.

    Raises
    ------
    ConfigurationError
        `features` and `targets` do not fit, a target is not finite, or `l2` is negative
        or not finite.
    """

    def __init__(
        self,
        features: NDArray[np.floating],
        targets: NDArray[np.floating],
        *,
        l2: float,
    ) -> None:
        if (
            features.ndim != 2
            or targets.shape != features.shape[:1]
            or not len(targets)
        ):
            raise ConfigurationError(
                f"expected features of shape (n, d) and targets of shape (n,), n >= 1, "
                f"came {features.shape} and {targets.shape}"
            )
        if not np.isfinite(targets).all():
            raise ConfigurationError("expected finite targets, came NaN or infinity")
        if not (math.isfinite(l2) and l2 >= 0.0):
            raise ConfigurationError(f"expected a finite l2 >= 0, came l2={l2}")
        self._rows = features.astype(np.float64)
        self._targets = targets.astype(np.float64)
        self._l2 = l2

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return F_i as ``"loss"``, and R^2 as ``"accuracy"``."""
        with np.errstate(over="ignore", invalid="ignore"):
            weights = load_weights(arrays, self._rows)
            rest = margins_of(self._rows, weights) - self._targets
            loss = 0.5 * float(np.square(rest).mean()) + half_square(weights, self._l2)
            return {"loss": loss, "accuracy": determination(rest, self._targets)}

    def _loss_and_gradient(
        self, weights: NDArray[np.float64], indices: NDArray[np.intp] | None
    ) -> tuple[float, NDArray[np.float64]]:
        features, targets = self._rows, self._targets
        if indices is not None:
            features, targets = features.take(indices, axis=0), targets[indices]
        count = len(targets)
        if count == 0:
            raise ConfigurationError(
                "expected at least one example in a batch, came an empty batch: a "
                "mean over no example is undefined"
            )
        rest = margins_of(features, weights) - targets
        gradient = np.einsum("i,ij->j", rest, features)
        gradient /= count
        gradient += self._l2 * weights
        loss = 0.5 * float(np.square(rest).sum()) / count
        return loss + half_square(weights, self._l2), gradient
