"""Payloads: what the receiver decodes is what the sender's operator says."""

from __future__ import annotations

import importlib.util
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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
    RandK,
    StochasticQuantizer,
    Vector,
    get_compressor,
)
from flower_compress.errors import (
    ConfigurationError,
    CorruptPacket,
    NonFiniteError,
    UnknownNameError,
)
from flower_compress.links import (
    Channel,
    Payload,
    ReceiverState,
    SenderState,
    fold,
    share_decoding,
)
from flower_compress.links import payload as payload_module
from flower_compress.links.shared_vectors import Opened, SharedVectors
from flower_compress.mods.client_state import ClientState
from flower_compress.streams import Purpose, Stream
from flower_compress.wire.packet import HEADER_BYTES
from tests.cases import in_one_test
from tests.flower_compress.operators import (
    ALL_IN_ONE,
    TABLE,
    Row,
    make,
    row_id,
    sizes_of,
)
from tests.steps import at_most_steps

WITHOUT_SYMBOLS = {row["name"] for row in TABLE if make(row).alphabet(9) is None}
BINARY = [row for row in TABLE if make(row).alphabet(9) == (0, 1)]
CODES = [name for name in CODE_NAMES if name != "entropy"]
if importlib.util.find_spec("constriction") is not None:
    CODES.append("entropy")
# A code for 0 and 1 alone is met with those operators alone.
PAIRS = [
    (row, code)
    for row in TABLE
    for code in (("auto",) if row["name"] in WITHOUT_SYMBOLS else CODES)
    if code != "indices" or row in BINARY
]
EVERY_PAIR = in_one_test(
    ("row", "code"), PAIRS, lambda pair: f"{row_id(pair[0])}-{pair[1]}"
)
# One configuration of each operator, for tests that try many bytes.
SOME = [
    {"name": "identity"},
    {"name": "stochastic-quantizer", "levels": 5, "norm": "inf", "bucket_size": 16},
    {"name": "stochastic-quantizer", "levels": 9, "subtractive": True},
    {"name": "random-sparsifier", "p": 0.2, "per": "tensor"},
    {"name": "top-k", "k": 3},
    {"name": "rand-k", "k": 3, "per": "tensor"},
    {"name": "min-variance-sparsifier", "density": 0.2},
    {"name": "dithered-quantizer", "levels": 4, "per": "tensor"},
    {"name": "scaled-sign", "bucket_size": 16},
    {"name": "rotated-quantizer", "step": 1.0, "bucket_size": 16},
    {"name": "natural-compression"},
]
assert {row["name"] for row in SOME} == set(COMPRESSORS)
SOME_PAIRS = in_one_test(
    ("row", "code"),
    [
        (row, code)
        for row in SOME
        for code in (("auto",) if row["name"] in WITHOUT_SYMBOLS else CODES)
        if code != "indices" or make(row).alphabet(9) == (0, 1)
    ],
    lambda pair: f"{row_id(pair[0])}-{pair[1]}",
)
STREAM = Stream(3, Purpose.UPLINK, 1, 4)


def channel_of(dim: int, version: int = 4) -> Channel:
    return Channel(STREAM, sizes_of(dim)).at(version)


def vector(dim: int, seed: int = 0, density: float = 0.7) -> Vector:
    generator = np.random.Generator(np.random.Philox([seed, dim]))
    x = generator.normal(size=dim) * (generator.random(dim) < density)
    return x.astype(np.float32)


def encode(
    x: Vector, compressor: Compressor, code: str = "auto", version: int = 4
) -> Payload:
    return Payload.encode(x, compressor, code, channel_of(x.size, version))


def received(data: bytes, dim: int, version: int = 4) -> Payload:
    """A payload as it comes from the network: nothing known but its bytes."""
    payload = Payload(bytes(bytearray(data)), dim)
    return payload.on(channel_of(dim, version))


def header_bytes(compressor: Compressor) -> int:
    """The two ids, and the parameters."""
    return 2 + len(compressor.to_wire()[1])


def check(row: Row, code: str, x: Vector, version: int) -> None:
    compressor, channel = make(row), channel_of(x.size, version)
    payload = Payload.encode(x, compressor, code, channel)
    compressed = compressor.compress(x, channel.stream, channel.sizes)
    expected = compressor.decompress(compressed, channel.stream, channel.sizes)
    for end in (payload, received(payload.data, x.size, version)):
        value = end.vector
        assert value.dtype == np.float32
        assert value.tobytes() == expected.tobytes()
        assert end.compressor == compressor
        assert end.dim == x.size
        body = len(payload.data) - header_bytes(compressor)
        assert 0 <= 8 * body - end.num_bits < 8
        compact = end.compact()
        assert compact.data == payload.data
        assert compact.num_bits == end.num_bits
        assert compact.vector.tobytes() == expected.tobytes()
    assert bool(payload.data[0] & 0x40) == (compressor.per == "tensor")
    assert bool(payload.data[0] & 0x80) == (compressor.bucket_size is not None)
    assert (payload.data[1] == 0) == (compressed.symbols is None)


