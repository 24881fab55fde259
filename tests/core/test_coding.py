"""Codes: lossless, of the promised length, and safe against bytes of strangers."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flower_compress.coding import (
    CODE_NAMES,
    Code,
    Elias,
    FixedWidth,
    Symbols,
    choose_code,
    code_by_wire_id,
)
from flower_compress.coding.bits import (
    bit_lengths,
    from_fixed,
    from_gamma,
    from_gamma_scalar,
    to_fixed,
    to_gamma,
    to_gamma_scalar,
)
from flower_compress.coding.symbols import symbol_dtype
from flower_compress.errors import CorruptPacket, UnknownNameError

# A new code is found by its name.
CODES = [choose_code(n, Symbols(0, 0, 1, np.zeros(0, np.int8))) for n in CODE_NAMES[1:]]
EVERY = pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)

ALPHABETS = [
    (0, 1),
    (-1, 1),
    (0, 0),
    (-1, 0),
    (0, 2),
    (-3, 0),
    (-4, 4),
    (-2, 5),
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


@st.composite
def cases(draw: st.DrawFn) -> Case:
    low, high = draw(st.sampled_from(ALPHABETS))
    dim = draw(st.integers(0, 300))
    generator = np.random.Generator(np.random.Philox(draw(st.integers(0, 2**32))))
    density = draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    # Small levels are common and the ends of the alphabet happen.
    largest = draw(st.sampled_from([1, 3, 10**6]))
    values = generator.integers(max(low, -largest), min(high, largest) + 1, size=dim)
    values[generator.random(dim) >= density] = 0
    return Case(low, high, tuple(values.tolist()))


EXTREMES = [
    Case(low, high, values)
    for low, high in ALPHABETS
    for values in ((), (low,), (high,), (0,), (low, 0, high) * 5, (0,) * 40 + (high,))
]


def bits_of(text: str) -> NDArray[np.uint8]:
    return np.array([int(bit) for bit in text], dtype=np.uint8)


def random_bits(generator: np.random.Generator, count: int) -> NDArray[np.uint8]:
    # Gamma codes are short where ones are frequent, and long where they are not.
    frequency = generator.choice([0.1, 0.5, 0.9])
    return np.asarray(generator.random(count) < frequency, dtype=np.uint8)


# --- Symbols --------------------------------------------------------------------------


@given(case=cases())
@settings(max_examples=50, deadline=None)
def test_symbols_are_the_same_in_both_forms(case: Case) -> None:
    dense, sparse = case.dense(), case.sparse()
    assert dense.dense().tolist() == sparse.dense().tolist() == list(case.values)
    for one, other in zip(dense.sparse(), sparse.sparse(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert dense.num_nonzero == sparse.num_nonzero == sum(v != 0 for v in case.values)
    assert dense.dense().dtype == sparse.dense().dtype == case.dtype


@pytest.mark.parametrize(
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
    bits = code.encode(case.dense())
    assert bits.dtype == np.uint8
    assert bits.shape == (bits.size,)
    assert set(np.unique(bits)) <= {0, 1}
    np.testing.assert_array_equal(code.encode(case.sparse()), bits)
    assert code.num_bits(case.dense()) == code.num_bits(case.sparse()) == bits.size
    # What follows is not touched: values lie behind the symbols in a payload.
    for tail in ("", "1", "0" * 70, "1" * 70):
        decoded, used = code.decode(
            np.concatenate([bits, bits_of(tail)]), len(case.values), case.low, case.high
        )
        assert used == bits.size
        assert (decoded.dim, decoded.low, decoded.high) == (
            len(case.values),
            case.low,
            case.high,
        )
        assert decoded.dense().tolist() == list(case.values)
        assert decoded.dense().dtype == case.dtype


@EVERY
@given(case=cases())
@settings(max_examples=200, deadline=None)
def test_round_trip(code: Code, case: Case) -> None:
    check_round_trip(code, case)


@EVERY
@pytest.mark.parametrize("case", EXTREMES)
def test_round_trip_of_extremes(code: Code, case: Case) -> None:
    check_round_trip(code, case)


@given(case=cases())
@settings(max_examples=200, deadline=None)
def test_auto_takes_the_shortest(case: Case) -> None:
    lengths = {code.name: code.encode(case.dense()).size for code in CODES}
    for symbols in (case.dense(), case.sparse()):
        chosen = choose_code("auto", symbols)
        assert lengths[chosen.name] == min(lengths.values())


def test_auto_takes_either() -> None:
    sparse = Case(-1, 1, (0,) * 100 + (1,)).dense()
    dense = Case(-1, 1, (1, -1) * 50).dense()
    assert choose_code("auto", sparse).name == "elias"
    assert choose_code("auto", dense).name == "fixed-width"


@EVERY
def test_codes_are_found_by_name_and_number(code: Code) -> None:
    symbols = Case(0, 1, (1,)).dense()
    assert choose_code(code.name, symbols) is code
    assert code_by_wire_id(code.wire_id) is code
    assert code.wire_id != 0  # "No code" in a payload.


def test_unknown_codes_list_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        choose_code("huffman", Case(0, 1, ()).dense())
    assert "'huffman'" in str(caught.value)
    for name in CODE_NAMES:
        assert name in str(caught.value)
    with pytest.raises(CorruptPacket, match=r"id 9 .*\[1, 2\]"):
        code_by_wire_id(9)


# --- Lengths and bits, by other means -------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "width"),
    [
        (0, 0, 0),
        (0, 1, 1),
        (-1, 1, 2),
        (0, 3, 2),
        (-2, 2, 3),
        (-4, 4, 4),
        (-127, 127, 8),
        (-128, 127, 8),
        (-128, 128, 9),
        (-32767, 32767, 16),
    ],
)
def test_fixed_width_length_and_bits(low: int, high: int, width: int) -> None:
    values = (low, 0, high, 0)
    bits = FixedWidth().encode(Case(low, high, values).dense())
    text = "".join(f"{value - low:0{width}b}" for value in values) if width else ""
    assert bits.tolist() == [int(bit) for bit in text]
    assert bits.size == 4 * width


def gamma(value: int) -> tuple[str, str]:
    """Elias gamma of value >= 1: zeros and a one, then what follows the leading one."""
    binary = f"{value:b}"
    return "0" * (len(binary) - 1) + "1", binary[1:]


def gamma_list(values: list[int]) -> str:
    """All unary parts, then all remainders."""
    parts = [gamma(value) for value in values]
    return "".join(unary for unary, _ in parts) + "".join(rest for _, rest in parts)


def plain_elias(case: Case) -> str:
    """QSGD's fields: the count + 1, all gaps, all signs, all magnitudes."""
    gaps, last = [], -1
    for i, value in enumerate(case.values):
        if value:
            gaps.append(i - last)
            last = i
    nonzero = [value for value in case.values if value]
    text = "".join(gamma(len(nonzero) + 1)) + gamma_list(gaps)
    if case.low < 0:
        text += "".join("1" if value < 0 else "0" for value in nonzero)
    if max(-case.low, case.high) > 1:
        text += gamma_list([abs(value) for value in nonzero])
    return text


