"""Images of ten classes by a torch model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flower_compress.clients.objective import Arrays, Objective
from flower_compress.errors import ConfigurationError, MissingExtraError

from .base import Clients, Evaluation, Kind, Options
from .dataset import Dataset
from .files import load_files
from .models import build_model
from .smoothness import largest_curvature, mean_curvature

if TYPE_CHECKING:
    from flower_compress.clients.torch_objective import TorchObjective

__all__ = ["ImageTask", "filed_images", "images"]


def images(load: Callable[[], tuple[Dataset, Dataset]]) -> Kind:
    """Return the kind of a task of the training and test images that `load` returns."""
    return Kind(
        lambda options: _make(*load(), options), draws_weights=True, of_torch=True
    )


def filed_images(name: str) -> Kind:
    """Return the kind of a task of the images of :func:`.files.load_files`."""
    return Kind(
        lambda options: _make(*load_files(name, options.data), options),
        from_files=True,
        draws_weights=True,
        of_torch=True,
    )


def _make(train: Dataset, test: Dataset, options: Options) -> ImageTask:
    if options.l2 is not None:
        raise ConfigurationError(
            f"{train.name} has no L2 term, came l2={options.l2}: leave it out, or take "
            f"the task 'parity'"
        )
    parts = options.divide(train)
    _check_device(options.device)
    return ImageTask(train, test, parts, options.model, options.seed, options.device)


class ImageTask(Clients):
    """Images of ten classes by a torch model."""

    def __init__(
        self,
        train: Dataset,
        test: Dataset,
        parts: list[NDArray[np.intp]],
        model: str,
        seed: int,
        device: str,
    ) -> None:
        super().__init__(train.name, parts, train.origin)
        from flower_compress.clients.torch_objective import arrays_of

        self._train, self._device = train, device
        self._model_name = model
        # One module for all clients: an objective overwrites its state at each call.
        self._model = build_model(model, train, seed)
        self._initial = arrays_of(self._model)
        self._objectives: dict[int, TorchObjective] = {}
        self._on_test = self._torch_objective(test)

    def initial_arrays(self) -> Arrays:
        """Return the weights drawn from the seed."""
        return {name: array.copy() for name, array in self._initial.items()}

    def objective(self, client: int) -> Objective:
        """Return F_i."""
        if client not in self._objectives:
            part = self._parts[self._check(client)]
            self._objectives[client] = self._torch_objective(self._train.take(part))
        return self._objectives[client]

    def evaluate(self, arrays: Arrays) -> Evaluation:
        """Return F, and the accuracy on the test examples."""
        clients = map(self.objective, range(self.num_clients))
        losses = [client.evaluate(arrays)["loss"] for client in clients]
        return Evaluation(sum(losses) / len(losses), self.accuracy(arrays))

    def accuracy(self, arrays: Arrays) -> float:
        """Return the accuracy on the test examples."""
        return self._on_test.evaluate(arrays)["accuracy"]

    def optimum(self) -> None:
        """Return None: not known."""
        return None

    def smoothness(self) -> float | None:
        """Return max_i lambda_max(X_i' X_i) / (2 n_i) for ``softmax``.

        X_i with a column of ones for the bias; 1/2 bounds the largest eigenvalue of
        diag(p) - pp'. None for the networks.
        """
        if self._model_name != "softmax":
            return None
        return largest_curvature(self._with_bias(), self._parts) / 2.0

    def global_smoothness(self) -> float | None:
        """Return lambda_max of the clients' mean of X_i' X_i / n_i, half of it."""
        if self._model_name != "softmax":
            return None
        return mean_curvature(self._with_bias(), self._weights()) / 2.0

    def strong_convexity(self) -> float:
        """Return 0: there is no L2 term."""
        return 0.0

    def _with_bias(self) -> NDArray[np.float64]:
        ones = np.ones((self._train.num_examples, 1))
        return np.hstack([self._train.features.astype(np.float64), ones])

    def _torch_objective(self, examples: Dataset) -> TorchObjective:
        """Return the mean cross entropy on `examples`."""
        import torch
        from torch.nn.functional import cross_entropy

        from flower_compress.clients.torch_objective import TorchObjective

        return TorchObjective(
            self._model,
            cross_entropy,
            # The data set is read-only, and torch takes no read-only memory.
            torch.tensor(examples.features),
            torch.tensor(examples.labels),
            device=self._device,
        )


def _check_device(device: str) -> None:
    """Raise ConfigurationError unless torch can compute there."""
    try:
        import torch

        torch.zeros(1, device=device)
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch", "torch") from error
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"expected a device that torch can use here, came {device!r} ({error}): "
            f"take 'cpu', or install torch for this machine's GPU"
        ) from error