def test_every_operator_is_in_the_table() -> None:
    names = {row["name"] for row in TABLE}
    assert {row["name"] for row in SOME} == names
    assert {
        "auto",
        "fixed-width",
        "elias",
        "indices",
        "nested-golomb",
        "support-vector",
        "packed-huffman",
        "entropy",
        "elias-levels",
    } == set(CODE_NAMES)
    assert {row["name"] for row in BINARY} == {"random-sparsifier", "top-k"}


@EVERY_PAIR
@given(
    dim=st.integers(0, 300),
    seed=st.integers(0, 2**32),
    density=st.sampled_from([0.0, 0.05, 1.0]),
    version=st.integers(0, 2**32 - 1),
)
@settings(max_examples=4, deadline=None)
def test_decoding_gives_the_operators_value_bit_for_bit(
    row: Row, code: str, dim: int, seed: int, density: float, version: int
) -> None:
    check(row, code, vector(dim, seed, density), version)


@EVERY_PAIR
def test_short_and_long_vectors_too(row: Row, code: str) -> None:
    for dim in (0, 1, 2, 3, 4, 5, 64):  # Of 4 and 5 ANS takes 150 bytes.
        check(row, code, vector(dim), 2)
    # Longer than what is kept in the cache of decoded payloads.
    check(row, code, vector(20_000), 1)


@EVERY_PAIR
def test_negative_zero_and_extremes(row: Row, code: str) -> None:
    # The rotation stops at 2^100.
    large = 1e29 if row["name"] == "rotated-quantizer" else 1e37
    x = np.array([-0.0, 0.0, 1e-45, -1e-45, 1e-38, large, -large], dtype=np.float32)
    if make(row).alphabet(7) is None or row["name"] != "random-sparsifier":
        check(row, code, x, 7)


@pytest.mark.skipif("entropy" in CODES, reason="the package is there")
def test_a_code_without_its_package_says_so() -> None:
    with pytest.raises(ConfigurationError, match="constriction"):
        encode(vector(30), StochasticQuantizer(), "entropy")


@ALL_IN_ONE
def test_header_takes_at_most_48_bytes(row: Row) -> None:
    compressor = make(row)
    empty = encode(vector(0), compressor)
    assert HEADER_BYTES + header_bytes(compressor) <= 48
    # The code for no symbols may take up to a byte.
    assert len(empty.data) <= header_bytes(compressor) + 1


@ALL_IN_ONE
def test_auto_is_the_shortest_of_the_fast_codes(row: Row) -> None:
    if row["name"] in WITHOUT_SYMBOLS:
        return
    for dim, density in ((400, 0.0), (400, 0.03), (400, 1.0), (3000, 1.0)):
        x, compressor = vector(dim, 1, density), make(row)
        auto = encode(x, compressor).num_bits
        others = ["fixed-width", "indices" if row in BINARY else "nested-golomb"]
        if dim == 3000:
            others.append("packed-huffman")
        assert auto == min(encode(x, compressor, code).num_bits for code in others)


@in_one_test("row", BINARY, ids=row_id)
def test_indices_are_for_supports_alone(row: Row) -> None:
    encode(vector(50), make(row), "indices")
    for compressor in (StochasticQuantizer(), StochasticQuantizer(7)):
        with pytest.raises(ConfigurationError, match="indices"):
            encode(vector(50), compressor, "indices")


def test_num_bits_counts_symbols_and_scales() -> None:
    x = np.array([1, -1, 0, 0, 1], dtype=np.float32)
    quantizer = StochasticQuantizer(1, "inf")
    fixed = encode(x, quantizer, "fixed-width")
    # The least symbol in two bits, the width in two, and five symbols of that width.
    assert fixed.num_bits == 2 + 2 + 5 * 2 + 32
    assert len(fixed.data) == 2 + 3 + 2 + 4
    # Four for the count + 1 is 00100; gaps 1, 1, 3 take 1 + 1 + 3; three signs.
    elias = encode(x, quantizer, "elias")
    assert elias.num_bits == 5 + 5 + 3 + 32
    assert encode(x, Identity(), "elias").num_bits == 5 * 32
    assert encode(x, RandK(k=2), "elias").num_bits == 2 * 32
    assert len(encode(x, RandK(k=2)).data) == 2 + 12 + 8


