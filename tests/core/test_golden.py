"""Golden packets: bytes written long ago are written today, and read as they were.

See tests/golden/make_golden.py; this test reads its files and never writes any.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from flower_compress.coding import CODE_NAMES, code_by_wire_id
from flower_compress.compressors import COMPRESSORS, get_compressor
from flower_compress.contract import Contract
from flower_compress.packet import Packet
from tests.golden.make_golden import (
    FOLDER,
    RECIPES,
    make_contract,
    make_input,
    make_packet,
)

EVERY = pytest.mark.parametrize("name", RECIPES)


def stored(name: str) -> tuple[bytes, dict[str, Any]]:
    """The bytes and the description; a file that is missing is a failure."""
    data = (FOLDER / f"{name}.bin").read_bytes()
    described: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return data, described


@EVERY
def test_the_same_bytes_are_written(name: str) -> None:
    data, described = stored(name)
    packet = make_packet(described)
    assert packet.data.hex() == data.hex()
    assert len(data) == described["expected"]["num_bytes"]
    assert packet.payload_bits == described["expected"]["payload_bits"]


@EVERY
def test_the_stored_bytes_are_read(name: str) -> None:
    data, described = stored(name)
    packet = Packet.parse(data)
    fields = described["packet"]
    for field in ("session", "base", "version", "acked", "dim", "final"):
        assert getattr(packet, field) == fields[field], field
    assert (packet.greeting, packet.resync) == (fields["greeting"], fields["resync"])
    assert packet.payload_bits == described["expected"]["payload_bits"]
    decoded = described["expected"]["decoded"]
    assert len(packet.payloads) == len(decoded) == len(described["payloads"])
    for payload, values, recipe in zip(
        packet.payloads, decoded, described["payloads"], strict=True
    ):
        expected = np.array(values, dtype=np.float32)
        assert payload.vector.tobytes() == expected.tobytes()
        assert payload.compressor == get_compressor(recipe["operator"])


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
        assert packet.exact is not None
        assert contract.layout.exact_bytes == len(packet.exact)
    if fields["snapshot"] is None:
        assert packet.snapshot is None
    else:
        assert packet.snapshot is not None
        expected = make_input(fields["snapshot"])
        assert packet.snapshot.tobytes() == expected.tobytes()
    exact = fields["exact"]
    assert packet.exact == (None if exact is None else bytes.fromhex(exact))


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
            code = payload.data[1]
            code_name = code_by_wire_id(code).name if code else None
            written.add((payload.compressor.name, code_name))
    first = {
        described["operator"]["name"]: get_compressor(described["operator"])
        for recipe in RECIPES.values()
        for described in recipe["payloads"]
    }
    assert first.keys() == COMPRESSORS.keys()
    for name, compressor in first.items():
        codes = [None] if compressor.alphabet() is None else CODE_NAMES[1:]
        for code_name in codes:
            assert (name, code_name) in written


def test_inputs_are_what_they_should_be() -> None:
    recipe = {"dim": 101, "multiplier": 37, "offset": 5, "zero_every": 0}
    x = make_input(recipe)
    assert np.unique(np.abs(x)).size == 101
    assert x[:3].tolist() == [6 / 64, -43 / 64, 80 / 64]
    assert (make_input({**recipe, "zero_every": 5})[::5] == 0).all()
