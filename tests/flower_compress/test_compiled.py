"""The compiled path gives NumPy's bytes and values, for all that either takes."""

from __future__ import annotations

import logging
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_compress import compiled as path
from flower_compress.coding import Symbols
from flower_compress.coding.nested_golomb import NestedGolomb
from flower_compress.coding.packed_huffman import PackedHuffman
from flower_compress.coding.packing import GROUPS, Packing
from flower_compress.coding.symbols import symbol_dtype
from flower_compress.compressors import get_compressor
from flower_compress.compressors.arrays import NUMPY
from flower_compress.errors import CorruptPacket, FlowerCompressError
from flower_compress.links import Channel, Payload
from flower_compress.links import payload as module
from flower_compress.streams import Purpose, Stream
from tests.cases import in_one_test

OPERATORS: dict[str, dict[str, Any]] = {
    "rotated": {"name": "rotated-quantizer", "step": 1.5, "per": "tensor"},
    "rotated, wide": {"name": "rotated-quantizer", "step": 2**-8, "bucket_size": 700},
    "rotated, whole": {"name": "rotated-quantizer", "bucket_size": None},
    "qsgd": {"name": "stochastic-quantizer", "levels": 4, "bucket_size": 96},
    "qsgd, 16 bits": {"name": "stochastic-quantizer", "levels": 300, "norm": "inf"},
    "qsgd, shared": {
        "name": "stochastic-quantizer",
        "levels": 9,
        "subtractive": True,
        "bucket_size": 50,
    },
    "range": {"name": "dithered-quantizer", "levels": 8},
    "range, shared": {"name": "dithered-quantizer", "levels": 200, "subtractive": True},
    "range, buckets": {
        "name": "dithered-quantizer",
        "levels": 16,
        "tau": "none",
        "bucket_size": 64,
    },
    "natural": {"name": "natural-compression"},
    "sign": {"name": "scaled-sign", "bucket_size": 33},
    "top-k": {"name": "top-k", "fraction": 0.1},
}
LENGTHS = (0, 1, 2, 3, 7, 8, 9, 63, 64, 100, 513, 4097, 70_001, 140_000)


@contextmanager
def numpy_only() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(path, "_LOADER", path._Loader())
        path.switch(on=False)
        yield


@contextmanager
def compiled_for_all() -> Iterator[None]:
    pytest.importorskip("numba")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(path, "SHORTEST", 0)
        patch.setattr(path, "_LOADER", _LOADER)
        path.switch(on=True)
        yield
        # Nothing turned it off in between: else both ways were NumPy's.
        assert _LOADER.on


_LOADER = path._Loader()


def both(function: Callable[[], Any]) -> tuple[Any, Any]:
    """What it returns on NumPy's path and on the compiled one, or its error."""
    results = []
    for way in (numpy_only, compiled_for_all):
        with way():
            try:
                results.append(function())
            except FlowerCompressError as error:
                results.append((type(error), str(error)))
    return results[0], results[1]


def packet_and_vector(x: Any, operator: dict[str, Any], code: str = "auto") -> Any:
    sizes = (x.size // 3, x.size - x.size // 3)
    channel = Channel(Stream(7, Purpose.UPLINK, 1, 1), sizes)
    payload = Payload.encode(x, get_compressor(operator), code, channel)
    other = Payload(payload.data, x.size, channel)
    # Not from the cache, which the other path may have filled.
    made = module._decode(other.data, x.size, sizes)
    vector = module._vector(made, channel)
    return payload.data, vector.tobytes()


def vector(dim: int) -> Any:
    generator = np.random.Generator(np.random.Philox(dim))
    x = generator.standard_normal(dim, dtype=np.float32)
    x *= np.exp2(generator.integers(-20, 20, dim)).astype(np.float32)
    x[::11], x[5::97], x[6::101] = 0.0, -0.0, 1e-42
    return x


@in_one_test("dim", LENGTHS)
@in_one_test("label", OPERATORS)
def test_packets_and_vectors_are_the_same(label: str, dim: int) -> None:
    x = vector(dim)
    expected, got = both(lambda: packet_and_vector(x, OPERATORS[label]))
    assert got == expected
    if dim > 4000:
        huffman = "packed-huffman"
        expected, got = both(lambda: packet_and_vector(x, OPERATORS[label], huffman))
        assert got == expected


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=60)
@given(
    st.lists(
        FLOATS | st.sampled_from([0.0, -0.0, 1e-45, 3.4e38, -3.4e38]), max_size=40
    ),
    st.sampled_from(sorted(OPERATORS)),
)
def test_any_floats(entries: list[float], label: str) -> None:
    x = np.array(entries, dtype=np.float32)
    expected, got = both(lambda: packet_and_vector(x, OPERATORS[label]))
    assert got == expected


