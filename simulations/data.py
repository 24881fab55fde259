"""Data sets: scikit-learn's handwritten digits, which need no network, and files.

The digits are 1797 real 8 x 8 grey-scale scans (E. Alpaydin, C. Kaynak, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998; the test
part, as shipped inside scikit-learn). Three problems are made of them: ``parity`` (even
against odd, all examples train), ``digits`` (ten classes, held-out test examples) and
``digits28`` (the same images enlarged to 28 x 28, which stand in for MNIST).

``mnist`` and ``cifar10`` are read from a folder in which torchvision has put them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import ConfigurationError, MissingExtraError

__all__ = [
    "FILED",
    "Dataset",
    "load_digits",
    "load_digits28",
    "load_files",
    "load_parity",
]

FILED: Final = {"mnist": "MNIST", "cifar10": "CIFAR10"}
"""Data sets that are read from files, and torchvision's classes for them."""

_MAX_INTENSITY = 16.0
_TEST_FRACTION = 0.2
_SPLIT_SEED = 0
_ENLARGED = 28


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of one supervised problem; every array is read-only.

    Attributes
    ----------
    name : str
        The problem, as ``"parity"``.
    features : NDArray[np.float32]
        Shape (n, d), values in [0, 1].
    labels : NDArray[np.int64]
        Shape (n,), what the model predicts: {-1, +1} or {0, ..., 9}.
    classes : NDArray[np.int64]
        Shape (n,), the digit drawn, {0, ..., 9}: what heterogeneous partitions
        group by, whatever the labels are.
    image_shape : tuple[int, int, int], optional
        Channels, height and width of an image that a feature vector holds in that
        order.
    """

    name: str
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: NDArray[np.int64]
    image_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.features), len(self.labels), len(self.classes)}
        if len(lengths) != 1:
            raise ConfigurationError(
                f"data set {self.name!r}: expected as many features as labels and "
                f"classes, came {len(self.features)}, {len(self.labels)} and "
                f"{len(self.classes)}; pass one entry per example in each"
            )
        for array in (self.features, self.labels, self.classes):
            array.flags.writeable = False

    @property
    def num_examples(self) -> int:
        """Number of examples, n."""
        return len(self.labels)

    @property
    def num_features(self) -> int:
        """Length of one feature vector, d."""
        return int(self.features.shape[1])

    def take(self, indices: NDArray[np.intp]) -> Dataset:
        """Return the examples `indices`, in that order, as a data set (a copy)."""
        return Dataset(
            self.name,
            self.features[indices],
            self.labels[indices],
            self.classes[indices],
            self.image_shape,
        )


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


@cache
def load_files(name: str, folder: str) -> tuple[Dataset, Dataset]:
    """Load training and test examples of a data set from the files in a folder.

    Parameters
    ----------
    name : str
        One of :data:`FILED`.
    folder : str
        What torchvision calls ``root``: it holds ``MNIST/raw/`` or
        ``cifar-10-batches-py/``.

    Raises
    ------
    ConfigurationError
        The files are not there, or are damaged.
    MissingExtraError
        torchvision is not installed.
    """
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError("torchvision", "simulation") from error
    kind = FILED[name]
    parts = []
    for train in (True, False):
        try:
            found = getattr(datasets, kind)(folder, train=train, download=False)
        except (RuntimeError, OSError) as error:
            raise ConfigurationError(
                f"{name}: expected its files in {str(folder)!r}, got {error}; to "
                f'download them once: python -c "from torchvision.datasets import '
                f'{kind}; {kind}({str(folder)!r}, download=True)"'
            ) from error
        pixels, labels = np.asarray(found.data), np.asarray(found.targets, np.int64)
        # MNIST has no axis for its one channel, CIFAR-10's comes last.
        images = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        _, channels, height, width = images.shape
        features = images.reshape(len(images), -1).astype(np.float32) / 255.0
        shape = (channels, height, width)
        parts.append(Dataset(name, features, labels, labels, shape))
    train_part, test_part = parts
    return train_part, test_part


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
