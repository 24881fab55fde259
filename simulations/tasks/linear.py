"""Problems with a linear model, and their minima."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flower_compress.clients.objective import Arrays
from flower_compress.errors import FlowerCompressError, MissingExtraError

from .base import Clients, Evaluation
from .dataset import Dataset
from .logistic import LogisticObjective
from .margins import (
    WEIGHTS,
    accuracy_of,
    half_square,
    load_weights,
    margins_of,
    sigmoid_neg,
    softplus_neg,
)
from .smoothness import largest_curvature, mean_curvature, one_blas_thread
from .squares import SquaresObjective, determination

__all__ = ["LinearTask", "LogisticTask", "OptimumError", "SquaresTask"]

# F - F* <= |grad F|^2 / (2 lambda): at this norm and lambda = 1/1797, 1e-15.
_MAX_GRADIENT_NORM = 1e-9


class OptimumError(FlowerCompressError, ArithmeticError):
    """The minimum of F was not found to the accuracy promised."""


class LinearTask(Clients):
    """F_i(w) = (1/n_i) sum_j l(<x_j, w>, y_j) + (lambda/2) ||w||^2.

    Parameters
    ----------
    examples : Dataset
        All clients' examples.
    parts : list[NDArray[np.intp]]
        For each client the indices of its examples.
    l2 : float, optional
        lambda; 1/n if not given.
    """

    _curvature: float
    """The largest second derivative of l."""

    def __init__(
        self, examples: Dataset, parts: list[NDArray[np.intp]], l2: float | None
    ) -> None:
        super().__init__(examples.name, parts, examples.origin)
        self._l2 = 1.0 / examples.num_examples if l2 is None else l2
        self._rows = self._to_rows(examples)
        self._shares = self._weights()

    @abstractmethod
    def _to_rows(self, examples: Dataset) -> NDArray[np.float64]:
        """Return what the margins are made of, shape (n, d)."""

    @abstractmethod
    def _find_minimum(self) -> NDArray[np.float64]:
        """Return argmin F."""

    @abstractmethod
    def _value(self, w: NDArray[np.float64]) -> float:
        """Return F."""

    @abstractmethod
    def _gradient(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gradient of F."""

    @abstractmethod
    def objective(self, client: int) -> LogisticObjective | SquaresObjective:
        """Return F_i."""

    def initial_arrays(self) -> Arrays:
        """Return w = 0."""
        return {WEIGHTS: np.zeros(self._rows.shape[1], dtype=np.float32)}

    @abstractmethod
    def evaluate(self, arrays: Arrays) -> Evaluation:
        """Return F and the accuracy on all examples."""

    def accuracy(self, arrays: Arrays) -> float:
        """Return the accuracy on all examples."""
        return self.evaluate(arrays).accuracy

    def optimum(self) -> float | None:
        """Return min F to 1e-12, or None without an L2 term (it may not exist).

        Raises
        ------
        OptimumError
            The minimiser found is not accurate enough.
        """
        return None if self._l2 == 0.0 else self._minimum[0]

    def minimizer(self) -> NDArray[np.float64] | None:
        """Return argmin F, shape (d,), on the terms of :meth:`optimum`."""
        return None if self._l2 == 0.0 else self._minimum[1].copy()

    def smoothness(self) -> float:
        """Return L = max_i lambda_max(X_i' X_i) / n_i times the curvature, + lambda."""
        return largest_curvature(self._rows, self._parts) * self._curvature + self._l2

    def global_smoothness(self) -> float:
        """Return L of F: the same of the clients' mean of X_i' X_i / n_i."""
        return mean_curvature(self._rows, self._shares) * self._curvature + self._l2

    def strong_convexity(self) -> float:
        """Return lambda."""
        return self._l2

    @cached_property
    def _minimum(self) -> tuple[float, NDArray[np.float64]]:
        with one_blas_thread():
            w = self._find_minimum()
            norm = float(np.linalg.norm(self._gradient(w)))
        if not norm < _MAX_GRADIENT_NORM:
            raise OptimumError(
                f"expected a gradient below {_MAX_GRADIENT_NORM} at the minimum of F, "
                f"came {norm}: l2={self._l2} leaves the problem too ill-conditioned, "
                f"take a larger one"
            )
        return self._value(w), w


