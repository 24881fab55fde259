"""scikit-learn's handwritten digits, which need no network.

1797 real 8 x 8 grey-scale scans (E. Alpaydin, C. Kaynak, "Optical Recognition of
Handwritten Digits", UCI Machine Learning Repository, 1998; the test part, as shipped
inside scikit-learn). Three problems are made of them: ``parity`` (even against odd, all
examples train), ``digits`` (ten classes, held-out test examples) and ``digits28`` (the
same images enlarged to 28 x 28, which stand in for MNIST).
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import MissingExtraError

from .dataset import Dataset

__all__ = ["load_digits", "load_digits28", "load_parity"]

_MAX_INTENSITY: Final = 16.0
_TEST_FRACTION: Final = 0.2
_SPLIT_SEED: Final = 0
_ENLARGED: Final = 28


@cache
def load_parity() -> Dataset:
    """Load the digits as a binary problem, even (+1) against odd (-1).

    All 1797 examples train. A constant column of ones is the bias, so d = 65.

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed.
    """
    features, digits = _load()
    ones = np.ones((len(features), 1), dtype=np.float32)
    return Dataset(
        name="parity",
        features=np.hstack([features, ones]),
        labels=np.where(digits % 2 == 0, 1, -1).astype(np.int64),
        classes=digits,
    )


@cache
def load_digits() -> tuple[Dataset, Dataset]:
    """Load the ten-class digits (d = 64) as 1437 training and 360 test examples.

    The split is stratified by digit and the same in every run, so accuracies of
    different seeds, partitions and models are of the same test examples.

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed.
    """
    features, digits = _load()
    try:
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-learn", "simulation") from error
    train, test = train_test_split(
        np.arange(len(digits)),
        test_size=_TEST_FRACTION,
        random_state=_SPLIT_SEED,
        stratify=digits,
    )
    examples = Dataset("digits", features, digits, digits, (1, 8, 8))
    return examples.take(np.sort(train)), examples.take(np.sort(test))


@cache
def load_digits28() -> tuple[Dataset, Dataset]:
    """Load the examples of :func:`load_digits`, each enlarged to 28 x 28 (d = 784).

    By bilinear interpolation, which has pixel i's centre at (i + 1/2) 8/28 - 1/2 of the
    original and repeats the border: the size of MNIST's images for models made for it.

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed.
    """
    train, test = (_enlarge(part) for part in load_digits())
    return train, test


def _enlarge(examples: Dataset) -> Dataset:
    """Return the 8 x 8 images as 28 x 28 images, values still in [0, 1].

    In float64 and element by element: the same bytes on every machine.
    """
    images = examples.features.reshape(-1, 8, 8).astype(np.float64)
    centres = np.clip((np.arange(_ENLARGED) + 0.5) * (8 / _ENLARGED) - 0.5, 0.0, 7.0)
    left = np.minimum(centres.astype(np.intp), 6)
    share = centres - left
    for _ in range(2):  # The columns, then the rows.
        images = (1.0 - share) * images[..., left] + share * images[..., left + 1]
        images = images.transpose(0, 2, 1)
    return Dataset(
        name="digits28",
        features=images.astype(np.float32, order="C").reshape(len(images), -1),
        labels=examples.labels,
        classes=examples.classes,
        image_shape=(1, _ENLARGED, _ENLARGED),
    )


def _load() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features (1797, 64) in [0, 1] and digits (1797,)."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-learn", "simulation") from error
    raw, digits = datasets.load_digits(return_X_y=True)
    return (raw / _MAX_INTENSITY).astype(np.float32), digits.astype(np.int64)
