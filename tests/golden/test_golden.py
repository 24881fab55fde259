"""Golden packets: bytes written long ago are written today, and read as they were.

See tests/golden/make_golden.py; this test reads its files and never writes any.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flower_compress.coding import CODE_NAMES, code_by_wire_id
from flower_compress.compressors import (
    COMPRESSORS,
    Parts,
    Tied,
    compressor_from_wire,
    get_compressor,
)
from flower_compress.wire.contract import Contract
from flower_compress.wire.first_model import unpack
from flower_compress.wire.packet import Packet
from tests.cases import in_one_test
from tests.golden.make_golden import (
    FIRST_INPUT,
    FOLDER,
    RECIPES,
    make_channel,
    make_contract,
    make_input,
    make_operator,
    make_packet,
)

IS_ZLIB_NG = "ng" in zlib.ZLIB_RUNTIME_VERSION


def codes_of(recipe: dict[str, Any]) -> set[str]:
    return {payload["code"] for payload in recipe["payloads"]}


EVERY = in_one_test("name", RECIPES)


def stored(name: str) -> tuple[bytes, dict[str, Any]]:
    """The bytes and the description; a file that is missing is a failure."""
    data = (FOLDER / f"{name}.bin").read_bytes()
    described: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    if "entropy" in codes_of(described):
        pytest.importorskip("constriction")
    return data, described


def received(data: bytes, described: dict[str, Any]) -> Packet:
    """The packet, each payload on its channel."""
    packet = Packet.parse(data)
    payloads = tuple(
        payload.on(make_channel(recipe))
        for payload, recipe in zip(packet.payloads, described["payloads"], strict=True)
    )
    return replace(packet, payloads=payloads)


@EVERY
def test_the_same_bytes_are_written(name: str) -> None:
    data, described = stored(name)
    packet = make_packet(described)
    if "packed-huffman" in codes_of(described) and IS_ZLIB_NG:
        # Another implementation of zlib: other bytes, which decode to the same.
        for payload, expected in zip(
            packet.payloads, received(data, described).payloads, strict=True
        ):
            assert payload.vector.tobytes() == expected.vector.tobytes()
        return
    assert packet.data.hex() == data.hex()
    assert len(data) == described["expected"]["num_bytes"]
    assert packet.payload_bits == described["expected"]["payload_bits"]


@EVERY
def test_the_stored_bytes_are_read(name: str) -> None:
    data, described = stored(name)
    packet = received(data, described)
    fields = described["packet"]
    for field in ("session", "base", "version", "acked", "detail", "dim", "final"):
        assert getattr(packet, field) == fields[field], field
    for field in ("greeting", "resync", "refused"):
        assert getattr(packet, field) == fields[field]
    assert packet.payload_bits == described["expected"]["payload_bits"]
    decoded = described["expected"]["decoded"]
    assert len(packet.payloads) == len(decoded) == len(described["payloads"])
    for payload, values, recipe in zip(
        packet.payloads, decoded, described["payloads"], strict=True
    ):
        expected = np.array(values, dtype=np.float32)
        assert payload.vector.tobytes() == expected.tobytes()
        assert payload.compressor == make_operator(recipe)


@EVERY
def test_the_stored_sections_are_read(name: str) -> None:
    data, described = stored(name)
    packet, fields = Packet.parse(data), described["packet"]
    if fields["contract"] is None:
        assert packet.contract is None
    else:
        assert packet.contract is not None
        contract = Contract.from_bytes(packet.contract)
        assert contract == make_contract(fields["contract"])
        assert contract.layout.dim == packet.dim
        exact = packet.exact
        assert exact is not None
        if contract.first_model is not None:
            _, exact = unpack(exact, contract.seed, contract.layout)
        assert contract.layout.exact_bytes == len(exact)
    for section in ("snapshot", "memory"):
        vector = getattr(packet, section)
        if fields[section] is None:
            assert vector is None
        else:
            assert vector.tobytes() == make_input(fields[section]).tobytes()
    exact = fields["exact"]
    assert packet.exact == (None if exact is None else bytes.fromhex(exact))


def test_a_packed_first_model_is_read() -> None:
    packet = Packet.parse(stored("packed-first-model")[0])
    assert (packet.snapshot, packet.base) == (None, 1)
    contract = Contract.from_bytes(packet.contract or b"")
    vector, exact = unpack(packet.exact or b"", contract.seed, contract.layout)
    wanted = make_input(FIRST_INPUT)
    assert 0 < np.abs(vector - wanted).max() < np.abs(wanted).max() / 31
    assert np.frombuffer(exact, "<f4").tolist() == [1.0, -2.0]


def test_a_model_of_bfloat16_is_read() -> None:
    packet = Packet.parse(stored("bfloat16-model")[0])
    assert packet.contract is not None
    assert packet.snapshot is not None
    layout = Contract.from_bytes(packet.contract).layout
    mean, mask = layout.exact_arrays(packet.exact or b"")
    assert mean.tolist() == [0.25, 8.0, -1.5]
    assert mask.tolist() == [True, False]
    arrays = layout.unflatten(packet.snapshot, packet.exact or b"")
    # 1/64, -12/64, 23/64, ...: the fewest bits of all floats hold them.
    vector, _ = layout.flatten(arrays)
    assert vector.tobytes() == packet.snapshot.tobytes()


@EVERY
def test_the_description_is_that_of_the_recipe(name: str) -> None:
    _, described = stored(name)
    del described["expected"]
    assert described == json.loads(json.dumps(RECIPES[name]))


def test_no_file_is_left_over() -> None:
    found = {path.name for path in FOLDER.iterdir() if path.suffix in (".bin", ".json")}
    assert found == {f"{name}.{end}" for name in RECIPES for end in ("bin", "json")}


def test_every_operator_is_stored_with_every_code() -> None:
    written = set()
    for name in RECIPES:
        for payload in Packet.parse(stored(name)[0]).payloads:
            if payload.data[0] in (Parts.wire_id, Tied.wire_id):
                continue
            code = payload.data[1]
            code_name = code_by_wire_id(code).name if code else None
            operator, _ = compressor_from_wire(
                payload.data[0], memoryview(payload.data)[2:]
            )
            written.add((operator.name, code_name))
    first = {
        described["operator"]["name"]: get_compressor(described["operator"])
        for recipe in RECIPES.values()
        for described in recipe["payloads"]
        if described["operator"]["name"] in COMPRESSORS
    }
    assert first.keys() == COMPRESSORS.keys()
    for name, compressor in first.items():
        codes = [None] if compressor.alphabet(9) is None else CODE_NAMES[1:]
        for code_name in codes:
            if code_name != "indices" or compressor.alphabet(9) == (0, 1):
                assert (name, code_name) in written


def test_every_configuration_is_stored() -> None:
    """Scopes, taus, norms and both dithers of every operator."""
    stored_operators = [
        described["operator"]
        for recipe in RECIPES.values()
        for described in recipe["payloads"]
    ]
    for name in COMPRESSORS:
        of_name = [one for one in stored_operators if one["name"] == name]
        assert any(one.get("per") == "tensor" for one in of_name), name
    for name, key, values in (
        ("dithered-quantizer", "tau", {"exact", "lemma", "none"}),
        ("dithered-quantizer", "subtractive", {False, True}),
        ("stochastic-quantizer", "subtractive", {False, True}),
        ("stochastic-quantizer", "norm", {2, "inf"}),
    ):
        found = {one[key] for one in stored_operators if one["name"] == name}
        assert found == values
    for name, recipe in RECIPES.items():
        for described in recipe["payloads"]:
            assert described["sizes"] is None or sum(described["sizes"]) == 96, name


def test_a_missing_file_is_a_failure() -> None:
    with pytest.raises(FileNotFoundError):
        stored("a-packet-that-nobody-wrote")


def test_inputs_are_what_they_should_be() -> None:
    recipe = {"dim": 101, "multiplier": 37, "offset": 5, "zero_every": 0}
    x = make_input(recipe)
    assert np.unique(np.abs(x)).size == 101
    assert x[:3].tolist() == [6 / 64, -43 / 64, 80 / 64]
    assert (make_input({**recipe, "zero_every": 5})[::5] == 0).all()
