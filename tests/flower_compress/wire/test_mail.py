"""Deliveries and postings: exact bytes, hostile bytes."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flower_compress.errors import ConfigurationError, CorruptPacket
from flower_compress.wire.mail import (
    MAIL_STYPE,
    Delivery,
    Letter,
    Posting,
    find_mail,
    mail_record,
    payload_crc,
)

DELIVERY = struct.Struct("<BBIIIBIIIIId")
POSTING = struct.Struct("<BBIIBII")
LETTER = struct.Struct("<IIBBQI")
DELIVERY_BYTES, POSTING_BYTES = DELIVERY.size + 4, POSTING.size + 4
DIM = 5

uint8, uint32 = st.integers(0, 2**8 - 1), st.integers(0, 2**32 - 1)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def letters(draw: st.DrawFn) -> Letter:
    data = draw(st.binary(max_size=40))
    return Letter(
        node=draw(uint32),
        version=draw(uint32),
        phase=draw(uint8),
        data=data,
        num_bits=draw(st.integers(0, 8 * len(data))),
        snapshot=draw(st.booleans()),
    )


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    dim = draw(st.integers(0, 12))
    contract = draw(st.none() | st.binary(max_size=30))
    model = draw(st.none() | arrays(np.float32, dim, elements=finite))
    numbers = {
        name: draw(uint32)
        for name in ("session", "number", "round", "acked", "crc", "first", "answered")
    }
    flags = {
        name: draw(st.booleans())
        for name in (
            "train",
            "collect",
            "evaluate",
            "rebuild",
            "want_snapshot",
            "forget",
        )
    }
    return Delivery(
        **numbers,
        **flags,
        phase=draw(uint8),
        dim=dim if model is not None else draw(uint32),
        step_size=draw(st.floats(allow_nan=False)),
        contract=contract,
        exact=b"" if contract is None else draw(st.binary(max_size=20)),
        model=model,
        letters=tuple(draw(st.lists(letters(), max_size=4))),
    )


@st.composite
def postings(draw: st.DrawFn) -> Posting:
    dim = draw(st.integers(0, 12))
    model = draw(st.none() | arrays(np.float32, dim, elements=finite))
    return Posting(
        session=draw(uint32),
        number=draw(uint32),
        phase=draw(uint8),
        received=draw(uint32),
        dim=dim if model is not None else draw(uint32),
        resync=draw(st.booleans()),
        empty=draw(st.booleans()),
        model=model,
        exact=b"" if model is None else draw(st.binary(max_size=20)),
        letters=tuple(draw(st.lists(letters(), max_size=4))),
    )


def assert_same(one: Any, other: Any) -> None:
    """Compare field by field; arrays byte by byte."""
    for name in one.__dataclass_fields__:
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, np.ndarray):
            assert b.dtype == a.dtype == np.float32
            assert b.tobytes() == a.tobytes(), name
        else:
            assert a == b, name


def with_crc(data: bytes | bytearray, header: int) -> bytes:
    """The bytes with the checksum that they should have."""
    changed = bytearray(data)
    crc = zlib.crc32(changed[header:], zlib.crc32(changed[: header - 4]))
    changed[header - 4 : header] = struct.pack("<I", crc)
    return bytes(changed)


FULL = Delivery(
    session=0xFFFFFFFE,
    number=77,
    round=12,
    phase=1,
    acked=70,
    crc=0xDEADBEEF,
    first=5,
    answered=76,
    dim=DIM,
    step_size=0.125,
    train=True,
    rebuild=True,
    forget=True,
    contract=b'{"protocol":1,"seed":7}',
    exact=b"\1\2\3",
    model=np.linspace(-2, 3, DIM).astype(np.float32),
    letters=(
        Letter(3, 75, 1, np.arange(DIM, dtype="<f8").tobytes(), 320, snapshot=True),
        Letter(3, 76, 1, b"payload", 51),
        Letter(0, 76, 1, b"", 0),
    ),
)
ANSWER = Posting(
    session=0xFFFFFFFE,
    number=77,
    phase=1,
    received=8,
    dim=DIM,
    resync=True,
    empty=True,
    model=np.linspace(-2, 3, DIM).astype(np.float32),
    exact=b"\1\2\3",
    letters=FULL.letters,
)


# --- Round trips ----------------------------------------------------------------------


@settings(deadline=None)
@given(deliveries())
def test_deliveries_survive(delivery: Delivery) -> None:
    read = Delivery.parse(delivery.data)
    assert_same(delivery, read)
    assert read.data == delivery.data


@settings(deadline=None)
@given(postings())
def test_postings_survive(posting: Posting) -> None:
    read = Posting.parse(posting.data)
    assert_same(posting, read)
    assert read.data == posting.data
    assert read.crc == posting.crc


def test_bytes_are_pinned() -> None:
    header = DELIVERY.pack(
        1, 1 | 2 | 4 | 16 | 64, 0xFFFFFFFE, 77, 12, 1, 70, 0xDEADBEEF, 5, 76, DIM, 0.125
    )
    contract = FULL.contract
    assert contract is not None
    assert FULL.model is not None
    body = b"".join(
        (
            struct.pack("<I", len(contract)),
            contract,
            struct.pack("<I", 3),
            b"\1\2\3",
            FULL.model.astype("<f4").tobytes(),
            *(
                LETTER.pack(
                    a.node, a.version, a.phase, a.snapshot, a.num_bits, len(a.data)
                )
                + a.data
                for a in FULL.letters
            ),
        )
    )
    expected = with_crc(header + bytes(4) + body, DELIVERY_BYTES)
    assert FULL.data == expected
    header = POSTING.pack(1, 1 | 2 | 4, 0xFFFFFFFE, 77, 1, 8, DIM)
    body = b"".join(
        (
            FULL.model.astype("<f4").tobytes(),
            struct.pack("<I", 3),
            b"\1\2\3",
            body[len(contract) + 11 + 4 * DIM :],
        )
    )
    assert ANSWER.data == with_crc(header + bytes(4) + body, POSTING_BYTES)


@pytest.mark.parametrize(
    "flag", ["train", "collect", "rebuild", "want_snapshot", "forget", "evaluate"]
)
def test_flags_are_pinned(flag: str) -> None:
    bits = {"train": 4, "collect": 8, "rebuild": 16, "want_snapshot": 32}
    bits |= {"forget": 64, "evaluate": 128}
    assert Delivery(1, 2, **{flag: True}).data[1] == bits[flag]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["session", "number", "acked", "crc", "first", "answered", "dim"]
)
def test_numbers_fill_32_bits(name: str) -> None:
    largest = {"session": 1, "number": 1, name: 2**32 - 1}
    assert getattr(Delivery.parse(Delivery(**largest).data), name) == 2**32 - 1  # type: ignore[arg-type]
    for wrong in (2**32, -1):
        with pytest.raises(ConfigurationError, match=str(wrong)):
            _ = Delivery(**{**largest, name: wrong}).data  # type: ignore[arg-type]


def test_bits_of_a_long_snapshot_fit() -> None:
    """64 bits an entry: of 67 million entries and more, as ResNets have."""
    long = Letter(0, 1, 0, b"", 64 << 28)
    with pytest.raises(CorruptPacket, match="cannot carry"):
        Posting.parse(Posting(1, 1, letters=(long,)).data)


def test_crc_is_of_the_payloads_only() -> None:
    snapshot, first, second = FULL.letters
    assert ANSWER.crc == zlib.crc32(first.data + second.data)
    assert payload_crc((snapshot,)) == 0
    assert payload_crc((first,)) != payload_crc((replace(first, data=b"another"),))


def test_estimates() -> None:
    snapshot = FULL.letters[0]
    np.testing.assert_array_equal(snapshot.estimate(DIM), np.arange(DIM))
    with pytest.raises(CorruptPacket, match="snapshot of 48 bytes, got 40"):
        snapshot.estimate(DIM + 1)
    for bad in (np.nan, np.inf):
        data = np.array([1.0, bad]).astype("<f8").tobytes()
        with pytest.raises(CorruptPacket, match="NaN or infinity"):
            Letter(0, 1, 0, data, 128, snapshot=True).estimate(2)


def test_mail_is_found_among_records() -> None:
    record = mail_record(FULL.data)
    content = RecordDict({"config": ConfigRecord({"a": 1}), "any": record})
    assert find_mail(content) == ("any", FULL.data)
    assert record["mail"].stype == MAIL_STYPE
    other = ArrayRecord({"mail": Array(np.zeros(3))})
    assert find_mail(RecordDict({"any": other})) is None
    assert find_mail(RecordDict()) is None


# --- Damage ---------------------------------------------------------------------------

PARSERS: list[tuple[bytes, Callable[[bytes], Any], int]] = [
    (FULL.data, Delivery.parse, DELIVERY_BYTES),
    (ANSWER.data, Posting.parse, POSTING_BYTES),
]
both = pytest.mark.parametrize(
    ("data", "parse", "header"), PARSERS, ids=["delivery", "posting"]
)


@both
def test_every_truncation_is_refused(
    data: bytes, parse: Callable[[bytes], Any], header: int
) -> None:
    for size in range(len(data)):
        with pytest.raises(CorruptPacket):
            parse(data[:size])
        if size >= header:
            # A letter that is cut off between two others leaves whole mail behind.
            whole = with_crc(data[:size], header)
            with contextlib.suppress(CorruptPacket):
                assert parse(whole).data == whole


@both
def test_every_flipped_bit_is_refused(
    data: bytes, parse: Callable[[bytes], Any], header: int
) -> None:
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(CorruptPacket):
            parse(bytes(damaged))


@both
def test_other_formats_are_refused(
    data: bytes, parse: Callable[[bytes], Any], header: int
) -> None:
    with pytest.raises(CorruptPacket, match="same major version"):
        parse(b"\2" + data[1:])


@both
def test_noise_with_a_right_checksum_is_refused_or_read(
    data: bytes, parse: Callable[[bytes], Any], header: int
) -> None:
    """A stranger can compute a checksum: what is read is bounded by what came."""
    generator = np.random.default_rng(3)
    num_read = 0
    tracemalloc.start()
    try:
        for _ in range(4000):
            damaged = bytearray(data)
            for _ in range(int(generator.integers(1, 4))):
                at = int(generator.integers(1, len(damaged)))
                match int(generator.integers(4)):
                    case 0:
                        damaged[at] ^= 1 << int(generator.integers(8))
                    case 1:
                        damaged[at : at + 4] = b"\xff" * 4
                    case 2:
                        del damaged[max(at, header) :]
                    case 3:
                        damaged[at : at + 5] = generator.bytes(5)
            if len(damaged) < header:
                continue
            damaged[0] = 1
            try:
                mail = parse(with_crc(damaged, header))
            except CorruptPacket:
                continue
            num_read += 1
            for letter in mail.letters:
                with contextlib.suppress(CorruptPacket):
                    letter.estimate(DIM)
            size = sum(len(letter.data) for letter in mail.letters)
            assert size <= len(damaged)
            assert mail.model is None or mail.model.nbytes <= len(damaged)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 100 < num_read < 3500
    assert peak < 1_000_000


@both
def test_hostile_sizes_allocate_nothing(
    data: bytes, parse: Callable[[bytes], Any], header: int
) -> None:
    form, mail = (DELIVERY, FULL) if header == DELIVERY_BYTES else (POSTING, ANSWER)
    huge = 2**32 - 1
    numbers = list(form.unpack_from(data))
    numbers[-2 if form is DELIVERY else -1] = huge  # the dimension of the model
    of_letter = LETTER.pack(0, 1, 0, 0, 8, huge)
    bare = replace(mail, contract=None) if form is DELIVERY else mail
    bare = replace(bare, model=None, exact=b"", letters=())
    attempts = [
        form.pack(*numbers) + data[form.size :],
        data + of_letter,
        bare.data + of_letter + b"\0" * 100,
        bare.data + LETTER.pack(0, 1, 0, 0, 2**64 - 1, 4) + b"abcd",
    ]
    if form is DELIVERY:
        flagged = bytearray(replace(bare, letters=()).data)
        flagged[1] |= 1
        attempts.append(bytes(flagged) + struct.pack("<I", huge) + b"contract")
    tracemalloc.start()
    try:
        for attempt in attempts:
            with pytest.raises(CorruptPacket):
                parse(with_crc(attempt, header))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


@both
@given(noise=st.binary(max_size=200))
def test_noise_is_refused(
    data: bytes, parse: Callable[[bytes], Any], header: int, noise: bytes
) -> None:
    for attempt in (noise, b"\1" + noise):
        with pytest.raises(CorruptPacket):
            parse(attempt)


def test_models_that_are_not_finite_are_refused() -> None:
    for bad in (np.nan, -np.inf):
        model = np.array([0, bad], np.float32)
        for mail in (
            Delivery(1, 1, dim=2, model=model),
            Posting(1, 1, dim=2, model=model),
        ):
            with pytest.raises(CorruptPacket, match="NaN or infinity"):
                type(mail).parse(mail.data)
