"""Codes of packed bytes, and the choice of a code."""

from __future__ import annotations

import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flower_compress.coding import (
    CODE_NAMES,
    Code,
    Entropy,
    FixedWidth,
    Indices,
    NestedGolomb,
    PackedHuffman,
    Symbols,
    choose_code,
    code_by_wire_id,
    encode_symbols,
)
from flower_compress.coding.packing import BLOCK_BYTES, GROUPS, Packing
from flower_compress.coding.packing_plan import plan_all, plan_packing
from flower_compress.coding.sampling import sample_symbols
from flower_compress.coding.symbols import symbol_dtype
from flower_compress.compressors import DitheredQuantizer
from flower_compress.errors import CorruptPacket, MissingExtraError, UnknownNameError
from flower_compress.streams import Purpose, Stream
from tests.cases import in_one_test
from tests.steps import at_most_steps

PACKED = pytest.mark.parametrize("name", ["packed-huffman", "entropy"])

ALPHABETS = [
    (0, 0),
    (0, 1),
    (-1, 0),
    (-1, 1),
    (-4, 4),
    (-17, 17),
    (-127, 127),
    (-128, 127),
    (-200, 1000),
    (-32767, 32767),
    (-70_000, 70_000),
]

EMPTY = Symbols(0, 0, 1, np.zeros(0, np.int8))


def packed_code(name: str) -> Code:
    if name == "entropy":
        pytest.importorskip("constriction")
    return choose_code(name, EMPTY)


def dense(values: NDArray[np.int64], low: int, high: int) -> Symbols:
    return Symbols(values.size, low, high, values.astype(symbol_dtype(low, high)))


def sparse(symbols: Symbols) -> Symbols:
    positions = np.flatnonzero(symbols.dense())
    entries = symbols.dense()[positions]
    return Symbols(symbols.dim, symbols.low, symbols.high, entries, positions)


@st.composite
def vectors(draw: st.DrawFn, max_dim: int = 300) -> Symbols:
    low, high = draw(st.sampled_from(ALPHABETS))
    dim = draw(st.integers(0, max_dim))
    generator = np.random.Generator(np.random.Philox(draw(st.integers(0, 2**32))))
    spread = draw(st.sampled_from([0.3, 2.0, 40.0, 1000.0, 30_000.0]))
    values = np.rint(generator.laplace(size=dim) * spread).astype(np.int64)
    values = np.clip(values, low, high)
    zeros = draw(st.sampled_from(["as they are", "few", "none", "many"]))
    if zeros in ("few", "none") and high > 0:
        values[values == 0] = high
    if zeros == "few" and dim:
        values[generator.integers(dim)] = 0
    if zeros == "many":
        values[generator.random(dim) < 0.9] = 0
    # Rare levels far from the others.
    if dim and draw(st.booleans()):
        values[generator.integers(0, dim, size=3)] = [low, high, low]
    return dense(values, low, high)


