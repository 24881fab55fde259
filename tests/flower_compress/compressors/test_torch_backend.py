"""Operators on torch tensors: NumPy's symbols and values, nothing leaves the device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flower_compress.coding import CODE_NAMES, Symbols, choose_code
from flower_compress.coding.symbols import symbol_dtype
from flower_compress.compressors import (
    COMPRESSORS,
    Compressed,
    Compressor,
    DitheredQuantizer,
    Identity,
    MinVarianceSparsifier,
    NaturalCompression,
    Parts,
    PerArray,
    RandK,
    RandomSparsifier,
    RotatedQuantizer,
    ScaledSign,
    StochasticQuantizer,
    TopK,
    Vector,
)
from flower_compress.compressors.arrays import NUMPY, array_ops, backends
from flower_compress.compressors.arrays.numpy_ops import NumpyOps
from flower_compress.errors import ConfigurationError, NonFiniteError, UnknownNameError
from flower_compress.links.payload import Channel, Payload
from flower_compress.streams import Draws, Purpose, Stream
from tests.cases import in_one_test

torch = pytest.importorskip("torch")

from flower_compress.coding import torch_lengths  # noqa: E402
from flower_compress.compressors.arrays import torch_draws  # noqa: E402
from flower_compress.compressors.arrays.torch_fused import Fused  # noqa: E402
from flower_compress.compressors.arrays.torch_ops import TorchOps  # noqa: E402

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

# A new operator is a row, or a few.
TABLE: tuple[Compressor, ...] = (
    Identity(),
    StochasticQuantizer(1),
    StochasticQuantizer(4, bucket_size=7),
    StochasticQuantizer(32767, bucket_size=4096),
    StochasticQuantizer(127, "inf"),
    StochasticQuantizer(2, "inf", bucket_size=1),
    StochasticQuantizer(1000, "inf", subtractive=True),
    StochasticQuantizer(3, subtractive=True, bucket_size=50),
    RandomSparsifier(0.05),
    RandomSparsifier(1e-5),
    RandomSparsifier(1.0),
    TopK(k=15),
    TopK(fraction=0.1, bucket_size=50),
    TopK(fraction=1.0),
    RandK(k=15),
    RandK(fraction=0.1, bucket_size=50),
    RandK(fraction=0.9),
    RandK(fraction=1.0),
    MinVarianceSparsifier(0.05),
    MinVarianceSparsifier(0.3, bucket_size=50),
    MinVarianceSparsifier(1.0),
    DitheredQuantizer(),
    DitheredQuantizer(1, "none", bucket_size=50),
    DitheredQuantizer(300, "lemma"),
    DitheredQuantizer(32766, "none", subtractive=True),
    DitheredQuantizer(8, "exact", subtractive=True, bucket_size=7),
    ScaledSign(),
    ScaledSign(bucket_size=50),
    RotatedQuantizer(),
    RotatedQuantizer(0.5, bucket_size=50),
    RotatedQuantizer(bucket_size=64),
    NaturalCompression(),
    NaturalCompression(bucket_size=50),
)
DIMS = (0, 1, 2, 17, 1000, 70_000)
INPUTS = ("gaussian", "heavy-tailed", "rounded")
STREAM = Stream(11, Purpose.UPLINK, 5, 2)
NUM_DRAWS = 200

EVERY = in_one_test("compressor", TABLE, repr)
PRIVATE = [row for row in TABLE if not row.shared_randomness]


def make_input(kind: str, dim: int) -> Vector:
    generator = np.random.Generator(np.random.Philox([dim, INPUTS.index(kind)]))
    if kind == "heavy-tailed":
        return generator.standard_t(1.5, size=dim).astype(np.float32)
    x = generator.normal(size=dim)
    # Ties, and zeros of both signs.
    return (np.round(x) if kind == "rounded" else x).astype(np.float32)


def tensor(x: NDArray[Any], device: Any = "cpu") -> Any:
    return torch.from_numpy(x.copy()).to(device)


def assert_same(ours: Compressed, theirs: Compressed) -> None:
    """The same bytes, of the same dtypes."""
    host = theirs.numpy()
    assert host.dim == ours.dim
    assert host.values.dtype == ours.values.dtype
    assert host.values.tobytes() == ours.values.tobytes()
    assert (host.symbols is None) == (ours.symbols is None)
    if ours.symbols is None or host.symbols is None:
        return
    assert (host.symbols.low, host.symbols.high) == (
        ours.symbols.low,
        ours.symbols.high,
    )
    assert host.symbols.entries.dtype == ours.symbols.entries.dtype
    np.testing.assert_array_equal(host.symbols.entries, ours.symbols.entries)
    assert (host.symbols.positions is None) == (ours.symbols.positions is None)
    if ours.symbols.positions is not None and host.symbols.positions is not None:
        assert host.symbols.positions.dtype == np.int64
        np.testing.assert_array_equal(host.symbols.positions, ours.symbols.positions)


def all_tensors(compressed: Compressed) -> Iterator[Any]:
    yield compressed.values
    if compressed.symbols is not None:
        yield compressed.symbols.entries
        if compressed.symbols.positions is not None:
            yield compressed.symbols.positions


def to_torch(symbols: Symbols, device: Any = "cpu") -> Symbols:
    positions = symbols.positions
    return replace(
        symbols,
        entries=tensor(symbols.entries, device),
        positions=None if positions is None else tensor(positions, device),
    )


def test_every_operator_is_in_the_table() -> None:
    assert {row.name for row in TABLE} == set(COMPRESSORS)


# --- On the CPU -----------------------------------------------------------------------


@in_one_test("dim", DIMS)
@EVERY
def test_tensors_and_arrays_give_the_same(compressor: Compressor, dim: int) -> None:
    for kind in INPUTS:
        x = make_input(kind, dim)
        given = tensor(x)
        ours, theirs = (compressor.compress(y, STREAM) for y in (x, given))
        assert all(isinstance(part, torch.Tensor) for part in all_tensors(theirs))
        assert_same(ours, theirs)
        values = compressor.decompress(theirs, STREAM)
        assert values.dtype == torch.float32
        assert values.numpy().tobytes() == compressor.decompress(ours, STREAM).tobytes()
        np.testing.assert_array_equal(given.numpy(), x)


@in_one_test("sizes", [(1000,), (0, 300, 1, 0, 699), (7, 993)])
@EVERY
def test_tensors_of_a_model(compressor: Compressor, sizes: tuple[int, ...]) -> None:
    compressor = replace(compressor, per="tensor")
    x = make_input("gaussian", 1000)
    ours, theirs = (compressor.compress(y, STREAM, sizes) for y in (x, tensor(x)))
    assert_same(ours, theirs)
    assert compressor.num_values(1000, theirs.symbols, sizes) == len(ours.values)
    np.testing.assert_array_equal(
        compressor.decompress(theirs, STREAM, sizes).numpy(),
        compressor.decompress(ours, STREAM, sizes),
    )


@in_one_test("dtype", [torch.float16, torch.bfloat16, torch.float64])
@EVERY
def test_other_dtypes_become_float32(compressor: Compressor, dtype: Any) -> None:
    x = tensor(make_input("gaussian", 1000)).to(dtype)
    expected = compressor.compress(x.to(torch.float32).numpy(), STREAM)
    assert_same(expected, compressor.compress(x, STREAM))


@EVERY
def test_any_tensor_becomes_a_vector(compressor: Compressor) -> None:
    matrix = make_input("gaussian", 60).reshape(6, 10)
    expected = compressor.compress(matrix.T.copy(), STREAM)
    wide = tensor(np.repeat(matrix.T, 2, axis=1))
    parameter = torch.nn.Parameter(tensor(matrix.T))
    for given in (tensor(matrix).T, wide[:, ::2], parameter, parameter * 1.0):
        compressed = compressor.compress(given, STREAM)
        assert_same(expected, compressed)
        assert not any(part.requires_grad for part in all_tensors(compressed))
        assert not compressor.decompress(compressed, STREAM).requires_grad


@pytest.mark.parametrize("scale", [1.0, 1e-38, 1e-43])
def test_long_vectors_round_to_the_same_powers(scale: float) -> None:
    """With dithers of 8 bits and many ties, subnormal numbers among them."""
    x = make_input("rounded", 140_000) * np.float32(scale)
    x[::2] = make_input("heavy-tailed", 70_000) * np.float32(scale)
    ours, theirs = (NaturalCompression().compress(y, STREAM) for y in (x, tensor(x)))
    assert_same(ours, theirs)
    values = NaturalCompression().decompress(theirs).numpy()
    assert values.tobytes() == NaturalCompression().decompress(ours).tobytes()


def test_a_vector_is_not_copied_without_need() -> None:
    x = tensor(make_input("gaussian", 12))
    assert array_ops(x).vector(x.reshape(3, 4)).data_ptr() == x.data_ptr()
    strided = array_ops(x).vector(x[::2])
    assert strided.is_contiguous()
    assert strided.data_ptr() != x.data_ptr()


def test_dispatch() -> None:
    class Own(torch.Tensor):
        """Somebody's subclass."""

    x = torch.zeros(3)
    assert array_ops(np.zeros(3)) is array_ops([0.0]) is NUMPY
    assert isinstance(array_ops(x), TorchOps)
    assert array_ops(x) is array_ops(torch.nn.Parameter(x))
    assert array_ops(x.as_subclass(Own)) is array_ops(x)


