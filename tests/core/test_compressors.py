"""Compressors: unbiased with the promised omega, or contractions, on any input."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flower_compress.compressors import (
    COMPRESSORS,
    Compressed,
    Compressor,
    Identity,
    RandomSparsifier,
    StochasticQuantizer,
    TopK,
    Vector,
    as_vector,
    compressor_from_wire,
    get_compressor,
)
from flower_compress.errors import (
    BiasedCompressorError,
    ConfigurationError,
    CorruptPacket,
    NonFiniteError,
    UnknownNameError,
)
from flower_compress.streams import Purpose, Stream

# A new operator is a row, or a few.
TABLE: list[dict[str, Any]] = [
    {"name": "identity"},
    *(
        {
            "name": "stochastic-quantizer",
            "levels": levels,
            "norm": norm,
            "bucket_size": bucket_size,
        }
        for levels in (1, 4, 127, 1000)
        for norm in (2, "inf")
        for bucket_size in (None, 7)
    ),
    {"name": "stochastic-quantizer", "levels": 2, "norm": 2, "bucket_size": 1},
    {"name": "stochastic-quantizer", "levels": 2, "norm": "inf", "bucket_size": 64},
    {"name": "random-sparsifier", "p": 0.05},
    {"name": "random-sparsifier", "p": 0.5},
    {"name": "random-sparsifier", "p": 1.0},
    {"name": "top-k", "k": 1},
    {"name": "top-k", "k": 15},
    {"name": "top-k", "fraction": 0.1},
    {"name": "top-k", "fraction": 1.0},
]
INPUTS = ("gaussian", "heavy-tailed", "sparse", "constant", "one-hot")
DIMS = (1, 2, 17, 1000)
NUM_DRAWS = 250
STREAM = Stream(11, Purpose.UPLINK, 5, 2)


def row_id(row: dict[str, Any]) -> str:
    return "-".join(str(value) for value in row.values())


def make(row: dict[str, Any]) -> Compressor:
    parameters = {key: value for key, value in row.items() if key != "name"}
    return COMPRESSORS[row["name"]](**parameters)


UNBIASED = [row for row in TABLE if COMPRESSORS[row["name"]].unbiased]
BIASED = [row for row in TABLE if not COMPRESSORS[row["name"]].unbiased]
EVERY = pytest.mark.parametrize("row", TABLE, ids=row_id)


def make_input(kind: str, dim: int) -> Vector:
    generator = np.random.Generator(np.random.Philox([dim, INPUTS.index(kind)]))
    if kind == "gaussian":
        x = generator.normal(size=dim)
    elif kind == "heavy-tailed":
        x = generator.standard_t(1.5, size=dim)
    elif kind == "sparse":
        x = generator.normal(size=dim) * (generator.random(dim) < 0.1)
        x[-1] = 1.0
    elif kind == "constant":
        x = np.full(dim, -0.3)
    else:
        x = np.zeros(dim)
        x[dim // 2] = 2.5
    return x.astype(np.float32)


def apply(compressor: Compressor, x: Vector, stream: Stream = STREAM) -> Vector:
    return compressor.decompress(compressor.compress(x, stream))


def draws(compressor: Compressor, x: Vector, count: int) -> NDArray[np.float64]:
    """C(x) - x for independent versions of the stream, shape (count, d)."""
    values = [apply(compressor, x, STREAM.at(version)) for version in range(count)]
    return np.stack(values).astype(np.float64) - x


def sum_of_squares(x: Vector) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def test_every_operator_is_in_the_table() -> None:
    assert {row["name"] for row in TABLE} == set(COMPRESSORS)
    assert len({cls.wire_id for cls in COMPRESSORS.values()}) == len(COMPRESSORS)


# --- What the theorems need -----------------------------------------------------------


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("row", UNBIASED, ids=row_id)
def test_unbiased_with_variance_at_most_omega(
    row: dict[str, Any], kind: str, dim: int
) -> None:
    compressor, x = make(row), make_input(kind, dim)
    squares, omega = sum_of_squares(x), compressor.omega(dim)
    errors = draws(compressor, x, NUM_DRAWS)
    rounding = 1e-6 * math.sqrt(squares)

    # The mean of <C(x) - x, v> for signs v: its variance is at most omega ||x||^2
    # where the entries are drawn independently, and the bias of an operator that
    # shrinks adds up along sign(x).
    generator = np.random.Generator(np.random.Philox(dim))
    signs = np.where(generator.random((4, dim)) < 0.5, -1.0, 1.0)
    signs[0] = np.where(x < 0, -1.0, 1.0)
    standard_error = math.sqrt(omega * squares / NUM_DRAWS)
    means = np.abs((errors @ signs.T).mean(axis=0))
    assert means.max() <= 4 * standard_error + rounding * math.sqrt(dim)

    lost = np.square(errors).sum(axis=1)
    standard_error = float(lost.std()) / math.sqrt(NUM_DRAWS)
    assert (
        lost.mean() <= omega * squares * (1 + 1e-6) + 4 * standard_error + rounding**2
    )


@pytest.mark.parametrize("levels", [1, 3, 10])
@pytest.mark.parametrize("norm", [2, "inf"])
@pytest.mark.parametrize("bucket_size", [None, 250])
def test_quantizer_has_exactly_the_variance_of_its_equation(
    levels: int, norm: Any, bucket_size: int | None
) -> None:
    x = make_input("gaussian", 1000)
    errors = draws(StochasticQuantizer(levels, norm, bucket_size), x, NUM_DRAWS)
    table = x.reshape(-1, bucket_size or 1000).astype(np.float64)
    order = 2 if norm == 2 else np.inf
    step = np.linalg.norm(table, ord=order, axis=1, keepdims=True) / levels
    fraction = np.abs(table) / step % 1.0
    variance = (step**2 * fraction * (1 - fraction)).reshape(-1)
    lost = np.square(errors).sum(axis=1)
    standard_error = lost.std() / math.sqrt(NUM_DRAWS)
    assert abs(lost.mean() - variance.sum()) <= 4 * standard_error
    # Entries that moved often enough for their means to be normal, roughly.
    often = fraction.reshape(-1) * (1 - fraction.reshape(-1)) * NUM_DRAWS > 1
    assert often.sum() > 100
    deviation = errors.mean(axis=0)[often] / np.sqrt(variance[often] / NUM_DRAWS)
    assert abs(np.square(deviation).mean() - 1) < 0.3


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_sparsifier_has_exactly_the_variance_of_its_equation(p: float) -> None:
    x = make_input("gaussian", 1000)
    lost = np.square(draws(RandomSparsifier(p), x, NUM_DRAWS)).sum(axis=1)
    standard_error = lost.std() / math.sqrt(NUM_DRAWS)
    assert abs(lost.mean() - (1 - p) / p * sum_of_squares(x)) <= 4 * standard_error


@dataclass(frozen=True)
class Rigged(Stream):
    """A stream that draws every multiple of 2^-24 from 0, one after the other."""

    def uniforms(self, count: int) -> NDArray[np.float32]:
        return (np.arange(count) / 2**24).astype(np.float32)


@pytest.mark.parametrize("p", [1e-9, 2.0**-24, 1e-6, 3e-6, 1e-5, 1e-4])
def test_sparsifier_is_unbiased_for_tiny_probabilities(p: float) -> None:
    x = np.ones(10_000, dtype=np.float32)
    value = apply(RandomSparsifier(p), x, Rigged(0, Purpose.UPLINK))
    # All other uniforms are too large for p, so this is E[C(1)].
    assert value.sum(dtype=np.float64) / 2**24 == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("row", BIASED, ids=row_id)
def test_biased_contracts(row: dict[str, Any], kind: str, dim: int) -> None:
    compressor, x = make(row), make_input(kind, dim)
    contraction = compressor.contraction(dim)
    assert 0 < contraction <= 1
    lost = np.square(draws(compressor, x, 5)).sum(axis=1).mean()
    assert lost <= (1 - contraction) * sum_of_squares(x) * (1 + 1e-12)
    with pytest.raises(BiasedCompressorError, match=compressor.name):
        compressor.omega(dim)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("row", [r for r in TABLE if r["name"] == "top-k"], ids=row_id)
def test_top_k_loses_the_smallest_entries_exactly(
    row: dict[str, Any], kind: str, dim: int
) -> None:
    x = make_input(kind, dim)
    kept = min(row.get("k") or math.ceil(row["fraction"] * dim), dim)
    value = apply(make(row), x)
    assert np.count_nonzero(value) == min(kept, np.count_nonzero(x))
    assert set(np.flatnonzero(value)) <= set(np.flatnonzero(x == value))
    smallest = np.sort(np.abs(x))[: dim - kept]
    lost = np.sort(np.abs(x[value == 0]))
    np.testing.assert_array_equal(lost[lost > 0], smallest[smallest > 0])
    assert make(row).contraction(dim) == kept / dim


# --- The quantizer against its definition ---------------------------------------------


def plain_qsgd(
    x: Vector,
    levels: int,
    norm: Any,
    bucket_size: int | None,
    uniforms: NDArray[np.float32],
) -> list[float]:
    f, result = np.float32, []
    size = bucket_size or max(len(x), 1)
    for start in range(0, len(x), size):
        bucket = x[start : start + size]
        if norm == 2:
            scale = f(math.sqrt(math.fsum(float(entry) ** 2 for entry in bucket)))
        else:
            scale = max(abs(entry) for entry in bucket)
        for i, entry in enumerate(bucket, start):
            if scale == 0:
                result.append(0.0)
                continue
            level = f(abs(entry) / scale) * f(levels)
            psi = min(math.floor(level + uniforms[i]), levels)
            sign = -1 if entry < 0 else 1
            result.append(float(f(sign * psi) * (scale / f(levels))))
    return result


@pytest.mark.parametrize(
    "row", [r for r in TABLE if r["name"] == "stochastic-quantizer"], ids=row_id
)
def test_quantizer_is_the_plain_loop_bit_for_bit(row: dict[str, Any]) -> None:
    compressor = make(row)
    assert isinstance(compressor, StochasticQuantizer)
    parameters = (compressor.levels, compressor.norm, compressor.bucket_size)
    for kind in INPUTS:
        for dim in (0, 1, 2, 7, 17, 70, 130):
            x = make_input(kind, dim) if dim else np.zeros(0, dtype=np.float32)
            for version in range(3):
                stream = STREAM.at(version)
                expected = plain_qsgd(x, *parameters, stream.uniforms(dim))
                assert apply(compressor, x, stream).tolist() == expected


def test_quantizer_knows_its_symbols() -> None:
    x = np.array([3, -4, 0, 0], dtype=np.float32)
    compressed = StochasticQuantizer(levels=5).compress(x, STREAM)
    assert compressed.values.tolist() == [5.0]
    assert compressed.symbols is not None
    # 3/5 and 4/5 of the norm fall on levels but for the rounding of the division.
    assert compressed.symbols.dense().tolist() in ([3, -4, 0, 0], [4, -4, 0, 0])
    assert (compressed.symbols.low, compressed.symbols.high) == (-5, 5)


# --- Any input ------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("dim", [0, 1, 2, 17])
def test_zero_gives_zero(row: dict[str, Any], dim: int) -> None:
    compressor = make(row)
    for zero in (0.0, -0.0):
        x = np.full(dim, zero, dtype=np.float32)
        compressed = compressor.compress(x, STREAM)
        value = compressor.decompress(compressed)
        assert value.shape == (dim,)
        assert value.dtype == np.float32
        assert not value.any()
        nonzero = compressed.symbols.num_nonzero if compressed.symbols else 0
        assert nonzero == 0
        assert compressed.values.size == compressor.num_values(dim, nonzero)


@EVERY
def test_zero_bucket_beside_others_gives_zero(row: dict[str, Any]) -> None:
    x = np.concatenate([np.ones(64), np.zeros(64), -np.ones(9)]).astype(np.float32)
    value = apply(make(row), x)
    assert np.isfinite(value).all()
    assert not value[64:128].any()


@EVERY
@pytest.mark.parametrize("value", [1e-45, -3e-39, 1.5, -1e38, 3.4028235e38])
def test_one_entry(row: dict[str, Any], value: float) -> None:
    x = np.array([value], dtype=np.float32)
    try:
        result = apply(make(row), x)
    except NonFiniteError:
        # x / p is beyond float32.
        assert row["name"] == "random-sparsifier"
        assert abs(value) / row["p"] > np.finfo(np.float32).max
        return
    assert result.shape == (1,)
    if row["name"] != "random-sparsifier" and abs(value) > 1e-30:
        np.testing.assert_allclose(result, x, rtol=3e-7)


@EVERY
@pytest.mark.parametrize("exponent", [-60, 60])
def test_scale_by_a_power_of_two_goes_through(
    row: dict[str, Any], exponent: int
) -> None:
    compressor = make(row)
    scale = np.float32(2.0**exponent)
    for kind in INPUTS:
        x = make_input(kind, 130)
        np.testing.assert_array_equal(
            apply(compressor, x * scale), apply(compressor, x) * scale
        )


@EVERY
def test_subnormal_entries(row: dict[str, Any]) -> None:
    compressor = make(row)
    for kind in INPUTS:
        x = make_input(kind, 130) * np.float32(1e-43)
        value = apply(compressor, x)
        assert np.isfinite(value).all()
        assert not np.any(value[x == 0])
        assert np.all(value * x.astype(np.float64) >= 0)
        if row["name"] in ("identity", "top-k"):
            np.testing.assert_array_equal(value[value != 0], x[value != 0])


@EVERY
@pytest.mark.parametrize("size", [1e30, 1e37, 3.4e38])
def test_huge_entries_give_finite_values_or_a_typed_error(
    row: dict[str, Any], size: float
) -> None:
    x = np.array([size, -size, 0.5 * size, 0.0] * 33, dtype=np.float32)
    try:
        compressed = make(row).compress(x, STREAM)
    except NonFiniteError as error:
        assert row["name"] in ("stochastic-quantizer", "random-sparsifier")
        assert row.get("norm") != "inf"
        assert size > 1e36
        assert "lower the step size" in str(error)
    else:
        assert np.isfinite(make(row).decompress(compressed)).all()


@pytest.mark.parametrize("norm", [2, "inf"])
def test_quantizer_reaches_the_largest_float(norm: Any) -> None:
    largest = np.finfo(np.float32).max
    x = np.array([largest, 0, 0], dtype=np.float32)
    for levels in (1, 25, 31, 49, 127, 1000, 32767):
        value = apply(StochasticQuantizer(levels, norm), x)
        np.testing.assert_allclose(value, x, rtol=3e-7)


@dataclass(frozen=True)
class Highest(Stream):
    """A stream that draws the largest uniform for ever."""

    def uniforms(self, count: int) -> NDArray[np.float32]:
        return np.full(count, 1 - 2.0**-24, dtype=np.float32)


@pytest.mark.parametrize("levels", [1, 4, 127, 1000, 32767])
@pytest.mark.parametrize("norm", [2, "inf"])
@pytest.mark.parametrize("bucket_size", [None, 1, 7])
def test_quantizer_never_leaves_its_alphabet(
    levels: int, norm: Any, bucket_size: int | None
) -> None:
    compressor = StochasticQuantizer(levels, norm, bucket_size)
    stream = Highest(0, Purpose.UPLINK)
    for kind in INPUTS:
        x = make_input(kind, 50)
        symbols = compressor.compress(x, stream).symbols
        assert symbols is not None
        assert np.abs(symbols.dense().astype(int)).max() <= levels
        assert np.all(apply(compressor, x, stream) * x >= 0)


def test_quantizer_names_the_norm_that_overflows() -> None:
    x = np.full(10, 2e38, dtype=np.float32)
    with pytest.raises(NonFiniteError, match="norm.*exceeds float32"):
        StochasticQuantizer(4).compress(x, STREAM)
    with pytest.raises(NonFiniteError, match="norm.*exceeds float32"):
        StochasticQuantizer(4, bucket_size=4).compress(x, STREAM)
    apply(StochasticQuantizer(4, "inf"), x)
    apply(StochasticQuantizer(4, bucket_size=2), x)


@EVERY
@pytest.mark.parametrize(
    ("bad", "count"),
    [([math.nan], 1), ([math.inf, -math.inf], 2), ([math.nan, math.inf, math.nan], 3)],
)
def test_non_finite_is_refused_with_the_count(
    row: dict[str, Any], bad: list[float], count: int
) -> None:
    x = make_input("gaussian", 100)
    x[40 : 40 + count] = bad
    with pytest.raises(NonFiniteError, match=rf"^{count} of 100 .*first at 40"):
        make(row).compress(x, STREAM)


@EVERY
def test_input_stays_as_it_is(row: dict[str, Any]) -> None:
    for dim in (7, 130):
        x = make_input("gaussian", dim)
        before = x.copy()
        x.flags.writeable = False
        apply(make(row), x)
        np.testing.assert_array_equal(x, before)


@EVERY
def test_any_array_becomes_a_vector(row: dict[str, Any]) -> None:
    compressor = make(row)
    matrix = make_input("gaussian", 60).reshape(6, 10)
    expected = apply(compressor, np.ascontiguousarray(matrix.T).reshape(-1))
    wide = np.repeat(matrix.T.astype(np.float64), 2, axis=1)
    for given_array in (matrix.T, wide[:, ::2], matrix.T.tolist()):
        np.testing.assert_array_equal(
            apply(compressor, as_vector(given_array)), expected
        )


def test_as_vector_copies_only_where_needed() -> None:
    x = make_input("gaussian", 12)
    assert np.shares_memory(as_vector(x.reshape(3, 4)), x)
    for other in (x[::-1], x.astype(np.float64), x.reshape(3, 4).T):
        vector = as_vector(other)
        assert vector.dtype == np.float32
        assert vector.shape == (other.size,)
        assert vector.flags.c_contiguous
        assert not np.shares_memory(vector, x)
    assert as_vector(3.0).tolist() == [3.0]
    assert as_vector([]).shape == (0,)


def test_as_vector_leaves_overflow_to_the_compressor() -> None:
    vector = as_vector(np.array([1.0, 1e300, -1e300]))
    with pytest.raises(NonFiniteError, match="2 of 3"):
        Identity().compress(vector, STREAM)


# --- Randomness -----------------------------------------------------------------------


@EVERY
def test_a_draw_depends_on_the_key_alone(row: dict[str, Any]) -> None:
    compressor, x = make(row), make_input("gaussian", 1000)
    first = apply(compressor, x)
    others = [
        STREAM.at(3),
        Stream(12, Purpose.UPLINK, 5, 2),
        Stream(11, Purpose.DOWNLINK, 5, 2),
        Stream(11, Purpose.UPLINK, 6, 2),
    ]
    values = [apply(make(row), x, stream) for stream in others]
    np.testing.assert_array_equal(apply(make(row), x), first)
    noisy = compressor.unbiased and bool(np.any(first != x))
    for i, value in enumerate(values):
        assert np.array_equal(value, first) != noisy
        for other in values[:i]:
            assert np.array_equal(value, other) != noisy


# --- Configurations -------------------------------------------------------------------


@EVERY
def test_config_round_trip(row: dict[str, Any]) -> None:
    compressor = make(row)
    rebuilt = get_compressor(json.loads(json.dumps(compressor.config())))
    assert rebuilt == compressor
    assert type(rebuilt) is type(compressor)
    names = {field.name for field in fields(compressor)}
    assert compressor.config().keys() == {"name"} | names
    assert get_compressor(row) == compressor


@EVERY
def test_wire_round_trip(row: dict[str, Any]) -> None:
    compressor = make(row)
    wire = compressor.to_wire()
    rebuilt, size = compressor_from_wire(
        compressor.wire_id, memoryview(wire + b"what follows")
    )
    assert rebuilt == compressor
    assert size == len(wire)
    for short in range(len(wire)):
        with pytest.raises(CorruptPacket, match="parameters"):
            compressor_from_wire(compressor.wire_id, memoryview(wire[:short]))


@given(wire_id=st.integers(0, 6), data=st.binary(max_size=16))
@settings(max_examples=300, deadline=None)
def test_wire_of_strangers_is_an_operator_or_refused(wire_id: int, data: bytes) -> None:
    try:
        compressor, size = compressor_from_wire(wire_id, memoryview(data))
    except CorruptPacket:
        return
    assert size == len(compressor.to_wire()) <= len(data)
    again, _ = compressor_from_wire(wire_id, memoryview(compressor.to_wire()))
    assert again == compressor


@EVERY
def test_a_vector_without_its_symbols_is_refused(row: dict[str, Any]) -> None:
    compressor = make(row)
    if compressor.alphabet() is not None:
        with pytest.raises(ConfigurationError, match="needs its"):
            compressor.decompress(Compressed(3, np.ones(1, dtype=np.float32)))


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_compressor({"name": "qsdg"})
    assert "'qsdg'" in str(caught.value)
    for name in COMPRESSORS:
        assert name in str(caught.value)
    with pytest.raises(UnknownNameError, match="None"):
        get_compressor({"levels": 3})
    with pytest.raises(CorruptPacket, match=r"id 77 .*\[1, 2, 3, 4\]"):
        compressor_from_wire(77, memoryview(b""))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "identity", "levels": 3}, "levels"),
        ({"name": "stochastic-quantizer", "levels": 0}, "levels.*0"),
        ({"name": "stochastic-quantizer", "levels": 32768}, "levels.*32768"),
        ({"name": "stochastic-quantizer", "levels": 2.5}, r"levels.*2\.5"),
        ({"name": "stochastic-quantizer", "levels": "two"}, "two|str"),
        ({"name": "stochastic-quantizer", "norm": 1}, "norm.*1"),
        ({"name": "stochastic-quantizer", "bucket_size": 0}, "bucket_size.*0"),
        ({"name": "stochastic-quantizer", "bucket_size": 2**32}, "bucket_size"),
        ({"name": "stochastic-quantizer", "bucket_size": 9.5}, r"bucket_size.*9\.5"),
        ({"name": "random-sparsifier", "p": 0.0}, "p must lie"),
        ({"name": "random-sparsifier", "p": 1.1}, r"1\.1"),
        ({"name": "random-sparsifier", "p": math.nan}, "nan"),
        ({"name": "random-sparsifier", "p": "most"}, "most|str"),
        ({"name": "top-k"}, "exactly one"),
        ({"name": "top-k", "k": 2, "fraction": 0.5}, "exactly one"),
        ({"name": "top-k", "k": 0}, "k must be"),
        ({"name": "top-k", "k": 2**32}, "k must be"),
        ({"name": "top-k", "k": 2.5}, r"k must be.*2\.5"),
        ({"name": "top-k", "fraction": 0.0}, "fraction"),
        ({"name": "top-k", "fraction": -0.5}, "fraction"),
        ({"name": "top-k", "fraction": math.nan}, "fraction"),
    ],
)
def test_wrong_parameters_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        get_compressor(config)


def test_operators_are_values() -> None:
    assert TopK(k=3) == TopK(k=3) != TopK(k=4)
    assert len({StochasticQuantizer(2), StochasticQuantizer(2), Identity()}) == 2
    with pytest.raises(AttributeError):
        Identity().name = "other"  # type: ignore[misc]
