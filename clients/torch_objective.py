"""The local risk of any ``torch.nn.Module``.

F_i(w) = (1/n_i) sum_j loss(model_w(x_j), y_j)

Parameters travel by name as NumPy arrays, in the order and under the names of the
module's ``state_dict``. A state dict also has *buffers*: floating ones, as the
running statistics of BatchNorm, and integer ones, as its ``num_batches_tracked``.
They have no gradient, and are state all the same: see :meth:`TorchObjective.gradient`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from flower_compress.clients.objective import Arrays
from flower_compress.errors import (
    ConfigurationError,
    LayoutMismatchError,
    MissingExtraError,
)
from flower_compress.wire.names import name_difference

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    # A torch that is there but lacks a dependency of its own is another mistake.
    if error.name != "torch":
        raise
    raise MissingExtraError("torch", "torch") from error

from flower_compress.clients.torch_threads import of_this_thread, reproducible

__all__ = ["Loss", "OptimizerFactory", "TorchObjective", "arrays_of"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, labels) -> the scalar mean over the batch, as ``nn.CrossEntropyLoss()``."""

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Parameters -> optimizer, as ``functools.partial(torch.optim.SGD, momentum=0.9)``.

A fresh one is made for each call of :meth:`TorchObjective.local_steps`, whose
`step_size` replaces the learning rate of all its parameter groups.
"""


class TorchObjective:
    """F_i for a torch module: implements :class:`~.objective.Objective`.

    Results do not depend on the number of CPU threads, nor on what was evaluated
    before: a simulation ends with the same bytes in one process and in many. On CUDA,
    cuDNN is held to its deterministic algorithms. What a module draws by itself
    (dropout) comes from torch's global generator, which the caller seeds.

    Parameters
    ----------
    model : nn.Module
        A workspace: every method first overwrites its parameters and buffers with
        the arrays given. Objectives may share one module, in several threads too: it
        is for the first one, each other thread has a copy. It is moved to `device`.
    loss : Loss
        Mean loss of a batch.
    features : Tensor
        Shape (n_i, ...), the local examples, moved to `device`.
    labels : Tensor
        Shape (n_i, ...), moved to `device`.
    device : str or torch.device
        Where to compute.
    optimizer : OptimizerFactory, optional
        Optimizer of the local steps, plain SGD by default.
    evaluation_batch_size : int
        Examples per forward pass of :meth:`evaluate`, a bound on memory.

    Raises
    ------
    ConfigurationError
        No example, unequal numbers of features and labels, or a module whose state
        dict holds something other than tensors.

    Examples
    --------
    >>> model = nn.Linear(2, 3)
    >>> objective = TorchObjective(
    ...     model, nn.CrossEntropyLoss(), torch.eye(2), torch.tensor([0, 2])
    ... )
    >>> loss, gradient = objective.gradient(arrays_of(model), None)
    >>> {name: g.shape for name, g in gradient.items()}
    {'weight': (3, 2), 'bias': (3,)}
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        features: Tensor,
        labels: Tensor,
        *,
        device: str | torch.device = "cpu",
        optimizer: OptimizerFactory | None = None,
        evaluation_batch_size: int = 1024,
    ) -> None:
        if len(features) != len(labels) or len(labels) == 0:
            raise ConfigurationError(
                f"expected as many features as labels and at least one of each, came "
                f"{len(features)} features and {len(labels)} labels: pass tensors "
                f"whose first dimension counts the client's examples"
            )
        if evaluation_batch_size < 1:
            raise ConfigurationError(
                f"expected a positive evaluation_batch_size, came "
                f"{evaluation_batch_size}"
            )
        self._device = torch.device(device)
        self._module = model.to(self._device)
        self._loss = loss
        self._features = features.to(self._device)
        self._labels = labels.to(self._device)
        self._optimizer = optimizer
        self._evaluation_batch_size = evaluation_batch_size
        _tensors_of(self._module)  # Refuse an unsuitable module here, not in a run.

    @property
    def _model(self) -> nn.Module:
        return of_this_thread(self._module)

    @property
    def num_examples(self) -> int:
        """Number of local examples, n_i."""
        return len(self._labels)

    def gradient(
        self, arrays: Arrays, indices: NDArray[np.intp] | None
    ) -> tuple[float, Arrays]:
        """Return the mean loss over the examples `indices` and its gradient.

        Parameters
        ----------
        arrays : Arrays
            One array per entry of the module's state dict.
        indices : NDArray[np.intp] or None
            Shape (b,), positions among the local examples; None for all of them.

        Returns
        -------
        tuple[float, Arrays]
            The loss, and a dictionary with exactly the state dict's keys and shapes:
            for a parameter its gradient (zero where frozen or unused), for a buffer
            **its value after the forward pass** in training mode, not a gradient.
            So the server subtracts the former and averages the latter. Floating
            entries are float32, integer buffers keep their type.

        Raises
        ------
        LayoutMismatchError
            Names or shapes of `arrays` are not the module's.
        ConfigurationError
            `indices` is empty, or the loss is not a scalar.
        """
        with reproducible():
            state = self._load(arrays)
            self._model.train()
            loss = self._batch_loss(indices)
            # Tied weights have several names in the state dict: each gets the gradient.
            parameters = dict(self._model.named_parameters(remove_duplicate=False))
            trained = {n: p for n, p in parameters.items() if p.requires_grad}
            gradients = torch.autograd.grad(
                loss, list(trained.values()), materialize_grads=True
            )
            result = {
                name: torch.zeros_like(value) if name in parameters else value
                for name, value in state.items()
            }
            result.update(zip(trained, gradients, strict=True))
            return loss.item(), _to_arrays(result)

    def local_steps(
        self,
        arrays: Arrays,
        batches: Iterable[NDArray[np.intp] | None],
        step_size: float,
    ) -> tuple[float, Arrays]:
        """Take one optimizer step on each batch, starting from `arrays`.

        With the default optimizer, w <- w - step_size * grad F_i(w; batch). Optimizer
        state (momentum) starts anew at each call.

        Returns
        -------
        tuple[float, Arrays]
            Mean over the steps of the loss before each, and the whole state dict
            after the last: parameters and buffers.

        Raises
        ------
        LayoutMismatchError
            Names or shapes of `arrays` are not the module's.
        ConfigurationError
            There is no batch, one is empty, or the loss is not a scalar.
        """
        with reproducible():
            state = self._load(arrays)
            self._model.train()
            optimizer = self._make_optimizer(step_size)
            losses = []
            for indices in batches:
                optimizer.zero_grad()
                loss = self._batch_loss(indices)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.detach())
            optimizer.zero_grad()
            if not losses:
                raise ConfigurationError(
                    "expected at least one batch, came none: ask for one local step "
                    "or more"
                )
            mean = torch.stack(losses).to(torch.float64).mean().item()
            return mean, _to_arrays(state)

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return the mean loss over all local examples, in evaluation mode.

        ``"accuracy"`` is among the metrics where the problem is a classification:
        outputs of shape (n_i, classes) and integer labels of shape (n_i,).

        Raises
        ------
        LayoutMismatchError
            Names or shapes of `arrays` are not the module's.
        """
        loss, correct, classification = 0.0, 0, False
        with reproducible(), torch.no_grad():
            self._load(arrays)
            self._model.eval()
            for start in range(0, self.num_examples, self._evaluation_batch_size):
                batch = slice(start, start + self._evaluation_batch_size)
                labels = self._labels[batch]
                outputs = self._model(self._features[batch])
                loss += self._scalar(self._loss(outputs, labels)).item() * len(labels)
                classification = _is_classification(outputs, labels)
                if classification:
                    correct += int((outputs.argmax(dim=1) == labels).sum())
        metrics = {"loss": loss / self.num_examples}
        if classification:
            metrics["accuracy"] = correct / self.num_examples
        return metrics

    def _load(self, arrays: Arrays) -> dict[str, Tensor]:
        """Copy `arrays` into the module and return its state, sharing its storage."""
        state = _tensors_of(self._model)
        if arrays.keys() != state.keys():
            raise LayoutMismatchError(
                f"the module's state dict: {name_difference(state, arrays)}; server "
                "and client must build the same model"
            )
        with torch.no_grad():
            for name, tensor in state.items():
                array = np.asarray(arrays[name])
                if array.shape != tensor.shape:
                    raise LayoutMismatchError(
                        f"{name}: expected shape {tuple(tensor.shape)}, came "
                        f"{array.shape}: server and client must build the same model"
                    )
                # torch takes no read-only memory and no negative strides.
                tensor.copy_(torch.from_numpy(np.require(array, None, ["C", "W"])))
        return state

    def _batch_loss(self, indices: NDArray[np.intp] | None) -> Tensor:
        """Return the differentiable mean loss over the examples `indices`."""
        if indices is None:
            return self._scalar(self._loss(self._model(self._features), self._labels))
        if len(indices) == 0:
            raise ConfigurationError(
                "expected at least one example in a batch, came an empty batch: a "
                "mean over no example is undefined"
            )
        rows = torch.tensor(indices, dtype=torch.int64, device=self._device)
        outputs = self._model(self._features.index_select(0, rows))
        return self._scalar(self._loss(outputs, self._labels.index_select(0, rows)))

    @staticmethod
    def _scalar(loss: Tensor) -> Tensor:
        if loss.ndim != 0:
            raise ConfigurationError(
                f"expected a scalar mean loss, came shape {tuple(loss.shape)}: use "
                f"reduction='mean'"
            )
        return loss

    def _make_optimizer(self, step_size: float) -> torch.optim.Optimizer:
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        if self._optimizer is None:
            return torch.optim.SGD(parameters, lr=step_size)
        optimizer = self._optimizer(parameters)
        for group in optimizer.param_groups:
            group["lr"] = step_size
        return optimizer


def arrays_of(model: nn.Module) -> Arrays:
    """Return a copy of the module's state dict as NumPy arrays, by name.

    Floating entries are float32, integer buffers keep their type.

    Raises
    ------
    ConfigurationError
        The state dict holds something other than tensors.
    """
    return _to_arrays(_tensors_of(model))


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the module's state dict: tensors that share the module's storage."""
    state = dict(model.state_dict())
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise ConfigurationError(
            f"expected a state dict of tensors, came other values under {others}: "
            f"remove the module's get_extra_state"
        )
    return state


def _to_arrays(tensors: dict[str, Tensor]) -> Arrays:
    """Return copies that share no memory with the module or with each other."""
    arrays = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
        arrays[name] = np.array(tensor.detach().cpu().numpy(), order="C")
    # Integer buffers are the documented exception to float32.
    return cast("Arrays", arrays)


def _is_classification(outputs: Tensor, labels: Tensor) -> bool:
    return outputs.ndim == 2 and labels.ndim == 1 and not labels.is_floating_point()
