"""Layouts: named arrays to a vector and back, as Flower would write them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flower_compress.errors import (
    ConfigurationError,
    LayoutMismatchError,
    NonFiniteError,
)
from flower_compress.wire.arrays import (
    array_of_bytes,
    encode_entries,
    read_array,
    write_array,
)
from flower_compress.wire.layout import Layout, Tensor
from tests.cases import in_one_test

FLOATS = ("float16", "float32", "float64")
EXACT = ("int8", "uint8", "int32", "int64", "uint64", "bool")
SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (0,),
    (1,),
    (5,),
    (2, 3),
    (3, 0, 2),
    (2, 1, 2, 2),
)


def entries(dtype: str, shape: tuple[int, ...], seed: int = 0) -> NDArray[Any]:
    generator = np.random.Generator(np.random.Philox(seed))
    if dtype.startswith("float"):
        return np.asarray(generator.normal(size=shape).astype(np.float16), dtype=dtype)
    return np.asarray(generator.integers(0, 100, size=shape), dtype=dtype)


def record(arrays: dict[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def assert_same(one: ArrayRecord, other: ArrayRecord) -> None:
    assert list(one) == list(other)
    for name in one:
        # dtype, shape and the very bytes.
        assert one[name] == other[name], name
        np.testing.assert_array_equal(one[name].numpy(), other[name].numpy())


def flattened(layout: Layout, arrays: ArrayRecord) -> tuple[bytes, bytes]:
    vector, exact = layout.flatten(arrays)
    return vector.tobytes(), exact


MODEL = {
    "conv.weight": entries("float32", (2, 3, 1), 1),
    "norm.weight": entries("float16", (4,), 2),
    "norm.running_mean": entries("float32", (4,), 3),
    "norm.running_var": entries("float64", (4,), 4),
    "norm.num_batches_tracked": np.array(7, dtype=np.int64),
    "scale": np.array(0.5, dtype=np.float64),
    "mask": np.array([True, False, True]),
    "empty": np.zeros((0, 3), dtype=np.float32),
    "head.bias": entries("float64", (3,), 5),
}


# --- Round trips ----------------------------------------------------------------------


@in_one_test("shape", SHAPES)
@in_one_test("dtype", FLOATS + EXACT)
def test_one_array_round_trip(dtype: str, shape: tuple[int, ...]) -> None:
    arrays = record({"w": entries(dtype, shape)})
    layout = Layout.of(arrays)
    vector, exact = layout.flatten(arrays)
    assert vector.dtype == np.float32
    size = math.prod(shape)
    if dtype in FLOATS:
        assert (layout.dim, layout.exact_bytes) == (size, 0)
    else:
        width = np.dtype(dtype).itemsize
        assert (layout.dim, layout.exact_bytes) == (0, size * width)
    assert (vector.size, len(exact)) == (layout.dim, layout.exact_bytes)
    assert_same(layout.unflatten(vector, exact), arrays)


def test_model_round_trip() -> None:
    arrays = record(MODEL)
    layout = Layout.of(arrays)
    assert [t.name for t in layout.tensors if t.exact] == [
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
        "mask",
    ]
    assert layout.dim == 6 + 4 + 1 + 0 + 3
    assert layout.exact_bytes == 4 * 4 + 4 * 8 + 8 + 3
    vector, exact = layout.flatten(arrays)
    expected = [MODEL["conv.weight"], MODEL["norm.weight"], MODEL["scale"]]
    expected.append(MODEL["head.bias"])
    np.testing.assert_array_equal(
        vector, np.concatenate([a.reshape(-1) for a in expected])
    )
    assert exact == b"".join(
        MODEL[name].tobytes()
        for name in (
            "norm.running_mean",
            "norm.running_var",
            "norm.num_batches_tracked",
            "mask",
        )
    )
    assert_same(layout.unflatten(vector, exact), arrays)
    rebuilt = Layout.from_config(json.loads(json.dumps(layout.config())))
    assert rebuilt == layout


@st.composite
def models(draw: st.DrawFn) -> dict[str, NDArray[Any]]:
    dtypes = draw(st.lists(st.sampled_from(FLOATS + EXACT), min_size=1, max_size=6))
    return {
        f"layer{i}": entries(dtype, draw(st.sampled_from(SHAPES)), i)
        for i, dtype in enumerate(dtypes)
    }


@given(model=models())
@settings(max_examples=60, deadline=None)
def test_any_model_round_trip(model: dict[str, NDArray[Any]]) -> None:
    arrays = record(model)
    layout = Layout.of(arrays)
    assert_same(layout.unflatten(*layout.flatten(arrays)), arrays)
    assert Layout.from_config(json.loads(json.dumps(layout.config()))) == layout


def test_order_of_the_arrays_is_that_of_the_layout() -> None:
    arrays = record(MODEL)
    layout = Layout.of(arrays)
    backwards = ArrayRecord(dict(reversed(list(arrays.items()))))
    assert flattened(layout, arrays) == flattened(layout, backwards)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_fortran_order_is_read_in_c_order(dtype: str) -> None:
    array = entries(dtype, (3, 4))
    fortran = record({"w": np.asfortranarray(array)})
    assert fortran["w"].data != record({"w": array})["w"].data
    layout = Layout.of(fortran)
    assert flattened(layout, fortran) == flattened(layout, record({"w": array}))
    # The answer is in C order, the entries the same.
    assert_same(layout.unflatten(*layout.flatten(fortran)), record({"w": array}))


def test_other_byte_orders() -> None:
    for dtype in (">f4", ">f8", ">i4"):
        arrays = record({"w": np.arange(5).astype(dtype)})
        layout = Layout.of(arrays)
        assert_same(layout.unflatten(*layout.flatten(arrays)), arrays)


def test_floats_of_another_width_are_taken_in() -> None:
    layout = Layout.of(record({"a": np.zeros(3, np.float32), "b": np.zeros(2, "f4")}))
    given_arrays = {"a": np.arange(3.0), "b": np.ones(2, np.float16)}
    vector, _ = layout.flatten(record(given_arrays))
    assert vector.tolist() == [0, 1, 2, 1, 1]
    assert vector.dtype == np.float32


def test_exact_pattern() -> None:
    names = ("running_mean", "a.running_var", "a.num_batches_tracked")
    others = ("a.running_meant", "xrunning_mean", "running_mean.weight", "weight")
    arrays = record({name: np.ones(2, np.float32) for name in names + others})
    layout = Layout.of(arrays)
    assert [t.name for t in layout.tensors if t.exact] == list(names)
    chosen = Layout.of(arrays, exact_pattern="weight")
    expected = ["running_mean.weight", "weight"]
    assert [t.name for t in chosen.tensors if t.exact] == expected


def test_flatten_leaves_the_arrays_alone() -> None:
    for model in (MODEL, {"w": MODEL["conv.weight"]}):
        arrays = record(model)
        layout = Layout.of(arrays)
        before = {name: array.data for name, array in arrays.items()}
        vector, exact = layout.flatten(arrays)
        result = layout.unflatten(vector.copy(), exact)
        assert {name: array.data for name, array in arrays.items()} == before
        assert_same(result, arrays)


# --- Flower's arrays ------------------------------------------------------------------


@in_one_test("shape", SHAPES)
@in_one_test("dtype", (*FLOATS, *EXACT, ">f4", "longdouble"))
def test_written_arrays_are_flowers_byte_for_byte(
    dtype: str, shape: tuple[int, ...]
) -> None:
    array = np.asarray(entries("int32", shape), dtype=dtype)
    assert write_array(array) == Array(array)
    assert write_array(array.reshape(-1), shape) == Array(array)
    read = read_array(Array(array))
    assert read.dtype == array.dtype
    assert read.shape == shape
    np.testing.assert_array_equal(read, array)


def test_strided_arrays_are_written_in_order() -> None:
    array = entries("float32", (6, 4))
    for view in (array[::2], array[:, 1:3], array.T, array[::-1]):
        np.testing.assert_array_equal(write_array(view).numpy(), view)
        assert write_array(view) == Array(np.ascontiguousarray(view))


def test_arrays_written_otherwise_are_read_as_flower_reads_them() -> None:
    array = entries("float32", (3, 4))
    for other in (np.asfortranarray(array), array.T, array[::2]):
        np.testing.assert_array_equal(read_array(Array(other)), other)
    # A header that says something else than the Array: the data has the last word.
    data = Array(array.astype(np.float64)).data
    lying = Array("float32", (3, 4), "numpy.ndarray", data)
    np.testing.assert_array_equal(read_array(lying), lying.numpy())


# --- Errors ---------------------------------------------------------------------------


def test_missing_additional_and_renamed_arrays_are_named() -> None:
    layout = Layout.of(record({"a": np.zeros(2), "b": np.zeros(3)}))
    for names, said in (
        (["a"], "expected 2 arrays, got 1: missing 'b'"),
        (["a", "b", "c"], "expected 2 arrays, got 3: unknown 'c'"),
        (["a", "c"], "expected 2 arrays, got 2: missing 'b'; unknown 'c'"),
        ([], "expected 2 arrays, got 0: missing 'a' and 1 more"),
    ):
        arrays = record({name: np.zeros(2) for name in names})
        with pytest.raises(LayoutMismatchError) as caught:
            layout.flatten(arrays)
        assert str(caught.value) == f"{said}; return the arrays that the server sent"


def test_a_prefix_at_every_name_is_named_in_one_line() -> None:
    names = [f"layers.{i}.weight" for i in (*range(9, 300), *range(9))]
    plain, wrapped = names, [f"module.{name}" for name in names]
    for expected, got, said in (
        (plain, wrapped, "has the prefix 'module.' too much"),
        (wrapped, plain, "lacks the prefix 'module.'"),
    ):
        layout = Layout.of(record({name: np.zeros(1) for name in expected}))
        with pytest.raises(LayoutMismatchError) as caught:
            layout.flatten(record({name: np.zeros(1) for name in got}))
        assert str(caught.value).startswith(f"each of the 300 names {said}")
    # One name that the prefix does not explain.
    layout = Layout.of(record({name: np.zeros(1) for name in plain}))
    with pytest.raises(LayoutMismatchError) as caught:
        layout.flatten(record({name: np.zeros(1) for name in [*wrapped[:-1], "head"]}))
    assert "missing 'layers.9.weight' and 299 more; unknown" in str(caught.value)
    assert len(str(caught.value)) < 200


def test_numbers_in_the_place_of_names_are_told() -> None:
    """As Flower names the arrays of a list."""
    layout = Layout.of(record({"a": np.zeros(2), "b": np.zeros(2)}))
    with pytest.raises(LayoutMismatchError) as caught:
        layout.flatten(ArrayRecord([np.zeros(2), np.zeros(2)]))
    assert str(caught.value) == (
        "expected the names 'a', ..., got '0', ..., as of a list of arrays: give them "
        "with their names, ArrayRecord(dict(zip(names, arrays))); return the arrays "
        "that the server sent"
    )
    with pytest.raises(LayoutMismatchError, match="got 1: missing 'a' and 1 more"):
        layout.flatten(ArrayRecord([np.zeros(2)]))


@pytest.mark.parametrize("shape", [(6,), (3, 2), (2, 3, 1), (), (2, 4)])
def test_other_shapes_are_named(shape: tuple[int, ...]) -> None:
    layout = Layout.of(record({"a": np.zeros(2), "head.w": np.zeros((2, 3))}))
    arrays = record({"a": np.zeros(2), "head.w": np.zeros(shape)})
    with pytest.raises(LayoutMismatchError) as caught:
        layout.flatten(arrays)
    message = f"array 'head.w': expected shape (2, 3), got {shape}"
    assert message in str(caught.value)


@pytest.mark.parametrize("dtype", ["complex64", "<U3", "datetime64[s]", "S2"])
def test_unsupported_dtypes_are_named(dtype: str) -> None:
    array = np.zeros(2, dtype=dtype)
    with pytest.raises(ConfigurationError, match="array 'w': expected floats") as error:
        Layout.of(record({"ok": np.zeros(1), "w": array}))
    assert str(array.dtype) in str(error.value)


def test_dtypes_that_numpy_does_not_know_are_named() -> None:
    arrays = ArrayRecord({"w": Array("float8_e4m3fn", (2,), "numpy.ndarray", b"")})
    with pytest.raises(ConfigurationError, match="array 'w'.*float8_e4m3fn"):
        Layout.of(arrays)


def test_empty_records_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        Layout.of(ArrayRecord())


@pytest.mark.parametrize(
    "config",
    [
        [["w", [-3], "float32", False]],
        [["w", [3], "float33", False]],
        [["w", [3], "object", True]],
        [["w", [3], "f4,f4", True]],
        [["w", [3], "V8", True]],
        [["w", [3], "", False]],
    ],
)
def test_impossible_configurations_are_refused(config: list[list[Any]]) -> None:
    with pytest.raises(ConfigurationError, match="'w'"):
        Layout.from_config(config)


def test_wrong_number_of_exact_bytes_is_refused() -> None:
    arrays = record(MODEL)
    layout = Layout.of(arrays)
    vector, exact = layout.flatten(arrays)
    for wrong in (b"", exact[:-1], exact + b"\0"):
        with pytest.raises(LayoutMismatchError, match=f"expected {len(exact)} bytes"):
            layout.unflatten(vector, wrong)


@in_one_test(
    ("at", "name", "size"),
    [(0, "conv.weight", 6), (5, "conv.weight", 6), (6, "norm.weight", 4)]
    + [(10, "scale", 1), (11, "head.bias", 3), (13, "head.bias", 3)],
)
@in_one_test("value", [math.nan, math.inf, -math.inf])
def test_check_finite_names_the_array_and_the_count(
    at: int, name: str, size: int, value: float
) -> None:
    layout = Layout.of(record(MODEL))
    vector = np.zeros(layout.dim, dtype=np.float32)
    layout.check_finite(vector, "the update")
    vector[at] = value
    with pytest.raises(NonFiniteError) as caught:
        layout.check_finite(vector, "the update")
    assert f"the update: 1 of {size} entries of '{name}' are" in str(caught.value)
    vector[:] = value
    with pytest.raises(NonFiniteError, match="6 of 6 entries of 'conv.weight'"):
        layout.check_finite(vector, "the update")


@pytest.mark.parametrize("names", [("w",), ("v", "w")])
def test_overflow_of_float64_is_reported_by_check_finite(names: tuple[str]) -> None:
    arrays = {name: np.ones(3) for name in names}
    layout = Layout.of(record(arrays))
    arrays["w"] = np.array([1.0, 1e300, -1e39])
    vector, _ = layout.flatten(record(arrays))
    with pytest.raises(NonFiniteError, match="2 of 3 entries of 'w'"):
        layout.check_finite(vector, "the update")


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        (
            "n",
            np.array([1.0, math.nan]),
            "that int64 holds, got 2 of float64, nan ",
        ),
        ("n", np.array([1.0, 2.5], np.float32), "got 2 of float32, 2.5 among them"),
        (
            "small",
            np.array([7, 300]),
            "that int8 holds, got 2 of int64, 300 among",
        ),
        (
            "mask",
            np.array([0, 2]),
            "that bool holds, got 2 of int64, 2 among them",
        ),
        ("w", np.array([1j, 2]), "2 numbers that float32 holds, got 2 of complex128, "),
        (
            "running_var",
            np.array(["1", "2"]),
            "that float32 holds, got 2 of <U1, 1 am",
        ),
    ],
)
def test_values_that_the_dtype_does_not_hold_are_named(
    name: str, wrong: NDArray[Any], message: str
) -> None:
    model = {
        "w": np.zeros(2, np.float32),
        "n": np.array([5, 6]),
        "small": np.array([5, 6], np.int8),
        "mask": np.array([True, False]),
        "running_var": np.ones(2, np.float32),
    }
    layout = Layout.of(record(model))
    same = {n: a.astype(np.float64) for n, a in model.items()}
    assert flattened(layout, record(same)) == flattened(layout, record(model))
    with pytest.raises(LayoutMismatchError) as caught:
        layout.flatten(record({**model, name: wrong}))
    assert str(caught.value).startswith(f"array {name!r}: expected ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "stype", "data"),
    [
        ("float32", "other", b""),
        ("float32", "numpy.ndarray", b""),
        ("float32", "numpy.ndarray", b"\x93NUMPY\x01\x00"),
        ("float33", "numpy.ndarray", b""),
        ("float32", "numpy.ndarray", Array(np.zeros(3, np.float32)).data),
    ],
)
def test_arrays_that_cannot_be_read_are_named(
    dtype: str, stype: str, data: bytes
) -> None:
    layout = Layout.of(record({"w": np.zeros(2, np.float32)}))
    with pytest.raises(LayoutMismatchError, match="array 'w': expected"):
        layout.flatten({"w": Array(dtype, (2,), stype, data)})


# --- bfloat16 -------------------------------------------------------------------------


def halves(**arrays: Any) -> ArrayRecord:
    """Return arrays of bfloat16; all of these values are some."""
    return ArrayRecord(
        {
            name: array_of_bytes(
                "bfloat16", np.shape(a), encode_entries(np.asarray(a), "bfloat16")
            )
            for name, a in arrays.items()
        }
    )


def test_bfloat16_round_trip() -> None:
    arrays = halves(w=[[1.5, -2.0, 3.0]], running_mean=[0.25, 8.0], scale=-0.5)
    arrays["n"] = Array(np.array(7))
    layout = Layout.of(arrays)
    assert [t.exact for t in layout.tensors] == [False, True, False, True]
    assert (layout.dim, layout.exact_bytes, layout.num_bytes) == (4, 12, 20)
    assert layout.rounds
    vector, exact = layout.flatten(arrays)
    assert vector.dtype == np.float32
    assert vector.tolist() == [1.5, -2.0, 3.0, -0.5]
    assert exact.hex() == "803e0041" + "0700000000000000"
    assert_same_bytes(layout.unflatten(vector, exact), arrays)
    assert Layout.from_config(json.loads(json.dumps(layout.config()))) == layout
    layout.check_exact(exact, "the reply")
    with pytest.raises(NonFiniteError, match="1 of 2 entries of 'running_mean'"):
        layout.check_exact(b"\xc0\x7f" + exact[2:], "the reply")
    # Whatever comes is rounded, values beyond the largest are refused.
    rounded = layout.unflatten(vector + np.float32(5e-4), exact)
    assert_same_bytes(rounded, arrays)
    with pytest.raises(NonFiniteError, match="array 'w'.*does not fit into bfloat16"):
        layout.unflatten(np.full(4, 3.4e38, np.float32), exact)


def test_bfloat16_and_other_floats_take_each_others_place() -> None:
    halved, whole = halves(w=[1.5, 2.0]), record({"w": np.array([1.5, 2.0], "f4")})
    for one, other in ((halved, whole), (whole, halved)):
        layout = Layout.of(one)
        assert flattened(layout, other) == flattened(layout, one)


def test_average_of_bfloat16_is_rounded_to_the_nearest() -> None:
    layout = Layout.of(halves(running_mean=[1.0, 4.0]))
    parts = [
        layout.flatten(halves(running_mean=mean))[1]
        for mean in ([1.0, 4.0], [1.0078125, 7.0])
    ]
    (mean,) = layout.exact_arrays(layout.average_exact(parts, [1.0, 2.0]))
    assert mean.tolist() == [1.0078125, 6.0]  # 1.0052 and 6


def assert_same_bytes(one: ArrayRecord, other: ArrayRecord) -> None:
    assert list(one) == list(other)
    assert all(one[name] == other[name] for name in one)


# --- Subsets --------------------------------------------------------------------------


def test_a_subset_is_completed_and_nothing_else() -> None:
    arrays = record(MODEL)
    layout = Layout.of(arrays)
    _, exact = layout.flatten(arrays)
    vector = np.arange(layout.dim, dtype=np.float32)
    others = layout.unflatten(vector, exact)
    for names in (["scale"], ["head.bias", "norm.running_var"], [*MODEL][1:]):
        some = ArrayRecord({name: arrays[name] for name in names})
        expected = {n: arrays[n] if n in names else others[n] for n in MODEL}
        assert dict(layout.complete(some, vector, exact)) == expected
    for given_arrays in (
        arrays,
        ArrayRecord(),
        record({"scale": MODEL["scale"], "unknown": np.zeros(2)}),
        record({**MODEL, "unknown": np.zeros(2)}),
    ):
        assert layout.complete(given_arrays, vector, exact) is given_arrays


# --- Averages -------------------------------------------------------------------------


def exact_part(**arrays: Any) -> tuple[Layout, bytes]:
    of_record = record({name: np.asarray(array) for name, array in arrays.items()})
    layout = Layout.of(of_record)
    return layout, layout.flatten(of_record)[1]


def test_average_is_weighted_and_integers_are_rounded() -> None:
    layout, one = exact_part(
        running_mean=np.array([1.0, -2.0], np.float32),
        running_var=np.array([[4.0]], np.float64),
        num_batches_tracked=np.array(10, np.int64),
        counts=np.array([1, 2, 200, 0], np.uint8),
        mask=np.array([True, False]),
        w=np.zeros(2, np.float32),
    )
    _, two = exact_part(
        running_mean=np.array([3.0, 6.0], np.float32),
        running_var=np.array([[0.0]], np.float64),
        num_batches_tracked=np.array(21, np.int64),
        counts=np.array([2, 3, 255, 1], np.uint8),
        mask=np.array([True, True]),
        w=np.zeros(2, np.float32),
    )
    for weights in ([1.0, 3.0], [5.0, 15.0], [0.25, 0.75]):
        mean = layout.exact_arrays(layout.average_exact([one, two], weights))
        expected: list[list[Any]] = [
            [2.5, 4.0],
            [1.0],
            [18],  # 18.25
            [2, 3, 241, 1],  # 1.75, 2.75, 241.25, 0.75
            [True, True],  # 1, 0.75
        ]
        assert [part.tolist() for part in mean] == expected
    alone = layout.average_exact([one, two], [1.0, 0.0])
    assert alone == one


def test_average_of_equal_parts_is_that_part() -> None:
    layout, part = exact_part(
        running_var=np.array([0.1, 1e30, 3e-39], np.float32),
        num_batches_tracked=np.array(123_456_789_012, np.int64),
        counts=np.array([-128, 127, 0], np.int8),
    )
    for count in (1, 3, 7):
        assert layout.average_exact([part] * count, [1 / count] * count) == part


def test_average_of_negative_integers_is_rounded_to_the_nearest() -> None:
    layout, one = exact_part(n=np.array([-1, -10, 5], np.int32))
    _, two = exact_part(n=np.array([-2, -11, -5], np.int32))
    mean = layout.exact_arrays(layout.average_exact([one, two], [2.0, 1.0]))
    assert mean[0].tolist() == [-1, -10, 2]


def test_average_without_exact_arrays_is_empty() -> None:
    layout = Layout.of(record({"w": np.zeros(3)}))
    assert layout.average_exact([b"", b""], [1.0, 1.0]) == b""


def test_average_of_wrong_parts_is_refused() -> None:
    layout, part = exact_part(n=np.array([1, 2], np.int32))
    with pytest.raises(LayoutMismatchError, match="expected 8 bytes"):
        layout.average_exact([part, part + b"\0"], [1.0, 1.0])


def test_tensors_know_their_size() -> None:
    assert Tensor("w", (2, 3), "float32", False).size == 6
    assert Tensor("w", (), "float32", False).size == 1
    assert Tensor("w", (2, 0), "float32", False).size == 0


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint64"])
def test_averages_of_the_largest_integers_stay_in_range(dtype: str) -> None:
    largest = np.iinfo(dtype).max
    layout, one = exact_part(count=np.array(largest, dtype))
    _, two = exact_part(count=np.array(largest - 1, dtype))
    (same,) = layout.exact_arrays(layout.average_exact([one, one], [1.0, 2.0]))
    assert same[0] == largest
    (mean,) = layout.exact_arrays(layout.average_exact([one, two], [1.0, 1.0]))
    assert largest - 2048 <= int(mean[0]) <= largest


def test_weights_beyond_float16_are_reported() -> None:
    layout = Layout.of(record({"half": np.zeros(2, np.float16)}))
    with pytest.raises(NonFiniteError, match="'half'.*does not fit into float16"):
        layout.unflatten(np.array([1.0, 70000.0], np.float32), b"")