@EVERY
@in_one_test(
    ("bad", "count"), [([math.nan], 1), ([math.inf, -math.inf], 2), ([math.nan] * 3, 3)]
)
def test_non_finite_is_refused_with_the_count(
    compressor: Compressor, bad: list[float], count: int
) -> None:
    x = make_input("gaussian", 100)
    x[40 : 40 + count] = bad
    errors = []
    for given in (x, tensor(x)):
        with pytest.raises(NonFiniteError) as caught:
            compressor.compress(given, STREAM)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@EVERY
@in_one_test("size", [1e-45, 1e-38, 1e30, 3.4e38])
def test_tiny_and_huge_entries(compressor: Compressor, size: float) -> None:
    x = np.array([size, -size, 0.5 * size, 0.0] * 33, dtype=np.float32)
    try:
        ours = compressor.compress(x, STREAM)
    except NonFiniteError:
        with pytest.raises(NonFiniteError):
            compressor.compress(tensor(x), STREAM)
        return
    theirs = compressor.compress(tensor(x), STREAM)
    assert_same(ours, theirs)
    np.testing.assert_array_equal(
        compressor.decompress(theirs, STREAM).numpy(),
        compressor.decompress(ours, STREAM),
    )


@pytest.mark.parametrize("shape", [(1, 300_000), (300, 1000)])
def test_sums_do_not_depend_on_the_number_of_threads(shape: tuple[int, int]) -> None:
    table = tensor(make_input("heavy-tailed", 300_000).reshape(shape))
    threads = torch.get_num_threads()
    sums = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            ops = array_ops(table)
            sums.append([ops.squares(table).numpy(), ops.abs_sums(table).numpy()])
    finally:
        torch.set_num_threads(threads)
    for other in sums[1:]:
        np.testing.assert_array_equal(other, sums[0])
    for ours, theirs in zip(
        sums[0],
        (NUMPY.squares(table.numpy()), NUMPY.abs_sums(table.numpy())),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, 1e-14)