@in_one_test("label", OPERATORS)
@in_one_test("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_alike(bad: float, label: str) -> None:
    x = vector(300)
    x[200] = bad
    expected, got = both(lambda: packet_and_vector(x, OPERATORS[label]))
    assert expected[0].__name__ == "NonFiniteError"
    assert got == expected


@in_one_test("counter", [(0, 0), (2**64 - 3, 0), (2**64 - 1, 2**64 - 1)])
@in_one_test("count", [0, 1, 5, 64, 1000])
def test_words(count: int, counter: tuple[int, int]) -> None:
    philox = pytest.importorskip("flower_compress.compiled.philox")
    place = (*counter, 3, 4)
    words = [np.array(each, dtype=np.uint64) for each in ((1, 2**64 - 1), place)]
    expected = np.random.Philox(key=words[0], counter=words[1]).random_raw(count)
    assert (philox.words((1, 2**64 - 1), place, count) == expected).all()


def test_sums_of_squares() -> None:
    def sums(rows: int, width: int) -> Any:
        table = vector(rows * width).reshape(rows, width)
        return np.atleast_1d(NUMPY.squares(table)).tobytes()

    shapes = [(1, 1), (7, 3), (5, 8), (4, 515), (1, 8193), (3, 8200), (2, 66_000)]
    shapes += [(9, 20_000), (1, 200_000), (10, 9001)]
    for shape in shapes:
        expected, got = both(lambda shape=shape: sums(*shape))  # type: ignore[misc]
        assert got == expected, shape


# --- Packed bytes and Huffman's code --------------------------------------------------


def some_bytes(kind: int, size: int, seed: int) -> Any:
    generator = np.random.Generator(np.random.Philox(seed))
    match kind:
        case 0:
            return generator.integers(0, 256, size, dtype=np.uint8)
        case 1:
            return np.full(size, seed % 256, dtype=np.uint8)
        case 2:
            return (generator.geometric(0.3 + seed % 7 / 10, size) & 255).astype(
                np.uint8
            )
        case 3:
            # Codes that are too long for deflate, and have to be cut.
            rare = [1, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987]
            values = np.repeat(np.arange(21) * 11, [*rare, 1597, 2584, 4181, 6765])
            return generator.permutation(values)[: max(size, 1)].astype(np.uint8)
    return np.where(generator.random(size) < 0.001, 200, 3).astype(np.uint8)


@in_one_test("size", [1, 2, 5, 300, 2000, 32_703, 32_704, 32_705, 70_000])
@in_one_test("kind", range(5))
def test_deflate_is_zlibs(kind: int, size: int) -> None:
    deflate = pytest.importorskip("flower_compress.compiled.deflate")
    inflate = pytest.importorskip("flower_compress.compiled.inflate")
    if not deflate.writes_as_zlib():
        pytest.skip("another zlib")
    for seed in range(3):
        data = some_bytes(kind, size, seed)
        with numpy_only():
            _, *parts = PackedHuffman().compress(data, 256)
        stream = b"".join(parts)
        assert deflate.deflate(data, 32_704) == stream
        assert (
            inflate.inflate(memoryview(stream), data.size).tobytes() == data.tobytes()
        )


@settings(max_examples=300)
@given(st.integers(0, 4), st.integers(0, 400), st.data())
def test_a_stream_that_is_read_is_what_zlib_reads(
    kind: int, seed: int, data: st.DataObject
) -> None:
    reader = pytest.importorskip("flower_compress.compiled.inflate")
    plain = some_bytes(kind, 1 + seed, seed)
    level = data.draw(st.sampled_from([0, 1, 9]))
    strategy = data.draw(
        st.sampled_from([zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED])
    )
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    stream = bytearray(deflate.compress(plain.tobytes()) + deflate.flush())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream[at] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        stream = stream[: data.draw(st.integers(0, len(stream)))]
    count = plain.size + data.draw(st.sampled_from([0, 0, 0, -1, 1, 9]))
    found = reader.inflate(memoryview(bytes(stream)), max(count, 0))
    if found is not None:
        inflate = zlib.decompressobj(-15)
        assert inflate.decompress(bytes(stream), count + 1) == found.tobytes()
        assert inflate.eof
        assert not inflate.unused_data


PACKINGS = [
    (Packing(base, -(base // 2), 0, gap, escape), dtype)
    for _, base in GROUPS
    for gap in (False, True)
    for escape in (False, True)
    for dtype in (np.int8, np.int16)
] + [(Packing(5, -3, 0, True, True), np.int8), (Packing(1, 0), np.int8)]


@in_one_test(["packing", "dtype"], PACKINGS)
def test_packed_bytes(packing: Packing, dtype: Any) -> None:
    generator = np.random.Generator(np.random.Philox(packing.base))
    top = packing.low + packing.base - 1 - packing.escape + packing.gap
    for size in (1, 2, 9, 1000, 40_000):
        spread = 3 * packing.escape
        low, high = max(packing.low - spread, -128), min(top + spread, 127)
        values = generator.integers(low, high + 1, size).astype(dtype)
        if packing.gap and not packing.escape:
            values[values == 0] = packing.low

        def pack(values: Any = values) -> Any:
            return [each.tobytes() for each in packing.pack(values)]

        expected, got = both(pack)
        assert got == expected
        packed = np.frombuffer(expected[1], dtype=np.uint8).copy()

        def unpack(packed: Any = packed, size: int = size) -> Any:
            # Whoever writes beside the array would write over these.
            around = np.full(size + 64, 77, dtype=dtype)
            places = packing.unpack(packed[:0], packed, around[32:-32])
            assert (around[:32] == 77).all()
            assert (around[-32:] == 77).all()
            around[32:-32][places] = 0
            return around.tobytes(), places.tobytes()

        expected, got = both(unpack)
        assert got == expected
        for _ in range(4 * (packed.size > 0)):
            packed[generator.integers(packed.size)] = generator.integers(256)
            expected, got = both(unpack)
            assert got == expected


@settings(max_examples=60)
@given(
    st.lists(st.integers(-30, 30), min_size=1, max_size=200),
    st.integers(0, 30),
    st.booleans(),
)
def test_lengths_of_runs(entries: list[int], bound: int, signed: bool) -> None:
    x = np.clip(entries, -bound if signed else 0, bound).astype(np.int8)
    symbols = Symbols(x.size, -bound if signed else 0, bound, x)
    expected, got = both(lambda: NestedGolomb().num_bits(symbols))
    assert got == expected == NestedGolomb().encode(symbols)[1]


def read_runs(data: bytes, dim: int, low: int, high: int) -> Any:
    """What decoding gives, to be compared."""
    symbols, num_bits = NestedGolomb().decode(memoryview(data), dim, low, high)
    positions = symbols.positions
    where = None if positions is None else (positions.dtype, positions.tobytes())
    return num_bits, where, symbols.entries.dtype, symbols.entries.tobytes()


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 300),
    st.sampled_from((0.02, 0.3, 0.5, 0.6, 0.97, 1.0)),
    st.sampled_from((1.0, 1.5, 6.0, 90.0)),
    st.sampled_from((1, 2, 7, 8, 9, 40, 127, 3000, 40_000)),
    st.sampled_from((-1, 0, 1)),
)
def test_runs_bit_by_bit(
    seed: int, dim: int, density: float, width: float, bound: int, kind: int
) -> None:
    """Written and read alike, and alike refused once bits are turned or cut off."""
    generator = np.random.Generator(np.random.Philox(seed))
    x = np.minimum(generator.geometric(1.0 / width, dim), bound)
    x *= generator.random(dim) < density
    if kind:
        x *= generator.choice([-1, 1], dim)
    # Of signed symbols the alphabet may be longer on one side.
    low, high = (0, bound) if not kind else (-bound, bound if kind > 0 else bound // 2)
    x = np.minimum(x, high)
    symbols = Symbols(dim, low, high, x.astype(symbol_dtype(low, high)))
    expected, got = both(lambda: NestedGolomb().encode(symbols))
    assert got == expected
    data = expected[0]
    expected, got = both(lambda: read_runs(data + b"\xa5\x01", dim, low, high))
    assert got == expected
    for _ in range(5):
        damaged = np.frombuffer(data, dtype=np.uint8).copy()
        damaged[generator.integers(damaged.size)] ^= 1 << generator.integers(8)
        cut = damaged[: generator.integers(damaged.size + 1)].tobytes()
        for each in (damaged.tobytes(), cut):
            expected, got = both(lambda each=each: read_runs(each, dim, low, high))  # type: ignore[misc]
            assert got == expected


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_runs_of_symbols_of_which_few_are_zero(dtype: Any) -> None:
    """Each level says which positions it leaves out, none of them and all as well."""
    generator = np.random.Generator(np.random.Philox(4))
    high = int(np.iinfo(dtype).max) // 2
    for size, densest in ((1, 1), (40, 1), (5000, 3), (90_000, 40)):
        entries = np.minimum(generator.geometric(1 / densest, size), high)
        entries *= generator.choice([-1, 1], size)
        entries[generator.random(size) < 0.1] = 0
        symbols = Symbols(size, -high, high, entries.astype(dtype))
        data, _ = NestedGolomb().encode(symbols)

        def decode(data: bytes = data, size: int = size) -> Any:
            read, _ = NestedGolomb().decode(memoryview(data), size, -high, high)
            return read.dense().tobytes(), read.entries.dtype

        expected, got = both(decode)
        assert got == expected == (symbols.entries.tobytes(), np.dtype(dtype))


def test_hostile_payloads() -> None:
    pytest.importorskip("constriction")
    from tests.fuzz.targets import fuzz_one, seeds
    from tests.fuzz.test_fuzz import mutate

    generator, inputs = np.random.Generator(np.random.Philox(11)), seeds()
    for _ in range(400):
        first, other = generator.integers(len(inputs), size=2)
        data = mutate(inputs[first], inputs[other], generator)
        expected, got = both(lambda data=data: fuzz_one(data))  # type: ignore[misc]
        assert got == expected


# --- Whether it is taken --------------------------------------------------------------


@in_one_test("value", ["0", "off", " False ", "no"])
def test_one_variable_turns_it_off(value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(path.SWITCH, value)
        patch.setattr(path, "_LOADER", path._Loader())
        assert path.compiled("philox", 1 << 30) is None


def test_without_numba_numpy_does_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(path.SWITCH, "1")
    monkeypatch.setattr(path, "_LOADER", path._Loader())
    for name in [*sys.modules]:
        if name.startswith("flower_compress.compiled."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    with caplog.at_level(logging.DEBUG, "flower_compress"):
        assert path.compiled("philox", 1 << 30) is None
        assert path.compiled("rotation", 1 << 30) is None
    (said,) = (r for r in caplog.records if "NumPy does all of it" in r.message)
    assert said.levelno == logging.WARNING  # It was asked for.


def test_what_the_variable_cannot_mean_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(path.SWITCH, "never")
    monkeypatch.setattr(path, "_LOADER", path._Loader())
    for _ in range(2):
        assert path.compiled("philox", path.SHORTEST) is None
    assert caplog.text.count("got 'never': taken as not set") == 1


def test_what_is_not_worth_it_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    loader = path._Loader()
    monkeypatch.delenv(path.SWITCH, raising=False)
    monkeypatch.setattr(path, "_LOADER", loader)
    for _ in range(3):
        assert path.compiled("philox", path.WORTH // 4) is None
    assert path.compiled("philox", path.SHORTEST - 1) is None
    assert not loader.modules
    assert path.compiled("philox", path.WORTH // 4) is not None


def test_where_nothing_can_be_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    jit = pytest.importorskip("flower_compress.compiled.jit")

    def without_a_place(**options: Any) -> Any:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(jit.numba, "njit", without_a_place)
    with pytest.raises(ImportError, match="set NUMBA_CACHE_DIR"):
        jit.kernel(lambda x: x + 1)


def test_what_is_to_be_compiled_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    jit = pytest.importorskip("flower_compress.compiled.jit")
    caplog.clear()  # The import may have told, too.
    made = SimpleNamespace(stats=SimpleNamespace(cache_path=str(tmp_path)))
    monkeypatch.setattr(jit.numba, "njit", lambda **_: lambda function: made)

    def add(x: int) -> int:
        return x + 1

    for kept, said in ((False, 1), (True, 1)):
        jit._tell.cache_clear()
        if kept:
            # Of the same file: it may be that nothing ever calls this one.
            (tmp_path / "test_compiled.other-7.py311.nbi").touch()
        for _ in range(2):
            assert jit.kernel(add) is made
        assert caplog.text.count("half a minute, once") == said


def test_no_memory_for_what_cannot_be_there() -> None:
    reader = pytest.importorskip("flower_compress.compiled.inflate")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflate.compress(bytes(500_000)) + deflate.flush()
    tracemalloc.start()
    assert reader.inflate(memoryview(bomb), 1 << 30) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_corrupt_bytes_are_called_so() -> None:
    packing = Packing(6, -2)
    values = np.empty(7, dtype=np.int8)
    for packed in ([215, 215, 216], [0, 0, 215]):
        found = np.array(packed, dtype=np.uint8)
        expected, got = both(lambda f=found: packing.unpack(f[:0], f, values))  # type: ignore[misc]
        assert expected[0] is CorruptPacket
        assert got == expected
