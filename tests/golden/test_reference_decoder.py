"""The document of the wire format is enough to decode what the library writes.

tests/golden/reference_decoder.py is written from docs/wire-format.md alone. If it and
the library differ, one of the three is wrong.
"""

from __future__ import annotations

import json
import random
import zlib
from typing import Any

import numpy as np
import pytest

from flower_compress.coding import CODE_NAMES
from flower_compress.errors import CorruptPacket
from flower_compress.links import Channel, Payload
from flower_compress.wire.first_model import unpack
from flower_compress.wire.layout import Layout
from tests.cases import in_one_test
from tests.flower_compress.operators import (
    STREAM,
    TABLE,
    Row,
    make,
    make_input,
    row_id,
    sizes_of,
)
from tests.golden import make_golden, reference_decoder
from tests.golden.make_golden import FOLDER, RECIPES, make_channel, make_contract
from tests.golden.reference_decoder import (
    Packet,
    RefusedError,
    Stream,
    decode_payload,
    read_packet,
)

PURPOSES = {"UPLINK": 1, "DOWNLINK": 2}
GOLDEN = in_one_test("name", RECIPES)


def stored(name: str) -> tuple[Packet, dict[str, Any]]:
    described = json.loads((FOLDER / f"{name}.json").read_text())
    if any(recipe["code"] == "entropy" for recipe in described["payloads"]):
        pytest.importorskip("constriction")
    return read_packet((FOLDER / f"{name}.bin").read_bytes()), described


def golden_stream(recipe: dict[str, Any]) -> Stream:
    stream = recipe["stream"]
    purpose = PURPOSES[stream["purpose"]]
    return Stream(stream["seed"], stream["index"], purpose, stream["version"])


def groups_of(recipe: dict[str, Any]) -> tuple[int, ...]:
    """The groups of the arrays, by hand."""
    if recipe["operator"]["name"] == "tied":
        return (1, 1, 0, 0, 1)
    if recipe["operator"]["name"] != "per-array":
        return ()
    # "2" goes to the first rule, those up to 40 entries to the third, 49 to none.
    return (1, 1, 0, 2) if len(recipe["sizes"]) == 4 else (0, 1)


def as_bytes(values: Any) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


# --- Golden packets -------------------------------------------------------------------


@GOLDEN
def test_the_fields_of_golden_packets(name: str) -> None:
    packet, described = stored(name)
    fields = described["packet"]
    for field in ("session", "base", "version", "acked", "detail", "dim"):
        assert getattr(packet, field) == fields[field]
    assert packet.flags == {
        "contract": fields["contract"] is not None,
        "snapshot": fields["snapshot"] is not None,
        "exact": fields["exact"] is not None,
        "memory": fields["memory"] is not None,
        **{flag: fields[flag] for flag in ("final", "greeting", "resync", "refused")},
    }
    count, last = len(described["payloads"]), fields["version"]
    assert packet.versions == list(range(last - count + 1, last + 1))
    if fields["contract"] is not None:
        contract = json.loads(make_contract(fields["contract"]).to_bytes())
        assert packet.contract == contract
        for key in ("layout", "downlink_rate", "seed", "downlink_groups"):
            assert packet.contract[key] == fields["contract"][key]
    for section in ("snapshot", "memory"):
        if fields[section] is not None:
            expected = make_golden.make_input(fields[section])
            assert as_bytes(getattr(packet, section)) == as_bytes(expected)
    if fields["exact"] is not None:
        assert packet.exact == bytes.fromhex(fields["exact"])


def test_a_packed_first_model_stands_before_the_exact_arrays() -> None:
    packet, _ = stored("packed-first-model")
    assert packet.contract["first_model"] == "packed" and packet.exact is not None
    length = int.from_bytes(packet.exact[:4], "little")
    first, exact = packet.exact[4 : 4 + length], packet.exact[4 + length :]
    vector = decode_payload(first, packet.dim, [93, 3], Stream(42, 0, 2, 1))
    layout = Layout.from_config(packet.contract["layout"])
    expected = unpack(packet.exact, packet.contract["seed"], layout)
    assert (as_bytes(vector), exact) == (as_bytes(expected[0]), expected[1])


