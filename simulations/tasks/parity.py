"""Even against odd digits by logistic regression, with its minimum."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flower_compress.clients.objective import Arrays
from flower_compress.errors import (
    ConfigurationError,
    FlowerCompressError,
    MissingExtraError,
)

from .base import Clients, Evaluation, Options
from .dataset import Dataset
from .digits import load_parity
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

__all__ = ["OptimumError", "ParityTask", "make_parity"]

# F - F* <= |grad F|^2 / (2 lambda): at this norm and lambda = 1/1797, 1e-15.
_MAX_GRADIENT_NORM = 1e-9


class OptimumError(FlowerCompressError, ArithmeticError):
    """The minimum of F was not found to the accuracy promised."""


def make_parity(options: Options) -> ParityTask:
    """Return the task ``parity``.

    Raises
    ------
    ConfigurationError
        Another model or device than the default.
    """
    if options.model != "softmax":
        raise ConfigurationError(
            f"parity is logistic regression and has no other model, came "
            f"model={options.model!r}: leave the model out, or take the task 'digits'"
        )
    if options.device != "cpu":
        raise ConfigurationError(
            f"parity is computed in NumPy, came device={options.device!r}: leave it "
            f"out, or take the task 'digits'"
        )
    examples = load_parity()
    return ParityTask(examples, options.divide(examples.classes), options.l2)


class ParityTask(Clients):
    """Even against odd digits by logistic regression, strongly convex."""

    def __init__(
        self, examples: Dataset, parts: list[NDArray[np.intp]], l2: float | None
    ) -> None:
        super().__init__(examples.name, parts)
        self._l2 = 1.0 / examples.num_examples if l2 is None else l2
        self._objectives = [
            LogisticObjective(
                examples.features[part], examples.labels[part], l2=self._l2
            )
            for part in parts
        ]
        self._signed = examples.features.astype(np.float64) * examples.labels[:, None]
        # 1/(N n_i) for each example, in the order of the data set.
        self._shares = self._weights()

    def initial_arrays(self) -> Arrays:
        """Return w = 0."""
        return {WEIGHTS: np.zeros(self._signed.shape[1], dtype=np.float32)}

    def objective(self, client: int) -> LogisticObjective:
        """Return F_i."""
        return self._objectives[self._check(client)]

    def evaluate(self, arrays: Arrays) -> Evaluation:
        """Return F and the accuracy on all examples."""
        with np.errstate(over="ignore", invalid="ignore"):
            weights = load_weights(arrays, self._signed)
            margins = margins_of(self._signed, weights)
            loss = self._loss(weights, margins)
            return Evaluation(loss, accuracy_of(margins))

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
        """Return L = max_i lambda_max(X_i' X_i) / (4 n_i) + lambda."""
        return largest_curvature(self._signed, self._parts) / 4.0 + self._l2

    def global_smoothness(self) -> float:
        """Return L of F: lambda_max of the mean of X_i' X_i / n_i, over 4, + lambda."""
        return mean_curvature(self._signed, self._shares) / 4.0 + self._l2

    def strong_convexity(self) -> float:
        """Return lambda."""
        return self._l2

    def _loss(
        self, weights: NDArray[np.float64], margins: NDArray[np.float64]
    ) -> float:
        losses = softplus_neg(margins)
        mean = float(np.einsum("i,i->", self._shares, losses))
        return mean + half_square(weights, self._l2)

    @cached_property
    def _minimum(self) -> tuple[float, NDArray[np.float64]]:
        """Minimise F by a trust-region Newton method, in float64."""
        try:
            from scipy.optimize import minimize
        except ModuleNotFoundError as error:
            raise MissingExtraError("scipy", "simulation") from error
        signed, weights, l2 = self._signed, self._shares, self._l2

        def slopes(w: NDArray[np.float64]) -> NDArray[np.float64]:
            margins = margins_of(signed, w)
            return sigmoid_neg(margins, softplus_neg(margins))

        def value(w: NDArray[np.float64]) -> float:
            return self._loss(w, margins_of(signed, w))

        def gradient(w: NDArray[np.float64]) -> NDArray[np.float64]:
            return l2 * w - (weights * slopes(w)) @ signed

        def hessian(w: NDArray[np.float64]) -> NDArray[np.float64]:
            share = slopes(w)
            scaled = (weights * share * (1.0 - share))[:, None] * signed
            return signed.T @ scaled + l2 * np.eye(len(w))

        with one_blas_thread():
            w = minimize(
                value,
                np.zeros(signed.shape[1]),
                jac=gradient,
                hess=hessian,
                method="trust-exact",
                options={"gtol": 1e-6},
            ).x
            # From here the loss is flat to the last bit, and no line search can help:
            # plain Newton steps, quadratic in the gradient.
            for _ in range(5):
                w = w - np.linalg.solve(hessian(w), gradient(w))
        norm = float(np.linalg.norm(gradient(w)))
        if not norm < _MAX_GRADIENT_NORM:
            raise OptimumError(
                f"expected a gradient below {_MAX_GRADIENT_NORM} at the minimum of F, "
                f"came {norm}: l2={l2} leaves the problem too ill-conditioned, take a "
                f"larger one"
            )
        return value(w), w