def test_bytes_are_little_endian_values_after_the_symbols() -> None:
    x = np.array([2.0, 0.0, -2.0], dtype=np.float32)
    payload = encode(x, StochasticQuantizer(1, "inf"), "fixed-width")
    # Operator 2 with code 1, levels 1, norm 1; the least symbol is 0 above the lowest,
    # 00, the width two bits, 10; of the symbols 2, 1, 0 the higher bits 100, the lower
    # ones 010, six of padding; the norm 2.0.
    assert payload.data.hex(" ") == "02 01 01 00 01 28 80 00 00 00 40"
    scoped = StochasticQuantizer(1, "inf", bucket_size=259, per="tensor")
    payload = encode(x, scoped, "fixed-width")
    # Tensors of 1, 0 and 2 entries; buckets and tensors show in the operator's id.
    assert payload.data.hex(" ") == (
        "c2 01 03 01 00 00 01 00 01 28 80 00 00 00 40 00 00 00 40"
    )


# --- What both ends know --------------------------------------------------------------


SHARED = [row for row in TABLE if make(row).shared_randomness]
PER_TENSOR = [
    row
    for row in TABLE
    if row.get("per") == "tensor"
    and not make(row).entrywise
    and row["name"] != "top-k"  # the support says it all
]


@in_one_test("row", SHARED, ids=row_id)
def test_another_version_never_decodes_to_the_same(row: Row) -> None:
    x, compressor = vector(300, 3, 1.0), make(row)
    payload = encode(x, compressor, version=7)
    for version in (0, 6, 8, 2**32 - 1):
        other = received(payload.data, 300, version).vector
        assert not np.array_equal(other, payload.vector)
        again = payload.on(channel_of(300, version))
        np.testing.assert_array_equal(again.vector, other)
        np.testing.assert_array_equal(
            again.on(channel_of(300, 7)).vector, payload.vector
        )
    for stream in (
        Stream(4, Purpose.UPLINK, 1, 7),
        Stream(3, Purpose.DOWNLINK, 1, 7),
        Stream(3, Purpose.UPLINK, 2, 7),
    ):
        other = payload.on(Channel(stream, sizes_of(300))).vector
        assert not np.array_equal(other, payload.vector)


@in_one_test("row", SHARED, ids=row_id)
def test_without_a_channel_shared_randomness_is_missing(row: Row) -> None:
    payload = encode(vector(30), make(row))
    sizes = make(row).per == "model"
    alone = Payload(payload.data, 30)
    expected = ConfigurationError if sizes else (ConfigurationError, CorruptPacket)
    with pytest.raises(expected):
        _ = alone.vector
    assert alone.on(channel_of(30)).vector.tobytes() == payload.vector.tobytes()


@in_one_test("row", [r for r in TABLE if r not in SHARED + PER_TENSOR], ids=row_id)
def test_others_need_no_channel(row: Row) -> None:
    for dim in (30, 20_000):
        payload = encode(vector(dim), make(row))
        alone = Payload(payload.data, dim)
        assert alone.vector.tobytes() == payload.vector.tobytes()
        assert alone.num_bits == payload.num_bits


@in_one_test("row", PER_TENSOR, ids=row_id)
def test_other_tensors_are_refused_or_give_another_value(row: Row) -> None:
    x = vector(300, 3, 1.0)
    payload = encode(x, make(row))
    for sizes in ((300,), (150, 150), (100, 0, 100, 50, 50), (299,)):
        other = Payload(payload.data, 300).on(Channel(STREAM, sizes))
        try:
            value = other.vector
        except (CorruptPacket, ConfigurationError):
            continue
        assert not np.array_equal(value, payload.vector)


def test_decoded_vectors_are_kept_by_their_channel() -> None:
    """The cache of decoded payloads tells versions, streams and tensors apart."""
    for row in SHARED + PER_TENSOR:
        x = vector(60, 5, 1.0)
        expected = {}
        for version in range(1, 4):
            payload = encode(x, make(row), version=version)
            expected[version] = payload.data, payload.vector.copy()
        for _ in range(2):
            for version, (data, value) in expected.items():
                came = received(data, 60, version).vector
                np.testing.assert_array_equal(came, value)


