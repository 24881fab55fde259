"""What logistic regression computes: in float64, the same bits on any number of cores.

A margin is m_j = y_j <x_j, w>. Label and features only ever enter as the product
y_j x_j, the rows of ``signed``.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flower_compress.clients.objective import Arrays
from flower_compress.errors import LayoutMismatchError

__all__ = [
    "WEIGHTS",
    "accuracy_of",
    "half_square",
    "load_weights",
    "margins_of",
    "sigmoid_neg",
    "softplus_neg",
]

WEIGHTS: Final = "weights"
"""Name of the one array of the model."""


def load_weights(arrays: Arrays, signed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights in float64 (a copy), of the length the features ask for."""
    weights = arrays.get(WEIGHTS)
    if weights is None or weights.shape != signed.shape[1:]:
        came = {name: array.shape for name, array in arrays.items()}
        raise LayoutMismatchError(
            f"expected {{'{WEIGHTS}': {signed.shape[1:]}}}, came {came}: server and "
            f"clients must take the same task"
        )
    return weights.astype(np.float64)


# einsum, not @: BLAS splits a large product among threads, and its last bits may then
# depend on how many there are (Ray gives each of its workers one).
def margins_of(
    signed: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return m_j = y_j <x_j, w>, shape (n,)."""
    margins: NDArray[np.float64] = np.einsum("ij,j->i", signed, weights)
    return margins


def half_square(weights: NDArray[np.float64], l2: float) -> float:
    """Return (lambda/2) ||w||^2."""
    return 0.5 * l2 * float(np.einsum("i,i->", weights, weights))


def softplus_neg(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(1 + exp(-m)), without overflow."""
    losses: NDArray[np.float64] = np.logaddexp(0.0, -margins)
    return losses


def sigmoid_neg(
    margins: NDArray[np.float64], losses: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return sigma(-m) = exp(-m - log(1 + exp(-m))): exact in both tails."""
    slopes: NDArray[np.float64] = np.exp(-margins - losses)
    return slopes


def accuracy_of(margins: NDArray[np.float64]) -> float:
    """Return the share of positive margins; a tie, as of w = 0, counts half."""
    return 0.5 + 0.5 * float(np.sign(margins).mean())
