"""The torch models of the tasks of images, and the weights they begin with.

Of the digits' (n, 64) features, images of 8 x 8:

========== ================================================== ==========
model      layers                                             parameters
========== ================================================== ==========
softmax    64 -> 10                                                  650
mlp        64 -> 128 -> 10                                         9,610
mlp-512    64 -> 512 -> 512 -> 10                                301,066
cnn        two 3 x 3 convolutions of 16 and 32 channels, each      6,090
           with a 2 x 2 max pooling; 128 -> 10
lenet      two 5 x 5 convolutions of 6 and 16 channels, each  larger
           with a 2 x 2 max pooling; 120 -> 84 -> 10          images
resnet18   torchvision's, for images of three channels        11,181,642
========== ================================================== ==========

For MNIST the mlp-512 has 669,706 parameters, the network of the MALCOM-PSGD paper, and
the cnn 20,490 and the lenet 44,426; for CIFAR-10 the cnn has 25,578 and the lenet
62,006, as in the MCM paper.

A new model is a function that returns its layers, and a line in the table below them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import ConfigurationError, MissingExtraError
from flower_compress.streams import Draws, Purpose, Stream

from .dataset import Dataset

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "build_model"]

_NUM_CLASSES: Final = 10
_LENET_SIZE: Final = 16

_Shape = tuple[int, int, int]
_Layers = OrderedDict[str, "nn.Module"]


@dataclass(frozen=True, slots=True)
class _Architecture:
    """Layers for images of a shape, and of how many channels if not of any."""

    layers: Callable[[_Shape], _Layers]
    channels: int | None = None


def _softmax(shape: _Shape) -> _Layers:
    from torch import nn

    return OrderedDict(output=nn.Linear(math.prod(shape), _NUM_CLASSES))


def _mlp(shape: _Shape) -> _Layers:
    from torch import nn

    return OrderedDict(
        hidden=nn.Linear(math.prod(shape), 128),
        relu=nn.ReLU(),
        output=nn.Linear(128, _NUM_CLASSES),
    )


def _mlp_512(shape: _Shape) -> _Layers:
    from torch import nn

    return OrderedDict(
        hidden1=nn.Linear(math.prod(shape), 512),
        relu1=nn.ReLU(),
        hidden2=nn.Linear(512, 512),
        relu2=nn.ReLU(),
        output=nn.Linear(512, _NUM_CLASSES),
    )


def _cnn(shape: _Shape) -> _Layers:
    from torch import nn

    channels, height, width = shape
    return OrderedDict(
        image=nn.Unflatten(1, shape),
        conv1=nn.Conv2d(channels, 16, kernel_size=3, padding=1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(16, 32, kernel_size=3, padding=1),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        output=nn.Linear(32 * (height // 4) * (width // 4), _NUM_CLASSES),
    )


def _lenet(shape: _Shape) -> _Layers:
    from torch import nn

    channels, height, width = shape
    if min(height, width) < _LENET_SIZE:
        raise ConfigurationError(
            f"lenet is for images of {_LENET_SIZE} x {_LENET_SIZE} and more, came "
            f"{height} x {width}: take the task 'digits28' or the model 'cnn'"
        )
    sides = [((side - 4) // 2 - 4) // 2 for side in (height, width)]
    return OrderedDict(
        image=nn.Unflatten(1, shape),
        conv1=nn.Conv2d(channels, 6, kernel_size=5),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, kernel_size=5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        hidden1=nn.Linear(16 * math.prod(sides), 120),
        relu3=nn.ReLU(),
        hidden2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        output=nn.Linear(84, _NUM_CLASSES),
    )


def _resnet18(shape: _Shape) -> _Layers:
    """Return torchvision's layers in the order of its forward pass, by its names."""
    from torch import nn

    try:
        from torchvision.models import resnet18
    except ModuleNotFoundError as error:
        raise MissingExtraError("torchvision", "simulation") from error
    layers: _Layers = OrderedDict(image=nn.Unflatten(1, shape))
    for key, layer in resnet18(num_classes=_NUM_CLASSES).named_children():
        if key == "fc":
            layers["flatten"] = nn.Flatten()
        layers[key] = layer
    return layers


_ARCHITECTURES: Final[dict[str, _Architecture]] = {
    "softmax": _Architecture(_softmax),
    "mlp": _Architecture(_mlp),
    "mlp-512": _Architecture(_mlp_512),
    "cnn": _Architecture(_cnn),
    "lenet": _Architecture(_lenet),
    "resnet18": _Architecture(_resnet18, channels=3),
}

MODELS: Final = tuple(_ARCHITECTURES)
"""Names of the models of the tasks of images, all but ``parity``.

``resnet18`` is for images of three channels, as those of ``cifar10``.
"""


def build_model(name: str, examples: Dataset, seed: int) -> nn.Sequential:
    """Return a model of such examples, its weights drawn from `seed` alone.

    Weights and biases of linear and convolutional layers are uniform on
    [-1/sqrt(fan_in), 1/sqrt(fan_in)], torch's own default. They come from one stream of
    Philox, not from torch, so they are the same bytes with every torch: layer by layer
    in the order of the state dict, of each the weight before the bias, the entries of
    an array in C order. BatchNorm begins as the identity, with weights 1, and
    statistics 0 and 1.

    Parameters
    ----------
    name : str
        One of :data:`MODELS`.
    examples : Dataset
        Images.
    seed : int
        In [0, 2**63).

    Raises
    ------
    ConfigurationError
        `examples` are no images, or have not the channels that the model is for.
    MissingExtraError
        torchvision, for ``resnet18``, is not installed.
    """
    import torch

    shape, architecture = examples.image_shape, _ARCHITECTURES[name]
    if shape is None:
        raise ConfigurationError(f"expected images, came {examples.name}")
    if architecture.channels not in (None, shape[0]):
        raise ConfigurationError(
            f"{name} is for images of {architecture.channels} channels, came "
            f"{examples.name} with {shape[0]}: take the task 'cifar10' or another model"
        )
    # On the meta device nothing is drawn, so torch's global generator stays untouched.
    with torch.device("meta"):
        model = torch.nn.Sequential(architecture.layers(shape))
    model.to_empty(device="cpu")
    _initialize(model, Stream(seed, Purpose.INITIAL_MODEL).draws())
    return model


def _initialize(model: nn.Sequential, draws: Draws) -> None:
    import torch
    from torch import nn

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()  # Draws nothing.
            elif isinstance(module, nn.Linear | nn.Conv2d):
                bound = 1.0 / math.sqrt(module.weight[0].numel())
                for parameter in (module.weight, module.bias):
                    if parameter is not None:
                        values = _uniform(draws, parameter.numel(), bound)
                        parameter.copy_(torch.from_numpy(values).view_as(parameter))


def _uniform(draws: Draws, count: int, bound: float) -> NDArray[np.float32]:
    """Return `count` uniforms in [-bound, bound], each rounded to float32 once.

    2 u - 1 is exact in float64, so what is rounded is one product.
    """
    values: NDArray[np.float64] = bound * (2.0 * draws.uniforms(count) - 1.0)
    return values.astype(np.float32)
