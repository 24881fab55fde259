"""Bit-level codes: lossless, of the promised length, safe with bytes of strangers."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_compress.coding.base import Code
from flower_compress.coding.bit_reader import BitReader
from flower_compress.coding.bits import BitWriter
from flower_compress.coding.elias import Elias
from flower_compress.coding.elias_levels import EliasLevels
from flower_compress.coding.fixed_width import FixedWidth
from flower_compress.coding.golomb import golomb_parameter
from flower_compress.coding.indices import Indices
from flower_compress.coding.level_plan import plan_levels
from flower_compress.coding.nested_golomb import NestedGolomb
from flower_compress.coding.support_vector import SupportVector
from flower_compress.coding.symbols import Symbols, symbol_dtype
from flower_compress.coding.universal import (
    floor_log2,
    gammas_num_bits,
    omegas_num_bits,
    put_gammas,
    put_omegas,
    take_gamma,
    take_gammas,
    take_omegas,
)
from flower_compress.errors import ConfigurationError, CorruptPacket
from tests.cases import in_one_test
from tests.steps import at_most_steps

CODES: list[Code] = [
    FixedWidth(),
    Elias(),
    Indices(),
    NestedGolomb(),
    SupportVector(),
    EliasLevels(),
]
EVERY = pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
ALL_IN_ONE = in_one_test("code", CODES, lambda code: code.name)

ALPHABETS = [
    (0, 1),
    (-1, 1),
    (0, 0),
    (-1, 0),
    (0, 2),
    (-3, 0),
    (-4, 4),
    (-2, 5),
    (-8, 8),
    (-9, 12),
    (-127, 127),
    (-128, 127),
    (-200, 1000),
    (-32767, 32767),
    (-70_000, 70_000),
]


@dataclass(frozen=True)
class Case:
    """Symbols as a plain list, to be held in either form."""

    low: int
    high: int
    values: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[np.signedinteger]:
        return symbol_dtype(self.low, self.high)

    def dense(self) -> Symbols:
        entries = np.array(self.values, dtype=self.dtype)
        return Symbols(len(self.values), self.low, self.high, entries)

    def sparse(self) -> Symbols:
        positions = [i for i, value in enumerate(self.values) if value]
        entries = np.array([self.values[i] for i in positions], dtype=self.dtype)
        return Symbols(
            len(self.values),
            self.low,
            self.high,
            entries,
            np.array(positions, dtype=np.int64),
        )


def philox(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def draw_case(
    seed: int, alphabet: tuple[int, int], dim: int, density: float, scale: int
) -> Case:
    """Levels of exponential magnitudes of mean `scale`, cut at the alphabet's ends."""
    low, high = alphabet
    generator = philox(seed)
    values = np.ceil(generator.standard_exponential(dim) * scale).astype(np.int64)
    values *= generator.choice([-1, 1], size=dim)
    values = np.clip(values, low, high)
    values[generator.random(dim) >= density] = 0
    return Case(low, high, tuple(values.tolist()))


def takes(code: Code, alphabet: tuple[int, int]) -> bool:
    return alphabet == (0, 1) or not isinstance(code, Indices)


def cases_of(code: Code, longest: int = 300) -> st.SearchStrategy[Case]:
    """Small levels are common, and the ends of the alphabet happen."""
    alphabets = [alphabet for alphabet in ALPHABETS if takes(code, alphabet)]
    return st.builds(
        draw_case,
        st.integers(0, 2**32),
        st.sampled_from(alphabets),
        st.integers(0, longest),
        st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.5, 0.8, 1.0]),
        st.sampled_from([1, 3, 30, 10**6]),
    )


EXTREMES = [
    Case(low, high, values)
    for low, high in ALPHABETS
    for values in (
        (),
        (low,),
        (high,),
        (0,),
        (low, 0, high) * 5,
        (0,) * 40 + (high,),
        (high,) * 40,
    )
]


def text_of(code: tuple[bytes, int]) -> str:
    data, num_bits = code
    return "".join(f"{byte:08b}" for byte in data)[:num_bits]


def bytes_of(text: str) -> bytes:
    """The bits as bytes, padded with zeros."""
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


# --- Symbols --------------------------------------------------------------------------