@GOLDEN
def test_the_vectors_of_golden_packets(name: str) -> None:
    packet, described = stored(name)
    for data, recipe, expected in zip(
        packet.payloads,
        described["payloads"],
        described["expected"]["decoded"],
        strict=True,
    ):
        sizes = recipe["sizes"] or [packet.dim]
        stream, groups = golden_stream(recipe), groups_of(recipe)
        ties = recipe["operator"].get("ties", ())
        vector = decode_payload(data, packet.dim, sizes, stream, groups, ties)
        assert as_bytes(vector) == as_bytes(expected)


@GOLDEN
def test_the_same_damage_is_refused(name: str) -> None:
    packet, described = stored(name)
    chance = random.Random(name)
    for data, recipe in zip(packet.payloads, described["payloads"], strict=True):
        for _ in range(30):
            damaged = bytearray(data)
            for _ in range(chance.choice((1, 1, 2))):
                at = chance.randrange(min(len(data), chance.choice((12, 40, 10**6))))
                damaged[at] = chance.choice(
                    (damaged[at] ^ 1 << chance.randrange(8), chance.randrange(256))
                )
            length = chance.randrange(len(data)) if chance.random() < 0.1 else len(data)
            compare_damaged(bytes(damaged[:length]), packet.dim, recipe)


def compare_damaged(data: bytes, dim: int, recipe: dict[str, Any]) -> None:
    try:
        expected = Payload(data, dim, make_channel(recipe)).vector
    except CorruptPacket:
        expected = None
    try:
        sizes, stream = recipe["sizes"] or [dim], golden_stream(recipe)
        ties = recipe["operator"].get("ties", ())
        vector = decode_payload(data, dim, sizes, stream, groups_of(recipe), ties)
    except (RefusedError, zlib.error):
        assert expected is None
    else:
        assert expected is not None
        # Of a damaged norm a zero may have either sign.
        assert as_bytes(np.add(vector, 0.0)) == as_bytes(expected + 0.0)


def test_a_damaged_packet_is_refused() -> None:
    data = (FOLDER / "first-model.bin").read_bytes()
    for damaged in (data[:-1], data[:30] + b"?" + data[31:], b"\2" + data[1:], b""):
        with pytest.raises(RefusedError):
            read_packet(damaged)


# --- What the library writes ----------------------------------------------------------


def codes_of(row: Row) -> list[str]:
    alphabet = make(row).alphabet(1)
    if alphabet is None:
        return ["auto"]
    return [
        code
        for code in CODE_NAMES
        if code != "auto" and (code != "indices" or alphabet == (0, 1))
    ]


def compare(row: Row, kind: str, dim: int, code: str) -> Payload:
    """Check that both decode the same from a payload of the library."""
    if code == "entropy":
        pytest.importorskip("constriction")
    x, sizes = make_input(kind, dim), sizes_of(dim)
    payload = Payload.encode(x, make(row), code, Channel(STREAM, sizes))
    stream = Stream(STREAM.seed, STREAM.index, int(STREAM.purpose), STREAM.version)
    vector = decode_payload(payload.data, dim, sizes, stream)
    assert as_bytes(vector) == as_bytes(payload.vector)
    return payload


def case_id(value: Any) -> str | None:
    return row_id(value) if isinstance(value, dict) else None


@in_one_test(
    ("row", "code"),
    [(row, code) for row in TABLE for code in codes_of(row)],
)
def test_every_operator_and_code(row: Row, code: str) -> None:
    for dim in (0, 1, 9, 300):
        compare(row, "gaussian", dim, code)


