"""Between Flower's named arrays and one flat float32 vector."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from ..compressors import Vector
from ..errors import (
    ConfigurationError,
    CorruptPacket,
    LayoutMismatchError,
    NonFiniteError,
    shown,
)
from .arrays import (
    BFLOAT16,
    array_of_bytes,
    decode_entries,
    encode_entries,
    item_size,
    kind_of,
    read_array,
    unfit,
)
from .building import new_array_record
from .framing import bytes_of
from .names import name_difference

__all__ = ["EXACT_PATTERN", "Layout", "Tensor"]

EXACT_PATTERN = r"(^|\.)(running_mean|running_var|num_batches_tracked)$"
"""Names of arrays that are never compressed: BatchNorm's statistics."""

_MOST_TENSORS = 1 << 16
_LONGEST_NAME = 1024
_LONGEST_DTYPE = 16
_MOST_DIMENSIONS = 64
"""NumPy's and torch's limit."""
_ADDRESSES = 1 << 63


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
        Its NumPy dtype, or ``bfloat16``.
    exact : bool
        Whether it travels as it is and is averaged, never compressed.

    Raises
    ------
    ConfigurationError
        If there is no such array of floats, integers or booleans, or its name has more
        than 1024 characters.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    exact: bool

    def __post_init__(self) -> None:
        if len(self.name) > _LONGEST_NAME:
            raise ConfigurationError(
                f"array {shown(self.name)}: expected a name of at most "
                f"{_LONGEST_NAME} characters, got {len(self.name)}"
            )
        known = len(self.dtype) <= _LONGEST_DTYPE and kind_of(self.dtype)
        if known not in ("f", "i", "u", "b"):
            raise ConfigurationError(
                f"array {self.name!r}: expected floats, integers or booleans, got "
                f"dtype {self.dtype[:_LONGEST_DTYPE]}"
            )
        if len(self.shape) > _MOST_DIMENSIONS:
            raise ConfigurationError(
                f"array {self.name!r}: expected at most {_MOST_DIMENSIONS} dimensions, "
                f"got {len(self.shape)}"
            )
        if min(self.shape, default=0) < 0:
            raise ConfigurationError(
                f"array {self.name!r}: expected sizes >= 0, got shape {self.shape}"
            )
        # A size of 0 does not count: NumPy has no such array either.
        num_bytes = item_size(self.dtype)
        for size in self.shape:
            num_bytes *= max(size, 1)
            if num_bytes >= _ADDRESSES:
                raise ConfigurationError(
                    f"array {self.name!r}: expected less than 2^63 bytes, got a shape "
                    "of more"
                )

    @cached_property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Size of its entries."""
        return self.size * item_size(self.dtype)

    def read(self, array: Array) -> NDArray[Any]:
        """Return the entries of `array`, flat; shape and dtype are checked."""
        if tuple(array.shape) != self.shape:
            raise LayoutMismatchError(
                f"array {self.name!r}: expected shape {self.shape}, got "
                f"{tuple(array.shape)}; return the arrays that the server sent"
            )
        try:
            entries = read_array(array).reshape(-1)
        except (EOFError, TypeError, ValueError) as error:
            raise LayoutMismatchError(
                f"array {self.name!r}: expected a NumPy array of {self.dtype}, got "
                f"dtype {array.dtype}, stype {array.stype}: {error}"
            ) from error
        if entries.dtype == self._numpy and entries.size == self.size:
            return entries
        wrong = unfit(entries, self.dtype)
        if wrong.size or entries.size != self.size:
            example = f", {wrong[0]} among them" if wrong.size else ""
            raise LayoutMismatchError(
                f"array {self.name!r}: expected {self.size} numbers that {self.dtype} "
                f"holds, got {entries.size} of {entries.dtype}{example}; return it in "
                "the dtype that it came in"
            )
        return entries

    def write(self, entries: NDArray[Any]) -> Array:
        """Return `entries` as a Flower array of this dtype and shape."""
        if not self._is_half and entries.dtype == self._numpy:
            return array_of_bytes(self.dtype, self.shape, bytes_of(entries))
        with np.errstate(over="ignore"):
            data = encode_entries(entries, self.dtype)
        # float16 ends at 65504, bfloat16 below the largest float32; every other dtype
        # holds what a float32 holds.
        if self._is_half and not np.isfinite(self.decode(data)).all():
            raise NonFiniteError(
                f"array {self.name!r}: a weight does not fit into {self.dtype}: "
                "expected smaller weights; lower the step size, or train in float32"
            )
        return array_of_bytes(self.dtype, self.shape, data)

    @cached_property
    def _is_half(self) -> bool:
        return item_size(self.dtype) == 2

    @cached_property
    def _numpy(self) -> np.dtype[Any] | None:
        return None if self.dtype == BFLOAT16 else np.dtype(self.dtype)

    def decode(self, data: bytes, offset: int = 0) -> NDArray[Any]:
        """Return the entries that bytes from `offset` on stand for, flat."""
        return decode_entries(data, self.dtype, self.size, offset)

    def check_finite(self, entries: NDArray[Any], what: str) -> None:
        """Raise an error if the entries hold NaN or infinity."""
        bad = int(entries.size - np.count_nonzero(np.isfinite(entries)))
        if bad:
            as_float32 = " as float32" if item_size(self.dtype) > 4 else ""
            raise NonFiniteError(
                f"{what}: {bad} of {entries.size} entries of {self.name!r} are NaN or "
                f"infinite{as_float32}: expected finite values; lower the step size or "
                "check the client's data"
            )


@dataclass(frozen=True)
class Layout:
    """Names, shapes and dtypes of a model's arrays, in order.

    Floating-point arrays make up the vector, as float32, one after the other: half
    precision is rounded back when they are written, of a float64 the first 24 bits
    are kept. Integer arrays and those whose names match a pattern are exact.

    Parameters
    ----------
    tensors : tuple[Tensor, ...]
        The arrays.

    Raises
    ------
    ConfigurationError
        If there are more than 65536 arrays, or two of one name.
    """

    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if len(self.tensors) > _MOST_TENSORS:
            raise ConfigurationError(
                f"expected at most {_MOST_TENSORS} arrays, got {len(self.tensors)}"
            )
        names = Counter(tensor.name for tensor in self.tensors)
        if len(names) < len(self.tensors):
            ((name, count),) = names.most_common(1)
            raise ConfigurationError(
                f"expected arrays of different names, got {count} named {name!r}"
            )

    @classmethod
    def of(cls, arrays: ArrayRecord, exact_pattern: str = EXACT_PATTERN) -> Layout:
        """Describe `arrays`; names that match `exact_pattern` are exact."""
        pattern = re.compile(exact_pattern)
        tensors = []
        for name, array in arrays.items():
            exact = kind_of(array.dtype) != "f" or pattern.search(name) is not None
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
    def num_entries(self) -> int:
        """Number of entries of all arrays, the exact ones too."""
        return sum(tensor.size for tensor in self.tensors)

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
            not tensor.exact and item_size(tensor.dtype) < 4 for tensor in self.tensors
        )

    @cached_property
    def exact_bytes(self) -> int:
        """Size of the exact arrays."""
        return sum(tensor.num_bytes for tensor in self.tensors if tensor.exact)

    @cached_property
    def _has_exact(self) -> bool:
        return any(tensor.exact for tensor in self.tensors)

    @cached_property
    def num_bytes(self) -> int:
        """Size of all arrays' entries."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    def flatten(self, arrays: Mapping[str, Array]) -> tuple[Vector, bytes]:
        """Return the vector, shape (d,), and the exact arrays' bytes.

        Raises
        ------
        LayoutMismatchError
            If names or shapes differ from the layout, or an integer array holds what
            its dtype does not.
        """
        if len(arrays) != len(self.tensors) or any(
            tensor.name not in arrays for tensor in self.tensors
        ):
            difference = name_difference(
                (tensor.name for tensor in self.tensors), arrays
            )
            raise LayoutMismatchError(
                f"{difference}; return the arrays that the server sent"
            )
        dense: list[NDArray[Any]] = []
        exact: list[bytes] = []
        for tensor in self.tensors:
            entries = tensor.read(arrays[tensor.name])
            if tensor.exact:
                with np.errstate(over="ignore"):  # check_exact reports it
                    exact.append(encode_entries(entries, tensor.dtype))
            else:
                dense.append(entries)
        if len(dense) == 1 and dense[0].dtype == np.float32:
            return dense[0], b"".join(exact)
        # A float64 weight beyond float32 becomes infinite: check_finite reports it.
        with np.errstate(over="ignore"):
            if len(dense) == 1:
                vector = dense[0].astype(np.float32, copy=False)
            elif dense:
                vector = np.concatenate(dense, dtype=np.float32, casting="same_kind")
            else:
                vector = np.zeros(0, dtype=np.float32)
        return vector, b"".join(exact)

    def complete(
        self, arrays: Mapping[str, Array], vector: Vector, exact: bytes
    ) -> Mapping[str, Array]:
        """Return `arrays`, and of the others what a vector and exact arrays hold.

        As they are where they are no subset of the model's: :meth:`flatten` tells.
        """
        if not arrays or len(arrays) >= len(self.tensors):
            return arrays
        if not {tensor.name for tensor in self.tensors}.issuperset(arrays):
            return arrays
        return {**self.unflatten(vector, exact), **arrays}

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
        return new_array_record(arrays)

    def exact_arrays(self, exact: bytes) -> list[NDArray[Any]]:
        """Return the exact arrays' entries, one flat array each.

        Those of bfloat16 as float32.
        """
        if len(exact) != self.exact_bytes:
            raise LayoutMismatchError(
                f"expected {self.exact_bytes} bytes of exact arrays, got {len(exact)}"
            )
        result: list[NDArray[Any]] = []
        if not exact and not self._has_exact:
            return result
        offset = 0
        for tensor in self.tensors:
            if tensor.exact:
                result.append(tensor.decode(exact, offset))
                offset += tensor.num_bytes
        return result

    def average_exact(self, parts: Sequence[bytes], weights: Sequence[float]) -> bytes:
        """Return the weighted mean of exact arrays; integers are rounded.

        Computed in float64; arrays that are all the same stay as they are.
        """
        if all(part == parts[0] for part in parts):
            return parts[0]
        total = sum(weights)
        columns = zip(*(self.exact_arrays(part) for part in parts), strict=True)
        tensors = (tensor for tensor in self.tensors if tensor.exact)
        means: list[bytes] = []
        for tensor, column in zip(tensors, columns, strict=True):
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
            means.append(encode_entries(np.asarray(mean), tensor.dtype))
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
        arrays = self.exact_arrays(exact)
        if not arrays:
            return
        tensors = (tensor for tensor in self.tensors if tensor.exact)
        for tensor, entries in zip(tensors, arrays, strict=True):
            tensor.check_finite(entries, what)

    def config(self) -> list[list[Any]]:
        """Return the JSON-able configuration that rebuilds the layout."""
        return [
            [tensor.name, list(tensor.shape), tensor.dtype, tensor.exact]
            for tensor in self.tensors
        ]

    @classmethod
    def from_config(cls, config: Sequence[Sequence[Any]]) -> Layout:
        """Rebuild a layout from :meth:`config`, or what a stranger says is one.

        Raises
        ------
        CorruptPacket
            If it is none.
        ConfigurationError
            If there can be no such arrays.
        """
        if not isinstance(config, list) or not 1 <= len(config) <= _MOST_TENSORS:
            count = len(config) if isinstance(config, list) else shown(config)
            raise CorruptPacket(f"expected 1 to {_MOST_TENSORS} arrays, got {count}")
        return cls(tuple(_tensor(*row) for row in config))


def _tensor(name: object, shape: object, dtype: object, exact: object) -> Tensor:
    if (
        not isinstance(name, str)
        or not isinstance(dtype, str)
        or not isinstance(exact, bool)
        or not isinstance(shape, list)
        or not all(type(size) is int for size in shape)
    ):
        raise CorruptPacket(
            "expected an array's name, shape, dtype and whether it is exact, got "
            f"others for array {shown(name)}"
        )
    name.encode()  # No halves of characters, which no message carries.
    return Tensor(name, tuple(shape), dtype, exact)
