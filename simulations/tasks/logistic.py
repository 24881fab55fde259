"""L2-regularised logistic regression on one client's examples, in NumPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from flower_compress.clients.objective import Arrays
from flower_compress.errors import ConfigurationError

from .linear_objective import LinearObjective
from .margins import (
    accuracy_of,
    half_square,
    load_weights,
    margins_of,
    sigmoid_neg,
    softplus_neg,
)

__all__ = ["LogisticObjective"]


class LogisticObjective(LinearObjective):
    """L2-regularised logistic regression on one client's examples.

    F_i(w) = (1/n_i) sum_j log(1 + exp(-y_j <x_j, w>)) + (lambda/2) ||w||^2
    grad F_i = -(1/n_i) sum_j sigma(-m_j) y_j x_j + lambda w,  m_j = y_j <x_j, w>

    Parameters
    ----------
    features : NDArray
        x_j in the rows, shape (n_i, d).
    labels : NDArray
        y_j in {-1, +1}, shape (n_i,).
    l2 : float
        lambda >= 0.

    Raises
    ------
    ConfigurationError
        `features` and `labels` do not fit, a label is neither -1 nor +1, or `l2` is
        negative or not finite.
    """

    def __init__(
        self,
        features: NDArray[np.floating],
        labels: NDArray[np.integer],
        *,
        l2: float,
    ) -> None:
        if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
            raise ConfigurationError(
                f"expected features of shape (n, d) and labels of shape (n,), n >= 1, "
                f"came {features.shape} and {labels.shape}"
            )
        if not np.isin(labels, (-1, 1)).all():
            raise ConfigurationError(
                f"expected labels in {{-1, +1}}, came {np.unique(labels).tolist()}: "
                f"map the two classes to -1 and +1"
            )
        if not (math.isfinite(l2) and l2 >= 0.0):
            raise ConfigurationError(f"expected a finite l2 >= 0, came l2={l2}")
        self._rows = features.astype(np.float64) * labels[:, None]
        self._l2 = l2

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return F_i as ``"loss"`` and the ``"accuracy"`` on the local examples."""
        with np.errstate(over="ignore", invalid="ignore"):
            weights = load_weights(arrays, self._rows)
            margins = margins_of(self._rows, weights)
            loss = softplus_neg(margins).mean() + half_square(weights, self._l2)
            return {"loss": float(loss), "accuracy": accuracy_of(margins)}

    def _loss_and_gradient(
        self, weights: NDArray[np.float64], indices: NDArray[np.intp] | None
    ) -> tuple[float, NDArray[np.float64]]:
        signed = self._rows if indices is None else self._rows.take(indices, axis=0)
        count = len(signed)
        if count == 0:
            raise ConfigurationError(
                "expected at least one example in a batch, came an empty batch: a "
                "mean over no example is undefined"
            )
        margins = margins_of(signed, weights)
        losses = softplus_neg(margins)
        gradient = np.einsum("i,ij->j", sigmoid_neg(margins, losses), signed)
        gradient *= -1.0 / count
        gradient += self._l2 * weights
        loss = float(losses.sum()) / count + half_square(weights, self._l2)
        return loss, gradient
