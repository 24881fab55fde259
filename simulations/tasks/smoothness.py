"""How smooth a loss of linear margins is, the same bits on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

__all__ = ["largest_curvature", "mean_curvature", "one_blas_thread"]


def largest_curvature(
    features: NDArray[np.float64], parts: list[NDArray[np.intp]]
) -> float:
    """Return max_i lambda_max(X_i' X_i) / n_i.

    Parameters
    ----------
    features : NDArray[np.float64]
        X, one example a row, shape (n, d).
    parts : list[NDArray[np.intp]]
        The rows of each client, X_i.
    """
    with one_blas_thread():
        return max(float(np.linalg.norm(features[p], 2)) ** 2 / len(p) for p in parts)


def mean_curvature(
    features: NDArray[np.float64], weights: NDArray[np.float64]
) -> float:
    """Return lambda_max(X' diag(weights) X).

    Parameters
    ----------
    features : NDArray[np.float64]
        X, one example a row, shape (n, d).
    weights : NDArray[np.float64]
        Weight of each example, shape (n,).
    """
    with one_blas_thread():
        scaled = np.sqrt(weights)[:, None] * features
        return float(np.linalg.norm(scaled, 2)) ** 2


def one_blas_thread() -> threadpool_limits:
    """Keep BLAS to one thread: the same bits whatever their number, and no deadlock.

    Flower starts Ray while the server app runs in a thread. Ray forks, OpenBLAS's
    handler waits for its busy threads, and these wait for the fork.
    """
    return threadpool_limits(limits=1, user_api="blas")