class Reader:
    """Reads a string of bits from the front."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def take(self, count: int) -> str:
        self.at += count
        return self.text[self.at - count : self.at]

    def width(self) -> int:
        width = self.text.index("1", self.at) - self.at
        self.at += width + 1
        return width

    def gamma_list(self, count: int) -> list[int]:
        widths = [self.width() for _ in range(count)]
        return [int("1" + self.take(width), 2) for width in widths]


def plain_elias_decode(text: str, dim: int, low: int, high: int) -> list[int]:
    reader = Reader(text)
    count = reader.gamma_list(1)[0] - 1
    gaps = reader.gamma_list(count)
    signs = reader.take(count) if low < 0 else "0" * count
    sizes = reader.gamma_list(count) if max(-low, high) > 1 else [1] * count
    values, position = [0] * dim, -1
    for gap, sign, size in zip(gaps, signs, sizes, strict=True):
        position += gap
        values[position] = -size if sign == "1" else size
    assert reader.at == len(text)
    return values


def elias_length(case: Case) -> int:
    """The length by its formula."""

    def length(n: int) -> int:
        return 2 * (n.bit_length() - 1) + 1

    positions = [-1] + [i for i, value in enumerate(case.values) if value]
    total = length(len(positions))
    for before, at in zip(positions, positions[1:], strict=False):
        total += length(at - before)
        if case.low < 0:
            total += 1
        if max(-case.low, case.high) > 1:
            total += length(abs(case.values[at]))
    return total


@given(case=cases())
@settings(max_examples=150, deadline=None)
def test_elias_is_written_and_read_by_a_plain_implementation(case: Case) -> None:
    text = plain_elias(case)
    bits = Elias().encode(case.dense())
    assert bits.tolist() == [int(bit) for bit in text]
    assert bits.size == elias_length(case) == Elias().num_bits(case.sparse())
    written = "".join(str(bit) for bit in bits)
    decoded = plain_elias_decode(written, len(case.values), case.low, case.high)
    assert decoded == list(case.values)
    symbols, used = Elias().decode(bits_of(text), len(case.values), case.low, case.high)
    assert used == len(text)
    assert symbols.dense().tolist() == list(case.values)


def test_elias_bits_are_pinned() -> None:
    # Two nonzeros: count + 1 = 3 is 011; gaps 2 and 3 have the unary parts 01 01 and
    # the remainders 0 1; signs 0 1; magnitudes 1 and 4 the unary parts 1 001 and 00.
    case = Case(-4, 4, (0, 1, 0, 0, -4, 0))
    bits = Elias().encode(case.dense())
    assert "".join(map(str, bits)) == "011" + "0101" + "01" + "01" + "1001" + "00"


# --- Arrays of bits -------------------------------------------------------------------


@given(values=st.lists(st.integers(1, 2**32 - 1), max_size=40))
@settings(max_examples=200, deadline=None)
def test_gamma_round_trip_up_to_32_bits(values: list[int]) -> None:
    array = np.array(values, dtype=np.int64)
    bits = to_gamma(array)
    assert "".join(map(str, bits)) == gamma_list(values)
    decoded, used = from_gamma(bits, len(values), 2**32 - 1)
    assert decoded.tolist() == values
    assert used == bits.size
    if values:
        largest = max(values)
        assert from_gamma(bits, len(values), largest)[0].tolist() == values
        if largest > 1:
            with pytest.raises(CorruptPacket, match="limit"):
                from_gamma(bits, len(values), largest - 1)


@pytest.mark.parametrize("limit", [1, 1000, 2**31 - 1, 2**32 - 1])
def test_gamma_of_any_width_above_the_limit_is_refused(limit: int) -> None:
    for width in (*range(limit.bit_length(), 70), 127, 128, 200):
        for rest in ("0" * width, "1" * width):
            bits = bits_of("0" * width + "1" + rest)
            with pytest.raises(CorruptPacket, match="limit"):
                from_gamma(bits, 1, limit)
            with pytest.raises(CorruptPacket):
                from_gamma_scalar(bits, limit)


@given(value=st.integers(1, 2**33), limit=st.integers(1, 2**33))
@settings(max_examples=100, deadline=None)
def test_gamma_of_one_number(value: int, limit: int) -> None:
    bits = to_gamma_scalar(value)
    assert "".join(map(str, bits)) == "".join(gamma(value))
    assert from_gamma_scalar(bits, value) == (value, bits.size)
    if value <= limit:
        assert from_gamma_scalar(bits, limit) == (value, bits.size)
    else:
        with pytest.raises(CorruptPacket):
            from_gamma_scalar(bits, limit)
    with pytest.raises(CorruptPacket):
        from_gamma_scalar(bits[:-1], value)


@given(
    width=st.integers(0, 32),
    seed=st.integers(0, 1000),
    count=st.integers(0, 30),
)
@settings(max_examples=150, deadline=None)
def test_fixed_round_trip(width: int, seed: int, count: int) -> None:
    generator = np.random.Generator(np.random.Philox(seed))
    values = generator.integers(0, 1 << width, size=count)
    bits = to_fixed(values, width)
    assert bits.size == count * width
    assert from_fixed(bits, count, width).tolist() == values.tolist()
    if bits.size:
        with pytest.raises(CorruptPacket, match=f"{count} symbols of {width} bits"):
            from_fixed(bits[:-1], count, width)


def test_bit_lengths_are_those_of_python() -> None:
    values = [1, 2, 3, 4, 7, 8, 255, 256, 2**31 - 1, 2**31, 2**52 - 1, 2**53 - 1]
    lengths = bit_lengths(np.array(values, dtype=np.int64))
    assert lengths.tolist() == [value.bit_length() - 1 for value in values]


# --- Bytes of strangers ---------------------------------------------------------------


def decode_or_refuse(
    code: Code, bits: NDArray[np.uint8], dim: int, low: int, high: int
) -> Symbols | None:
    """Decode; whatever comes out is a vector of the alphabet, by valid positions."""
    try:
        symbols, used = code.decode(bits, dim, low, high)
    except CorruptPacket:
        return None
    assert 0 <= used <= bits.size
    assert symbols.dim == dim
    positions, entries = symbols.sparse()
    assert positions.size == entries.size <= dim
    if positions.size:
        assert 0 <= positions.min() <= positions.max() < dim
        assert np.all(np.diff(positions) > 0)
        assert low <= entries.min() <= entries.max() <= high
        assert np.all(entries != 0)
    assert symbols.dense().shape == (dim,)
    return symbols


@EVERY
@given(case=cases())
@settings(max_examples=40, deadline=None)
def test_cut_off_bits_are_refused(code: Code, case: Case) -> None:
    bits = code.encode(case.dense())
    cuts = {0, 1, bits.size // 2, bits.size - 2, bits.size - 1}
    for cut in sorted(cut for cut in cuts if 0 <= cut < bits.size):
        with pytest.raises(CorruptPacket):
            code.decode(bits[:cut], len(case.values), case.low, case.high)


@EVERY
@given(case=cases(), seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_flipped_bits_decode_or_are_refused(code: Code, case: Case, seed: int) -> None:
    bits = code.encode(case.dense())
    generator = np.random.Generator(np.random.Philox(seed))
    for flips in (1, 1, 1, 2, 5):
        if bits.size:
            flipped = bits.copy()
            flipped[generator.integers(0, bits.size, size=flips)] ^= 1
            decode_or_refuse(code, flipped, len(case.values), case.low, case.high)


@EVERY
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 400),
    dim=st.integers(0, 300),
    alphabet=st.sampled_from(ALPHABETS),
)
@settings(max_examples=150, deadline=None)
def test_random_bits_decode_or_are_refused(
    code: Code, seed: int, count: int, dim: int, alphabet: tuple[int, int]
) -> None:
    generator = np.random.Generator(np.random.Philox(seed))
    bits = random_bits(generator, count)
    symbols = decode_or_refuse(code, bits, dim, *alphabet)
    if symbols is not None:
        # What was accepted has one meaning: it is written as it was read.
        again = code.encode(symbols)
        np.testing.assert_array_equal(again, bits[: again.size])


@EVERY
@pytest.mark.parametrize("dim", [10**6, 2**31, 2**32 - 1])
@pytest.mark.parametrize("alphabet", [(0, 1), (-4, 4), (-32767, 32767)])
def test_huge_claims_are_refused_at_once(
    code: Code, dim: int, alphabet: tuple[int, int]
) -> None:
    claims = [
        "".join(gamma(dim + 1)),  # d nonzeros
        "".join(gamma(dim + 1)) + "1" * 50,
        "".join(gamma(dim + 2)),  # more than d
        "".join(gamma(2)) + "0" * 200 + "1",  # one, at position 2^200
        "".join(gamma(2)) + "".join(gamma(dim + 1)) + "0" * 40,  # one, at d
        "".join(gamma(3)) + gamma_list([dim, dim]) + "0" * 40,  # the second beyond d
        "0" * 5000,
        "",
    ]
    started = time.perf_counter()
    tracemalloc.start()
    for claim in claims:
        with pytest.raises(CorruptPacket):
            code.decode(bits_of(claim), dim, *alphabet)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    assert time.perf_counter() - started < 1.0


def test_symbols_outside_the_alphabet_are_refused() -> None:
    wide = Case(-7, 7, (0, 5, 0, -6))
    for low, high in ((-4, 4), (-6, 4), (-5, 5)):
        with pytest.raises(CorruptPacket, match="alphabet|limit"):
            Elias().decode(Elias().encode(wide.dense()), 4, low, high)
    three = Case(0, 3, (1, 3))
    with pytest.raises(CorruptPacket, match=r"alphabet \[0, 2\]"):
        FixedWidth().decode(FixedWidth().encode(three.dense()), 2, 0, 2)
    with pytest.raises(CorruptPacket, match="outside a vector of length 3"):
        Elias().decode(Elias().encode(Case(0, 1, (1, 0, 0, 1)).dense()), 3, 0, 1)
