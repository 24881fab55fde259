"""Between Flower's named arrays and one flat float32 vector."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from ..compressors import Vector
from ..errors import ConfigurationError, LayoutMismatchError, NonFiniteError

__all__ = ["EXACT_PATTERN", "Layout", "Tensor", "read_array", "write_array"]

EXACT_PATTERN = r"(^|\.)(running_mean|running_var|num_batches_tracked)$"
"""Names of arrays that are never compressed: BatchNorm's statistics."""

_NUMPY_STYPE = "numpy.ndarray"


@dataclass(frozen=True)
class Tensor:
    """One named array of a model.

    Parameters
    ----------
    name : str
        Its key in the ArrayRecord.
    shape : tuple[int, ...]
        Its shape.
    dtype : str
        Its NumPy dtype.
    exact : bool
        Whether it travels as it is and is averaged, never compressed.

    Raises
    ------
    ConfigurationError
        If there is no such array of floats, integers or booleans.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    exact: bool

    def __post_init__(self) -> None:
        if _kind(self.dtype) not in ("f", "i", "u", "b"):
            raise ConfigurationError(
                f"array {self.name!r}: expected floats, integers or booleans, got "
                f"dtype {self.dtype}"
            )
        if min(self.shape, default=0) < 0:
            raise ConfigurationError(
                f"array {self.name!r}: expected sizes >= 0, got shape {self.shape}"
            )

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    def read(self, array: Array) -> NDArray[Any]:
        """Return the entries of `array`, flat; its shape is checked."""
        if tuple(array.shape) != self.shape:
            raise LayoutMismatchError(
                f"array {self.name!r}: expected shape {self.shape}, got "
                f"{tuple(array.shape)}; return the arrays that the server sent"
            )
        return read_array(array).reshape(-1)

    def write(self, entries: NDArray[Any]) -> Array:
        """Return `entries` as a Flower array of this dtype and shape."""
        with np.errstate(over="ignore"):
            converted = entries.astype(self.dtype, copy=False)
        # float16 ends at 65504; every other dtype holds what a float32 holds.
        if converted.itemsize == 2 and not np.isfinite(converted).all():
            raise NonFiniteError(
                f"array {self.name!r}: a weight does not fit into {self.dtype}: "
                "expected smaller weights; lower the step size, or train in float32"
            )
        return write_array(converted, self.shape)

    def check_finite(self, entries: NDArray[Any], what: str) -> None:
        """Raise an error if the entries hold NaN or infinity."""
        bad = int(entries.size - np.count_nonzero(np.isfinite(entries)))
        if bad:
            raise NonFiniteError(
                f"{what}: {bad} of {entries.size} entries of {self.name!r} are NaN or "
                "infinite: expected finite values; lower the step size or check the "
                "client's data"
            )


@dataclass(frozen=True)
class Layout:
    """Names, shapes and dtypes of a model's arrays, in order.

    Floating-point arrays make up the vector, as float32, one after the other.
    Integer arrays and those whose names match a pattern are exact.

    Parameters
    ----------
    tensors : tuple[Tensor, ...]
        The arrays.
    """

    tensors: tuple[Tensor, ...]

    @classmethod
    def of(cls, arrays: ArrayRecord, exact_pattern: str = EXACT_PATTERN) -> Layout:
        """Describe `arrays`; names that match `exact_pattern` are exact."""
        pattern = re.compile(exact_pattern)
        tensors = []
        for name, array in arrays.items():
            exact = _kind(array.dtype) != "f" or pattern.search(name) is not None
            tensors.append(Tensor(name, tuple(array.shape), array.dtype, exact))
        if not tensors:
            raise ConfigurationError(
                "the initial arrays are empty: expected the model's weights"
            )
        return cls(tuple(tensors))

    @cached_property
    def dim(self) -> int:
        """Length d of the vector."""
        return sum(self.sizes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each array in the vector, in order."""
        return tuple(tensor.size for tensor in self.tensors if not tensor.exact)

    @cached_property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Name and shape of each array in the vector, in order."""
        return tuple((each.name, each.shape) for each in self.tensors if not each.exact)

    @cached_property
    def rounds(self) -> bool:
        """Whether an array of the model holds less than float32 does."""
        return any(
            not tensor.exact and np.dtype(tensor.dtype).itemsize < 4
            for tensor in self.tensors
        )

    @cached_property
    def exact_bytes(self) -> int:
        """Size of the exact arrays."""
        return sum(
            tensor.size * np.dtype(tensor.dtype).itemsize
            for tensor in self.tensors
            if tensor.exact
        )

    @cached_property
    def num_bytes(self) -> int:
        """Size of all arrays' entries."""
        return sum(
            tensor.size * np.dtype(tensor.dtype).itemsize for tensor in self.tensors
        )

    def flatten(self, arrays: Mapping[str, Array]) -> tuple[Vector, bytes]:
        """Return the vector, shape (d,), and the exact arrays' bytes.

        Raises
        ------
        LayoutMismatchError
            If names or shapes differ from the layout.
        """
        if len(arrays) != len(self.tensors) or any(
            tensor.name not in arrays for tensor in self.tensors
        ):
            expected = [tensor.name for tensor in self.tensors]
            raise LayoutMismatchError(
                f"expected the arrays {expected}, got {list(arrays)}; return the "
                "arrays that the server sent"
            )
        dense: list[NDArray[Any]] = []
        exact: list[bytes] = []
        for tensor in self.tensors:
            entries = tensor.read(arrays[tensor.name])
            if tensor.exact:
                exact.append(entries.astype(tensor.dtype, copy=False).tobytes())
            else:
                dense.append(entries)
        # A float64 weight beyond float32 becomes infinite: check_finite reports it.
        with np.errstate(over="ignore"):
            if len(dense) == 1:
                vector = dense[0].astype(np.float32, copy=False)
            elif dense:
                vector = np.concatenate(dense, dtype=np.float32, casting="same_kind")
            else:
                vector = np.zeros(0, dtype=np.float32)
        return vector, b"".join(exact)

    def unflatten(self, vector: Vector, exact: bytes) -> ArrayRecord:
        """Return the arrays that :meth:`flatten` took apart."""
        arrays: dict[str, Array] = {}
        offset = 0
        exact_arrays = iter(self.exact_arrays(exact))
        for tensor in self.tensors:
            if tensor.exact:
                arrays[tensor.name] = tensor.write(next(exact_arrays))
            else:
                arrays[tensor.name] = tensor.write(
                    vector[offset : offset + tensor.size]
                )
                offset += tensor.size
        return ArrayRecord(arrays)

    def exact_arrays(self, exact: bytes) -> list[NDArray[Any]]:
        """Return the exact arrays' entries, one flat array each."""
        if len(exact) != self.exact_bytes:
            raise LayoutMismatchError(
                f"expected {self.exact_bytes} bytes of exact arrays, got {len(exact)}"
            )
        result, offset = [], 0
        for tensor in self.tensors:
            if tensor.exact:
                entries = np.frombuffer(
                    exact, dtype=tensor.dtype, count=tensor.size, offset=offset
                )
                offset += entries.nbytes
                result.append(entries)
        return result

    def average_exact(self, parts: Sequence[bytes], weights: Sequence[float]) -> bytes:
        """Return the weighted mean of exact arrays; integers are rounded.

        Computed in float64; arrays that are all the same stay as they are.
        """
        if all(part == parts[0] for part in parts):
            return parts[0]
        total = sum(weights)
        columns = zip(*(self.exact_arrays(part) for part in parts), strict=True)
        means: list[bytes] = []
        for column in columns:
            mean = sum(
                entries.astype(np.float64) * (weight / total)
                for entries, weight in zip(column, weights, strict=True)
            )
            dtype = column[0].dtype
            if dtype.kind in "iu":
                # Integers beyond 2^53 have no float64 of their own, the largest none
                # within their range.
                limits = np.iinfo(dtype)
                largest = np.nextafter(np.float64(limits.max) + 1, 0)
                mean = np.clip(np.rint(mean), limits.min, largest)
            elif dtype.kind == "b":
                mean = np.rint(mean)
            means.append(np.asarray(mean).astype(dtype).tobytes())
        return b"".join(means)

    def check_finite(self, vector: Vector, what: str) -> None:
        """Raise an error naming the first array that holds NaN or infinity."""
        if np.isfinite(vector).all():
            return
        offset = 0
        for tensor in self.tensors:
            if not tensor.exact:
                tensor.check_finite(vector[offset : offset + tensor.size], what)
                offset += tensor.size

    def check_exact(self, exact: bytes, what: str) -> None:
        """Raise an error unless `exact` is the exact arrays, and all are finite."""
        tensors = (tensor for tensor in self.tensors if tensor.exact)
        for tensor, entries in zip(tensors, self.exact_arrays(exact), strict=True):
            tensor.check_finite(entries, what)

    def config(self) -> list[list[Any]]:
        """Return the JSON-able configuration that rebuilds the layout."""
        return [
            [tensor.name, list(tensor.shape), tensor.dtype, tensor.exact]
            for tensor in self.tensors
        ]

    @classmethod
    def from_config(cls, config: Sequence[Sequence[Any]]) -> Layout:
        """Rebuild a layout from :meth:`config`."""
        return cls(
            tuple(
                Tensor(str(name), tuple(int(n) for n in shape), str(dtype), bool(exact))
                for name, shape, dtype, exact in config
            )
        )


