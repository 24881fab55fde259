"""Made-up images of CIFAR-10's size, where its files are not at hand.

They say how long a run takes and what it sends, nothing of what CIFAR-10's models
learn: ten classes, each a pattern of 4 x 4 fields of colour under noise.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flower_compress.streams import Purpose, Stream

from .dataset import Dataset

__all__ = ["load_made_up32"]

_SHAPE: Final = (3, 32, 32)
_FIELDS: Final = 4
_TRAIN, _TEST, _CLASSES = 5000, 1000, 10
_ORIGIN: Final = "made-up images of CIFAR-10's size"


@cache
def load_made_up32() -> tuple[Dataset, Dataset]:
    """Return 5000 training and 1000 test images, shape 3 x 32 x 32, in [0, 1].

    x = (p + u) / 2 with the pattern p of its class and noise u, each pixel of which and
    each field of p is uniform on [0, 1): the same bytes on every machine.
    """
    draws = Stream(0, Purpose.INITIAL_MODEL, 32).draws()
    fields = draws.dither(_CLASSES * 3 * _FIELDS**2).reshape(-1, 3, _FIELDS, _FIELDS)
    size = _SHAPE[1] // _FIELDS
    patterns = fields.repeat(size, axis=2).repeat(size, axis=3).reshape(_CLASSES, -1)
    train, test = (
        _images(patterns.astype(np.float32), draws.dither(count * patterns.shape[1]))
        for count in (_TRAIN, _TEST)
    )
    return train, test


def _images(patterns: NDArray[np.float32], noise: NDArray[np.uint16]) -> Dataset:
    features = noise.reshape(-1, patterns.shape[1]).astype(np.float32)
    labels = np.arange(len(features), dtype=np.int64) % _CLASSES
    features += patterns[labels]
    features *= np.float32(2.0**-17)
    return Dataset("made-up32", features, labels, labels, _SHAPE, origin=_ORIGIN)
