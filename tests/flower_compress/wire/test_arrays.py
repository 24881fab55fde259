"""Flower's arrays read and written: bfloat16, and what an integer dtype holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Array
from numpy.typing import NDArray

from flower_compress.wire.arrays import (
    BFLOAT16,
    array_of_bytes,
    decode_entries,
    encode_entries,
    item_size,
    kind_of,
    read_array,
    unfit,
)
from tests.cases import in_one_test

ALL_BITS = np.arange(1 << 16, dtype="<u2")


def decoded(bits: Any) -> NDArray[Any]:
    data = np.asarray(bits, "<u2").tobytes()
    return decode_entries(data, BFLOAT16, len(data) // 2, 0)


def encoded(values: Any) -> NDArray[Any]:
    return np.frombuffer(encode_entries(np.asarray(values), BFLOAT16), "<u2")


def test_a_bfloat16_is_the_upper_half_of_a_float32() -> None:
    values = decoded(ALL_BITS)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values.view(np.uint32), ALL_BITS.astype("u4") << 16)
    known = {0x3F80: 1.0, 0xC000: -2.0, 0x0000: 0.0, 0x7F80: math.inf, 0x0001: 2**-133}
    assert decoded(list(known)).tolist() == list(known.values())
    assert (item_size(BFLOAT16), kind_of(BFLOAT16)) == (2, "f")


def test_every_bfloat16_comes_back() -> None:
    values = decoded(ALL_BITS)
    nan = np.isnan(values)
    np.testing.assert_array_equal(encoded(values)[~nan], ALL_BITS[~nan])
    assert np.isnan(decoded(encoded(values))[nan]).all()


def test_rounding_is_to_the_nearest() -> None:
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 0x7F00_0000, 5000, dtype=np.uint32)
    values = bits.view(np.float32).astype(np.float64)
    rounded = encoded(values.astype(np.float32))
    distance = np.abs(decoded(rounded) - values)
    for step in (-1, 1):
        neighbour = decoded(rounded.astype(np.int32) + step).astype(np.float64)
        assert (distance <= np.abs(neighbour - values)).all()
    np.testing.assert_array_equal(encoded(-values), rounded | 0x8000)


def test_ties_go_to_the_even_one_and_beyond_the_largest_is_infinity() -> None:
    ulp = 2.0**-7
    ties = [1 + ulp / 2, 1 + 1.5 * ulp, -1 - ulp / 2, 1 + ulp / 2 * (1 + 2**-15)]
    assert decoded(encoded(ties)).tolist() == [1, 1 + 2 * ulp, -1, 1 + ulp]
    largest = float(decoded([0x7F7F])[0])
    values = np.array([largest, 3.4e38, -3.4e38, np.inf], np.float32)
    assert decoded(encoded(values)).tolist() == [largest, math.inf, -math.inf, math.inf]


@pytest.mark.parametrize("descr", ["<V2", "|V2", "<u2"])
@pytest.mark.parametrize("shape", [(), (0,), (6,), (2, 3)])
def test_what_ml_dtypes_and_others_write_is_read(
    descr: str, shape: tuple[int, ...]
) -> None:
    """NumPy's file of an array of ml_dtypes.bfloat16 says <V2."""
    bits = np.arange(math.prod(shape), dtype="<u2") + 0x3F80
    ours = array_of_bytes(BFLOAT16, shape, bits.tobytes())
    assert b"'descr': '<V2'" in ours.data
    header = ours.data.replace(b"'<V2'", f"'{descr}'".encode())
    array = Array(BFLOAT16, shape, "numpy.ndarray", header)
    read = read_array(array)
    assert (read.dtype, read.shape) == (np.float32, shape)
    np.testing.assert_array_equal(read.reshape(-1), decoded(bits))
    fortran = np.asfortranarray(bits.reshape(shape))
    other = Array(BFLOAT16, shape, "numpy.ndarray", Array(fortran).data)
    np.testing.assert_array_equal(read_array(other), read)


def test_an_array_that_only_says_that_it_is_bfloat16_is_read_as_it_is() -> None:
    data = Array(np.array([1.5, 2.5], np.float64)).data
    lying = Array(BFLOAT16, (2,), "numpy.ndarray", data)
    assert read_array(lying).tolist() == [1.5, 2.5]


NAN, INF = math.nan, math.inf


@in_one_test(
    ("dtype", "entries", "wrong"),
    [
        ("int64", np.array([0.0, -0.0, 3.0, -(2.0**63), 2.0**62]), []),
        ("int64", np.array([1.0, NAN, 2.5, INF, -INF]), [NAN, 2.5, INF, -INF]),
        ("int64", np.array([2.0**63, -(2.0**63) - 2048]), [2.0**63, -(2.0**63) - 2048]),
        ("int64", np.array([2**63, 2**63 - 1], np.uint64), [2**63]),
        ("uint64", np.array([-1, 2**62]), [-1]),
        ("uint64", np.array([2.0**64, 2.0**63]), [2.0**64]),
        ("int8", np.array([127, 128, -128, -129, 300]), [128, -129, 300]),
        ("int8", np.array([127, 128, -128, -129], np.float16), [128, -129]),
        ("uint8", np.array([0, 255, 256, -1], np.int16), [256, -1]),
        ("int16", np.array([1, 65504], np.float16), [65504]),
        ("int32", np.array([True, False]), []),
        ("bool", np.array([0, 1, 2, -1]), [2, -1]),
        ("bool", np.array([0.0, 1.0, 0.5, NAN]), [0.5, NAN]),
        ("int64", np.array([2**53 + 1, -(2**63)]), []),
        ("float32", np.array([1e300, NAN]), []),
        ("float16", np.array([2**62, 1]), []),
        (BFLOAT16, np.array([True, False]), []),
        (BFLOAT16, np.array([1j]), [1j]),
        ("float32", np.array(["1", "2"]), ["1", "2"]),
        ("int64", np.array([b"1"]), [b"1"]),
        ("int64", np.array([], np.float32), []),
    ],
)
def test_what_a_dtype_does_not_hold(
    dtype: str, entries: NDArray[Any], wrong: list[Any]
) -> None:
    found = unfit(entries, dtype)
    assert found.dtype == entries.dtype
    np.testing.assert_array_equal(found, np.array(wrong, entries.dtype))