def read_array(array: Array) -> NDArray[Any]:
    """Return ``array.numpy()``, read-only and without a copy where that can be."""
    if array.stype == _NUMPY_STYPE:
        header = _npy_header(array.dtype, tuple(array.shape))
        # What numpy.save wrote for this very dtype and shape needs no parsing.
        if array.data.startswith(header):
            entries = np.frombuffer(array.data, array.dtype, offset=len(header))
            if entries.size == prod(array.shape):
                return entries.reshape(array.shape)
    return array.numpy()


def write_array(entries: NDArray[Any], shape: tuple[int, ...] | None = None) -> Array:
    """Return ``Array(entries.reshape(shape))``, byte for byte, but quicker."""
    shape = entries.shape if shape is None else shape
    dtype = _dtype_name(entries.dtype)
    data = _npy_header(dtype, shape) + entries.tobytes()
    return Array(dtype, shape, _NUMPY_STYPE, data)


@lru_cache(maxsize=64)
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return str(dtype)


def _kind(dtype: str) -> str:
    """Return the kind of a NumPy dtype, nothing if it has no such dtype."""
    try:
        return np.dtype(dtype).kind
    except (SyntaxError, TypeError, ValueError):
        return ""


@lru_cache(maxsize=4096)
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the header that ``numpy.save`` writes for a C-ordered array."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer,
        {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": shape,
        },
    )
    return buffer.getvalue()