def test_a_float64_beyond_float32_is_refused() -> None:
    x = torch.tensor([1.0, 1e300, -1e300], dtype=torch.float64)
    with pytest.raises(NonFiniteError, match="2 of 3"):
        Identity().compress(x, STREAM)


@EVERY
def test_a_payload_of_a_tensor_is_that_of_the_array(compressor: Compressor) -> None:
    x = make_input("gaussian", 1000)
    for code in ("auto", "fixed-width"):
        ours, theirs = (
            Payload.encode(y, compressor, code, Channel(STREAM)) for y in (x, tensor(x))
        )
        assert ours.data == theirs.data
        assert ours.num_bits == theirs.num_bits
        assert isinstance(theirs.vector, np.ndarray)
        np.testing.assert_array_equal(ours.vector, theirs.vector)
    matrix = tensor(x).reshape(10, 100).requires_grad_()
    again = Payload.encode(matrix, compressor, "fixed-width", Channel(STREAM))
    assert again.data == theirs.data
    assert again.dim == 1000


def test_arrays_on_the_host_are_not_copied() -> None:
    x = make_input("gaussian", 100)
    compressed = TopK(k=5).compress(x, STREAM)
    assert compressed.numpy() is compressed
    theirs = TopK(k=5).compress(tensor(x), STREAM)
    assert theirs.numpy().values.ctypes.data == theirs.values.data_ptr()


