"""State dicts of torch as Flower's arrays and back: bfloat16 too.

``ArrayRecord(model.state_dict())`` fails where a tensor is bfloat16, since NumPy has no
such dtype. These two take it, and are as Flower's for every other dtype. bfloat16 in,
bfloat16 out: the strategies and mods of this package compute in float32 between.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord

from .errors import ConfigurationError, MissingExtraError
from .wire.arrays import BFLOAT16, array_of_bytes, read_array, write_array

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    # A torch that is there but lacks a dependency of its own is another mistake.
    if error.name != "torch":
        raise
    raise MissingExtraError("torch", "torch") from error

__all__ = ["to_arrays", "to_state_dict"]


def to_arrays(state_dict: Mapping[str, Tensor]) -> ArrayRecord:
    """Return the tensors of a state dict as an ArrayRecord, of the same dtypes.

    Parameters
    ----------
    state_dict : Mapping[str, torch.Tensor]
        Tensors on any device.

    Raises
    ------
    ConfigurationError
        If one is no tensor, or its dtype has no Array, as float8.

    Examples
    --------
    >>> model = torch.nn.Linear(3, 2).to(torch.bfloat16)
    >>> arrays = to_arrays(model.state_dict())
    >>> arrays["weight"].dtype, arrays["weight"].shape
    ('bfloat16', (2, 3))
    >>> _ = model.load_state_dict(to_state_dict(arrays))
    """
    return ArrayRecord({n: _to_array(n, tensor) for n, tensor in state_dict.items()})


def to_state_dict(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Return the tensors that :func:`to_arrays` wrote, on the CPU.

    Those of an array that Flower made of NumPy's or ``ml_dtypes``' arrays too.

    Parameters
    ----------
    arrays : Mapping[str, Array]
        An ArrayRecord.
    """
    state_dict = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(np.array(read_array(array)))
        half = array.dtype == BFLOAT16
        state_dict[name] = tensor.to(torch.bfloat16) if half else tensor
    return state_dict


def _to_array(name: str, tensor: Tensor) -> Array:
    if not isinstance(tensor, Tensor):
        raise ConfigurationError(
            f"{name!r}: expected a tensor, got {type(tensor).__name__}: leave it out"
        )
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        bits = tensor.contiguous().view(torch.int16).numpy()
        return array_of_bytes(BFLOAT16, tuple(tensor.shape), bits.tobytes())
    try:
        return write_array(tensor.numpy())
    except TypeError as error:
        raise ConfigurationError(
            f"tensor {name!r}: expected a dtype of NumPy or bfloat16, got "
            f"{tensor.dtype}: convert it first"
        ) from error
