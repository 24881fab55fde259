"""What operators compute with: one interface, on NumPy arrays and on torch tensors."""

from __future__ import annotations

from .backends import array_ops
from .numpy_ops import NUMPY
from .ops import Array, ArrayOps

__all__ = ["NUMPY", "Array", "ArrayOps", "array_ops"]
