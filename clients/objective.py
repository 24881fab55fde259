"""What a ready-made client needs of a learning problem."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "Objective"]

Arrays = dict[str, NDArray[np.float32]]
"""Model parameters, or a gradient with respect to them, by parameter name."""


@runtime_checkable
class Objective(Protocol):
    """A client's local risk F_i(w), the mean loss over its examples.

    Implemented for any ``torch.nn.Module`` by
    :class:`flower_compress.clients.torch_objective.TorchObjective`. Methods never
    change the arrays they are given.
    """

    @property
    def num_examples(self) -> int:
        """Number of local examples, n_i."""

    def gradient(
        self, arrays: Arrays, indices: NDArray[np.intp] | None
    ) -> tuple[float, Arrays]:
        """Return the mean loss over the examples `indices` and its gradient.

        ``None`` stands for all examples. The gradient has the keys and the shapes
        of `arrays`.
        """

    def local_steps(
        self,
        arrays: Arrays,
        batches: Iterable[NDArray[np.intp] | None],
        step_size: float,
    ) -> tuple[float, Arrays]:
        """Take one optimizer step on each batch, starting from `arrays`.

        Returns the mean loss over the steps and the new weights.
        """

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return metrics of `arrays` on all local examples, ``"loss"`` among them."""