# --- As on a device -------------------------------------------------------------------


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device, or the CPU treated like one."""
    monkeypatch.setattr(
        backends, "_torch_ops", lambda device: TorchOps(device, as_device=True)
    )
    return torch.device(request.param)


@pytest.fixture
def on_device_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of more than 300 entries do not become NumPy arrays, nor the reverse."""

    def guard(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def guarded(x: Any, *args: Any, **kwargs: Any) -> Any:
            size = x.numel() if isinstance(x, torch.Tensor) else np.size(x)
            assert size <= 300, f"{name} of {size} entries"
            return original(x, *args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)

    for name in ("numpy", "cpu", "tolist", "__array__"):
        guard(torch.Tensor, name)
    for name in ("from_numpy", "as_tensor", "tensor"):
        guard(torch, name)


@pytest.mark.usefixtures("on_device_only")
@in_one_test("compressor", PRIVATE, ids=repr)
def test_nothing_leaves_the_device(compressor: Compressor, device: Any) -> None:
    x = torch.linspace(-1.0, 2.0, 5000, device=device)
    compressed = compressor.compress(x, STREAM)
    assert {part.device.type for part in all_tensors(compressed)} == {device.type}
    assert compressor.decompress(compressed).device.type == device.type
    if compressed.symbols is None or compressed.symbols.high > 100:
        return
    for code in torch_lengths.DEVICE_CODE_NAMES:
        if code != "indices" or (compressed.symbols.low, compressed.symbols.high) == (
            0,
            1,
        ):
            assert compressed.num_bits(code) > 0


@in_one_test("dim", DIMS)
@EVERY
def test_what_is_shared_is_the_same_everywhere(
    compressor: Compressor, dim: int, device: Any
) -> None:
    """A receiver on a device and one with NumPy decode the same value."""
    x = make_input("gaussian", dim)
    theirs = compressor.compress(tensor(x, device), STREAM)
    value = compressor.decompress(theirs, STREAM)
    assert value.device.type == device.type
    np.testing.assert_array_equal(
        value.cpu().numpy(), compressor.decompress(theirs.numpy(), STREAM)
    )
    if compressor.shared_randomness or isinstance(
        compressor, (Identity, ScaledSign, TopK)
    ):
        assert_same(compressor.compress(x, STREAM), theirs)


class Recording(TorchOps):
    """Writes down what the device draws."""

    drawn: list[NDArray[Any]]

    def draws(self, stream: Stream) -> Draws:
        inner, drawn = super().draws(stream), self.drawn

        class Recorded(Draws):
            def dither(self, count: int) -> Any:
                numbers: Any = inner.dither(count)
                assert numbers.dtype == torch.int32
                drawn.append(numbers.cpu().numpy().astype(np.uint16))
                return numbers

            def uniforms(self, count: int) -> Any:
                numbers: Any = inner.uniforms(count)
                drawn.append(numbers.cpu().numpy())
                return numbers

        return Recorded(stream)


class Replaying(NumpyOps):
    """Draws what was written down."""

    def __init__(self, drawn: list[NDArray[Any]]) -> None:
        self._drawn = iter(drawn)

    def draws(self, stream: Stream) -> Draws:
        drawn = self._drawn

        class Replayed(Draws):
            def dither(self, count: int) -> Any:
                numbers = next(drawn)
                assert numbers.shape == (count,)
                return numbers

            uniforms = dither

        return Replayed(stream)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("compressor", PRIVATE, ids=repr)
def test_the_same_uniforms_give_the_same_symbols(
    compressor: Compressor, dim: int, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = Recording(device, as_device=True)
    ops.drawn = []
    monkeypatch.setattr(backends, "_torch_ops", lambda device: ops)
    x = make_input("heavy-tailed", dim)
    theirs = compressor.compress(tensor(x, device), STREAM)
    monkeypatch.setattr(backends, "NUMPY", Replaying(ops.drawn))
    assert_same(compressor.compress(x, STREAM), theirs)


@pytest.mark.parametrize(
    ("kind", "dim"), [("gaussian", 1), ("gaussian", 17), ("heavy-tailed", 1000)]
)
@pytest.mark.parametrize("compressor", [row for row in TABLE if row.unbiased], ids=repr)
def test_unbiased_with_variance_at_most_omega(
    compressor: Compressor, kind: str, dim: int, device: Any
) -> None:
    x = make_input(kind, dim)
    there = tensor(x, device)
    errors = np.empty((NUM_DRAWS, dim))
    for version in range(NUM_DRAWS):
        stream = STREAM.at(version)
        value = compressor.decompress(compressor.compress(there, stream), stream)
        errors[version] = value.cpu().numpy().astype(np.float64) - x
    squares = float(np.square(x, dtype=np.float64).sum())
    omega = compressor.omega(dim)
    rounding = 1e-6 * math.sqrt(squares)
    signs = np.where(x < 0, -1.0, 1.0)
    standard_error = math.sqrt(omega * squares / NUM_DRAWS)
    mean = abs(float((errors @ signs).mean()))
    assert mean <= 4.5 * standard_error + rounding * math.sqrt(dim)
    lost = np.square(errors).sum(axis=1)
    standard_error = float(lost.std()) / math.sqrt(NUM_DRAWS)
    assert (
        lost.mean() <= omega * squares * (1 + 1e-6) + 4.5 * standard_error + rounding**2
    )


def test_a_draw_depends_on_the_key_alone(device: Any) -> None:
    x = torch.ones(1000, device=device)
    ops = array_ops(x)
    before = torch.random.get_rng_state()
    first = ops.draws(STREAM).dither(1000)
    torch.manual_seed(0)
    seeded = torch.random.get_rng_state()
    assert torch.equal(ops.draws(STREAM).dither(1000), first)
    assert torch.equal(torch.random.get_rng_state(), seeded)
    torch.random.set_rng_state(before)
    others = [
        STREAM.at(3),
        STREAM.of_part(1),
        Stream(12, Purpose.UPLINK, 5, 2),
        Stream(11, Purpose.DOWNLINK, 5, 2),
        Stream(11, Purpose.UPLINK, 6, 2),
        Stream(-1, Purpose.UPLINK, 2**64 + 6, 2**64 - 1),
    ]
    drawn = [first, *(ops.draws(stream).dither(1000) for stream in others)]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert not torch.equal(one, other)


@pytest.mark.parametrize("shared", [False, True])
def test_draws_are_uniform(shared: bool, device: Any) -> None:
    ops = array_ops(torch.ones(1, device=device))
    draws: Any = (ops.shared_draws if shared else ops.draws)(STREAM)
    count, error = 100_000, 5 / math.sqrt(100_000)
    dither, signs = draws.dither(count), draws.signs(count)
    uniforms, words = draws.uniforms(count), draws.words(count)
    for drawn, dtype in (
        (dither, torch.int32),
        (signs, torch.uint8),
        (uniforms, torch.float64),
        (words, torch.int64),
    ):
        assert drawn.shape == (count,)
        assert drawn.dtype == dtype
        assert drawn.device.type == device.type
    assert 0 <= int(dither.min()) < 10
    assert 65525 < int(dither.max()) <= 65535
    assert float(uniforms.min()) >= 0
    assert float(uniforms.max()) < 1
    assert set(signs.unique().tolist()) == {0, 1}
    assert abs(float(dither.double().mean()) / 65535 - 0.5) < error
    assert abs(float(uniforms.mean()) - 0.5) < error
    assert abs(float(signs.double().mean()) - 0.5) < error
    assert abs(float((words < 0).double().mean()) - 0.5) < error
    assert abs(float((words & 1).double().mean()) - 0.5) < error


@pytest.mark.parametrize("many", [1, 1 << 18])
def test_shared_draws_are_the_stream(
    many: int, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether NumPy computes the words or, in several steps, the device."""
    monkeypatch.setattr(torch_draws, "_MANY_WORDS", many)
    monkeypatch.setattr(torch_draws, "_BLOCKS", 100)
    ops = array_ops(torch.ones(1, device=device))
    for stream in (STREAM, Stream(-1, Purpose.GOSSIP, 2**64 + 6, 2**64 - 1, part=3)):
        draws: Any = ops.shared_draws(stream)
        ours = stream.draws()
        for count in (1, 5, 0, 1000):
            for name in ("dither", "signs", "uniforms", "short_dither"):
                np.testing.assert_array_equal(
                    getattr(draws, name)(count).cpu().numpy(),
                    getattr(ours, name)(count),
                )
            words = draws.words(count).cpu().numpy().view(np.uint64)
            np.testing.assert_array_equal(words, ours.words(count))


# Of shared randomness or none, so that a receiver or a sender on the host agrees.
SHARED = (
    RotatedQuantizer(),
    DitheredQuantizer(300, subtractive=True, bucket_size=512),
    RandK(fraction=0.1),
    TopK(fraction=0.01),
    ScaledSign(),
)


@in_one_test("compressor", SHARED, ids=repr)
def test_a_payload_is_decoded_on_the_device(
    compressor: Compressor, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_draws, "_MANY_WORDS", 100)
    x = make_input("gaussian", 5000)
    payload = Payload.encode(x, compressor, "auto", Channel(STREAM))
    theirs = Payload.encode(tensor(x, device), compressor, "auto", Channel(STREAM))
    assert theirs.data == payload.data
    received = Payload(payload.data, x.size, Channel(STREAM))
    value = received.tensor(device)
    assert value.device.type == device.type
    assert value.cpu().numpy().tobytes() == payload.vector.tobytes()


def test_payloads_of_parts_are_decoded_on_the_device(device: Any) -> None:
    rules = PerArray({"b": TopK(k=3)}, StochasticQuantizer(4))
    operator = rules.bind([("a", (10, 5)), ("b", (40,))])
    assert isinstance(operator, Parts)
    channel = Channel(STREAM, (50, 40), operator)
    payload = Payload.encode(make_input("gaussian", 90), operator, "auto", channel)
    value = Payload(payload.data, 90, channel).tensor(device)
    assert value.cpu().numpy().tobytes() == payload.vector.tobytes()


def test_what_a_compiler_gets_wrong_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def double(x: Any, factor: int) -> Any:
        return x * factor

    def wrong(x: Any, factor: int) -> Any:
        if factor == 4:
            raise RuntimeError("no compiler\nat all")
        return x * factor + (factor == 3)

    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    fused, x = Fused(double, wrong), torch.ones(3)
    assert torch.equal(fused(x, 2), 2 * x)
    with pytest.warns(RuntimeWarning, match="double is computed without.*other result"):
        assert torch.equal(fused(x, 3), 3 * x)
    with pytest.warns(RuntimeWarning, match="RuntimeError: no compiler$"):
        assert torch.equal(fused(x, 4), 4 * x)
    assert torch.equal(fused(x, 3), 3 * x)
    assert torch.equal(fused(x.double(), 2), 2 * x.double())


@pytest.mark.slow
@pytest.mark.parametrize(
    "compressor", [StochasticQuantizer(4), DitheredQuantizer(), RotatedQuantizer()]
)
def test_compiled_functions_keep_the_values(
    compressor: Compressor, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_draws, "_MANY_WORDS", 100)
    results = []
    for compiled in (False, True, True):
        ops = TorchOps(device, as_device=True, compiled=compiled)
        monkeypatch.setattr(backends, "_torch_ops", lambda device, ops=ops: ops)
        for dim in (70_000, 5000):
            x = tensor(make_input("rounded", dim), device)
            made = compressor.compress(x, STREAM)
            value = compressor.decompress(made, STREAM)
            results.append([part.cpu() for part in (*all_tensors(made), value)])
    for one, other in zip(results[:2] * 2, results[2:], strict=True):
        assert all(map(torch.equal, one, other))


@in_one_test("shape", [(1, 1000), (7, 100), (1, 200_000), (50, 2)])
def test_the_first_of_equal_magnitudes_are_kept(
    shape: tuple[int, int], device: Any
) -> None:
    generator = np.random.Generator(np.random.Philox(3))
    table = generator.integers(-3, 4, shape).astype(np.float32)
    there = tensor(table, device)
    ops = array_ops(there)
    for k in {1, shape[1] // 10, shape[1] // 2, shape[1] - 1} - {0}:
        found = ops.top_k(there, k)
        assert found.dtype == torch.int64
        np.testing.assert_array_equal(found.cpu().numpy(), NUMPY.top_k(table, k))


def test_divisions_are_correctly_rounded(device: Any) -> None:
    for dtype in (np.float32, np.float64):
        x = (np.arange(1, 10_000) ** 1.5).astype(dtype)
        there = tensor(x, device)
        for number in (3, 7, 0.1, 1000, 32767):
            np.testing.assert_array_equal(
                array_ops(there).divide(there, number).cpu().numpy(), x / dtype(number)
            )


# --- Lengths --------------------------------------------------------------------------

# Magnitudes up to 8 are nested supports, excesses come after them.
ALPHABETS = ((0, 0), (0, 1), (-1, 1), (-1, 2), (0, 8), (-9, 9), (-200, 300))


def make_symbols(kind: str, dim: int, low: int, high: int) -> Symbols:
    generator = np.random.Generator(np.random.Philox([dim, high]))
    if kind == "uniform":
        entries = generator.integers(low, high + 1, dim)
    elif kind == "normal":
        scale = max(high - low, 1) / 8
        entries = np.round(generator.normal(size=dim) * scale).astype(np.int64)
    elif kind == "sparse":
        entries = generator.integers(low, high + 1, dim)
        entries *= generator.random(dim) < 0.03
    else:
        entries = np.full(dim, {"zeros": 0, "highest": high}[kind])
    entries = entries.clip(low, high).astype(symbol_dtype(low, high))
    return Symbols(dim, low, high, entries)


@in_one_test("alphabet", ALPHABETS, ids=str)
@in_one_test(
    ("kind", "dim"),
    [
        (kind, dim)
        for kind in ("uniform", "normal", "sparse", "zeros", "highest")
        for dim in (*DIMS, 3, 100)
        if dim < 70_000 or kind in ("normal", "sparse")
    ],
)
def test_lengths_on_a_device_are_those_of_the_codes(
    alphabet: tuple[int, int], kind: str, dim: int, device: Any
) -> None:
    dense = make_symbols(kind, dim, *alphabet)
    positions, entries = dense.sparse()
    for symbols in (dense, replace(dense, entries=entries, positions=positions)):
        there = to_torch(symbols, device)
        for code in torch_lengths.DEVICE_CODE_NAMES:
            if code == "indices" and alphabet != (0, 1):
                with pytest.raises(ConfigurationError, match="nested-golomb"):
                    torch_lengths.num_bits(code, there)
                continue
            num_bits = torch_lengths.num_bits(code, there)
            assert isinstance(num_bits, int)
            assert num_bits == choose_code(code, symbols).num_bits(symbols), code


def test_lengths_of_a_wide_alphabet(device: Any) -> None:
    symbols = make_symbols("normal", 70_000, -20_000, 32_767)
    there = to_torch(symbols, device)
    for code in set(torch_lengths.DEVICE_CODE_NAMES) - {"indices"}:
        expected = choose_code(code, symbols).num_bits(symbols)
        assert torch_lengths.num_bits(code, there) == expected


@EVERY
def test_a_compressed_vector_counts_its_bits(compressor: Compressor) -> None:
    x = make_input("gaussian", 1000)
    ours, theirs = (compressor.compress(y, STREAM) for y in (x, tensor(x)))
    for code in ("fixed-width", "nested-golomb", "support-vector"):
        payload = Payload.encode(x, compressor, code, Channel(STREAM))
        assert ours.num_bits(code) == theirs.num_bits(code) == payload.num_bits


def test_codes_that_count_on_the_host_say_so() -> None:
    compressed = StochasticQuantizer(4).compress(torch.ones(100), STREAM)
    for code in set(CODE_NAMES) - set(torch_lengths.DEVICE_CODE_NAMES):
        with pytest.raises(ConfigurationError, match=rf"'{code}'.*nested-golomb.*nump"):
            compressed.num_bits(code)
    assert compressed.numpy().num_bits("packed-huffman") > 0
    with pytest.raises(UnknownNameError, match="'huffman'"):
        compressed.num_bits("huffman")
    assert Identity().compress(torch.ones(3), STREAM).num_bits("auto") == 96


def test_symbols_come_to_the_host() -> None:
    symbols = make_symbols("sparse", 1000, -9, 9)
    positions, entries = symbols.sparse()
    assert symbols.numpy() is symbols
    sparse = replace(symbols, entries=entries, positions=positions)
    there = to_torch(sparse)
    assert there.num_nonzero == sparse.num_nonzero
    back = there.numpy()
    np.testing.assert_array_equal(back.dense(), symbols.entries)
    assert back.entries.dtype == symbols.entries.dtype