def check_round_trip(code: Code, symbols: Symbols) -> bytes:
    data, num_bits = code.encode(symbols)
    # Whole bytes, but for runs in place of ANS.
    assert len(data) == -(-num_bits // 8)
    assert num_bits % 8 == 0 or data[0] == 1
    assert code.num_bits(symbols) == num_bits
    assert code.encode(sparse(symbols)) == (data, num_bits)
    # What follows is not touched: values lie behind the symbols in a payload.
    for tail in (b"", b"\xff", b"\0" * 9, data):
        decoded, used = code.decode(
            memoryview(data + tail), symbols.dim, symbols.low, symbols.high
        )
        assert used == num_bits
        assert (decoded.dim, decoded.low, decoded.high) == (
            symbols.dim,
            symbols.low,
            symbols.high,
        )
        assert decoded.dense().dtype == symbols.dense().dtype
        np.testing.assert_array_equal(decoded.dense(), symbols.dense())
    return data


# --- Round trips ----------------------------------------------------------------------


@PACKED
@given(symbols=vectors())
@settings(max_examples=300, deadline=None)
def test_round_trip(name: str, symbols: Symbols) -> None:
    check_round_trip(packed_code(name), symbols)


@PACKED
@given(symbols=vectors(max_dim=70_000))
@settings(max_examples=40, deadline=None)
def test_round_trip_of_long_vectors(name: str, symbols: Symbols) -> None:
    check_round_trip(packed_code(name), symbols)


@PACKED
@in_one_test(("low", "high"), ALPHABETS)
def test_round_trip_of_extremes(name: str, low: int, high: int) -> None:
    code = packed_code(name)
    for values in ((low,), (high,), (0,), (low, 0, high) * 5, (high,) * 7 + (low,)):
        check_round_trip(code, dense(np.array(values), low, high))
    assert check_round_trip(code, dense(np.zeros(0, np.int64), low, high)) == b""


@PACKED
def test_constant_vectors_take_a_header(name: str) -> None:
    for value in (-4, 0, 3):
        symbols = dense(np.full(100_000, value), -4, 4)
        size = 6 if name == "packed-huffman" else 7
        assert len(check_round_trip(packed_code(name), symbols)) <= size


@PACKED
@pytest.mark.parametrize("group", [group for group, _ in GROUPS])
def test_round_trip_at_the_ends_of_blocks(
    name: str, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = dict(GROUPS)[group]
    generator = np.random.Generator(np.random.Philox(group))
    for extra in (-1, 0, 1):
        size = group * BLOCK_BYTES + extra
        values = generator.integers(0, base, size=size) - base // 2
        check_round_trip(packed_code(name), dense(values, -128, 127))


def test_what_the_sample_lacks_is_escaped() -> None:
    # 2^16 of a million symbols are looked at, and the rare ones lie between the runs.
    values = np.tile([1, -1, 1, 2, -2], 200_000)
    for low, high in ((-127, 127), (-32767, 32767), (-70_000, 70_000)):
        for rare in ([0], [low], [high], [low, high, 0], range(-100, 100)):
            changed = values.copy()
            changed[3000 + 3 * np.arange(len(rare))] = list(rare)
            data = check_round_trip(PackedHuffman(), dense(changed, low, high))
            assert len(data) < 300_000


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_the_dtype_does_not_change_the_bytes(dtype: type) -> None:
    values = np.tile(np.arange(-4, 5), 50)
    expected = PackedHuffman().encode(dense(values, -4, 4))
    assert PackedHuffman().encode(Symbols(450, -4, 4, values.astype(dtype))) == expected
    strided = np.repeat(values.astype(dtype), 2)[::2]
    assert PackedHuffman().encode(Symbols(450, -4, 4, strided)) == expected


# --- Packings -------------------------------------------------------------------------


def plain_packing(
    packing: Packing, values: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """Low bits as bytes, packed bytes and escaped symbols, one symbol at a time."""
    moved = [v - (packing.gap and v > 0) for v in values]
    low_bits: list[int] = []
    for bit in range(0, packing.shift - 7, 8):
        low_bits += [u >> bit & 255 for u in moved]
    for bit in range(packing.shift // 8 * 8, packing.shift):
        text = "".join(str(u >> bit & 1) for u in moved)
        text += "0" * (-len(text) % 8)
        low_bits += [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
    digits, escaped = [], []
    for v, u in zip(values, moved, strict=True):
        digit = (u >> packing.shift) - packing.low
        inside = 0 <= digit < packing.base - packing.escape
        if packing.escape and (not inside or (packing.gap and v == 0)):
            digit = packing.base - 1
            escaped.append(v)
        digits.append(digit)
    packed = []
    group = packing.group
    for start in range(0, len(digits), group * BLOCK_BYTES):
        block = digits[start : start + group * BLOCK_BYTES]
        size = -(-len(block) // group)
        block += [0] * (size * group - len(block))
        for j in range(size):
            run = block[j::size]
            packed.append(sum(d * packing.base**k for k, d in enumerate(run)))
    return low_bits, packed if packing.base > 1 else [], escaped


@given(
    symbols=vectors(max_dim=80),
    base=st.sampled_from([2, 3, 4, 5, 6, 7, 16, 17, 255, 256]),
    low=st.integers(-20, 5),
    shift=st.sampled_from([0, 0, 0, 1, 2, 7]),
    gap=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_packing_is_written_and_read_by_a_plain_implementation(
    symbols: Symbols, base: int, low: int, shift: int, gap: bool
) -> None:
    packing = Packing(base, low, shift, gap, escape=True)
    assume(symbols.low >> shift <= low)
    assume(low + base - 2 <= (symbols.high - gap) >> shift)
    values = symbols.dense()
    low_bits, packed, escaped = packing.pack(values)
    plain = plain_packing(packing, values.tolist())
    assert (low_bits.tolist(), packed.tolist(), escaped.tolist()) == plain
    assert packed.size == packing.num_bytes(values.size)
    assert low_bits.size == packing.num_low_bytes(values.size)
    decoded = np.empty_like(values)
    places = packing.unpack(low_bits, packed, decoded)
    decoded[places] = escaped
    np.testing.assert_array_equal(decoded, values)


@given(symbols=vectors())
@settings(max_examples=200, deadline=None)
def test_plans_hold_what_they_promise(symbols: Symbols) -> None:
    values = symbols.dense()
    if not values.size:
        return
    for packing in (
        plan_all(values),
        plan_packing(values, PackedHuffman.byte_coder),
        plan_packing(values, Entropy.byte_coder),
    ):
        assert 1 <= packing.base <= 256
        assert packing.num_byte_values <= 256
        low_bits, packed, escaped = packing.pack(values)
        plain = plain_packing(packing, values.tolist())
        assert (low_bits.tolist(), packed.tolist(), escaped.tolist()) == plain
        assert packing.escape or not escaped.size


def test_huffman_bytes_are_pinned() -> None:
    # Five digits of base 3 to a byte, -1 is digit 0. Six digits 0 2 1 1 1 0 take two
    # bytes and fall into the runs 02, 11 and 10: the first of each, then the second.
    symbols = dense(np.array([-1, 1, 0, 0, 0, -1]), -1, 1)
    packing = Packing(3, -1)
    _, packed, _ = packing.pack(symbols.dense())
    assert packed.tolist() == [0 + 3 * 1 + 9 * 1, 2 + 3 * 1 + 9 * 0]
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    stream = deflate.compress(bytes([12, 5])) + deflate.flush()
    data = struct.pack("<BBiI", 2, 0, -1, len(stream)) + stream
    decoded, used = PackedHuffman().decode(memoryview(data), 6, -1, 1)
    assert used == 8 * len(data)
    assert decoded.dense().tolist() == [-1, 1, 0, 0, 0, -1]


# --- Lengths --------------------------------------------------------------------------


def entropy_bits(values: NDArray[np.int64]) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / values.size)).sum())


def quantized(kind: str, levels: int, dim: int = 200_000) -> NDArray[np.int64]:
    """Normal or Laplace entries, unbiased, -/+ 1 and up for below and above zero."""
    generator = np.random.Generator(np.random.Philox(levels))
    draws = {"normal": generator.standard_normal, "laplace": generator.laplace}
    x = draws[kind](size=dim)
    step = (x.max() - x.min()) / levels
    level = np.floor(x / step + generator.random(dim)).astype(np.int64)
    return level + (level >= 0)


def qsgd(levels: int, dim: int = 204_800) -> NDArray[np.int64]:
    generator = np.random.Generator(np.random.Philox(levels))
    x = generator.standard_normal((dim // 512, 512))
    x *= levels / np.linalg.norm(x, axis=1, keepdims=True)
    magnitudes = np.floor(np.abs(x) + generator.random(x.shape))
    return (np.sign(x) * magnitudes).astype(np.int64).reshape(-1)


SOURCES = {
    **{
        f"{kind}-{levels}": quantized(kind, levels)
        for kind in ("normal", "laplace")
        for levels in (8, 16, 100)
    },
    **{f"qsgd-{levels}": qsgd(levels) for levels in (4, 16)},
}


@pytest.mark.parametrize("source", SOURCES)
def test_length_is_near_the_entropy(source: str) -> None:
    values = SOURCES[source]
    bound = 1.03 if np.unique(values).size <= 16 else 1.07
    symbols = dense(values, -127, 127)
    entropy = entropy_bits(values)
    assert PackedHuffman().num_bits(symbols) <= bound * entropy
    auto = choose_code("auto", symbols)
    assert auto.num_bits(symbols) <= (bound + 0.01 * (bound < 1.05)) * entropy


@pytest.mark.parametrize("source", SOURCES)
def test_ans_is_nearer_to_the_entropy(source: str) -> None:
    pytest.importorskip("constriction")
    values = SOURCES[source]
    # The frequencies take up to 500 bytes.
    bound = 1.005 * entropy_bits(values) + 8 * 500
    assert Entropy().num_bits(dense(values, -127, 127)) <= bound


def test_wide_alphabets_are_near_the_entropy() -> None:
    generator = np.random.Generator(np.random.Philox(5))
    for spread, low, high in ((300, -32767, 32767), (9000, -70_000, 70_000)):
        values = np.rint(generator.standard_normal(100_000) * spread).astype(np.int64)
        expected = 100_000 * np.log2(spread * np.sqrt(2 * np.pi * np.e))
        symbols = dense(values, low, high)
        assert PackedHuffman().num_bits(symbols) <= 1.03 * expected


# --- The choice -----------------------------------------------------------------------


def auto_candidates(symbols: Symbols) -> list[Code]:
    runs = Indices() if (symbols.low, symbols.high) == (0, 1) else NestedGolomb()
    return [FixedWidth(), runs, PackedHuffman()]


@given(symbols=vectors())
@settings(max_examples=200, deadline=None)
def test_auto_takes_the_shortest_of_short_vectors(symbols: Symbols) -> None:
    lengths = {c.name: c.num_bits(symbols) for c in auto_candidates(symbols)}
    del lengths["packed-huffman"]
    wide = max(-symbols.low, symbols.high) > 1
    if wide and symbols.dim <= 256 and 2 * symbols.num_nonzero > symbols.dim:
        lengths = {"fixed-width": lengths["fixed-width"]}
    for form in (symbols, sparse(symbols)):
        chosen = choose_code("auto", form)
        assert lengths[chosen.name] == min(lengths.values())


@given(symbols=vectors(max_dim=70_000))
@settings(max_examples=40, deadline=None)
def test_auto_is_near_the_shortest(symbols: Symbols) -> None:
    if symbols.dim < 2**11:
        return
    lengths = {c.name: c.num_bits(symbols) for c in auto_candidates(symbols)}
    chosen = choose_code("auto", symbols)
    assert chosen is choose_code("auto", sparse(symbols))
    # Huffman's table takes some bytes.
    assert lengths[chosen.name] <= 1.05 * min(lengths.values()) + 1200
    signed = symbols.low < 0 and max(-symbols.low, symbols.high) <= 2
    dense_runs = signed and symbols.dim >= 2**12
    if dense_runs and 2 * symbols.num_nonzero > symbols.dim:
        lengths = {n: lengths[n] for n in ("fixed-width", "packed-huffman")}
    # What is noise in a sample is a few bytes.
    assert lengths[chosen.name] <= 1.017 * min(lengths.values()) + 400


@pytest.mark.parametrize("largest", [1, 2])
@pytest.mark.parametrize("dim", [4096, 100_000])
def test_runs_left_out_would_save_little(largest: int, dim: int) -> None:
    """Where most symbols are not zero, whatever they are and however they lie."""
    generator = np.random.Generator(np.random.Philox(7))
    for zeros in (0.0, 0.01, 0.1, 0.3, 0.49):
        for ratio in (0.02, 0.3, 0.7, 1.0, 5.0, 1e9):
            weights = ratio ** np.arange(largest)
            levels = 1 + generator.choice(largest, dim, p=weights / weights.sum())
            for signs in (generator.choice([-1, 1], dim), 1, np.sign(np.sin(levels))):
                values = (levels * signs).astype(np.int8)
                values[generator.random(dim) < zeros] = 0
                for each in (values, np.sort(values), values * (largest == 1)):
                    symbols = dense(each, -largest, largest)
                    name = choose_code("auto", symbols).name
                    most = 2 * symbols.num_nonzero > dim
                    assert not (most and name == "nested-golomb")
                    runs = NestedGolomb().num_bits(symbols)
                    chosen = choose_code("auto", symbols).num_bits(symbols)
                    assert chosen <= 1.05 * runs + 8 * 150


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("density", [0.001, 0.03, 0.3, 1.0])
def test_auto_is_near_the_shortest_of_long_vectors(source: str, density: float) -> None:
    values = SOURCES[source].copy()
    generator = np.random.Generator(np.random.Philox(1))
    values[generator.random(values.size) >= density] = 0
    symbols = dense(values, -127, 127)
    shortest = min(code.num_bits(symbols) for code in auto_candidates(symbols))
    assert choose_code("auto", symbols).num_bits(symbols) <= 1.017 * shortest


def test_auto_takes_each() -> None:
    generator = np.random.Generator(np.random.Philox(2))
    uniform = generator.integers(-128, 128, size=10_000)
    few = (generator.random(100_000) < 0.01).astype(np.int64)
    assert choose_code("auto", dense(uniform, -128, 127)).name == "fixed-width"
    assert choose_code("auto", dense(few, 0, 1)).name == "indices"
    assert choose_code("auto", dense(few, -1, 1)).name == "nested-golomb"
    levels = dense(SOURCES["normal-16"], -17, 17)
    assert choose_code("auto", levels).name == "packed-huffman"


@given(symbols=vectors(max_dim=200_000))
@settings(max_examples=30, deadline=None)
def test_a_sample_is_the_same_in_both_forms(symbols: Symbols) -> None:
    one, other = sample_symbols(symbols), sample_symbols(sparse(symbols))
    assert one.dim == other.dim == min(symbols.dim, 2**16)
    np.testing.assert_array_equal(one.dense(), other.dense())


def test_codes_are_found_by_name_and_number() -> None:
    wire_ids = {
        "fixed-width": 1,
        "elias": 2,
        "indices": 3,
        "nested-golomb": 4,
        "support-vector": 5,
        "packed-huffman": 6,
        "entropy": 7,
        "elias-levels": 8,
    }
    assert list(CODE_NAMES) == ["auto", *wire_ids]
    for name, wire_id in wire_ids.items():
        code = choose_code(name, EMPTY)
        assert (code.name, code.wire_id) == (name, wire_id)
        assert code_by_wire_id(wire_id) is code


def test_unknown_codes_are_refused() -> None:
    with pytest.raises(UnknownNameError) as caught:
        choose_code("huffman", EMPTY)
    assert "'huffman'" in str(caught.value)
    for name in CODE_NAMES:
        assert name in str(caught.value)
    with pytest.raises(CorruptPacket, match=r"id 9 .*\[1, 2, 3, 4, 5, 6, 7, 8\]"):
        code_by_wire_id(9)


def test_without_constriction_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("constriction")
    symbols = dense(np.tile([1, 0, 2], 20), -4, 4)
    data, _ = Entropy().encode(symbols)
    monkeypatch.setitem(sys.modules, "constriction", None)
    message = r'pip install "flower-compress\[entropy\]"'
    with pytest.raises(MissingExtraError, match=message):
        Entropy().encode(symbols)
    with pytest.raises(MissingExtraError, match=message):
        Entropy().num_bits(symbols)
    with pytest.raises(MissingExtraError, match=message):
        Entropy().decode(memoryview(data), 60, -4, 4)
    assert choose_code("auto", symbols) is not None


# --- Bytes of strangers ---------------------------------------------------------------


def decode_or_refuse(
    code: Code, data: bytes, dim: int, low: int, high: int
) -> Symbols | None:
    """Decode; whatever comes out is a vector of the alphabet."""
    try:
        symbols, used = code.decode(memoryview(data), dim, low, high)
    except CorruptPacket:
        return None
    assert 0 <= used <= 8 * len(data)
    assert symbols.dense().shape == (dim,)
    assert symbols.dense().dtype == symbol_dtype(low, high)
    if dim:
        assert low <= symbols.dense().min() <= symbols.dense().max() <= high
    return symbols


@PACKED
@given(symbols=vectors(), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_cut_off_bytes_are_refused(name: str, symbols: Symbols, seed: int) -> None:
    code = packed_code(name)
    data, _ = code.encode(symbols)
    cuts = {*range(15), len(data) // 2, len(data) - 4, len(data) - 1}
    for cut in sorted(cut for cut in cuts if 0 <= cut < len(data)):
        with pytest.raises(CorruptPacket):
            code.decode(memoryview(data[:cut]), symbols.dim, symbols.low, symbols.high)


@PACKED
@given(symbols=vectors(), seed=st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_flipped_bits_decode_or_are_refused(
    name: str, symbols: Symbols, seed: int
) -> None:
    code = packed_code(name)
    data = np.frombuffer(code.encode(symbols)[0], dtype=np.uint8)
    generator = np.random.Generator(np.random.Philox(seed))
    for flips in (1, 1, 1, 2, 5):
        for end in (12, 60, data.size):
            if data.size:
                flipped = data.copy()
                at = generator.integers(0, min(end, data.size), size=flips)
                flipped[at] ^= 1 << generator.integers(0, 8, size=flips, dtype=np.uint8)
                decode_or_refuse(
                    code, flipped.tobytes(), symbols.dim, symbols.low, symbols.high
                )


@PACKED
@given(
    data=st.binary(max_size=400),
    dim=st.integers(0, 300),
    alphabet=st.sampled_from(ALPHABETS),
)
@settings(max_examples=500, deadline=None)
def test_random_bytes_decode_or_are_refused(
    name: str, data: bytes, dim: int, alphabet: tuple[int, int]
) -> None:
    decode_or_refuse(packed_code(name), data, dim, *alphabet)


@PACKED
@given(
    base=st.integers(1, 256),
    flags=st.integers(0, 127),
    start=st.integers(-6, 6),
    body=st.binary(max_size=200),
    dim=st.integers(1, 100),
    alphabet=st.sampled_from(ALPHABETS),
)
@settings(max_examples=500, deadline=None)
def test_any_layer_decodes_or_is_refused(
    name: str,
    base: int,
    flags: int,
    start: int,
    body: bytes,
    dim: int,
    alphabet: tuple[int, int],
) -> None:
    # Flags of few bits and valid bytes behind them, so that many are taken.
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    stream = deflate.compress(body) + deflate.flush()
    layer = struct.pack("<BBi", base - 1, flags, start) + body[: flags & 31]
    data = layer + struct.pack("<I", len(stream)) + stream + layer + body
    decode_or_refuse(packed_code(name), data, dim, *alphabet)


def huffman_layer(
    packed: bytes, base: int, flags: int = 0, low: int = 0, length: int | None = None
) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = deflate.compress(packed) + deflate.flush()
    size = len(stream) if length is None else length
    return struct.pack("<BBiI", base - 1, flags, low, size) + stream


@in_one_test(
    ("data", "message"),
    [
        (b"", "6 bytes, got 0"),
        (huffman_layer(bytes(4), 256, low=-129), "is no layer"),
        (huffman_layer(bytes(4), 256, low=-127), "is no layer"),
        (huffman_layer(bytes(4), 2, flags=128), "is no layer"),
        (huffman_layer(bytes(4), 2, flags=8), "is no layer"),
        (huffman_layer(bytes(4), 1, flags=64), "is no layer"),
        (huffman_layer(bytes(4), 2, low=127), "is no layer"),
        (huffman_layer(bytes(4), 2, low=126, flags=32), "is no layer"),
        (huffman_layer(bytes(3), 17), "of 4 bytes"),
        (huffman_layer(bytes(5), 17), "of 4 bytes"),
        (huffman_layer(bytes(10_000_000), 17), "of 4 bytes"),
        (huffman_layer(bytes(4), 17, length=2**32 - 1), "got"),
        (huffman_layer(bytes(4), 17, length=1), "damaged|of 4 bytes"),
        (huffman_layer(b"\x10\x11\x00\x00", 17), "not below 17"),
        (huffman_layer(b"\x02", 3)[:-1], "got"),
        (huffman_layer(b"\xf2", 3), "past the end"),
        (huffman_layer(b"\xf3", 3), "not below 3"),
        (huffman_layer(bytes(4), 17)[:6], "cut off"),
        (struct.pack("<BBi", 1, 3, 0), "low bits"),
        (3 * huffman_layer(b"\x0f\x0f\x0f\x0f", 17, flags=64, low=0)[:0], "6 bytes"),
        (3 * huffman_layer(b"\x10\x10\x10\x10", 17, flags=64), "is no layer"),
    ],
)
def test_damaged_layers_say_what_is_wrong(data: bytes, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(CorruptPacket, match=message):
        PackedHuffman().decode(memoryview(data), 4, -128, 127)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000


def test_symbols_outside_the_alphabet_are_refused() -> None:
    # shift 1: the high part 2 stands for 4 and 5.
    data = struct.pack("<BBi", 0, 1, 2)
    assert decode_or_refuse(PackedHuffman(), data + b"\x40", 2, 0, 5) is not None
    with pytest.raises(CorruptPacket, match=r"outside \[0, 4\]"):
        PackedHuffman().decode(memoryview(data + b"\x40"), 2, 0, 4)


@PACKED
@in_one_test("dim", [10**6, 2**31, 2**32 - 1])
@in_one_test("alphabet", [(0, 1), (-4, 4), (-32767, 32767)])
def test_huge_claims_are_refused_at_once(
    name: str, dim: int, alphabet: tuple[int, int]
) -> None:
    code = packed_code(name)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = bomb.compress(bytes(500_000)) + bomb.flush()
    claims = [b"", b"\0" * 5, b"\xff" * 5000]
    for base in (1, 2, 3, 256):
        for flags in (0, 1, 7, 32, 64, 79):
            header = struct.pack("<BBi", base - 1, flags, 0)
            if (base, flags) not in ((1, 0), (1, 32)):
                claims += (header, header + struct.pack("<I", len(stream)) + stream)
                # Two values, equally frequent, and no words.
                rest = bytes(-(-Packing(base, 0).num_byte_values // 8) - 1)
                claims.append(header + b"\xc0" + rest + b"\1\1" + bytes(4))
    tracemalloc.start()
    for claim in claims:
        with at_most_steps(2000), pytest.raises(CorruptPacket):
            code.decode(memoryview(claim[:600_000]), dim, *alphabet)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000


def test_a_zero_vector_of_any_length_takes_no_memory() -> None:
    symbols, used = PackedHuffman().decode(memoryview(bytes(6)), 2**32 - 1, -4, 4)
    assert (used, symbols.dim, symbols.num_nonzero) == (48, 2**32 - 1, 0)


def ans_layer(
    frequencies: dict[int, bytes], words: list[int], num_words: int | None = None
) -> bytes:
    """Digits of base 17: bytes below 17, one symbol each."""
    bitmap = np.packbits([value in frequencies for value in range(17)]).tobytes()
    count = len(words) if num_words is None else num_words
    head = b"\0" + struct.pack("<BBi", 16, 0, 0)
    head += bitmap + b"".join(frequencies.values())
    return head + struct.pack("<I", count) + np.array(words, dtype="<u4").tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ans_layer({}, []), "all frequencies are 0"),
        (ans_layer({3: b"\0"}, []), "all frequencies are 0"),
        (ans_layer({3: b"\x80\x80\x80", 4: b"\1"}, []), "longer than 3"),
        (ans_layer({3: b"\1", 4: b"\1"}, [5, 0]), "last ANS word"),
        (ans_layer({3: b"\1", 4: b"\1"}, [0]), "last ANS word"),
        (ans_layer({3: b"\1", 4: b"\1"}, [5] * 10), "use up"),
        (ans_layer({3: b"\1", 4: b"\1"}, [5], 2**32 - 1), "cut off"),
        (ans_layer({3: b"\1", 4: b"\1"}, [])[:-1], "cut off"),
        (ans_layer({3: b"\1", 4: b""}, [])[:11], "frequency is cut off"),
        (ans_layer({}, [])[:8], "bitmap"),
        (b"\2" + ans_layer({}, [])[1:], "a 0 or a 1 first"),
        (b"", "a 0 or a 1 first"),
        (b"\1", "exceeds its limit"),
    ],
)
def test_damaged_ans_says_what_is_wrong(data: bytes, message: str) -> None:
    pytest.importorskip("constriction")
    with pytest.raises(CorruptPacket, match=message):
        Entropy().decode(memoryview(data), 4, -128, 127)


def test_too_few_ans_words_are_refused_before_decoding() -> None:
    pytest.importorskip("constriction")
    with pytest.raises(CorruptPacket, match="too few"):
        Entropy().decode(
            memoryview(ans_layer({3: b"\1", 4: b"\1"}, [7])), 2**32 - 1, -128, 127
        )


def test_a_rare_byte_among_many_has_a_frequency() -> None:
    pytest.importorskip("constriction")
    packed = np.zeros(2**17, dtype=np.uint8)
    packed[1000] = 3
    frequencies, _, _ = Entropy().compress(packed, 4)
    assert frequencies == bytes((0b1001_0000, 0x80, 0x80, 0x04, 1))  # 2^16 and 1


@given(symbols=vectors(), name=st.sampled_from(CODE_NAMES))
@settings(max_examples=100, deadline=None)
def test_encode_symbols_writes_what_is_chosen(symbols: Symbols, name: str) -> None:
    if name == "indices" and (symbols.low, symbols.high) != (0, 1):
        return
    if name == "entropy":
        pytest.importorskip("constriction")
    code = choose_code(name, symbols)
    assert encode_symbols(name, symbols) == (code, *code.encode(symbols))


@pytest.mark.parametrize("count", [1, 40, 650])
def test_sparse_symbols_are_runs_in_place_of_ans(count: int) -> None:
    pytest.importorskip("constriction")
    values = np.zeros(300_000, dtype=np.int64)
    generator = np.random.Generator(np.random.Philox(count))
    at = generator.choice(values.size, size=count, replace=False)
    values[at] = generator.integers(0, 2, size=count) * 2 - 1
    symbols = dense(values, -1, 1)
    runs, num_bits = NestedGolomb().encode(symbols)
    assert check_round_trip(Entropy(), symbols) == b"\1" + runs
    assert Entropy().num_bits(symbols) == 8 + num_bits


@pytest.mark.parametrize(("levels", "gap"), [(8, False), (16, True)])
def test_a_gap_is_closed_only_where_that_saves_bits(levels: int, gap: bool) -> None:
    """That costs passes over the symbols, and an escape if there is a zero."""
    # About 13 levels, pairs in a byte with or without a zero, and twice as many: of
    # their pairs that of 0 and 1 would be half as frequent as it should.
    x = np.random.default_rng(1).standard_normal(512 * 256, dtype=np.float32)
    compressor = DitheredQuantizer(levels, bucket_size=512)
    symbols = compressor.compress(x, Stream(1, Purpose.UPLINK)).symbols
    assert symbols is not None
    values = symbols.dense()
    for zeros in (0, 1):
        values[:zeros] = 0
        packing = plan_packing(values, PackedHuffman.byte_coder)
        assert (packing.gap, packing.shift, packing.group) == (gap, gap, 2)
        assert gap or not packing.escape
