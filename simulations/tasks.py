"""Learning problems divided among clients, with the facts that a comparison needs.

A task is the problem  min_w F(w) = (1/N) sum_i F_i(w),  every client with the same
weight however many examples it holds. It gives each client its F_i, and whoever
watches the run F, its smoothness and, where known, its minimum.

====================== ============================================ ================
task                   F_i                                          evaluated on
====================== ============================================ ================
``parity``             logistic regression with an L2 term, even    all examples
                       against odd digits; strongly convex
``digits``             ten-class cross entropy of a torch model,    accuracy on the
                       one of :data:`MODELS`; ``softmax`` is        held-out examples
                       convex
``digits28``           the same, images enlarged to MNIST's 28 x 28 the same
``mnist``, ``cifar10`` the same, from files in a folder             the same
====================== ============================================ ================
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from flower_compress.clients.objective import Arrays, Objective
from flower_compress.errors import (
    ConfigurationError,
    FlowerCompressError,
    LayoutMismatchError,
    MissingExtraError,
    UnknownNameError,
)
from simulations.data import (
    FILED,
    Dataset,
    load_digits,
    load_digits28,
    load_files,
    load_parity,
)
from simulations.partition import partition as partition_examples

if TYPE_CHECKING:
    from torch import nn

    from flower_compress.clients.torch_objective import TorchObjective

__all__ = [
    "MODELS",
    "TASKS",
    "Evaluation",
    "LogisticObjective",
    "OptimumError",
    "Task",
    "make_task",
]

TASKS: Final = ("parity", "digits", "digits28", *FILED)
"""Names of the known tasks."""

MODELS: Final = ("softmax", "mlp", "mlp-512", "cnn", "resnet18")
"""Names of the models of the tasks of images, all but ``parity``.

``resnet18`` is for images of three channels, as those of ``cifar10``.
"""

_NUM_CLASSES = 10
_WEIGHTS = "weights"
# F - F* <= |grad F|^2 / (2 lambda): at this norm and lambda = 1/1797, 1e-15.
_MAX_GRADIENT_NORM = 1e-9


class OptimumError(FlowerCompressError, ArithmeticError):
    """The minimum of F was not found to the accuracy promised."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model measured on a task.

    Attributes
    ----------
    loss : float
        F(w), over the clients' training examples, every client with the same weight.
    accuracy : float
        Share of examples classified correctly, in [0, 1].
    """

    loss: float
    accuracy: float


class Task(Protocol):
    """A learning problem divided among clients."""

    @property
    def name(self) -> str:
        """Name of the problem, one of :data:`TASKS`."""

    @property
    def num_clients(self) -> int:
        """Number of clients, N."""

    def initial_arrays(self) -> Arrays:
        """Return fresh arrays of the initial model, the same at every call."""

    def objective(self, client: int) -> Objective:
        """Return F_i of client i in 0, ..., N - 1, the same object at every call.

        Raises
        ------
        ConfigurationError
            There is no such client.
        """

    def evaluate(self, arrays: Arrays) -> Evaluation:
        """Return F at `arrays`, and the accuracy on the task's evaluation set."""

    def accuracy(self, arrays: Arrays) -> float:
        """Return the accuracy on the task's evaluation set."""

    def optimum(self) -> float | None:
        """Return min F, or None where it is not known."""

    def smoothness(self) -> float | None:
        """Return an L such that every F_i is L-smooth, or None where none is known."""


def make_task(
    name: str,
    *,
    model: str = "softmax",
    partition: str = "iid",
    num_clients: int,
    seed: int = 0,
    alpha: float = 0.5,
    l2: float | None = None,
    data: str = "",
    device: str = "cpu",
) -> Task:
    """Return a task; the same arguments give the same object.

    Parameters
    ----------
    name : str
        One of :data:`TASKS`.
    model : str
        One of :data:`MODELS`. ``parity`` has one model, and takes the default only.
    partition : str
        One of :data:`simulations.partition.SCHEMES`.
    num_clients : int
        Number of clients, N.
    seed : int
        Of the partition and of the initial weights, in [0, 2**63).
    alpha : float
        Concentration of the ``dirichlet`` partition.
    l2 : float, optional
        lambda of ``parity``, 1/n with n = 1797 by default. The others have no L2 term.
    data : str
        Folder with the files of ``mnist`` and ``cifar10``; see
        :func:`simulations.data.load_files`.
    device : str
        Where torch computes: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Raises
    ------
    UnknownNameError
        No such task, model or partition scheme.
    PartitionError
        The examples cannot be divided as asked.
    ConfigurationError
        An argument that the task cannot honour.
    MissingExtraError
        scikit-learn, for images torch, or for ``resnet18`` torchvision is missing.
    """
    return _make_task(
        name, model, partition, num_clients, seed, alpha, l2, data, device
    )


