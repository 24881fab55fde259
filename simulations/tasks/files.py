"""Images from a folder in which torchvision has put them."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np

from flower_compress.errors import ConfigurationError, MissingExtraError

from .dataset import Dataset

__all__ = ["FILES", "load_files"]

_TORCHVISION: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "mnist": ("MNIST", {}),
    "fashion-mnist": ("FashionMNIST", {}),
    "emnist": ("EMNIST", {"split": "digits"}),
    "cifar10": ("CIFAR10", {}),
}
"""Name of a task -> torchvision's class for its files, and its arguments."""

FILES: Final = tuple(_TORCHVISION)
"""Names of the tasks that are read from files."""


@cache
def load_files(name: str, folder: str) -> tuple[Dataset, Dataset]:
    """Load training and test examples of a data set from the files in a folder.

    Parameters
    ----------
    name : str
        ``"mnist"``, ``"fashion-mnist"``, ``"emnist"`` (its digits, handwritten by other
        people than MNIST's) or ``"cifar10"``.
    folder : str
        What torchvision calls ``root``: it holds ``MNIST/raw/``, ``FashionMNIST/raw/``,
        ``EMNIST/raw/`` or ``cifar-10-batches-py/``.

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
    kind, options = _TORCHVISION[name]
    named = (f"{key}={value!r}" for key, value in options.items())
    arguments = ", ".join((repr(str(folder)), *named))
    parts = []
    for train in (True, False):
        try:
            found = getattr(datasets, kind)(
                folder, train=train, download=False, **options
            )
        except (RuntimeError, OSError) as error:
            raise ConfigurationError(
                f"{name}: expected its files in {str(folder)!r}, got {error}; to "
                f'download them once: python -c "from torchvision.datasets import '
                f'{kind}; {kind}({arguments}, download=True)"'
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