@in_one_test(
    ("row", "code"),
    [(row, codes_of(row)[i % len(codes_of(row))]) for i, row in enumerate(TABLE)],
)
def test_long_vectors(row: Row, code: str) -> None:
    compare(row, "gaussian", 20_011, code)


def quantizer(levels: int, norm: int | str = "inf") -> Row:
    return {"name": "stochastic-quantizer", "levels": levels, "norm": norm}


@pytest.mark.parametrize(
    ("row", "dim", "arrays"),
    [
        (quantizer(3), 40_000, 2),  # then a mixed one
        (quantizer(1, 2), 40_000, 0),
        ({"name": "top-k", "k": 4100}, 4100 * 128, 1),
        ({"name": "top-k", "k": 4100}, 4100 * 128 + 1, 0),  # 128 t < n
    ],
    ids=case_id,
)
def test_levels_with_arrays_of_their_own(
    row: Row, dim: int, arrays: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    golomb = reference_decoder.golomb

    def counted(reader: Any, parameters: list[int], mixed: bool = False) -> list[int]:
        calls.append(mixed)
        return golomb(reader, parameters, mixed)

    monkeypatch.setattr(reference_decoder, "golomb", counted)
    compare(row, "gaussian", dim, "support-vector")
    assert calls == [False] * arrays + [True]


@pytest.mark.parametrize("code", ["packed-huffman", "entropy"])
@pytest.mark.parametrize(
    ("row", "kind", "dim"),
    [
        (quantizer(1000), "gaussian", 70_000),  # low bits, gap, escapes
        (quantizer(1000, 2), "heavy-tailed", 20_000),
        (quantizer(127), "heavy-tailed", 140_000),
        (quantizer(30_000, 2), "heavy-tailed", 20_000),
        (quantizer(32_767), "gaussian", 20_000),  # a plane of bytes
        (quantizer(300), "constant", 500),  # base 1
        ({"name": "dithered-quantizer", "levels": 1000}, "gaussian", 70_000),
        ({"name": "dithered-quantizer", "levels": 1}, "sparse", 20_000),
        ({"name": "scaled-sign"}, "gaussian", 8 * 32_704 + 5),  # two blocks, a gap
        ({"name": "rotated-quantizer", "step": 0.01}, "gaussian", 20_000),
    ],
    ids=case_id,
)
def test_layers(row: Row, kind: str, dim: int, code: str) -> None:
    compare(row, kind, dim, code)


@pytest.mark.parametrize(
    ("row", "kind", "layers", "shift"),
    [
        (quantizer(3000, 2), "heavy-tailed", 3, 3),
        (quantizer(32_767), "heavy-tailed", 2, 8),
    ],
)
def test_the_layers_above_are_there(
    row: Row, kind: str, layers: int, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifts: list[int] = []
    low_bits = reference_decoder.low_bits

    def counted(reader: Any, count: int, shift: int) -> list[int]:
        shifts.append(shift)
        return low_bits(reader, count, shift)

    monkeypatch.setattr(reference_decoder, "low_bits", counted)
    compare(row, kind, 70_000, "packed-huffman")
    assert len(shifts) == layers
    assert max(shifts) >= shift


@pytest.mark.parametrize("levels", [1, 3, 6, 7, 100, 32_767])
@pytest.mark.parametrize("subtractive", [False, True])
def test_the_largest_norm(levels: int, subtractive: bool) -> None:
    row = {**quantizer(levels), "subtractive": subtractive}
    x = np.array([1.0, -0.3, 0.6, 1.0], dtype=np.float32)
    channel = Channel(STREAM)
    data = Payload.encode(x, make(row), "elias", channel).data
    data = data[:-4] + as_bytes([np.finfo(np.float32).max])
    stream = Stream(STREAM.seed, STREAM.index, int(STREAM.purpose), STREAM.version)
    vector = decode_payload(data, 4, [4], stream)
    assert as_bytes(vector) == as_bytes(Payload(data, 4, channel).vector)
