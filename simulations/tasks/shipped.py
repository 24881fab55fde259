"""Small tables that need no network: scikit-learn's, and one that is drawn."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import MissingExtraError

from .dataset import Dataset

__all__ = [
    "as_classes",
    "load_breast_cancer",
    "load_diabetes",
    "load_toy",
    "load_wine",
    "standardised",
]

_TENTHS: Final = 10
_TOY_EXAMPLES, _TOY_FEATURES, _TOY_NOISE = 4000, 20, 0.4


@cache
def load_breast_cancer() -> Dataset:
    """Load the 569 examples of "breast cancer Wisconsin", benign (+1) or not (-1).

    30 features, each of mean 0 and variance 1, and a constant 1: d = 31.

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed.
    """
    return _one_against_the_others("breast-cancer", "load_breast_cancer", 1)


@cache
def load_wine() -> Dataset:
    """Load the 178 wines, of the first cultivar (+1) or another (-1); d = 14.

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed.
    """
    return _one_against_the_others("wine", "load_wine", 0)


@cache
def load_diabetes() -> Dataset:
    """Load the 442 patients, to predict the disease's progression; d = 11.

    The target too has mean 0 and variance 1.

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed.
    """
    raw, target = _load("load_diabetes")
    targets = (target - target.mean()) / target.std()
    classes = as_classes(targets)
    return Dataset("diabetes", standardised(raw), classes, classes, targets=targets)


@cache
def load_toy() -> Dataset:
    """Draw the paper's toy problem as we read it: linear regression, d = 20.

    4000 examples x ~ N(0, diag(1, 1/2, ..., 1/20)) and y = <x, w> + 0.4 z with w and z
    of standard normals. Shared out i.i.d. it is homogeneous, as the paper says; the
    paper gives no sizes.
    """
    generator = np.random.Generator(np.random.Philox(0))
    scale = np.sqrt(1.0 / np.arange(1, _TOY_FEATURES + 1))
    drawn = generator.normal(size=(_TOY_EXAMPLES, _TOY_FEATURES)) * scale
    weights = generator.normal(size=_TOY_FEATURES)
    features = drawn.astype(np.float32)
    noise = _TOY_NOISE * generator.normal(size=_TOY_EXAMPLES)
    targets = np.einsum("ij,j->i", features.astype(np.float64), weights) + noise
    classes = as_classes(targets)
    return Dataset("toy", features, classes, classes, targets=targets)


def standardised(raw: NDArray[Any]) -> NDArray[np.float32]:
    """Return columns of mean 0 and variance 1, and a column of ones for the bias."""
    values = raw.astype(np.float64)
    spread = values.std(0)
    values = (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)
    return np.hstack([values, np.ones((len(values), 1))]).astype(np.float32)


def as_classes(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return classes as they are, and of real numbers the tenth that each is in."""
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int64)
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return (order * _TENTHS // len(values)).astype(np.int64)


def _one_against_the_others(name: str, loader: str, positive: int) -> Dataset:
    raw, classes = _load(loader)
    labels = np.where(classes == positive, 1, -1).astype(np.int64)
    return Dataset(name, standardised(raw), labels, as_classes(classes))


def _load(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-learn", "simulation") from error
    features, target = getattr(datasets, name)(return_X_y=True)
    return features, target
