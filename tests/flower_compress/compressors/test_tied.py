"""Arrays that are equal are sent once, and only as long as they are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from flower_compress import Identity, PerArray, RandK, RotatedQuantizer
from flower_compress.compressors import Compressor, Tied, Vector, get_compressor
from flower_compress.errors import ConfigurationError, CorruptPacket
from flower_compress.links import Channel, Direct, Memory, Payload
from flower_compress.streams import Purpose, Stream

STREAM = Stream(3, Purpose.UPLINK, 1, 4)
ARRAYS = [("a", (4, 5)), ("n", (6,)), ("b", (4, 5)), ("m", (6,)), ("c", (4, 5))]
SIZES = (20, 6, 20, 6, 20)
TIES = ((2, 0), (3, 1), (4, 0))
QUANTIZER = RotatedQuantizer(step=1.5)
BY_ARRAY = PerArray({"[nm]": Identity()}, QUANTIZER)


def bound(operator: Compressor = QUANTIZER) -> Tied:
    tied = Tied(operator, TIES).bind(ARRAYS)
    assert isinstance(tied, Tied)
    return tied


def vector(**copies: bool) -> Vector:
    rng = np.random.default_rng(0)
    parts = {
        name: rng.normal(size=np.prod(shape)).astype(np.float32)
        for name, shape in ARRAYS
    }
    for copy, original in (("b", "a"), ("m", "n"), ("c", "a")):
        if copies.get(copy):
            parts[copy] = parts[original]
    return np.concatenate([parts[name] for name, _ in ARRAYS])


def encode(x: Vector, operator: Compressor = QUANTIZER) -> Payload:
    link = Direct(Tied(operator, TIES)).bind(ARRAYS)
    return Payload.encode(x, link.compressor, "auto", link.channel(STREAM, SIZES))


def received(data: bytes, operator: Compressor = QUANTIZER) -> Payload:
    link = Direct(Tied(operator, TIES)).bind(ARRAYS)
    return Payload(data, 72, link.channel(STREAM, SIZES))


def test_what_is_sent_is_the_vector_without_copies() -> None:
    x = vector(b=True, c=True)
    payload = encode(x)
    rest = np.concatenate([x[:26], x[46:52]])
    alone = Payload.encode(rest, QUANTIZER, "auto", Channel(STREAM, (20, 6, 6)))
    assert payload.data == bytes((12, 0, 0b101)) + alone.data
    assert payload.num_bits == alone.num_bits
    for end in (payload, received(payload.data), received(payload.data).compact()):
        a, n, b, m, c = np.split(end.vector, [20, 26, 46, 52])
        assert np.concatenate([a, n, m]).tobytes() == alone.vector.tobytes()
        assert a.tobytes() == b.tobytes() == c.tobytes()
        assert end.compressor == bound()


@pytest.mark.parametrize("copies", [{}, {"m": True}, {"c": True, "m": True}])
def test_arrays_that_differ_are_sent_whole(copies: dict[str, bool]) -> None:
    x = vector(**copies)
    payload = encode(x, BY_ARRAY)
    assert payload.data[2] == 2 * copies.get("m", False) + 4 * copies.get("c", False)
    value = received(payload.data, BY_ARRAY).vector
    assert value.tobytes() == payload.vector.tobytes()
    assert value[20:26].tobytes() == x[20:26].tobytes()  # dense, in parts
    assert value[46:52].tobytes() == x[46:52].tobytes()
    assert np.linalg.norm(value - x) < 0.8 * np.linalg.norm(x)


def test_a_tie_across_two_rules_is_none() -> None:
    rules = PerArray({"c": Identity(), "n": RandK(k=2)}, QUANTIZER)
    assert bound(rules).ties == ((2, 0),)
    assert Tied(Identity(), TIES).bind(ARRAYS) == Identity()
    alone = Tied(PerArray({"a": RandK(k=3), "n": Identity()}, QUANTIZER), TIES)
    assert alone.bind(ARRAYS) == alone.operator.bind(ARRAYS)


def test_it_is_the_operator_on_the_model_without_copies() -> None:
    tied = bound(PerArray({"[nm]": RandK(k=2)}, QUANTIZER))
    assert tied.omega(72) == RandK(k=2).omega(12)
    assert tied.unbiased
    link = Memory(Tied(BY_ARRAY, TIES)).bind(ARRAYS)
    assert link.forgotten == ((20, 26), (46, 52))
    assert link.memory_rate(72) == Memory(QUANTIZER).memory_rate(72)


def test_the_configuration_rebuilds_it() -> None:
    config = json.loads(json.dumps(bound(BY_ARRAY).config()))
    assert get_compressor(config).bind(ARRAYS) == bound(BY_ARRAY)
    assert bound(BY_ARRAY).bind(ARRAYS) == bound(BY_ARRAY)


@pytest.mark.parametrize(
    "ties", [(), ((0, 0),), ((0, 2),), ((1, -1),), ((3, 1), (2, 0)), ((2, 0), (3, 2))]
)
def test_wrong_ties_are_refused(ties: Any) -> None:
    with pytest.raises(ConfigurationError, match="ascending copies"):
        Tied(QUANTIZER, ties)


def test_ties_of_other_arrays_are_refused() -> None:
    for ties in (((1, 0),), ((9, 0),)):
        with pytest.raises(ConfigurationError, match="of one shape"):
            Tied(QUANTIZER, ties).bind(ARRAYS)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:2],
        lambda data: bytes((12, 1)) + data[2:],
        lambda data: data[:2] + b"\x08" + data[3:],  # a fourth tie
        lambda data: data[:2] + b"\x00" + data[3:],  # another length
        lambda data: data[:3] + data,  # copies within
        lambda data: data[:3] + encode(vector(), RandK(k=3)).data[3:],
        lambda data: data[:-1],
    ],
)
def test_damaged_payloads_are_refused(change: Any) -> None:
    data = encode(vector(b=True, c=True)).data
    with pytest.raises(CorruptPacket):
        _ = received(change(data)).vector
    with pytest.raises(CorruptPacket, match="the contract has no ties"):
        _ = Payload(data, 72, Channel(STREAM, SIZES)).vector


def test_tensors_of_torch_give_the_same() -> None:
    torch = pytest.importorskip("torch")
    x = vector(b=True, m=True)
    sent = bound(BY_ARRAY).compress(torch.from_numpy(x), STREAM)
    assert sent.numpy().ties == 0b011
    value = bound(BY_ARRAY).decompress(sent, STREAM).numpy()
    assert value.tobytes() == encode(x, BY_ARRAY).vector.tobytes()