@ALL_IN_ONE
@in_one_test("dim", [60, 20_000])
def test_payloads_survive_the_state_of_a_client(row: Row, dim: int) -> None:
    """As bytes; what they leave out is put back from the contract's channels."""
    x, compressor = vector(dim, 2), make(row)
    down = Channel(Stream(9, Purpose.DOWNLINK, 2), sizes_of(dim))
    up = Channel(Stream(9, Purpose.UPLINK, 5), sizes_of(dim))
    accepted = Payload.encode(x, compressor, "auto", down.at(12))
    pending = Payload.encode(x, compressor, "auto", up.at(13))
    state = ClientState(
        1,
        b"",
        ReceiverState(11, None, accepted, 12),
        SenderState(9, None, pending, 13),
    )
    read = ClientState.from_bytes(state.to_bytes(dim))
    assert read is not None
    read = read.on(down, up)
    for sent, came in (
        (accepted, read.receiver.pending),
        (pending, read.sender.pending),
    ):
        assert came is not None
        assert came.data == sent.data
        assert came.num_bits == sent.num_bits
        assert came.vector.tobytes() == sent.vector.tobytes()


def test_vectors_are_read_only() -> None:
    for dim in (5, 20_000):
        value = encode(vector(dim), Identity()).vector
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 1.0


def test_the_input_may_change_afterwards() -> None:
    for row in TABLE:
        x = vector(50)
        payload = encode(x, make(row))
        expected = received(payload.data, 50).vector.copy()
        x[:] = 9.0
        np.testing.assert_array_equal(payload.vector, expected)


def test_errors_of_encoding() -> None:
    with pytest.raises(UnknownNameError, match="huffman.*auto"):
        encode(vector(3), StochasticQuantizer(), "huffman")
    bad = np.array([1.0, np.nan], dtype=np.float32)
    for row in TABLE:
        with pytest.raises(NonFiniteError, match="1 of 2 .*first at 1"):
            encode(bad, make(row))


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
    assert 0 <= 8 * (len(data) - header_bytes(compressor)) - num_bits < 8
    return value


@SOME_PAIRS
def test_cut_off_or_prolonged_payloads_are_refused(row: Row, code: str) -> None:
    for dim in (1, 40):
        data = encode(vector(dim, 2), make(row), code).data
        for cut in range(len(data)):
            # A shorter vector of values may remain, never one of the length expected.
            with pytest.raises(CorruptPacket):
                _ = received(data[:cut], dim).vector
        for extra in (b"\0", b"\0\0\0\0", b"what is this"):
            with pytest.raises(CorruptPacket):
                _ = received(data + extra, dim).vector


@SOME_PAIRS
def test_another_length_is_refused_or_decoded_at_that_length(
    row: Row, code: str
) -> None:
    data = encode(vector(40, 2), make(row), code).data
    for dim in (0, 1, 39, 41, 80, 5000):
        decode_or_refuse(data, dim)
    assert decode_or_refuse(data, 0) is None


@SOME_PAIRS
def test_every_changed_byte_decodes_or_is_refused(row: Row, code: str) -> None:
    data = encode(vector(24, 5), make(row), code).data
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
    code=st.integers(0, 8),
    body=st.binary(max_size=80),
    dim=st.integers(0, 40),
)
@settings(max_examples=400, deadline=None)
def test_random_bodies_behind_a_true_header_decode_or_are_refused(
    row: Row, code: int, body: bytes, dim: int
) -> None:
    wire_id, parameters = make(row).to_wire()
    header = bytes((wire_id, code)) + parameters
    decode_or_refuse(header + body, dim)


