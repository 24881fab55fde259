"""Even against odd digits by logistic regression, and other problems of this kind."""

from __future__ import annotations

from collections.abc import Callable

from flower_compress.errors import ConfigurationError

from .base import Kind, Options
from .dataset import Dataset
from .digits import load_parity
from .linear import LinearTask, LogisticTask, SquaresTask

__all__ = ["linear", "make_linear", "make_parity"]


def make_parity(options: Options) -> LinearTask:
    """Return the task ``parity``.

    Raises
    ------
    ConfigurationError
        Another model or device than the default.
    """
    return make_linear(load_parity(), options)


def linear(load: Callable[[], Dataset]) -> Kind:
    """Return the kind of a task with a linear model of the examples that `load` has."""
    return Kind(lambda options: make_linear(load(), options))


def make_linear(examples: Dataset, options: Options) -> LinearTask:
    """Return least squares where the examples have targets, else logistic regression.

    Raises
    ------
    ConfigurationError
        Another model or device than the default.
    """
    least = examples.targets is not None
    what = "least squares" if least else "logistic regression"
    if options.model != "softmax":
        raise ConfigurationError(
            f"{examples.name} is {what} and has no other model, came "
            f"model={options.model!r}: leave the model out, or take the task 'digits'"
        )
    if options.device != "cpu":
        raise ConfigurationError(
            f"{examples.name} is computed in NumPy, came device={options.device!r}: "
            f"leave it out, or take the task 'digits'"
        )
    make = SquaresTask if least else LogisticTask
    return make(examples, options.divide(examples), options.l2)
