"""The examples of one supervised problem."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import ConfigurationError

__all__ = ["Dataset"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of one supervised problem; every array is read-only.

    Attributes
    ----------
    name : str
        The problem, as ``"parity"``.
    features : NDArray[np.float32]
        Shape (n, d); of images values in [0, 1].
    labels : NDArray[np.int64]
        Shape (n,), what the model predicts: {-1, +1} or {0, ..., 9}.
    classes : NDArray[np.int64]
        Shape (n,), the digit drawn, {0, ..., 9}, or the tenth of the targets that an
        example is in: what heterogeneous partitions group by, whatever the labels are.
    image_shape : tuple[int, int, int], optional
        Channels, height and width of an image that a feature vector holds in that
        order.
    targets : NDArray[np.float64], optional
        Shape (n,), what a regression predicts; labels are the classes then.
    origin : str
        Where the examples are from, if that is not what the name says: a stand-in.
    """

    name: str
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: NDArray[np.int64]
    image_shape: tuple[int, int, int] | None = None
    targets: NDArray[np.float64] | None = None
    origin: str = ""

    def __post_init__(self) -> None:
        lengths = {len(self.features), len(self.labels), len(self.classes)}
        if len(lengths) != 1:
            raise ConfigurationError(
                f"data set {self.name!r}: expected as many features as labels and "
                f"classes, came {len(self.features)}, {len(self.labels)} and "
                f"{len(self.classes)}; pass one entry per example in each"
            )
        for array in (self.features, self.labels, self.classes, self.targets):
            if array is not None:
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
            None if self.targets is None else self.targets[indices],
            self.origin,
        )

    def require_targets(self) -> NDArray[np.float64]:
        """Return the targets.

        Raises
        ------
        ConfigurationError
            There are none.
        """
        if self.targets is None:
            raise ConfigurationError(
                f"data set {self.name!r} has classes and no targets: expected one for "
                f"least squares, as diabetes"
            )
        return self.targets