@lru_cache(maxsize=32)
def _make_task(
    name: str,
    model: str,
    scheme: str,
    num_clients: int,
    seed: int,
    alpha: float,
    l2: float | None,
    data: str,
    device: str,
) -> Task:
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    if model not in MODELS:
        raise UnknownNameError("model", model, MODELS)
    if not 0 <= seed < 2**63:
        raise ConfigurationError(f"expected a seed in [0, 2**63), came seed={seed}")
    if (name in FILED) != bool(data):
        raise ConfigurationError(
            f"expected a folder of data for {' and '.join(FILED)} alone, came "
            f"data={data!r} for {name}"
        )
    if name == "parity":
        if model != "softmax":
            raise ConfigurationError(
                f"parity is logistic regression and has no other model, came "
                f"model={model!r}: leave the model out, or take the task 'digits'"
            )
        if device != "cpu":
            raise ConfigurationError(
                f"parity is computed in NumPy, came device={device!r}: leave it out, "
                f"or take the task 'digits'"
            )
        examples = load_parity()
        parts = partition_examples(
            examples.classes, num_clients, scheme, seed=seed, alpha=alpha
        )
        return _ParityTask(examples, parts, l2)
    if l2 is not None:
        raise ConfigurationError(
            f"{name} has no L2 term, came l2={l2}: leave it out, or take the task "
            f"'parity'"
        )
    if name in FILED:
        train, test = load_files(name, data)
    else:
        train, test = load_digits() if name == "digits" else load_digits28()
    parts = partition_examples(
        train.classes, num_clients, scheme, seed=seed, alpha=alpha
    )
    _check_device(device)
    return _ImageTask(train, test, parts, model, seed, device)


