"""Payloads: what the receiver decodes is what the sender's operator says."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_compress.coding import CODE_NAMES
from flower_compress.compressors import (
    COMPRESSORS,
    Compressor,
    Identity,
    StochasticQuantizer,
    Vector,
    get_compressor,
)
from flower_compress.errors import CorruptPacket, NonFiniteError, UnknownNameError
from flower_compress.links import Payload
from flower_compress.packet import HEADER_BYTES
from flower_compress.streams import Purpose, Stream

TABLE: list[dict[str, Any]] = [
    {"name": "identity"},
    {"name": "stochastic-quantizer", "levels": 1},
    {"name": "stochastic-quantizer", "levels": 5, "norm": "inf", "bucket_size": 16},
    {"name": "stochastic-quantizer", "levels": 1000, "bucket_size": 1},
    {"name": "random-sparsifier", "p": 0.2},
    {"name": "top-k", "k": 3},
    {"name": "top-k", "fraction": 0.3},
]
ROWS = pytest.mark.parametrize("row", TABLE, ids=json.dumps)
EVERY_CODE = pytest.mark.parametrize("code", CODE_NAMES)
STREAM = Stream(3, Purpose.UPLINK, 1, 4)


def vector(dim: int, seed: int = 0, density: float = 0.7) -> Vector:
    generator = np.random.Generator(np.random.Philox([seed, dim]))
    x = generator.normal(size=dim) * (generator.random(dim) < density)
    return x.astype(np.float32)


def received(data: bytes, dim: int) -> Payload:
    """A payload as it comes from the network: nothing known but its bytes."""
    return Payload(bytes(bytearray(data)), dim)


def check(row: dict[str, Any], code: str, x: Vector, version: int) -> None:
    compressor, stream = get_compressor(row), STREAM.at(version)
    payload = Payload.encode(x, compressor, code, stream)
    expected = compressor.decompress(compressor.compress(x, stream))
    for end in (payload, received(payload.data, x.size)):
        value = end.vector
        assert value.dtype == np.float32
        assert value.tobytes() == expected.tobytes()
        assert end.compressor == compressor
        assert end.dim == x.size
        body = len(payload.data) - 2 - len(compressor.to_wire())
        assert 0 <= 8 * body - end.num_bits < 8
        compact = end.compact()
        assert compact.data == payload.data
        assert compact.num_bits == end.num_bits
        assert compact.vector.tobytes() == expected.tobytes()


def test_every_operator_is_in_the_table() -> None:
    assert {row["name"] for row in TABLE} == set(COMPRESSORS)


@ROWS
@EVERY_CODE
@given(
    dim=st.integers(0, 300),
    seed=st.integers(0, 2**32),
    density=st.sampled_from([0.0, 0.05, 1.0]),
    version=st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_decoding_gives_the_operators_value_bit_for_bit(
    row: dict[str, Any], code: str, dim: int, seed: int, density: float, version: int
) -> None:
    check(row, code, vector(dim, seed, density), version)


@ROWS
@EVERY_CODE
def test_long_vectors_too(row: dict[str, Any], code: str) -> None:
    # Longer than what is kept in the cache of decoded payloads.
    check(row, code, vector(20_000), 1)


@ROWS
def test_negative_zero_and_extremes(row: dict[str, Any]) -> None:
    x = np.array([-0.0, 0.0, 1e-45, -1e-45, 1e-38, 3e37, -3e37], dtype=np.float32)
    for code in CODE_NAMES:
        check(row, code, x, 7)


@ROWS
def test_header_takes_at_most_48_bytes(row: dict[str, Any]) -> None:
    compressor = get_compressor(row)
    empty = Payload.encode(vector(0), compressor, "auto", STREAM)
    assert HEADER_BYTES + 2 + len(compressor.to_wire()) <= 48
    # The code for no symbols may take up to a byte.
    assert len(empty.data) <= 2 + len(compressor.to_wire()) + 1


@ROWS
def test_auto_is_the_shortest_code(row: dict[str, Any]) -> None:
    for density in (0.0, 0.03, 1.0):
        x = vector(200, 1, density)
        lengths = {
            code: Payload.encode(x, get_compressor(row), code, STREAM).num_bits
            for code in CODE_NAMES
        }
        assert lengths["auto"] == min(lengths.values())


def test_num_bits_counts_symbols_and_scales() -> None:
    x = np.array([1, -1, 0, 0, 1], dtype=np.float32)
    quantizer = StochasticQuantizer(1, "inf")
    fixed = Payload.encode(x, quantizer, "fixed-width", STREAM)
    assert fixed.num_bits == 5 * 2 + 32
    assert len(fixed.data) == 2 + 7 + 2 + 4
    # Four for the count + 1 is 00100; gaps 1, 1, 3 take 1 + 1 + 3; three signs.
    elias = Payload.encode(x, quantizer, "elias", STREAM)
    assert elias.num_bits == 5 + 5 + 3 + 32
    assert Payload.encode(x, Identity(), "elias", STREAM).num_bits == 5 * 32


def test_bytes_are_little_endian_values_after_the_symbols() -> None:
    x = np.array([2.0, 0.0, -2.0], dtype=np.float32)
    payload = Payload.encode(
        x, StochasticQuantizer(1, "inf"), "fixed-width", Stream(0, Purpose.UPLINK)
    )
    # Operator 2 with code 1, levels 1, norm 1, no buckets; symbols + 1 = 2, 1, 0 in
    # two bits each and two of padding; the norm 2.0.
    assert payload.data.hex(" ") == "02 01 01 00 01 00 00 00 00 90 00 00 00 40"


def test_vectors_are_read_only() -> None:
    for dim in (5, 20_000):
        value = Payload.encode(vector(dim), Identity(), "auto", STREAM).vector
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 1.0


def test_the_input_may_change_afterwards() -> None:
    for row in TABLE:
        x = vector(50)
        payload = Payload.encode(x, get_compressor(row), "auto", STREAM)
        expected = received(payload.data, 50).vector.copy()
        x[:] = 9.0
        np.testing.assert_array_equal(payload.vector, expected)


def test_errors_of_encoding() -> None:
    with pytest.raises(UnknownNameError, match="huffman.*auto"):
        Payload.encode(vector(3), StochasticQuantizer(), "huffman", STREAM)
    bad = np.array([1.0, np.nan], dtype=np.float32)
    for row in TABLE:
        with pytest.raises(NonFiniteError, match="1 of 2"):
            Payload.encode(bad, get_compressor(row), "auto", STREAM)


# --- Bytes of strangers ---------------------------------------------------------------


def decode_or_refuse(data: bytes, dim: int) -> Vector | None:
    try:
        payload = received(data, dim)
        value, num_bits = payload.vector, payload.num_bits
        compressor: Compressor = payload.compressor
    except CorruptPacket:
        return None
    assert value.shape == (dim,)
    assert np.isfinite(value).all()
    assert 0 <= 8 * (len(data) - 2 - len(compressor.to_wire())) - num_bits < 8
    return value


@ROWS
@EVERY_CODE
def test_cut_off_or_prolonged_payloads_are_refused(
    row: dict[str, Any], code: str
) -> None:
    for dim in (1, 40):
        data = Payload.encode(vector(dim, 2), get_compressor(row), code, STREAM).data
        for cut in range(len(data)):
            # A shorter vector of values may remain, never one of the length expected.
            with pytest.raises(CorruptPacket):
                _ = received(data[:cut], dim).vector
        for extra in (b"\0", b"\0\0\0\0", b"what is this"):
            with pytest.raises(CorruptPacket):
                _ = received(data + extra, dim).vector


@ROWS
@EVERY_CODE
def test_another_length_is_refused_or_decoded_at_that_length(
    row: dict[str, Any], code: str
) -> None:
    data = Payload.encode(vector(40, 2), get_compressor(row), code, STREAM).data
    for dim in (0, 1, 39, 41, 80, 5000):
        decode_or_refuse(data, dim)
    assert decode_or_refuse(data, 0) is None


@ROWS
@EVERY_CODE
def test_every_changed_byte_decodes_or_is_refused(
    row: dict[str, Any], code: str
) -> None:
    data = Payload.encode(vector(24, 5), get_compressor(row), code, STREAM).data
    for at in range(len(data)):
        for change in (0x01, 0x10, 0x80, 0xFF):
            changed = bytearray(data)
            changed[at] ^= change
            decode_or_refuse(bytes(changed), 24)


@given(data=st.binary(max_size=60), dim=st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_random_bytes_decode_or_are_refused(data: bytes, dim: int) -> None:
    decode_or_refuse(data, dim)


@given(
    row=st.sampled_from(TABLE),
    code=st.integers(0, 3),
    body=st.binary(max_size=80),
    dim=st.integers(0, 40),
)
@settings(max_examples=400, deadline=None)
def test_random_bodies_behind_a_true_header_decode_or_are_refused(
    row: dict[str, Any], code: int, body: bytes, dim: int
) -> None:
    compressor = get_compressor(row)
    header = bytes((compressor.wire_id, code)) + compressor.to_wire()
    decode_or_refuse(header + body, dim)


@pytest.mark.parametrize(
    ("data", "dim", "message"),
    [
        (b"", 3, "at least 2 bytes"),
        (b"\x01", 3, "at least 2 bytes"),
        (b"\x63\x00", 3, "compressor id 99"),
        (b"\x02\x01\x01", 3, "parameters"),
        (b"\x02\x01\x01\x00\x02\x00\x00\x00\x00", 3, "norm id 2"),
        (b"\x01\x01" + bytes(12), 3, "no symbols"),
        (b"\x01\x00" + bytes(8), 3, "expected 3 float32 values"),
        (b"\x01\x00" + bytes.fromhex("0000c07f"), 1, "NaN or infinite"),
        (b"\x01\x00" + bytes.fromhex("000080ff"), 1, "NaN or infinite"),
        (b"\x01\x00" + bytes(200), 3, "cannot be a vector of length 3"),
        # Three symbols of two bits, and a padding bit that is set.
        (bytes.fromhex("0201 0100 01 00000000 91 00000040"), 3, "padding"),
        (bytes.fromhex("0207 0100 01 00000000 90 00000040"), 3, "code id 7"),
        (bytes.fromhex("0200 0100 01 00000000 90 00000040"), 3, "code id 0"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, dim: int, message: str) -> None:
    with pytest.raises(CorruptPacket, match=message):
        _ = received(data, dim).vector


def test_largest_norm_and_levels_decode_to_finite_values() -> None:
    for levels in (1, 25, 31, 49, 127, 32767):
        quantizer = StochasticQuantizer(levels, "inf")
        x = np.array([1.0, -1.0], dtype=np.float32)
        data = Payload.encode(x, quantizer, "auto", STREAM).data
        largest = np.array(np.finfo(np.float32).max, dtype="<f4").tobytes()
        for norm in (largest, largest[:3] + b"\xff"):
            assert decode_or_refuse(data[:-4] + norm, 2) is not None


def test_short_bytes_for_a_huge_dimension_are_refused_at_once() -> None:
    # Not of Elias: its few entries may lie far apart. So a packet's dimension is
    # checked before its payloads are decoded.
    started = time.perf_counter()
    for row in TABLE:
        compressor = get_compressor(row)
        data = Payload.encode(vector(9), compressor, "fixed-width", STREAM).data
        assert decode_or_refuse(data, 2**32 - 1) is None
    assert time.perf_counter() - started < 1.0