class LogisticTask(LinearTask):
    """Two classes by logistic regression, l(z, y) = log(1 + exp(-y z))."""

    _curvature = 0.25

    def __init__(
        self, examples: Dataset, parts: list[NDArray[np.intp]], l2: float | None
    ) -> None:
        super().__init__(examples, parts, l2)
        self._objectives = [
            LogisticObjective(
                examples.features[part], examples.labels[part], l2=self._l2
            )
            for part in parts
        ]

    def objective(self, client: int) -> LogisticObjective:
        """Return F_i."""
        return self._objectives[self._check(client)]

    def evaluate(self, arrays: Arrays) -> Evaluation:
        """Return F and the accuracy on all examples."""
        with np.errstate(over="ignore", invalid="ignore"):
            weights = load_weights(arrays, self._rows)
            margins = margins_of(self._rows, weights)
            loss = self._loss(weights, margins)
            return Evaluation(loss, accuracy_of(margins))

    def _to_rows(self, examples: Dataset) -> NDArray[np.float64]:
        return examples.features.astype(np.float64) * examples.labels[:, None]

    def _loss(
        self, weights: NDArray[np.float64], margins: NDArray[np.float64]
    ) -> float:
        losses = softplus_neg(margins)
        mean = float(np.einsum("i,i->", self._shares, losses))
        return mean + half_square(weights, self._l2)

    def _slopes(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        margins = margins_of(self._rows, w)
        return sigmoid_neg(margins, softplus_neg(margins))

    def _value(self, w: NDArray[np.float64]) -> float:
        return self._loss(w, margins_of(self._rows, w))

    def _gradient(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._l2 * w - (self._shares * self._slopes(w)) @ self._rows

    def _hessian(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        share = self._slopes(w)
        scaled = (self._shares * share * (1.0 - share))[:, None] * self._rows
        return self._rows.T @ scaled + self._l2 * np.eye(len(w))

    def _find_minimum(self) -> NDArray[np.float64]:
        """Minimise F by a trust-region Newton method, in float64."""
        try:
            from scipy.optimize import minimize
        except ModuleNotFoundError as error:
            raise MissingExtraError("scipy", "simulation") from error
        w: NDArray[np.float64] = minimize(
            self._value,
            np.zeros(self._rows.shape[1]),
            jac=self._gradient,
            hess=self._hessian,
            method="trust-exact",
            options={"gtol": 1e-6},
        ).x
        # From here the loss is flat to the last bit, and no line search can help:
        # plain Newton steps, quadratic in the gradient.
        for _ in range(5):
            w = w - np.linalg.solve(self._hessian(w), self._gradient(w))
        return w


class SquaresTask(LinearTask):
    """Least squares, l(z, y) = (z - y)^2 / 2.

    For the accuracy stands the coefficient of determination, 1 - sum (z - y)^2 /
    sum (y - mean y)^2 over all examples, no less than 0.
    """

    _curvature = 1.0

    def __init__(
        self, examples: Dataset, parts: list[NDArray[np.intp]], l2: float | None
    ) -> None:
        super().__init__(examples, parts, l2)
        self._targets = examples.require_targets().astype(np.float64)
        self._objectives = [
            SquaresObjective(examples.features[part], self._targets[part], l2=self._l2)
            for part in parts
        ]

    def objective(self, client: int) -> SquaresObjective:
        """Return F_i."""
        return self._objectives[self._check(client)]

    def evaluate(self, arrays: Arrays) -> Evaluation:
        """Return F and the coefficient of determination on all examples."""
        with np.errstate(over="ignore", invalid="ignore"):
            weights = load_weights(arrays, self._rows)
            rest = margins_of(self._rows, weights) - self._targets
            return Evaluation(
                self._loss(weights, rest), determination(rest, self._targets)
            )

    def _to_rows(self, examples: Dataset) -> NDArray[np.float64]:
        return examples.features.astype(np.float64)

    def _loss(self, w: NDArray[np.float64], rest: NDArray[np.float64]) -> float:
        mean = 0.5 * float(np.einsum("i,i,i->", self._shares, rest, rest))
        return mean + half_square(w, self._l2)

    def _rest(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        rest: NDArray[np.float64] = margins_of(self._rows, w) - self._targets
        return rest

    def _value(self, w: NDArray[np.float64]) -> float:
        return self._loss(w, self._rest(w))

    def _gradient(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._l2 * w + (self._shares * self._rest(w)) @ self._rows

    def _find_minimum(self) -> NDArray[np.float64]:
        """Solve the normal equations; once more for what rounding has left."""
        scaled = self._shares[:, None] * self._rows
        normal = self._rows.T @ scaled + self._l2 * np.eye(self._rows.shape[1])
        w = np.zeros(self._rows.shape[1])
        for _ in range(3):
            w = w - np.linalg.solve(normal, self._gradient(w))
        return w