class LogisticObjective:
    """L2-regularised logistic regression on one client's examples.

    F_i(w) = (1/n_i) sum_j log(1 + exp(-y_j <x_j, w>)) + (lambda/2) ||w||^2

    Arrays are float32 under the name ``"weights"``, shape (d,); everything inside is
    float64. A run that diverges shows as a loss that is not finite, without warnings.

    Parameters
    ----------
    features : NDArray
        x_j in the rows, shape (n_i, d).
    labels : NDArray
        y_j in {-1, +1}, shape (n_i,).
    l2 : float
        lambda >= 0.

    Raises
    ------
    ConfigurationError
        `features` and `labels` do not fit, a label is neither -1 nor +1, or `l2` is
        negative or not finite.
    """

    def __init__(
        self,
        features: NDArray[np.floating],
        labels: NDArray[np.integer],
        *,
        l2: float,
    ) -> None:
        if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
            raise ConfigurationError(
                f"expected features of shape (n, d) and labels of shape (n,), n >= 1, "
                f"came {features.shape} and {labels.shape}"
            )
        if not np.isin(labels, (-1, 1)).all():
            raise ConfigurationError(
                f"expected labels in {{-1, +1}}, came {np.unique(labels).tolist()}: "
                f"map the two classes to -1 and +1"
            )
        if not (math.isfinite(l2) and l2 >= 0.0):
            raise ConfigurationError(f"expected a finite l2 >= 0, came l2={l2}")
        # Label and features only ever enter as y_j x_j.
        self._signed = features.astype(np.float64) * labels[:, None]
        self._l2 = l2

    @property
    def num_examples(self) -> int:
        """Number of local examples, n_i."""
        return len(self._signed)

    def gradient(
        self, arrays: Arrays, indices: NDArray[np.intp] | None
    ) -> tuple[float, Arrays]:
        """Return the loss over the examples `indices` (None: all) and its gradient.

        grad = -(1/b) sum_j sigma(-m_j) y_j x_j + lambda w,  m_j = y_j <x_j, w>

        Raises
        ------
        ConfigurationError
            `indices` is empty.
        LayoutMismatchError
            `arrays` has no ``"weights"`` of shape (d,).
        """
        with np.errstate(over="ignore", invalid="ignore"):
            weights = _load(arrays, self._signed)
            loss, gradient = self._loss_and_gradient(weights, indices)
            return loss, {_WEIGHTS: gradient.astype(np.float32)}

    def local_steps(
        self,
        arrays: Arrays,
        batches: Iterable[NDArray[np.intp] | None],
        step_size: float,
    ) -> tuple[float, Arrays]:
        """Take the SGD steps w <- w - step_size * grad F_i(w; batch), in float64.

        Returns the mean of the losses before each step, and the last weights.

        Raises
        ------
        ConfigurationError
            There is no batch, or one is empty.
        LayoutMismatchError
            `arrays` has no ``"weights"`` of shape (d,).
        """
        losses = []
        with np.errstate(over="ignore", invalid="ignore"):
            weights = _load(arrays, self._signed)
            for indices in batches:
                loss, gradient = self._loss_and_gradient(weights, indices)
                weights -= step_size * gradient
                losses.append(loss)
            if not losses:
                raise ConfigurationError(
                    "expected at least one batch, came none: ask for one local step "
                    "or more"
                )
            return sum(losses) / len(losses), {_WEIGHTS: weights.astype(np.float32)}

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return F_i as ``"loss"`` and the ``"accuracy"`` on the local examples."""
        with np.errstate(over="ignore", invalid="ignore"):
            weights = _load(arrays, self._signed)
            margins = _margins(self._signed, weights)
            loss = _softplus_neg(margins).mean() + _half_square(weights, self._l2)
            return {"loss": float(loss), "accuracy": _accuracy(margins)}

    def _loss_and_gradient(
        self, weights: NDArray[np.float64], indices: NDArray[np.intp] | None
    ) -> tuple[float, NDArray[np.float64]]:
        signed = self._signed if indices is None else self._signed.take(indices, axis=0)
        count = len(signed)
        if count == 0:
            raise ConfigurationError(
                "expected at least one example in a batch, came an empty batch: a "
                "mean over no example is undefined"
            )
        margins = _margins(signed, weights)
        losses = _softplus_neg(margins)
        gradient = np.einsum("i,ij->j", _sigmoid_neg(margins, losses), signed)
        gradient *= -1.0 / count
        gradient += self._l2 * weights
        loss = float(losses.sum()) / count + _half_square(weights, self._l2)
        return loss, gradient


class _Clients:
    """The part of a task that names it and counts its clients."""

    def __init__(self, name: str, parts: list[NDArray[np.intp]]) -> None:
        self._name = name
        self._parts = parts

    @property
    def name(self) -> str:
        """Name of the problem."""
        return self._name

    @property
    def num_clients(self) -> int:
        """Number of clients, N."""
        return len(self._parts)

    def _check(self, client: int) -> int:
        if not 0 <= client < self.num_clients:
            raise ConfigurationError(
                f"expected a client in 0, ..., {self.num_clients - 1}, came {client}: "
                f"the task and the run must have the same number of clients"
            )
        return client

    def _example_weights(self) -> NDArray[np.float64]:
        """Return 1/(N n_i) for each example, in the order of the data set."""
        weights = np.empty(sum(map(len, self._parts)))
        for part in self._parts:
            weights[part] = 1.0 / (self.num_clients * len(part))
        return weights


class _ParityTask(_Clients):
    """Even against odd digits by logistic regression, strongly convex."""

    def __init__(
        self, examples: Dataset, parts: list[NDArray[np.intp]], l2: float | None
    ) -> None:
        super().__init__(examples.name, parts)
        self._l2 = 1.0 / examples.num_examples if l2 is None else l2
        self._objectives = [
            LogisticObjective(
                examples.features[part], examples.labels[part], l2=self._l2
            )
            for part in parts
        ]
        self._signed = examples.features.astype(np.float64) * examples.labels[:, None]
        self._weights = self._example_weights()

    def initial_arrays(self) -> Arrays:
        """Return w = 0."""
        return {_WEIGHTS: np.zeros(self._signed.shape[1], dtype=np.float32)}

    def objective(self, client: int) -> LogisticObjective:
        """Return F_i."""
        return self._objectives[self._check(client)]

    def evaluate(self, arrays: Arrays) -> Evaluation:
        """Return F and the accuracy on all examples."""
        with np.errstate(over="ignore", invalid="ignore"):
            weights = _load(arrays, self._signed)
            margins = _margins(self._signed, weights)
            loss = self._loss(weights, margins)
            return Evaluation(loss, _accuracy(margins))

    def accuracy(self, arrays: Arrays) -> float:
        """Return the accuracy on all examples."""
        return self.evaluate(arrays).accuracy

    def optimum(self) -> float | None:
        """Return min F to 1e-12, or None without an L2 term (it may not exist).

        Raises
        ------
        OptimumError
            The minimiser found is not accurate enough.
        """
        return None if self._l2 == 0.0 else self._minimum[0]

    def minimizer(self) -> NDArray[np.float64] | None:
        """Return argmin F, shape (d,), on the terms of :meth:`optimum`."""
        return None if self._l2 == 0.0 else self._minimum[1].copy()

    def smoothness(self) -> float:
        """Return L = max_i lambda_max(X_i' X_i) / (4 n_i) + lambda."""
        return _largest_curvature(self._signed, self._parts) / 4.0 + self._l2

    def _loss(
        self, weights: NDArray[np.float64], margins: NDArray[np.float64]
    ) -> float:
        losses = _softplus_neg(margins)
        mean = float(np.einsum("i,i->", self._weights, losses))
        return mean + _half_square(weights, self._l2)

    @cached_property
    def _minimum(self) -> tuple[float, NDArray[np.float64]]:
        """Minimise F by a trust-region Newton method, in float64."""
        try:
            from scipy.optimize import minimize
        except ModuleNotFoundError as error:
            raise MissingExtraError("scipy", "simulation") from error
        signed, weights, l2 = self._signed, self._weights, self._l2

        def slopes(w: NDArray[np.float64]) -> NDArray[np.float64]:
            margins = _margins(signed, w)
            return _sigmoid_neg(margins, _softplus_neg(margins))

        def value(w: NDArray[np.float64]) -> float:
            return self._loss(w, _margins(signed, w))

        def gradient(w: NDArray[np.float64]) -> NDArray[np.float64]:
            return l2 * w - (weights * slopes(w)) @ signed

        def hessian(w: NDArray[np.float64]) -> NDArray[np.float64]:
            share = slopes(w)
            scaled = (weights * share * (1.0 - share))[:, None] * signed
            return signed.T @ scaled + l2 * np.eye(len(w))

        with _one_blas_thread():
            w = minimize(
                value,
                np.zeros(signed.shape[1]),
                jac=gradient,
                hess=hessian,
                method="trust-exact",
                options={"gtol": 1e-6},
            ).x
            # From here the loss is flat to the last bit, and no line search can help:
            # plain Newton steps, quadratic in the gradient.
            for _ in range(5):
                w = w - np.linalg.solve(hessian(w), gradient(w))
        norm = float(np.linalg.norm(gradient(w)))
        if not norm < _MAX_GRADIENT_NORM:
            raise OptimumError(
                f"expected a gradient below {_MAX_GRADIENT_NORM} at the minimum of F, "
                f"came {norm}: l2={l2} leaves the problem too ill-conditioned, take a "
                f"larger one"
            )
        return value(w), w


class _ImageTask(_Clients):
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
        super().__init__(train.name, parts)
        from flower_compress.clients.torch_objective import arrays_of

        self._train, self._device = train, device
        self._model_name = model
        # One module for all clients: an objective overwrites its state at each call.
        self._model = _build_model(model, train, seed)
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
        ones = np.ones((self._train.num_examples, 1))
        features = np.hstack([self._train.features.astype(np.float64), ones])
        return _largest_curvature(features, self._parts) / 2.0

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


def _load(arrays: Arrays, signed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights in float64 (a copy), of the length the features ask for."""
    weights = arrays.get(_WEIGHTS)
    if weights is None or weights.shape != signed.shape[1:]:
        came = {name: array.shape for name, array in arrays.items()}
        raise LayoutMismatchError(
            f"expected {{'{_WEIGHTS}': {signed.shape[1:]}}}, came {came}: server and "
            f"clients must take the same task"
        )
    return weights.astype(np.float64)


# einsum, not @: BLAS splits a large product among threads, and its last bits may then
# depend on how many there are (Ray gives each of its workers one).
def _margins(
    signed: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return m_j = y_j <x_j, w>, shape (n,)."""
    margins: NDArray[np.float64] = np.einsum("ij,j->i", signed, weights)
    return margins


def _half_square(weights: NDArray[np.float64], l2: float) -> float:
    """Return (lambda/2) ||w||^2."""
    return 0.5 * l2 * float(np.einsum("i,i->", weights, weights))


def _softplus_neg(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(1 + exp(-m)), without overflow."""
    losses: NDArray[np.float64] = np.logaddexp(0.0, -margins)
    return losses


def _sigmoid_neg(
    margins: NDArray[np.float64], losses: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return sigma(-m) = exp(-m - log(1 + exp(-m))): exact in both tails."""
    slopes: NDArray[np.float64] = np.exp(-margins - losses)
    return slopes


def _accuracy(margins: NDArray[np.float64]) -> float:
    """Return the share of positive margins; a tie, as of w = 0, counts half."""
    return 0.5 + 0.5 * float(np.sign(margins).mean())


def _largest_curvature(
    features: NDArray[np.float64], parts: list[NDArray[np.intp]]
) -> float:
    """Return max_i lambda_max(X_i' X_i) / n_i."""
    with _one_blas_thread():
        return max(float(np.linalg.norm(features[p], 2)) ** 2 / len(p) for p in parts)


def _one_blas_thread() -> threadpool_limits:
    """Keep BLAS to one thread: the same bits whatever the machine, and no deadlock.

    Flower starts Ray while the server app runs in a thread. Ray forks, OpenBLAS's
    handler waits for its busy threads, and these wait for the fork.
    """
    return threadpool_limits(limits=1, user_api="blas")


def _build_model(name: str, examples: Dataset, seed: int) -> nn.Sequential:
    """Return a model of such examples, its weights drawn from `seed` alone.

    Of the digits' (n, 64) features, images of 8 x 8:

    ========== ================================================== ==========
    model      layers                                             parameters
    ========== ================================================== ==========
    softmax    64 -> 10                                                  650
    mlp        64 -> 128 -> 10                                         9,610
    mlp-512    64 -> 512 -> 512 -> 10                                301,066
    cnn        two 3 x 3 convolutions of 16 and 32 channels, each      6,090
               with a 2 x 2 max pooling; 128 -> 10
    resnet18   torchvision's, for images of three channels        11,181,642
    ========== ================================================== ==========

    For MNIST the mlp-512 has 669,706 parameters, the network of the MALCOM-PSGD paper,
    and the cnn 20,490; for CIFAR-10 the cnn has 25,578.

    Weights and biases ~ U(-1/sqrt(fan_in), 1/sqrt(fan_in)), torch's own default;
    BatchNorm begins as the identity, with weights 1 and statistics 0 and 1.
    """
    import torch
    from torch import nn

    num_features, shape = examples.num_features, examples.image_shape
    if shape is None:
        raise ConfigurationError(f"expected images, came {examples.name}")
    channels, height, width = shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    # On the meta device nothing is drawn, so torch's global generator stays untouched.
    with torch.device("meta"):
        if name == "softmax":
            layers["output"] = nn.Linear(num_features, _NUM_CLASSES)
        elif name == "mlp":
            layers["hidden"] = nn.Linear(num_features, 128)
            layers["relu"] = nn.ReLU()
            layers["output"] = nn.Linear(128, _NUM_CLASSES)
        elif name == "mlp-512":
            layers["hidden1"] = nn.Linear(num_features, 512)
            layers["relu1"] = nn.ReLU()
            layers["hidden2"] = nn.Linear(512, 512)
            layers["relu2"] = nn.ReLU()
            layers["output"] = nn.Linear(512, _NUM_CLASSES)
        elif name == "resnet18":
            layers["image"] = nn.Unflatten(1, shape)
            layers.update(_resnet18_layers(examples.name, channels))
        else:
            layers["image"] = nn.Unflatten(1, shape)
            layers["conv1"] = nn.Conv2d(channels, 16, kernel_size=3, padding=1)
            layers["relu1"] = nn.ReLU()
            layers["pool1"] = nn.MaxPool2d(2)
            layers["conv2"] = nn.Conv2d(16, 32, kernel_size=3, padding=1)
            layers["relu2"] = nn.ReLU()
            layers["pool2"] = nn.MaxPool2d(2)
            layers["flatten"] = nn.Flatten()
            pixels = (height // 4) * (width // 4)
            layers["output"] = nn.Linear(32 * pixels, _NUM_CLASSES)
        model = nn.Sequential(layers)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()  # Draws nothing.
            elif isinstance(module, nn.Linear | nn.Conv2d):
                bound = 1.0 / math.sqrt(module.weight[0].numel())
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=generator)
    return model


def _resnet18_layers(name: str, channels: int) -> OrderedDict[str, nn.Module]:
    """Return torchvision's layers in the order of its forward pass, by its names."""
    from torch import nn

    if channels != 3:
        raise ConfigurationError(
            f"resnet18 is for images of 3 channels, came {name} with {channels}: take "
            f"the task 'cifar10' or another model"
        )
    try:
        from torchvision.models import resnet18
    except ModuleNotFoundError as error:
        raise MissingExtraError("torchvision", "simulation") from error
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for key, layer in resnet18(num_classes=_NUM_CLASSES).named_children():
        if key == "fc":
            layers["flatten"] = nn.Flatten()
        layers[key] = layer
    return layers