@in_one_test(
    ("data", "dim", "message"),
    [
        (b"", 3, "at least 2 bytes"),
        (b"\x01", 3, "at least 2 bytes"),
        (b"\x37\x00", 3, "compressor id 55"),
        (b"\xf7\x00", 3, "compressor id 55"),
        (b"\x02\x01\x01", 3, "parameters"),
        (b"\x02\x01\x01\x00\x04", 3, "flags"),
        (b"\x82\x01\x00\x00\x00\x00\x01\x00\x00", 3, "bucket_size"),
        (b"\x09\x00" + bytes(8), 3, "step"),
        (b"\x01\x01" + bytes(12), 3, "no symbols"),
        (b"\x01\x00" + bytes(8), 3, "expected 3 float32 values"),
        (b"\x01\x00" + bytes.fromhex("0000c07f"), 1, "NaN or infinite"),
        (b"\x01\x00" + bytes.fromhex("000080ff"), 1, "NaN or infinite"),
        (b"\x01\x00" + bytes(200), 3, "expected 3 float32 values"),
        (b"\x02\x01\x01\x00\x01" + bytes(400), 3, "cannot be a vector of length 3"),
        # Three symbols, and a padding bit that is set.
        (bytes.fromhex("0201 0100 01 2881 00000040"), 3, "padding"),
        (bytes.fromhex("0263 0100 01 2880 00000040"), 3, "code id 99"),
        (bytes.fromhex("0200 0100 01 2880 00000040"), 3, "code id 0"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, dim: int, message: str) -> None:
    with pytest.raises(CorruptPacket, match=message):
        _ = received(data, dim).vector


def test_largest_norm_and_levels_decode_to_finite_values() -> None:
    for levels in (1, 25, 31, 49, 127, 32767):
        quantizer = StochasticQuantizer(levels, "inf")
        x = np.array([1.0, -1.0], dtype=np.float32)
        data = encode(x, quantizer).data
        largest = np.array(np.finfo(np.float32).max, dtype="<f4").tobytes()
        assert decode_or_refuse(data[:-4] + largest, 2) is not None
        assert decode_or_refuse(data[:-4] + largest[:3] + b"\xff", 2) is None


def test_short_bytes_for_a_huge_dimension_are_refused_at_once() -> None:
    # Not where few entries lie far apart, or all are equal. So a packet's dimension
    # is checked before its payloads are decoded.
    for row in SOME:
        compressor = get_compressor(row)
        if compressor.per == "tensor":
            continue
        data = encode(vector(9), compressor, "fixed-width").data
        with at_most_steps(2000):
            assert decode_or_refuse(data, 2**32 - 1) is None


def test_long_vectors_are_decoded_once_where_receivers_share_them() -> None:
    dim = 1 << 15
    channels = [Channel(Stream(1, Purpose.GOSSIP, i, 7)) for i in range(3)]
    generator = np.random.default_rng(0)
    sent = [
        Payload.encode(
            generator.standard_normal(dim).astype(np.float32),
            StochasticQuantizer(4),
            "auto",
            channel,
        )
        for channel in channels
    ]

    def receive(index: int) -> Vector:
        return Payload(bytes(sent[index].data), dim, channels[index]).vector

    assert receive(0) is not receive(0)
    with share_decoding(2 * 4 * dim):
        first, second = receive(0), receive(1)
        assert receive(0) is first and not first.flags.writeable
        np.testing.assert_array_equal(first, sent[0].vector)
        assert receive(2) is receive(2)  # takes the place of the second
        assert receive(0) is first
        assert receive(1) is not second
    assert receive(0) is not first
    with share_decoding(4 * dim - 1):
        assert receive(0) is not receive(0)


def test_a_long_payload_is_decoded_once_where_it_is_folded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dim, channel = 1 << 15, Channel(Stream(1, Purpose.UPLINK, 0, 7))
    sent = Payload.encode(vector(dim), StochasticQuantizer(4), "auto", channel)
    calls, decode = [], payload_module._decode

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return decode(*arguments)

    monkeypatch.setattr(payload_module, "_decode", counted)
    received = Payload(bytes(sent.data), dim, channel)
    step = fold(None, received, 0.25)
    np.testing.assert_array_equal(step, np.float32(0.25) * sent.vector)
    assert len(calls) == 1
    assert received.compressor == sent.compressor and len(calls) == 1
    assert not received.is_decoded  # what is long is not held
    # Nor is anything decoded to know what is known already.
    assert sent.compact().compressor == sent.compressor and len(calls) == 1
    calls.clear()
    with share_decoding(4 * dim):
        for _ in range(3):
            received = Payload(bytes(sent.data), dim, channel)
            np.testing.assert_array_equal(fold(None, received, 0.25), step)
            lean = received.lean()
            assert lean.num_bits == sent.num_bits
            assert lean.compressor == sent.compressor
    assert len(calls) == 1  # as every receiver has the vector of the first


def test_threads_decode_a_shared_vector_once() -> None:
    shared, calls = SharedVectors(), []
    shared.num_bytes = 100
    start = threading.Barrier(4, timeout=20)

    def opened(size: int) -> Opened:
        return Opened(np.ones(size, np.float32), Identity(), 32 * size)

    def decode() -> Opened:
        calls.append(1)
        time.sleep(0.01)
        return opened(10)

    def ask(_: int) -> int:
        start.wait()
        return id(shared.get("key", decode))

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ask, range(4)))) == 1
    assert len(calls) == 1

    def fail() -> Opened:
        raise CorruptPacket("nothing")

    with pytest.raises(CorruptPacket):
        shared.get("other", fail)
    # Whoever comes next tries again, and what is too much is not kept.
    assert shared.get("other", lambda: opened(26)).vector.size == 26
    assert shared.get("other", lambda: opened(2)).vector.size == 2
    # Two threads bring the same where it was let go between: it is counted once.
    for _ in range(2):
        shared._put("twice", opened(10))
    held = sum(each.vector.nbytes for each in shared._opened.values())
    assert shared._held == held