@given(case=cases_of(FixedWidth()))
@settings(max_examples=50, deadline=None)
def test_symbols_are_the_same_in_both_forms(case: Case) -> None:
    dense, sparse = case.dense(), case.sparse()
    assert dense.dense().tolist() == sparse.dense().tolist() == list(case.values)
    for one, other in zip(dense.sparse(), sparse.sparse(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert dense.num_nonzero == sparse.num_nonzero == sum(v != 0 for v in case.values)
    assert dense.dense().dtype == sparse.dense().dtype == case.dtype


@in_one_test(
    ("low", "high", "dtype"),
    [
        (-127, 127, np.int8),
        (0, 128, np.int16),
        (-128, 0, np.int16),
        (-32767, 32767, np.int16),
        (0, 32768, np.int32),
    ],
)
def test_symbol_dtype_holds_the_alphabet_and_its_negatives(
    low: int, high: int, dtype: type
) -> None:
    assert symbol_dtype(low, high) == dtype


# --- Every code -----------------------------------------------------------------------


def check_round_trip(code: Code, case: Case) -> None:
    data, num_bits = code.encode(case.dense())
    assert type(data) is bytes
    assert type(num_bits) is int
    assert len(data) == -(-num_bits // 8)
    assert code.encode(case.sparse()) == (data, num_bits)
    for symbols in (case.dense(), case.sparse()):
        assert code.num_bits(symbols) == num_bits
    # What follows is not touched: values lie behind the symbols in a payload.
    for tail in (b"", b"\x80", b"\xff" * 9, bytes(700)):
        decoded, used = code.decode(
            memoryview(data + tail), len(case.values), case.low, case.high
        )
        assert used == num_bits
        assert (decoded.dim, decoded.low, decoded.high) == (
            len(case.values),
            case.low,
            case.high,
        )
        np.testing.assert_array_equal(decoded.dense(), case.values)
        positions, entries = decoded.sparse()
        assert decoded.dense().dtype == entries.dtype == case.dtype
        assert positions.dtype == np.int64
    for bit in range(8 * len(data) - num_bits):
        padded = data[:-1] + bytes([data[-1] | 1 << bit])
        with pytest.raises(CorruptPacket, match="padding"):
            code.decode(memoryview(padded), len(case.values), case.low, case.high)


@EVERY
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_round_trip(code: Code, data: st.DataObject) -> None:
    check_round_trip(code, data.draw(cases_of(code)))


@EVERY
@in_one_test("case", EXTREMES)
def test_round_trip_of_extremes(code: Code, case: Case) -> None:
    if takes(code, (case.low, case.high)):
        check_round_trip(code, case)


@EVERY
@in_one_test("dim", [255, 256, 257, 1024, 1025, 65_535, 65_537, 200_003])
@in_one_test("density", [0.001, 0.03, 0.37, 0.6, 1.0])
def test_round_trip_across_the_sizes_of_blocks_and_tables(
    code: Code, dim: int, density: float
) -> None:
    alphabet = (0, 1) if isinstance(code, Indices) else (-12, 12)
    check_round_trip(code, draw_case(dim, alphabet, dim, density, 2))


@EVERY
@pytest.mark.parametrize("alphabet", [(-70_000, 70_000), (0, 300)])
def test_round_trip_of_thousands_of_levels(
    code: Code, alphabet: tuple[int, int]
) -> None:
    if takes(code, alphabet):
        check_round_trip(code, draw_case(1, alphabet, 20_000, 0.9, 2_000))


def test_indices_refuse_other_alphabets() -> None:
    for low, high in ((-1, 1), (0, 2), (0, 0)):
        symbols = Case(low, high, (0, 0)).dense()
        with pytest.raises(ConfigurationError, match=r"\[0, 1\]"):
            Indices().encode(symbols)
        with pytest.raises(ConfigurationError, match=r"\[0, 1\]"):
            Indices().num_bits(symbols)
        with pytest.raises(CorruptPacket, match=r"\[0, 1\]"):
            Indices().decode(memoryview(b"\x80"), 2, low, high)


# --- The layouts, by plain implementations on strings ---------------------------------


def planes(values: Sequence[int], widths: Sequence[int]) -> str:
    return "".join(
        f"{value >> j & 1}"
        for j in range(max(widths, default=0) - 1, -1, -1)
        for value, width in zip(values, widths, strict=True)
        if width > j
    )


def gamma(value: int) -> str:
    return "0" * (value.bit_length() - 1) + f"{value:b}"


def gamma_array(values: Sequence[int]) -> str:
    widths = [value.bit_length() - 1 for value in values]
    return "".join("0" * w + "1" for w in widths) + planes(values, widths)


def omega(value: int) -> str:
    text = "0"
    while value > 1:
        text = f"{value:b}" + text
        value = len(f"{value:b}") - 1
    return text


def omega_array(values: Sequence[int]) -> str:
    texts = [omega(value) for value in values]
    return "".join(text[0] for text in texts) + "".join(text[1:] for text in texts)


def golomb(run: int, M: int) -> tuple[str, str]:
    """Quotient in unary, remainder in truncated binary."""
    quotient, remainder = divmod(run, M)
    unary = "0" * quotient + "1"
    if M == 1:
        return unary, ""
    b = math.ceil(math.log2(M))
    c = 2**b - M
    if remainder >= c:
        return unary, f"{remainder + c:0{b}b}"
    return unary, f"{remainder:0{b - 1}b}" if b > 1 else ""


def golomb_array(runs: Sequence[int], Ms: Sequence[int]) -> str:
    words = [golomb(run, M) for run, M in zip(runs, Ms, strict=True)]
    widths = [max(math.ceil(math.log2(M)) - 1, 0) for M in Ms]
    firsts = [word[:width] for (_, word), width in zip(words, widths, strict=True)]
    return (
        "".join(unary for unary, _ in words)
        + planes([int("0" + first, 2) for first in firsts], widths)
        + "".join(word[width:] for (_, word), width in zip(words, widths, strict=True))
    )


def runs_before(flags: Sequence[bool]) -> list[int]:
    runs, run = [], 0
    for flag in flags:
        if flag:
            runs.append(run)
        run = 0 if flag else run + 1
    return runs


def support(flags: Sequence[bool]) -> str:
    n, k = len(flags), sum(flags)
    text = gamma(k + 1)
    if 2 * k > n:
        flags, k = [not flag for flag in flags], n - k
    if k == 0:
        return text
    M = max(1, (45426 * n * n + 10055 * n * k + 5450 * k * k) // (65536 * n * k))
    return text + golomb_array(runs_before(flags), [M] * k)


def plain_fixed_width(case: Case) -> str:
    if not case.values:
        return ""
    W = (case.high - case.low).bit_length()
    smallest = min(case.values)
    w = (max(case.values) - smallest).bit_length()
    header = f"{smallest - case.low:0{W}b}" if W else ""
    offsets = [value - smallest for value in case.values]
    return (
        header
        + (f"{w:0{W.bit_length()}b}" if W else "")
        + planes(offsets, [w] * len(offsets))
    )


def plain_elias(case: Case) -> str:
    nonzero = [value for value in case.values if value]
    gaps = [run + 1 for run in runs_before([value != 0 for value in case.values])]
    text = gamma(len(nonzero) + 1) + gamma_array(gaps)
    if case.low < 0:
        text += "".join("1" if value < 0 else "0" for value in nonzero)
    if max(-case.low, case.high) > 1:
        text += gamma_array([abs(value) for value in nonzero])
    return text


def plain_indices(case: Case) -> str:
    return support([value == 1 for value in case.values])


def plain_nested_golomb(case: Case) -> str:
    text = support([value != 0 for value in case.values])
    nonzero = [value for value in case.values if value]
    if case.low < 0:
        text += "".join("1" if value < 0 else "0" for value in nonzero)
    largest = max(-case.low, case.high)
    left = [abs(value) for value in nonzero]
    for level in range(2, min(largest, 8) + 1):
        if left:
            text += support([magnitude >= level for magnitude in left])
            left = [magnitude for magnitude in left if magnitude >= level]
    if largest > 8 and left:
        excesses = [magnitude - 8 for magnitude in left]
        k, n = len(left), len(left) + sum(excesses)
        text += gamma(n - k + 1)
        if n > k:
            text += golomb_array(excesses, [golomb_parameter(k, n)] * k)
    return text


getcontext().prec = 60


def support_vector_parameter(left: int, count: int) -> int:
    """M_l = [ln2 (N - sum_(m <= l) t_m) / t_l], at least 1."""
    exact = Decimal(2).ln() * left / count
    return max(1, int(exact.quantize(Decimal(1), rounding=ROUND_HALF_EVEN)))


def algorithm_3(case: Case) -> tuple[str, list[tuple[int, int, list[int], int]]]:
    """MALCOM's algorithm 3 with every run encoded.

    The counts' codes, and count, number of open entries, runs and M of each level.
    """
    levels = range(case.low, case.high + 1)
    t = dict.fromkeys(levels, 0)
    for value in case.values:
        t[value] += 1
    order = sorted((level for level in levels if t[level]), key=lambda m: (-t[m], m))
    entries, coded = list(case.values), []
    for level in order[1:]:
        n = len(entries)
        M = support_vector_parameter(n - t[level], t[level])
        runs = runs_before([value == level for value in entries])
        coded.append((t[level], n, runs, M))
        entries = [value for value in entries if value != level]
    return omega_array([t[level] + 1 for level in levels]), coded


def plain_support_vector(case: Case) -> str:
    text, coded = algorithm_3(case)
    while coded and coded[0][0] >= 4096 and 128 * coded[0][0] >= coded[0][1]:
        _, _, runs, M = coded.pop(0)
        text += golomb_array(runs, [M] * len(runs))
    runs = [run for _, _, runs, _ in coded for run in runs]
    return text + golomb_array(runs, [M for t, _, _, M in coded for _ in range(t)])


def plain_elias_levels(case: Case) -> str:
    if not case.values:
        return ""
    m = min(case.values)
    return gamma(m - case.low + 1) + gamma_array([s - m + 1 for s in case.values])


PLAIN = {
    "fixed-width": plain_fixed_width,
    "elias": plain_elias,
    "indices": plain_indices,
    "nested-golomb": plain_nested_golomb,
    "support-vector": plain_support_vector,
    "elias-levels": plain_elias_levels,
}


@EVERY
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_bits_are_those_of_a_plain_implementation(
    code: Code, data: st.DataObject
) -> None:
    case = data.draw(cases_of(code).filter(lambda case: case.high - case.low < 3000))
    assert text_of(code.encode(case.dense())) == PLAIN[code.name](case)


@EVERY
def test_bits_of_many_symbols_are_those_of_a_plain_implementation(code: Code) -> None:
    alphabet = (0, 1) if isinstance(code, Indices) else (-20, 20)
    for density in (0.02, 0.45):
        case = draw_case(3, alphabet, 100_000, density, 1)
        assert text_of(code.encode(case.dense())) == PLAIN[code.name](case)


@given(case=cases_of(SupportVector(), longest=500))
@settings(max_examples=150, deadline=None)
def test_support_vector_is_as_long_as_algorithm_3(case: Case) -> None:
    counts, coded = algorithm_3(case)
    total = len(counts)
    for _, _, runs, M in coded:
        total += sum(len("".join(golomb(run, M))) for run in runs)
    assert SupportVector().num_bits(case.dense()) == total


PINNED = [
    # W = 4 and smallest 0 - (-4), w = 3: then 043020 by planes.
    (FixedWidth(), Case(-4, 4, (0, 4, 3, 0, 2, 0)), "0100 011 010000 001010 001000"),
    # Count + 1 = 3 is 011; gaps 2 and 3 have the unary parts 01 01 and the rest 0 1;
    # signs 0 1; magnitudes 1 and 4 the unary parts 1 001 and planes 0 and 0.
    (Elias(), Case(-4, 4, (0, 1, 0, 0, -4, 0)), "011 0101 01 01 1001 0 0"),
    # Count + 1 = 3; M = 2 for 2 of 6: runs 1 and 2 have quotients 1 01, remainders 1 0.
    (Indices(), Case(0, 1, (0, 1, 0, 0, 1, 0)), "011 101 10"),
    # 4 of 6, so the others: M = 2, runs 1 and 2.
    (Indices(), Case(0, 1, (1, 0, 1, 1, 0, 1)), "00101 101 10"),
    # The same support; signs; 1 of 2 is 2 or more (M = 1, run 1); 1 of 1 is 3 or more,
    # so none is left out; nor of 4 or more.
    (
        NestedGolomb(),
        Case(-4, 4, (0, 1, 0, 0, -4, 0)),
        "011 101 10 01 010 01 010 010",
    ),
    # Counts + 1 of -1, 0, 1 are 2, 5, 2: first bits 1 1 1, then 00, 0 101 0, 00. -1 has
    # M = round(5 ln2) = 3 and run 4, 1 has M = round(4 ln2) = 3 and run 1.
    (
        SupportVector(),
        Case(-1, 1, (0, 1, 0, 0, -1, 0)),
        "111 00 01010 00 011 1 1 0 0",
    ),
    # The smallest one is the lowest, 1; then 5, 6, 5, 5, 1, 5 have the unary parts 001
    # and 1, and the planes 01000 and 10111 of all but the fifth.
    (
        EliasLevels(),
        Case(-4, 4, (0, 1, 0, 0, -4, 0)),
        "1 001 001 001 001 1 001 01000 10111",
    ),
    # 0 is four above the lowest, 00101; then 1, 2, 1, 1, 4, 1, of which 4 alone has two
    # more bits.
    (
        EliasLevels(),
        Case(-4, 4, (0, 1, 0, 0, 3, 0)),
        "00101 1 01 1 1 001 1 0 00",
    ),
]


@in_one_test(("code", "case", "text"), PINNED, ids=lambda pinned: pinned[0].name)
def test_bits_are_pinned(code: Code, case: Case, text: str) -> None:
    assert text_of(code.encode(case.dense())) == text.replace(" ", "")
    assert PLAIN[code.name](case) == text.replace(" ", "")


# --- Numbers and parameters -----------------------------------------------------------


@given(values=st.lists(st.integers(1, 2**32 - 1), max_size=40))
@settings(max_examples=200, deadline=None)
def test_gamma_arrays_up_to_32_bits(values: list[int]) -> None:
    array = np.array(values, dtype=np.int64)
    writer = BitWriter()
    put_gammas(writer, array)
    code = writer.finish()
    assert text_of(code) == gamma_array(values)
    assert gammas_num_bits(array) == code[1]
    largest = max(values, default=1)
    for limit in (2**32 - 1, largest):
        reader = BitReader(memoryview(code[0]))
        assert take_gammas(reader, len(values), limit).tolist() == values
        assert reader.finish() == code[1]
    if largest > 1:
        with pytest.raises(CorruptPacket):
            take_gammas(BitReader(memoryview(code[0])), len(values), largest - 1)


@given(
    values=st.lists(st.integers(1, 40) | st.integers(1, 2**33), max_size=40),
    fill=st.integers(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_omega_arrays_up_to_34_bits(values: list[int], fill: int) -> None:
    values += [1] * fill
    array = np.array(values, dtype=np.int64)
    writer = BitWriter()
    put_omegas(writer, array)
    code = writer.finish()
    assert text_of(code) == omega_array(values)
    assert omegas_num_bits(array) == code[1] == sum(len(omega(v)) for v in values)
    largest = max(values, default=1)
    reader = BitReader(memoryview(code[0]))
    assert take_omegas(reader, len(values), largest).tolist() == values
    assert reader.finish() == code[1]
    if largest > 1:
        with pytest.raises(CorruptPacket):
            take_omegas(BitReader(memoryview(code[0])), len(values), largest - 1)


@in_one_test("limit", [1, 1000, 2**31 - 1, 2**32, 2**33])
def test_numbers_of_any_width_above_the_limit_are_refused(limit: int) -> None:
    for width in (*range(limit.bit_length(), 70), 127, 128, 200):
        for rest in ("0" * width, "1" * width):
            data = memoryview(bytes_of("0" * width + "1" + rest))
            with pytest.raises(CorruptPacket):
                take_gammas(BitReader(data), 1, limit)
            with pytest.raises(CorruptPacket):
                take_gamma(BitReader(data), limit)
    with pytest.raises(CorruptPacket):
        take_gamma(BitReader(memoryview(bytes(40))), limit)
    for text in (omega(limit + 1), "1" * 200, "10" + "1" * 200, "11" + "1" * 200):
        with pytest.raises(CorruptPacket):
            take_omegas(BitReader(memoryview(bytes_of(text + "1" * 200))), 1, limit)


@given(value=st.integers(1, 2**33), limit=st.integers(1, 2**33), lead=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_gamma_of_one_number(value: int, limit: int, lead: int) -> None:
    data = bytes_of("1" * lead + gamma(value))
    reader = BitReader(memoryview(data))
    reader.take(lead)
    if value <= limit:
        assert take_gamma(reader, limit) == value
        assert reader.finish() == lead + len(gamma(value))
    else:
        with pytest.raises(CorruptPacket):
            take_gamma(reader, limit)


def test_floor_log2_is_that_of_python() -> None:
    values = [1, 2, 3, 4, 7, 8, 255, 256, 2**31 - 1, 2**31, 2**52 - 1, 2**53 - 1]
    lengths = floor_log2(np.array(values, dtype=np.int64))
    assert lengths.tolist() == [value.bit_length() - 1 for value in values]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_writer_and_a_reader_agree_whatever_the_pieces(seed: int) -> None:
    generator = philox(seed)
    sizes = generator.choice([0, 1, 7, 8, 300, 65_535, 65_537, 131_073, 200_000], 8)
    pieces = [generator.integers(0, 2, size).astype(np.uint8) for size in sizes]
    writer = BitWriter()
    for piece in pieces:
        writer.put(piece)
    data, num_bits = writer.finish()
    assert num_bits == sizes.sum()
    assert data == np.packbits(np.concatenate(pieces)).tobytes()
    reader = BitReader(memoryview(data + b"\xff"))
    for piece in pieces:
        at = reader.position
        byte = (data + b"\xff")[at // 8]
        assert reader.peek(40) >> 39 == byte >> 7 - at % 8 & 1
        np.testing.assert_array_equal(reader.take(piece.size), piece)
    assert reader.finish() == num_bits
    with pytest.raises(CorruptPacket):
        reader.take(17)


def golomb_length(p: float, M: int) -> float:
    """Expected length of geometric runs: b + sum of P(r >= c + j M), j = 0, 1, ..."""
    b = (M - 1).bit_length()
    return b + (1 - p) ** (2**b - M) / (1 - (1 - p) ** M)


def test_the_golomb_parameter_is_nearly_the_best_one() -> None:
    dim, worst, same, total = 10**9, 0.0, 0, 0
    ratio = 2.0
    while ratio < 1e6:
        k = round(dim / ratio)
        p, M = k / dim, golomb_parameter(k, dim)
        least = min(golomb_length(p, m) for m in range(max(1, M - 2), M + 3))
        worst = max(worst, golomb_length(p, M) / least - 1)
        # Gallager & Van Voorhis: the smallest M with (1-p)^M + (1-p)^(M+1) <= 1.
        best = math.ceil(-math.log(2 - p) / math.log1p(-p))
        assert abs(best - M) <= max(1, 1e-5 * best)
        if ratio < 1000:
            same, total = same + (best == M), total + 1
        ratio *= 1.001
    assert worst < 1e-4
    assert same > 0.99 * total


@given(count=st.integers(1, 2**29), left=st.integers(0, 2**31), n=st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_the_parameter_of_a_level_is_exact(count: int, left: int, n: int) -> None:
    counts = np.array([count + left] + [count] * n, dtype=np.int64)
    plan = plan_levels(counts, 0, int(counts.sum()))
    parameters = [M for _, _, M in plan.common] + plan.parameters.tolist()
    rest = int(counts.sum())
    for M in parameters:
        rest -= count
        assert support_vector_parameter(rest, count) == M


def test_the_parameter_of_a_level_is_exact_nearest_to_a_tie() -> None:
    # Denominators q of the convergents of ln2: q ln2 is nearest to integers, and with
    # counts of 2, 6, ... the quotient to halves.
    for q in (10, 13, 277, 642, 10_171, 414_355, 19_642_003, 161_546_953, 717_140_287):
        for count in (1, 2, 6, 10):
            for left in (q - 1, q, q + 1):
                plan = plan_levels(np.array([left, count]), 0, left + count)
                if left >= count:
                    M = (plan.common or [(0, 0, int(plan.parameters[0]))])[0][2]
                    assert support_vector_parameter(left, count) == M


def entropy_bits(values: Sequence[int]) -> float:
    _, counts = np.unique(values, return_counts=True)
    p = counts / counts.sum()
    return float(-(counts * np.log2(p)).sum())


@pytest.mark.parametrize("density", [0.001, 0.01, 0.05, 0.14, 0.3])
def test_sparse_symbols_come_near_the_entropy(density: float) -> None:
    generator = philox(5)
    values = generator.geometric(0.8, 200_000) * generator.choice([-1, 1], 200_000)
    values[generator.random(values.size) >= density] = 0
    values = np.clip(values, -4, 4)
    symbols = Symbols(values.size, -4, 4, values.astype(np.int8))
    for code, ratio in ((NestedGolomb(), 1.02), (SupportVector(), 1.03)):
        assert code.num_bits(symbols) < ratio * entropy_bits(values) + 100


@pytest.mark.parametrize("levels", [8, 16])
def test_support_vector_comes_near_the_entropy_of_dense_symbols(levels: int) -> None:
    for values in (philox(1).standard_normal(300_000), philox(1).laplace(size=300_000)):
        step = (values.max() - values.min()) / levels
        entries = np.round(values / step).astype(np.int8)
        symbols = Symbols(entries.size, -levels, levels, entries)
        assert SupportVector().num_bits(symbols) < 1.06 * entropy_bits(entries)


# --- Bytes of strangers ---------------------------------------------------------------


def decode_or_refuse(
    code: Code, data: bytes, dim: int, low: int, high: int
) -> tuple[Symbols, int] | None:
    """Decode; whatever comes out is a vector of the alphabet, by valid positions."""
    try:
        symbols, used = code.decode(memoryview(data), dim, low, high)
    except CorruptPacket:
        return None
    assert 0 <= used <= 8 * len(data)
    assert symbols.dim == dim
    positions, entries = symbols.sparse()
    assert positions.size == entries.size <= dim
    if positions.size:
        assert 0 <= positions.min() <= positions.max() < dim
        assert np.all(np.diff(positions) > 0)
        assert low <= entries.min() <= entries.max() <= high
        assert np.all(entries != 0)
    assert symbols.dense().shape == (dim,)
    # What was accepted has one meaning: it is written as it was read.
    again, num_bits = code.encode(symbols)
    assert num_bits == used
    assert again == data[: len(again)]
    return symbols, used


@EVERY
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_cut_off_bytes_are_refused(code: Code, data: st.DataObject) -> None:
    case = data.draw(cases_of(code))
    whole, _ = code.encode(case.dense())
    for cut in sorted({0, 1, len(whole) // 2, len(whole) - 2, len(whole) - 1}):
        if 0 <= cut < len(whole):
            with pytest.raises(CorruptPacket):
                code.decode(
                    memoryview(whole[:cut]), len(case.values), case.low, case.high
                )


@EVERY
@given(data=st.data(), seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_flipped_bits_decode_or_are_refused(
    code: Code, data: st.DataObject, seed: int
) -> None:
    case = data.draw(cases_of(code))
    whole, num_bits = code.encode(case.dense())
    generator = philox(seed)
    for flips in (1, 1, 1, 2, 5):
        flipped = bytearray(whole)
        for bit in generator.integers(0, num_bits, size=flips if num_bits else 0):
            flipped[bit >> 3] ^= 0x80 >> (bit & 7)
        decode_or_refuse(code, bytes(flipped), len(case.values), case.low, case.high)


@EVERY
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_random_bytes_decode_or_are_refused(code: Code, data: st.DataObject) -> None:
    generator = philox(data.draw(st.integers(0, 2**32)))
    alphabet = data.draw(st.sampled_from([a for a in ALPHABETS if takes(code, a)]))
    # Prefix codes are short where ones are frequent, and long where they are not.
    frequency = generator.choice([0.1, 0.5, 0.9])
    bits = generator.random(8 * data.draw(st.integers(0, 60))) < frequency
    dim = data.draw(st.integers(0, 300))
    decode_or_refuse(code, np.packbits(bits).tobytes(), dim, *alphabet)


def counts_code(counts: dict[int, int], low: int, high: int) -> str:
    return omega_array([counts.get(level, 0) + 1 for level in range(low, high + 1)])


def huge_claims(code: Code, d: int, low: int, high: int) -> list[str]:
    """Codes that promise more than follows."""
    claims = [""]
    if isinstance(code, FixedWidth):
        W = (high - low).bit_length()
        for w in {1, W, (1 << W.bit_length()) - 1}:
            head = "0" * W + f"{w:0{W.bit_length()}b}"
            claims += [head, head + "01" * 5000]
    elif isinstance(code, EliasLevels):
        claims += [
            gamma(1),
            gamma(1) + "1" * 5000,
            gamma(1) + "0" * 5000 + "1",
            gamma(high - low + 1) + "01" * 5000,  # symbols above the highest
            gamma(high - low + 2) + "1" * 5000,  # the smallest one above the highest
            "0" * 5000,
        ]
    elif isinstance(code, SupportVector):
        claims += [
            counts_code({0: d - 5000, 1: 5000}, low, high),
            counts_code({0: d - 5000, 1: 5000}, low, high) + "01" * 500,
            counts_code({0: d // 2, high: d - d // 2}, low, high) + "1" * 5000,
            counts_code({0: d - 1, 1: 1}, low, high) + "0" * 5000,
            counts_code({0: d - 10, 1: 10}, low, high) + "0" * 5000,
            counts_code({0: d, 1: 1}, low, high),
            counts_code({0: d // 2}, low, high),
            counts_code({}, low, high),
        ]
    else:
        claims += [
            gamma(d // 2),
            gamma(d // 2) + "1" * 5000,
            gamma(d + 2),  # more than d nonzeros
            gamma(2) + "0" * 5000 + "1",
            gamma(3) + "1" + "0" * 5000,
            "0" * 5000,
            gamma(d + 1) + "1" * 5000,  # d nonzeros without their signs
        ]
        if isinstance(code, Elias):
            claims += [
                gamma(2) + gamma(d + 1) + "0" * 40,  # one, at d
                gamma(3) + gamma_array([d, d]) + "0" * 40,  # the second beyond d
            ]
        elif low == 0:
            claims.pop()
    return claims


@ALL_IN_ONE
@in_one_test("dim", [10**6, 2**31, 2**32 - 1])
@in_one_test("alphabet", [(0, 1), (-4, 4), (-32767, 32767)])
def test_huge_claims_are_refused_at_once(
    code: Code, dim: int, alphabet: tuple[int, int]
) -> None:
    if not takes(code, alphabet):
        return
    claims = [bytes_of(claim) for claim in huge_claims(code, dim, *alphabet)]
    tracemalloc.start()
    for claim in claims:
        with at_most_steps(2000), pytest.raises(CorruptPacket):
            code.decode(memoryview(claim), dim, *alphabet)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000


@EVERY
def test_the_memory_of_a_decoder_is_that_of_its_vector(code: Code) -> None:
    dim, generator = 100_000, philox(7)
    alphabet = (0, 1) if isinstance(code, Indices) else (-40, 40)
    case = draw_case(9, alphabet, dim, 0.5, 3)
    whole, num_bits = code.encode(case.dense())
    tracemalloc.start()
    for _ in range(20):
        flipped = bytearray(whole)
        for bit in generator.integers(0, num_bits, size=3):
            flipped[bit >> 3] ^= 0x80 >> (bit & 7)
        decode_or_refuse(code, bytes(flipped), dim, *alphabet)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150 * dim


@pytest.mark.parametrize("code", [FixedWidth(), SupportVector(), NestedGolomb()])
def test_a_zero_vector_of_any_length_takes_no_memory(code: Code) -> None:
    dim = 2**32 - 1
    none = np.zeros(0, dtype=np.int64)
    data, num_bits = NestedGolomb().encode(
        Symbols(dim, -4, 4, none.astype(np.int8), none)
    )
    if isinstance(code, FixedWidth):
        data, num_bits = bytes_of("0100" + "000"), 7
    elif isinstance(code, SupportVector):
        text = counts_code({0: dim}, -4, 4)
        data, num_bits = bytes_of(text), len(text)
    symbols, used = code.decode(memoryview(data), dim, -4, 4)
    assert (used, symbols.dim, symbols.num_nonzero) == (num_bits, dim, 0)


def test_symbols_outside_the_alphabet_are_refused() -> None:
    wide = Case(-7, 7, (0, 5, 0, -6))
    for low, high in ((-4, 4), (-6, 4), (-5, 5)):
        data, _ = Elias().encode(wide.dense())
        with pytest.raises(CorruptPacket, match="alphabet|limit"):
            Elias().decode(memoryview(data), 4, low, high)
    data, _ = NestedGolomb().encode(Case(-5, 5, (0, 5, 0, -5)).dense())
    with pytest.raises(CorruptPacket, match=r"alphabet \[-2, 5\]"):
        NestedGolomb().decode(memoryview(data), 4, -2, 5)
    data, _ = FixedWidth().encode(Case(0, 3, (1, 3)).dense())
    with pytest.raises(CorruptPacket, match=r"alphabet \[0, 2\]"):
        FixedWidth().decode(memoryview(data), 2, 0, 2)
    data, _ = EliasLevels().encode(wide.dense())
    for low, high in ((-7, 4), (-7, -1)):
        with pytest.raises(CorruptPacket, match="limit"):
            EliasLevels().decode(memoryview(data), 4, low, high)
    data, _ = EliasLevels().encode(Case(0, 5, (4, 5)).dense())
    with pytest.raises(CorruptPacket, match="limit 4"):
        EliasLevels().decode(memoryview(data), 2, 0, 3)
    data, _ = Elias().encode(Case(0, 1, (1, 0, 0, 1)).dense())
    with pytest.raises(CorruptPacket, match="outside a vector of length 3"):
        Elias().decode(memoryview(data), 3, 0, 1)


def test_codes_that_no_encoder_writes_are_refused() -> None:
    # Symbols 1 and 2 as 1 + 0 and 1 + 1, but with a smallest one of 0, or w = 2.
    for text in ("00 10 00 01", "01 10 00 01"):
        bits = bytes_of(text.replace(" ", ""))
        with pytest.raises(CorruptPacket, match="not the real one"):
            FixedWidth().decode(memoryview(bits), 2, 0, 3)
    # 2 and 3 above a smallest one of 0, which is none of them.
    with pytest.raises(CorruptPacket, match="not the real one"):
        EliasLevels().decode(memoryview(bytes_of("1" + "01" + "01" + "01")), 2, 0, 3)
    # Both symbols are nonzero, and at least 2, 3, ..., 8. Then the excesses.
    head = "011" * 8
    symbols, _ = NestedGolomb().decode(
        memoryview(bytes_of(head + gamma(2) + "01" + "1")), 2, 0, 12
    )
    assert symbols.dense().tolist() == [9, 8]
    with pytest.raises(CorruptPacket, match="add up to 2"):
        data = bytes_of(head + gamma(3) + "01" + "1")
        NestedGolomb().decode(memoryview(data), 2, 0, 12)
    assert golomb_parameter(2, 7) == 2
    for high in (12, 13):
        data = bytes_of(head + gamma(6) + "001" + "1" + "10")
        if high == 12:
            with pytest.raises(CorruptPacket, match="larger than 4"):
                NestedGolomb().decode(memoryview(data), 2, 0, high)
        else:
            symbols, _ = NestedGolomb().decode(memoryview(data), 2, 0, high)
            assert symbols.dense().tolist() == [13, 8]
