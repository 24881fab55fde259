"""Compressors: unbiased with the promised omega, or contractions, on any input."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_compress.coding import Symbols
from flower_compress.coding.symbols import symbol_dtype
from flower_compress.compressors import (
    COMPRESSORS,
    Compressed,
    Compressor,
    DitheredQuantizer,
    Identity,
    MinVarianceSparsifier,
    NaturalCompression,
    RandK,
    RandomSparsifier,
    RotatedQuantizer,
    ScaledSign,
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
from tests.cases import in_one_test
from tests.flower_compress.operators import (
    ALL_IN_ONE,
    BIASED,
    EVERY,
    INPUTS,
    OPERATORS,
    STREAM,
    TABLE,
    UNBIASED,
    Continued,
    Row,
    apply,
    buckets_of,
    config_round_trip,
    errors_of,
    make,
    make_input,
    named,
    rigged,
    row_id,
    sizes_of,
    sum_of_squares,
)

NUM_DRAWS = {1: 64, 2: 64, 17: 100, 1000: 120, 100_000: 5}
LARGEST = float(np.finfo(np.float32).max)
# A vector of one entry is a sign and a size; a long one has blocks, and little new
# beside them.
FEWER = {1: ("gaussian", "constant"), 100_000: ("gaussian", "sparse")}
CASES = [(kind, dim) for dim in NUM_DRAWS for kind in FEWER.get(dim, INPUTS)]
CODED = [row for row in TABLE if make(row).alphabet(10) is not None]


def test_every_operator_is_in_the_table() -> None:
    assert {row["name"] for row in TABLE} == set(COMPRESSORS)
    assert len({cls.wire_id for cls in COMPRESSORS.values()}) == len(COMPRESSORS)
    for name, cls in COMPRESSORS.items():
        rows = named(name)
        per = {make(row).per for row in rows}
        assert per == {"model", "tensor"} or cls in (DitheredQuantizer, TopK)
    assert {row["tau"] for row in named("dithered-quantizer") if "tau" in row} == {
        "exact",
        "lemma",
        "none",
    }


# --- What the theorems need -----------------------------------------------------------


def variance_along(compressor: Compressor, x: Vector, v: Vector) -> float:
    """A bound on the variance of <C(x), v> for a vector of signs.

    At most E||C(x) - x||^2 where the errors of two entries are uncorrelated, which
    they also are after a rotation with a dither of its own for each entry. RandK
    keeps whole columns, k of d without replacement: there it is, exactly,
    d (d - k) / (k (d - 1)) sum_j (y_j - mean y)^2, y the column sums of x_i v_i.
    """
    if not isinstance(compressor, RandK):
        return compressor.omega(x.size) * sum_of_squares(x)
    total = 0.0
    for table in buckets_of(compressor, x.size):
        parts = [x[part].astype(np.float64) * v[part] for part in table]
        columns = np.sum(parts, axis=0)
        d = columns.size
        k = compressor.k or math.ceil(compressor.fraction * d)
        if k < d:
            spread = sum_of_squares(columns - columns.mean())
            total += d * (d - k) / (k * (d - 1)) * spread
    return total


@in_one_test(("kind", "dim"), CASES)
@pytest.mark.parametrize("row", UNBIASED, ids=row_id)
def test_unbiased_with_variance_at_most_omega(row: Row, kind: str, dim: int) -> None:
    compressor, x, num_draws = make(row), make_input(kind, dim), NUM_DRAWS[dim]
    squares, omega = sum_of_squares(x), compressor.omega(dim)
    errors = errors_of(compressor, x, num_draws)
    rounding = 1e-6 * math.sqrt(squares)

    # The mean of <C(x) - x, v> for signs v; the bias of an operator that shrinks
    # adds up along sign(x).
    generator = np.random.Generator(np.random.Philox(dim))
    signs = np.where(generator.random((4, dim)) < 0.5, -1.0, 1.0)
    signs[0] = np.where(x < 0, -1.0, 1.0)
    for v in signs:
        standard_error = math.sqrt(variance_along(compressor, x, v) / num_draws)
        mean = abs(float((errors @ v).mean()))
        assert mean <= 4 * standard_error + rounding * math.sqrt(dim)

    lost = np.square(errors).sum(axis=1)
    standard_error = float(lost.std()) / math.sqrt(num_draws)
    assert (
        lost.mean() <= omega * squares * (1 + 1e-6) + 4 * standard_error + rounding**2
    )


@in_one_test(("kind", "dim"), CASES)
@pytest.mark.parametrize("row", BIASED, ids=row_id)
def test_biased_contracts(row: Row, kind: str, dim: int) -> None:
    compressor, x = make(row), make_input(kind, dim)
    contraction = compressor.contraction(dim)
    assert 0 < contraction <= 1
    num_draws = min(NUM_DRAWS[dim], 60) if row["name"] == "dithered-quantizer" else 1
    lost = np.square(errors_of(compressor, x, num_draws)).sum(axis=1)
    standard_error = float(lost.std()) / math.sqrt(num_draws)
    bound = (1 - contraction) * sum_of_squares(x)
    assert lost.mean() <= bound * (1 + 1e-6) + 4 * standard_error
    with pytest.raises(BiasedCompressorError, match=compressor.name):
        compressor.omega(dim)


@ALL_IN_ONE
def test_constants_of_nothing(row: Row) -> None:
    compressor = make(row)
    assert compressor.contraction(0) == 1.0
    if compressor.unbiased:
        assert compressor.omega(0) == 0.0


@ALL_IN_ONE
def test_constants_do_not_shrink_with_the_dimension(row: Row) -> None:
    """So the bound of the longest vector is a bound of all its parts."""
    compressor = make(row)
    dims = (1, 2, 3, 9, 10, 17, 18, 64, 100, 1000)
    contractions = [compressor.contraction(dim) for dim in dims]
    if compressor.per == "tensor" or compressor.bucket_size:
        assert contractions == sorted(contractions, reverse=True)
    if compressor.unbiased and (compressor.per == "tensor" or compressor.bucket_size):
        omegas = [compressor.omega(dim) for dim in dims]
        assert omegas == sorted(omegas)


@in_one_test("dim", [18, 28])
@in_one_test("name", ["rand-k", "top-k"])
def test_a_short_bucket_has_the_promised_constants(name: str, dim: int) -> None:
    """Of 10 entries 3 are kept, of the last 8 only 2: the worst vectors lie there."""
    compressor = get_compressor({"name": name, "fraction": 0.25, "bucket_size": 10})
    x = np.zeros(dim, dtype=np.float32)
    x[-8:] = 1.0
    if name == "top-k":
        lost = sum_of_squares(apply(compressor, x) - x)
        assert lost <= (1 - compressor.contraction(dim)) * 8
    else:
        # Whatever is drawn, two of the eight are kept and multiplied by four.
        lost = sum_of_squares(apply(compressor, x) - x)
        assert lost == 2 * 9 + 6
        assert lost <= compressor.omega(dim) * 8


# --- Any input ------------------------------------------------------------------------


def keeps_zeros(compressor: Compressor) -> bool:
    """Whether an entry that is zero beside others stays zero."""
    if isinstance(compressor, StochasticQuantizer):
        return not compressor.subtractive
    return not isinstance(compressor, RotatedQuantizer)


def keeps_signs(compressor: Compressor) -> bool:
    return keeps_zeros(compressor) and not isinstance(compressor, DitheredQuantizer)


@ALL_IN_ONE
@in_one_test("dim", [0, 1, 2, 17, 100])
def test_zero_gives_zero(row: Row, dim: int) -> None:
    compressor, sizes = make(row), sizes_of(dim)
    for zero in (0.0, -0.0):
        x = np.full(dim, zero, dtype=np.float32)
        compressed = compressor.compress(x, STREAM, sizes)
        value = compressor.decompress(compressed, STREAM, sizes)
        assert value.shape == (dim,)
        assert value.dtype == np.float32
        assert not value.any()
        assert compressed.symbols is None or compressed.symbols.num_nonzero == 0
        assert compressed.values.size == compressor.num_values(
            dim, compressed.symbols, sizes
        )
        assert not compressed.values.any()


@ALL_IN_ONE
def test_zero_bucket_beside_others_gives_zero(row: Row) -> None:
    compressor = make(row)
    width = compressor.bucket_size or 0
    x = np.concatenate([np.ones(64), np.zeros(64), -np.ones(9)]).astype(np.float32)
    value = apply(compressor, x, sizes=(64, 64, 9))
    assert np.isfinite(value).all()
    whole_buckets = compressor.per == "tensor" or (width and 64 % width == 0)
    if keeps_zeros(compressor) or whole_buckets:
        assert not value[64:128].any()


@ALL_IN_ONE
def test_exact_zeros_stay_so(row: Row) -> None:
    compressor = make(row)
    if keeps_zeros(compressor):
        for kind in ("sparse", "one-hot"):
            x = make_input(kind, 300)
            assert not apply(compressor, x)[x == 0].any()


def largest_entry(compressor: Compressor) -> float:
    """What one entry may have at most."""
    if isinstance(compressor, DitheredQuantizer):
        return 2.0**125
    if isinstance(compressor, RotatedQuantizer):
        return 2.0**100
    if isinstance(compressor, StochasticQuantizer) and compressor.subtractive:
        return LARGEST / 2
    if isinstance(compressor, MinVarianceSparsifier):
        return LARGEST * compressor.density
    if isinstance(compressor, RandomSparsifier):
        return LARGEST * compressor.p
    if isinstance(compressor, NaturalCompression):
        return 2.0**127
    return LARGEST


@ALL_IN_ONE
@in_one_test("value", [1e-45, -3e-39, 1.5, -1e30, -1e38, LARGEST])
def test_one_entry(row: Row, value: float) -> None:
    compressor, x = make(row), np.array([value], dtype=np.float32)
    try:
        result = apply(compressor, x, sizes=(0, 1, 0))
    except NonFiniteError as error:
        assert abs(value) > largest_entry(compressor)
        assert "lower the step size" in str(error)
        return
    if not isinstance(compressor, RandomSparsifier):
        assert abs(value) <= largest_entry(compressor)
    assert result.shape == (1,)
    assert np.isfinite(result).all()
    lossy = (
        isinstance(
            compressor, (RandomSparsifier, MinVarianceSparsifier, NaturalCompression)
        )
        or compressor.shared_randomness
        or row.get("tau") == "lemma"
    )
    if abs(value) > 1e-30 and (not lossy or isinstance(compressor, RandK)):
        np.testing.assert_allclose(result, x, rtol=3e-7)


@ALL_IN_ONE
@in_one_test("exponent", [-60, 60])
def test_scale_by_a_power_of_two_goes_through(row: Row, exponent: int) -> None:
    compressor = make(row)
    scale = np.float32(2.0**exponent)
    for kind in INPUTS:
        x = make_input(kind, 130)
        np.testing.assert_array_equal(
            apply(compressor, x * scale), apply(compressor, x) * scale
        )


@ALL_IN_ONE
def test_subnormal_entries(row: Row) -> None:
    compressor = make(row)
    for kind in INPUTS:
        x = make_input(kind, 130) * np.float32(1e-43)
        value = apply(compressor, x)
        assert np.isfinite(value).all()
        assert np.abs(value).max() < 1e-38
        if keeps_zeros(compressor):
            assert not np.any(value[x == 0])
        if keeps_signs(compressor):
            assert np.all(value * x.astype(np.float64) >= 0)
        if row["name"] in ("identity", "top-k"):
            np.testing.assert_array_equal(value[value != 0], x[value != 0])


@ALL_IN_ONE
@in_one_test("size", [1e30, 1e34, 1e37, 2e38, 3.4e38, LARGEST])
def test_huge_entries_give_finite_values_or_a_typed_error(
    row: Row, size: float
) -> None:
    compressor = make(row)
    for pattern in ([1, -1, 0.5, 0], [1, 0.9, 0.8, 0.7], [-1, 1e-30, 0, 0]):
        x = (np.array(pattern * 33) * size).astype(np.float32)
        try:
            value = apply(compressor, x)
        except NonFiniteError as error:
            assert "lower the step size" in str(error)
            assert isinstance(compressor, RotatedQuantizer) or size > 1e34
            assert not isinstance(compressor, (Identity, TopK, ScaledSign))
        else:
            assert np.isfinite(value).all()


@ALL_IN_ONE
@in_one_test(
    ("bad", "count"),
    [([math.nan], 1), ([math.inf, -math.inf], 2), ([math.nan, math.inf, math.nan], 3)],
)
@in_one_test("at", [0, 40, 97])
def test_non_finite_is_refused_with_the_count(
    row: Row, bad: list[float], count: int, at: int
) -> None:
    compressor, x = make(row), make_input("gaussian", 100)
    x[at : at + count] = bad
    with pytest.raises(NonFiniteError, match=rf"^{count} of 100 .*first at {at}\b"):
        compressor.compress(x, STREAM, sizes_of(100))


@ALL_IN_ONE
def test_non_finite_is_counted_in_the_whole_vector(row: Row) -> None:
    compressor, x = make(row), make_input("gaussian", 100)
    x[[9, 33, 95]] = math.nan, -math.inf, math.inf
    with pytest.raises(NonFiniteError, match=r"^3 of 100 .*first at 9\b"):
        compressor.compress(x, STREAM, sizes_of(100))


def test_a_vector_beyond_float32_is_named() -> None:
    x = np.full(10, 2e38, dtype=np.float32)
    for compressor in (
        StochasticQuantizer(4),
        StochasticQuantizer(4, bucket_size=4),
        StochasticQuantizer(4, "inf", subtractive=True),
        RandomSparsifier(0.5),
        RandK(k=5),
        MinVarianceSparsifier(0.5),
        DitheredQuantizer(4),
        RotatedQuantizer(),
    ):
        stream = rigged(0) if isinstance(compressor, RandomSparsifier) else STREAM
        with pytest.raises(NonFiniteError, match="scale of a bucket exceeds"):
            compressor.compress(x, stream)
    apply(StochasticQuantizer(4, "inf"), x)
    apply(StochasticQuantizer(4, bucket_size=2), x)
    apply(ScaledSign(), x)


@pytest.mark.parametrize("norm", [2, "inf"])
def test_quantizer_reaches_the_largest_float(norm: Any) -> None:
    x = np.array([LARGEST, 0, 0], dtype=np.float32)
    for levels in (1, 25, 31, 49, 127, 1000, 32767):
        value = apply(StochasticQuantizer(levels, norm), x)
        np.testing.assert_allclose(value, x, rtol=3e-7)
    # One bit below the bound that leaves room for the dither.
    x = np.nextafter(x / np.float32(2.0), np.float32(0.0))
    for levels in (1, 3, 127, 32767):
        for dither in (0, 65535):
            stream = rigged(dither)
            value = apply(
                StochasticQuantizer(levels, norm, subtractive=True), x, stream
            )
            assert np.isfinite(value).all()


@pytest.mark.parametrize("row", CODED, ids=row_id)
def test_symbols_never_leave_the_alphabet(row: Row) -> None:
    compressor = make(row)
    for dim in (1, 50, 130):
        low, high = compressor.alphabet(dim)
        assert low <= 0 <= high
        for kind in INPUTS:
            x = make_input(kind, dim)
            streams = [STREAM.at(version) for version in range(5)]
            if not compressor.shared_randomness:
                streams += [rigged(j, u) for j in (0, 65535) for u in (0.0, 1.0)]
            for stream in streams:
                if isinstance(compressor, RandomSparsifier):
                    stream = STREAM
                symbols = compressor.compress(x, stream, sizes_of(dim)).symbols
                assert symbols is not None
                assert (symbols.dim, symbols.low, symbols.high) == (dim, low, high)
                entries = symbols.entries.astype(int)
                assert not entries.size or low <= entries.min()
                assert not entries.size or entries.max() <= high
                if symbols.positions is not None:
                    assert (np.diff(symbols.positions) > 0).all()
                    assert entries.all()
                assert symbols.dense().shape == (dim,)


class TestExtremesOfSubtractiveDither:
    """With shared dither the largest and the least one, and the longest rows."""

    @pytest.mark.parametrize("levels", [1, 4, 126, 127, 128, 32766])
    def test_quantizers(self, levels: int) -> None:
        for compressor in (
            StochasticQuantizer(levels, "inf", subtractive=True),
            StochasticQuantizer(levels, 2, subtractive=True),
            *(
                DitheredQuantizer(levels, tau, subtractive=True)
                for tau in ("exact", "lemma", "none")
            ),
        ):
            low, high = compressor.alphabet(60)
            for kind in INPUTS:
                for dither in (0, 1, 65535):
                    stream = rigged(dither)
                    x = make_input(kind, 60)
                    compressed = compressor.compress(x, stream)
                    entries = compressed.symbols.entries
                    assert low <= entries.min()
                    assert entries.max() <= high
                    assert np.isfinite(compressor.decompress(compressed, stream)).all()


@ALL_IN_ONE
def test_input_stays_as_it_is(row: Row) -> None:
    for dim in (7, 130):
        x = make_input("gaussian", dim)
        before = x.copy()
        x.flags.writeable = False
        apply(make(row), x)
        np.testing.assert_array_equal(x, before)


@ALL_IN_ONE
def test_decompression_changes_nothing_and_needs_no_more_than_is_sent(row: Row) -> None:
    compressor, x, sizes = make(row), make_input("gaussian", 130), sizes_of(130)
    compressed = compressor.compress(x, STREAM, sizes)
    expected = compressor.decompress(compressed, STREAM, sizes)
    values = compressed.values.copy()
    values.flags.writeable = False
    symbols = compressed.symbols
    forms = [symbols]
    if symbols is not None:
        dense = symbols.dense().copy()
        dense.flags.writeable = False
        positions = np.flatnonzero(dense)
        sparse = dense[positions]
        limits = (symbols.dim, symbols.low, symbols.high)
        forms = [Symbols(*limits, dense), Symbols(*limits, sparse, positions)]
    for form in forms:
        received = Compressed(130, values, form)
        assert compressor.num_values(130, form, sizes) == values.size
        again = compressor.decompress(received, STREAM, sizes)
        assert again.tobytes() == expected.tobytes()
        assert again.dtype == np.float32
    np.testing.assert_array_equal(values, compressed.values)


@ALL_IN_ONE
def test_any_array_is_taken_as_a_vector(row: Row) -> None:
    compressor = make(row)
    matrix = make_input("gaussian", 60).reshape(6, 10)
    expected = apply(compressor, np.ascontiguousarray(matrix.T).reshape(-1))
    wide = np.repeat(matrix.T.astype(np.float64), 2, axis=1)
    big_endian = matrix.T.astype(">f4")
    for given_array in (matrix.T, wide[:, ::2], big_endian, matrix.T.tolist()):
        sizes = sizes_of(60)
        compressed = compressor.compress(given_array, STREAM, sizes)
        value = compressor.decompress(compressed, STREAM, sizes)
        np.testing.assert_array_equal(value, expected)
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


@ALL_IN_ONE
def test_doubles_beyond_float32_are_refused(row: Row) -> None:
    x = np.array([1.0, 1e300, -1e300])
    assert np.isinf(as_vector(x)).sum() == 2
    with pytest.raises(NonFiniteError, match="2 of 3 .*first at 1"):
        make(row).compress(x, STREAM, (1, 2))


# --- Buckets and tensors --------------------------------------------------------------


def pieces_of(compressor: Compressor, x: Vector, parts: list[slice]) -> Vector:
    """What the operator makes of each part as a vector of its own."""
    plain = get_compressor(
        {**compressor.config(), "per": "model", "bucket_size": None}
        if isinstance(compressor, RotatedQuantizer)
        else {
            name: value
            for name, value in compressor.config().items()
            if name not in ("per", "bucket_size")
        }
    )
    sender, receiver = (
        Continued(STREAM.seed, STREAM.purpose, STREAM.index, STREAM.version)
        for _ in range(2)
    )
    values = []
    for part in parts:
        compressed = plain.compress(x[part], sender)
        values.append(plain.decompress(compressed, receiver))
    return np.concatenate(values)


@in_one_test(
    "row",
    [row for row in TABLE if row.get("per") == "tensor" and "bucket_size" not in row],
    ids=row_id,
)
@in_one_test("sizes", [(130,), (1, 129), (40, 0, 60, 30), (64, 64, 2, 0)])
def test_each_tensor_is_a_vector_of_its_own(row: Row, sizes: tuple[int, ...]) -> None:
    compressor, ends = make(row), np.cumsum(sizes)
    parts = [
        slice(end - size, end) for end, size in zip(ends, sizes, strict=True) if size
    ]
    for kind in INPUTS:
        x = make_input(kind, 130)
        expected = pieces_of(compressor, x, parts)
        np.testing.assert_array_equal(apply(compressor, x, STREAM, sizes), expected)


BUCKETED: list[Compressor] = [
    StochasticQuantizer(5, bucket_size=16),
    StochasticQuantizer(1, "inf", bucket_size=16),
    StochasticQuantizer(5, bucket_size=16, subtractive=True),
    DitheredQuantizer(5, bucket_size=16),
    DitheredQuantizer(5, "lemma", bucket_size=16),
    DitheredQuantizer(5, "none", bucket_size=16, subtractive=True),
    RandomSparsifier(0.3, bucket_size=16),
    MinVarianceSparsifier(0.3, bucket_size=16),
    TopK(k=3, bucket_size=16),
    TopK(fraction=0.3, bucket_size=16),
    ScaledSign(bucket_size=16),
    Identity(bucket_size=16),
    NaturalCompression(bucket_size=16),
]


@in_one_test("per", ["model", "tensor"])
@in_one_test("compressor", BUCKETED, ids=repr)
def test_each_bucket_is_a_vector_of_its_own(compressor: Compressor, per: str) -> None:
    """Sixteen entries take one block of words, so the draws are the same."""
    compressor = get_compressor({**compressor.config(), "per": per})
    sizes = (64, 16, 32, 0, 3) if compressor.entrywise else (64, 8, 40, 0, 3)
    tensors = sizes if per == "tensor" else (115,)
    parts, start = [], 0
    for size in tensors:
        stops = range(start, start + size, 16)
        parts += [slice(at, min(at + 16, start + size)) for at in stops]
        start += size
    for kind in INPUTS:
        x = make_input(kind, 115)
        expected = pieces_of(compressor, x, parts)
        np.testing.assert_array_equal(apply(compressor, x, STREAM, sizes), expected)


@in_one_test("k", [3, 12, 16, 20])
def test_buckets_of_a_table_keep_the_same_columns(k: int) -> None:
    x = np.ones(5 * 16 + 9, dtype=np.float32)
    value = apply(RandK(k=k, bucket_size=16), x)
    table = value[:80].reshape(5, 16)
    kept = min(k, 16)
    np.testing.assert_array_equal(table, np.broadcast_to(table[0], (5, 16)))
    assert np.count_nonzero(table[0]) == kept
    assert np.count_nonzero(value[80:]) == min(k, 9)
    np.testing.assert_allclose(table[0].sum(), 16, rtol=1e-6)


@in_one_test("name", sorted(COMPRESSORS))
@in_one_test("sizes", [(), (9,), (5, 6), (11, 0)])
def test_sizes_must_add_up(name: str, sizes: tuple[int, ...]) -> None:
    defaults = {"top-k": {"k": 2}, "rand-k": {"k": 2}}.get(name, {})
    compressor = get_compressor({"name": name, "per": "tensor", **defaults})
    x = make_input("gaussian", 10)
    compressed = compressor.compress(x, STREAM, (4, 6))
    if compressor.entrywise:
        np.testing.assert_array_equal(
            apply(compressor, x, sizes=sizes), apply(compressor, x)
        )
        return
    message = f"add up to 10, got {sum(sizes)}"
    with pytest.raises(ConfigurationError, match=message):
        compressor.compress(x, STREAM, sizes)
    with pytest.raises(ConfigurationError, match=message):
        compressor.decompress(compressed, STREAM, sizes)
    with pytest.raises(ConfigurationError, match=message):
        compressor.num_values(10, compressed.symbols, sizes)


@in_one_test("name", sorted(COMPRESSORS))
def test_the_whole_model_ignores_sizes(name: str) -> None:
    defaults = {"top-k": {"k": 2}, "rand-k": {"k": 2}}.get(name, {})
    compressor, x = (
        get_compressor({"name": name, **defaults}),
        make_input(INPUTS[0], 30),
    )
    np.testing.assert_array_equal(
        apply(compressor, x, STREAM, (10, 20)), apply(compressor, x)
    )


# --- Randomness -----------------------------------------------------------------------


@ALL_IN_ONE
def test_a_draw_depends_on_the_key_alone(row: Row) -> None:
    compressor, x = make(row), make_input("gaussian", 1009)
    first = apply(compressor, x)
    others = [
        STREAM.at(3),
        Stream(12, Purpose.UPLINK, 5, 2),
        Stream(11, Purpose.DOWNLINK, 5, 2),
        Stream(11, Purpose.UPLINK, 6, 2),
    ]
    values = [apply(make(row), x, stream) for stream in others]
    np.testing.assert_array_equal(apply(make(row), x), first)
    noisy = row["name"] not in ("identity", "top-k", "scaled-sign") and bool(
        np.any(first != x)
    )
    for i, value in enumerate(values):
        assert np.array_equal(value, first) != noisy
        for other in values[:i]:
            assert np.array_equal(value, other) != noisy


SHARED = [row for row in TABLE if make(row).shared_randomness]


def test_who_shares_randomness() -> None:
    for row in TABLE:
        shared = row["name"] in ("rand-k", "rotated-quantizer")
        assert (row in SHARED) == (shared or row.get("subtractive", False))


@in_one_test("row", SHARED, ids=row_id)
def test_shared_randomness_needs_the_stream(row: Row) -> None:
    compressor, x, sizes = make(row), make_input("gaussian", 60), sizes_of(60)
    compressed = compressor.compress(x, STREAM, sizes)
    with pytest.raises(ConfigurationError, match=f"{compressor.name}.*stream.*None"):
        compressor.decompress(compressed, None, sizes)
    other = compressor.decompress(compressed, STREAM.at(9), sizes)
    assert not np.array_equal(other, compressor.decompress(compressed, STREAM, sizes))


@in_one_test("row", [r for r in TABLE if r not in SHARED], ids=row_id)
def test_private_randomness_needs_none(row: Row) -> None:
    compressor, x, sizes = make(row), make_input("gaussian", 60), sizes_of(60)
    compressed = compressor.compress(x, STREAM, sizes)
    np.testing.assert_array_equal(
        compressor.decompress(compressed, None, sizes),
        compressor.decompress(compressed, STREAM.at(9), sizes),
    )


# --- Values and symbols of strangers --------------------------------------------------


HOSTILE = (0.0, -0.0, 1e-45, -1.0, 1e30, -1e30, 1e38, -1e38, LARGEST, -LARGEST)


@EVERY
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_hostile_values_give_finite_vectors_or_are_refused(
    row: Row, data: st.DataObject
) -> None:
    compressor = make(row)
    dim = data.draw(st.sampled_from([0, 1, 7, 40, 130]))
    sizes, alphabet = sizes_of(dim), compressor.alphabet(dim)
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    symbols = None
    if alphabet is not None:
        low, high = alphabet
        if data.draw(st.booleans()):
            entries = generator.integers(low, high, dim, endpoint=True)
        else:
            entries = generator.choice([low, 0, high], dim)
        dtype = compressor.compress(make_input(INPUTS[0], 5), STREAM).symbols.entries
        symbols = Symbols(dim, low, high, entries.astype(dtype.dtype))
    count = compressor.num_values(dim, symbols, sizes)
    chosen = generator.choice(
        data.draw(st.lists(st.sampled_from(HOSTILE), min_size=1)), count
    )
    values = chosen.astype(np.float32)
    try:
        value = compressor.decompress(Compressed(dim, values, symbols), STREAM, sizes)
    except CorruptPacket:
        # Symbols that are no level of the range, or norms that cannot be.
        signed = ("random-sparsifier", "top-k", "rand-k", "identity")
        assert row["name"] not in signed
        assert (
            row["name"] == "dithered-quantizer"
            or (values < 0).any()
            or (row["name"] == "rotated-quantizer" and values.max() > 2.0**100)
        )
        return
    assert value.shape == (dim,)
    assert value.dtype == np.float32
    assert np.isfinite(value).all()


def test_negative_ranges_and_norms_are_refused() -> None:
    entries = np.zeros(4, dtype=np.int8)
    for compressor, values in (
        (DitheredQuantizer(3), [0.0, -1.0]),
        (DitheredQuantizer(3), [2.0**126, 1.0]),
        (DitheredQuantizer(3), [0.0, 2.0**127]),
        (RotatedQuantizer(), [-1.0]),
        (RotatedQuantizer(), [2.0**101]),
    ):
        symbols = Symbols(4, *compressor.alphabet(4), entries)
        received = Compressed(4, np.array(values, dtype=np.float32), symbols)
        with pytest.raises(CorruptPacket, match="expected"):
            compressor.decompress(received, STREAM)


@in_one_test("dim", [4, 256, 257, 70_000])  # a table of levels, or not
@in_one_test("levels", [1, 8, 126, 127, 5000, 32_766])
@in_one_test("below", ["none", "some", "all"])
def test_symbols_are_levels_of_the_range(below: str, levels: int, dim: int) -> None:
    """Of the symbols in [-L - 1, L + 1] those that stand for a level, and no others."""
    compressor = DitheredQuantizer(levels)
    low, high = compressor.alphabet(dim)
    num_below = {"none": 0, "some": (levels + 1) // 2, "all": levels + 1}[below]
    least = {"none": 0.5, "some": -num_below / levels, "all": -2.0}[below]
    values = np.array([least, 1.0], dtype=np.float32)
    first, last = -num_below, levels + 1 - num_below
    for symbol in {low, first - 1, first, -1, 0, 1, last, last + 1, high}:
        if not low <= symbol <= high:
            continue
        entries = np.zeros(dim, dtype=symbol_dtype(low, high))
        entries[dim // 2] = symbol
        received = Compressed(dim, values, Symbols(dim, low, high, entries))
        if not first <= symbol <= last:
            with pytest.raises(CorruptPacket, match=f"none of the {levels + 1} levels"):
                compressor.decompress(received)
            continue
        level = symbol + num_below - (symbol > 0)
        step = values[1] / np.float32(levels)
        expected = np.zeros(dim, dtype=np.float32)
        if symbol:
            expected[dim // 2] = np.float32(level) * step + values[0]
        np.testing.assert_array_equal(compressor.decompress(received), expected)


@in_one_test("row", CODED, ids=row_id)
def test_a_vector_without_its_symbols_is_refused(row: Row) -> None:
    values = np.ones(40, dtype=np.float32)
    with pytest.raises(ConfigurationError, match="symbols|support"):
        make(row).decompress(Compressed(3, values), STREAM)


# --- Configurations -------------------------------------------------------------------


@ALL_IN_ONE
def test_config_round_trip(row: Row) -> None:
    compressor = make(row)
    rebuilt = config_round_trip(compressor)
    assert rebuilt == compressor
    assert type(rebuilt) is type(compressor)
    own = {item.name for item in fields(compressor) if not item.kw_only}
    scope = {"bucket_size", "per"}
    assert {"name"} | own <= compressor.config().keys() <= {"name"} | own | scope
    assert make({**compressor.config(), **row}) == compressor


@ALL_IN_ONE
def test_wire_round_trip(row: Row) -> None:
    compressor = make(row)
    wire_id, wire = compressor.to_wire()
    assert wire_id & 0x3F == compressor.wire_id
    assert bool(wire_id & 0x40) == (compressor.per == "tensor")
    assert bool(wire_id & 0x80) == (compressor.bucket_size is not None)
    rebuilt, size = compressor_from_wire(wire_id, memoryview(wire + b"what follows"))
    assert rebuilt == compressor
    assert size == len(wire)
    for short in range(len(wire)):
        with pytest.raises(CorruptPacket, match="parameters"):
            compressor_from_wire(wire_id, memoryview(wire[:short]))


def test_scope_bits_leave_room_for_the_ids() -> None:
    assert all(0 < cls.wire_id < 0x40 for cls in COMPRESSORS.values())
    assert len({compressor.to_wire() for compressor in OPERATORS}) == len(TABLE)
    assert Identity().to_wire() == (1, b"")
    assert Identity(per="tensor").to_wire() == (0x41, b"")
    assert Identity(bucket_size=258, per="tensor").to_wire() == (0xC1, b"\2\1\0\0")
    quantizer = StochasticQuantizer(300, "inf", subtractive=True)
    assert quantizer.to_wire() == (2, b"\x2c\1\3")


@given(wire_id=st.integers(0, 255), data=st.binary(max_size=20))
@settings(max_examples=500, deadline=None)
def test_wire_of_strangers_is_an_operator_or_refused(wire_id: int, data: bytes) -> None:
    try:
        compressor, size = compressor_from_wire(wire_id, memoryview(data))
    except CorruptPacket:
        return
    wire = compressor.to_wire()
    assert wire[0] == wire_id
    assert size == len(wire[1]) <= len(data)
    assert compressor_from_wire(wire_id, memoryview(wire[1]))[0] == compressor


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_compressor({"name": "qsdg"})
    assert "'qsdg'" in str(caught.value)
    for name in COMPRESSORS:
        assert name in str(caught.value)
    with pytest.raises(UnknownNameError, match="None"):
        get_compressor({"levels": 3})
    ids = sorted(cls.wire_id for cls in COMPRESSORS.values())
    for wire_id in (55, 55 | 0x40, 55 | 0x80, 55 | 0xC0):
        with pytest.raises(CorruptPacket, match=rf"id 55 .*\{ids}"):
            compressor_from_wire(wire_id, memoryview(b""))


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("identity", {"levels": 3}, "levels"),
    ("stochastic-quantizer", {"levels": 0}, "levels.*0"),
    ("stochastic-quantizer", {"levels": 32768}, "levels.*32768"),
    ("stochastic-quantizer", {"levels": 2.5}, r"levels.*2\.5"),
    ("stochastic-quantizer", {"levels": "two"}, "two"),
    ("stochastic-quantizer", {"norm": 1}, "norm.*1"),
    ("stochastic-quantizer", {"norm": "2"}, "norm.*'2'"),
    ("random-sparsifier", {"p": 0.0}, "p must lie"),
    ("random-sparsifier", {"p": 1.1}, r"1\.1"),
    ("random-sparsifier", {"p": math.nan}, "nan"),
    ("random-sparsifier", {"p": "most"}, "most"),
    ("min-variance-sparsifier", {"density": 0.0}, "density must lie"),
    ("min-variance-sparsifier", {"density": -1}, "density must lie"),
    ("min-variance-sparsifier", {"density": math.nan}, "nan"),
    ("min-variance-sparsifier", {"density": None}, "None"),
    ("dithered-quantizer", {"levels": 0}, "levels.*0"),
    ("dithered-quantizer", {"levels": 32767}, "levels.*32767"),
    ("dithered-quantizer", {"levels": 1.5}, r"levels.*1\.5"),
    ("dithered-quantizer", {"tau": "some"}, "tau.*'some'"),
    ("dithered-quantizer", {"tau": 2}, "tau.*2"),
    ("rotated-quantizer", {"step": 0.0}, "step"),
    ("rotated-quantizer", {"step": 257}, "step.*257"),
    ("rotated-quantizer", {"step": 0.003}, "step"),
    ("rotated-quantizer", {"step": -1.0}, "step"),
    ("rotated-quantizer", {"step": math.nan}, "nan"),
    ("rotated-quantizer", {"step": "two"}, "two"),
    *(
        (name, {"subtractive": value}, "subtractive must be true or false")
        for name in ("stochastic-quantizer", "dithered-quantizer")
        for value in ("false", -1, 2, None, 0.5, math.nan, [1])
    ),
    *(
        entry
        for name in ("top-k", "rand-k")
        for entry in (
            (name, {}, "exactly one"),
            (name, {"k": 2, "fraction": 0.5}, "exactly one"),
            (name, {"k": 0}, "k must be"),
            (name, {"k": 2**32}, "k must be"),
            (name, {"k": 2.5}, r"k must be.*2\.5"),
            (name, {"fraction": 0.0}, "fraction"),
            (name, {"fraction": -0.5}, "fraction"),
            (name, {"fraction": math.nan}, "fraction"),
        )
    ),
    *(
        (name, {**({"k": 1} if name.endswith("-k") else {}), **scope}, message)
        for name in COMPRESSORS
        for scope, message in (
            ({"bucket_size": 0}, "bucket_size.*0"),
            ({"bucket_size": -3}, "bucket_size.*-3"),
            ({"bucket_size": 2**32}, "bucket_size"),
            ({"bucket_size": 9.5}, r"bucket_size.*9\.5"),
            ({"bucket_size": "9"}, "bucket_size.*'9'"),
            ({"per": "layer"}, "per.*'layer'"),
            ({"per": None}, "per.*None"),
        )
    ),
]


@in_one_test(("name", "parameters", "message"), WRONG)
def test_wrong_parameters_are_refused(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        get_compressor({"name": name, **parameters})


@in_one_test(
    ("wire_id", "data"),
    [
        (2, b"\0\0\0"),  # no levels
        (2, b"\1\0\4"),  # no such flags
        (3, bytes(8)),  # p = 0
        (3, b"\xff" * 8),  # NaN
        (4, bytes(12)),  # neither k nor a fraction
        (4, b"\1\0\0\0" + b"\0" * 6 + b"\xe0\x3f"),  # both
        (6, b"\0" * 6 + b"\0\x40"),  # density = 2
        (7, b"\1\0\3"),  # no such tau
        (7, b"\1\0\7"),
        (7, b"\1\0\x08"),
        (7, b"\xff\xff\0"),
        (9, bytes(8)),  # step = 0
        (9, b"\0" * 6 + b"\xf0\x7f"),  # infinity
        (0x81, bytes(4)),  # buckets of nothing
    ],
)
def test_wrong_parameters_on_the_wire_are_refused(wire_id: int, data: bytes) -> None:
    with pytest.raises(CorruptPacket, match="parameters"):
        compressor_from_wire(wire_id, memoryview(data))


def test_operators_are_values() -> None:
    assert TopK(k=3) == TopK(k=3) != TopK(k=4)
    assert TopK(k=3) != RandK(k=3)
    assert Identity() != Identity(per="tensor")
    assert len({StochasticQuantizer(2), StochasticQuantizer(2), Identity()}) == 2
    with pytest.raises(AttributeError):
        Identity().name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        StochasticQuantizer(1, 2, False, 64)  # type: ignore[misc]


def test_too_many_levels_for_a_long_bucket_are_refused() -> None:
    x = np.ones(1 << 17, dtype=np.float32)
    with pytest.raises(ConfigurationError, match="smaller bucket_size or a larger"):
        RotatedQuantizer(step=1 / 256, bucket_size=None).compress(x, STREAM)
    apply(RotatedQuantizer(step=1 / 64, bucket_size=None), x)


def test_repr_shows_the_parameters_and_the_scope_where_there_is_one() -> None:
    assert repr(TopK(k=3)) == "TopK(k=3, fraction=None)"
    assert repr(Identity()) == "Identity()"
    assert repr(StochasticQuantizer(4, bucket_size=512, per="tensor")) == (
        "StochasticQuantizer(levels=4, norm=2, subtractive=False, bucket_size=512, "
        "per='tensor')"
    )
