"""A payload is refused, undecoded, unless it is of the operator and code agreed on."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from flower_compress import (
    ArrayRule,
    Identity,
    MinVarianceSparsifier,
    PerArray,
    RandomSparsifier,
    RotatedQuantizer,
    ScaledSign,
    StochasticQuantizer,
    TopK,
)
from flower_compress.coding import CODE_NAMES, Symbols, choose_code, code_ids
from flower_compress.compressors import Compressor, Tied
from flower_compress.errors import ConfigurationError, CorruptPacket
from flower_compress.links import Channel, Direct, Memory, Payload
from flower_compress.links.forms import require_form
from flower_compress.streams import Purpose, Stream
from tests.cases import in_one_test
from tests.flower_compress.operators import TABLE, make, row_id

STREAM = Stream(1, Purpose.UPLINK, 2, 3)
CHANNEL = Channel(STREAM)
ARRAYS = [("a", (6, 5)), ("b", (4,)), ("c", (6, 5)), ("d", (7,))]
DIM = 71
RULES = PerArray({ArrayRule(max_ndim=1): Identity()}, default=StochasticQuantizer(3))


def encode(operator: Compressor, code: str, x: np.ndarray) -> Payload:
    link = Direct(operator, code).bind(ARRAYS)
    sizes = tuple(int(np.prod(shape)) for _, shape in ARRAYS)
    channel = link.channel(STREAM, sizes)
    return Payload.encode(x, link.compressor, code, channel)


def vectors() -> list[np.ndarray]:
    dense = np.random.default_rng(0).standard_normal(DIM).astype(np.float32)
    equal = dense.copy()
    equal[34:64] = equal[:30]
    return [dense, equal, np.zeros(DIM, np.float32)]


@pytest.mark.parametrize("row", TABLE, ids=row_id)
def test_what_an_operator_makes_has_its_form_in_every_code(row: dict) -> None:
    operator = make(row)
    for code in CODE_NAMES:
        for x in vectors():
            try:
                payload = encode(operator, code, x)
            except ConfigurationError:  # 'indices' is for 0 and 1.
                continue
            require_form(payload.data, DIM, (operator,), code)


@pytest.mark.parametrize("operator", [RULES, Tied(RULES, ((2, 0),))])
def test_so_has_what_several_operators_make(operator: Compressor) -> None:
    bound = operator.bind(ARRAYS)
    for x in vectors():
        data = encode(operator, "auto", x).data
        require_form(data, DIM, (bound,), "auto")
        for size in range(len(data) if len(data) < 60 else 12):
            with pytest.raises(CorruptPacket):
                require_form(data[:size], DIM, (bound,), "auto")
        for other in (Identity(), StochasticQuantizer(3)):
            with pytest.raises(CorruptPacket):
                require_form(encode(other, "auto", x).data, DIM, (bound,), "auto")
            with pytest.raises(CorruptPacket):
                require_form(data, DIM, (other,), "auto")
    part = encode(operator, "elias", vectors()[0]).data
    with pytest.raises(CorruptPacket):
        require_form(part, DIM, (bound,), "auto")


def test_another_operator_parameter_or_code_is_refused() -> None:
    asked = (RotatedQuantizer(step=1.5),)
    x = vectors()[0]
    for operator, code in (
        (Identity(), "auto"),
        (RotatedQuantizer(step=1.4), "auto"),
        (RotatedQuantizer(step=1.5), "support-vector"),
        (RotatedQuantizer(step=1.5, per="tensor"), "auto"),
    ):
        with pytest.raises(CorruptPacket, match="as the contract says"):
            require_form(encode(operator, code, x).data, DIM, asked, "auto")
    for data in (b"", b"\x0a"):
        with pytest.raises(CorruptPacket):
            require_form(data, DIM, asked, "auto")


def test_auto_allows_what_it_chooses_among_and_no_more() -> None:
    generator = np.random.default_rng(1)
    for dim in (5, 300, 5000):
        for p in (0.01, 0.5, 0.99):
            x = generator.standard_normal(dim) * (generator.random(dim) < p)
            for operator in (StochasticQuantizer(1), StochasticQuantizer(2000)):
                made = operator.compress(x.astype(np.float32), STREAM)
                assert made.symbols is not None
                low, high = made.symbols.low, made.symbols.high
                chosen = choose_code("auto", made.symbols).wire_id
                assert chosen in code_ids("auto", low, high)
    assert code_ids("auto", 0, 1) == {1, 3, 6}
    assert code_ids("auto", -1, 1) == {1, 4, 6}
    assert code_ids("elias", -1, 1) == {2}


def test_a_memory_may_begin_dense_where_its_link_says_so() -> None:
    operator = StochasticQuantizer(3)
    assert Memory(operator).operators(begins=True) == (operator,)
    first = Memory(operator, initial="first")
    assert first.operators(begins=True) == (operator, Identity())
    assert first.operators(begins=False) == (operator,)


@pytest.mark.parametrize(
    "operator",
    [
        StochasticQuantizer(2),
        StochasticQuantizer(2, bucket_size=500),
        RandomSparsifier(0.05),
        TopK(k=30),
        TopK(fraction=0.02, bucket_size=300),
    ],
    ids=repr,
)
def test_more_symbols_than_an_operator_makes_are_not_decoded(
    operator: Compressor,
) -> None:
    dim = 5000
    for seed in range(20):
        x = np.random.default_rng(seed).choice([-1.0, 1.0], dim).astype(np.float32)
        made = operator.compress(x, Stream(seed, Purpose.UPLINK, 2, 3)).symbols
        assert made is not None
        assert made.num_nonzero <= operator.most_nonzeros(dim)
    assert operator.most_nonzeros(dim) < 0.2 * dim
    low, high = made.low, made.high
    for count in (operator.most_nonzeros(dim) + 1, dim):
        entries = (np.arange(dim) < count).astype(made.entries.dtype)
        symbols = Symbols(dim, low, high, entries)
        code = choose_code("indices" if low == 0 else "nested-golomb", symbols)
        body, _ = code.encode(symbols)
        wire_id, parameters = operator.to_wire()
        data = bytes((wire_id, code.wire_id)) + parameters + body
        with pytest.raises(CorruptPacket, match="as the contract says"):
            require_form(data, dim, (operator,), "auto")


def _uneven(dim: int) -> list[NDArray[np.float32]]:
    """Vectors whose entries are not alike: zeros in a row, few that are large, one."""
    x = np.random.default_rng(dim).laplace(size=dim).astype(np.float32)
    half, rare, peak = x.copy(), x.copy(), np.zeros_like(x)
    half[: dim // 2] = 0
    rare[np.arange(dim) % 500 > 0] = 0
    peak[dim // 3] = 1
    return [x, half, rare, peak, np.ones_like(x), np.sign(x), np.zeros_like(x)]


@in_one_test("dim", [4096, 70_000])
@in_one_test(
    "operator",
    [
        StochasticQuantizer(1),
        StochasticQuantizer(16, bucket_size=512),
        RotatedQuantizer(step=1.5),
        ScaledSign(),
        TopK(fraction=0.01),
        TopK(fraction=0.6),
        RandomSparsifier(0.01),
        MinVarianceSparsifier(0.01),
        MinVarianceSparsifier(0.5),
    ],
)
def test_whatever_auto_chooses_is_let_through(operator: Compressor, dim: int) -> None:
    for x in _uneven(dim):
        data = Payload.encode(x, operator, "auto", CHANNEL).data
        require_form(data, dim, (operator,), "auto")
        assert Payload(data, dim, CHANNEL).vector.shape == (dim,)


def test_what_auto_never_chooses_is_not_decoded() -> None:
    """All symbols, where few are not zero."""
    dim = 200_000
    for operator, name in (
        (TopK(fraction=0.01), "packed-huffman"),
        (RandomSparsifier(0.01), "fixed-width"),
        (StochasticQuantizer(1), "packed-huffman"),
    ):
        low, high = operator.alphabet(dim) or (0, 0)
        symbols = Symbols(dim, low, high, (np.arange(dim) % 100 == 0).astype(np.int8))
        code = choose_code(name, symbols)
        wire_id, parameters = operator.to_wire()
        values = bytes(4 * operator.num_values(dim, symbols))
        head = bytes((wire_id, code.wire_id)) + parameters
        data = head + code.encode(symbols)[0] + values
        require_form(data, dim, (operator,), name)
        with pytest.raises(CorruptPacket, match="as the contract says"):
            require_form(data, dim, (operator,), "auto")


@in_one_test("dim", [2**12, 70_000])
def test_runs_of_which_few_are_zero_are_not_decoded(dim: int) -> None:
    largest = [StochasticQuantizer(s, "inf") for s in (2, 3)]
    for operator in (ScaledSign(), *largest):
        low, high = operator.alphabet(dim) or (0, 0)
        wire_id, parameters = operator.to_wire()
        for nonzeros in (dim // 2, dim // 2 + 1):
            entries = (np.arange(dim) < nonzeros).astype(np.int8)
            code = choose_code("nested-golomb", Symbols(dim, low, high, entries))
            body, _ = code.encode(Symbols(dim, low, high, entries))
            data = bytes((wire_id, code.wire_id)) + parameters + body + bytes(4)
            require_form(data, dim, (operator,), "nested-golomb")
            if nonzeros <= dim // 2 or high > 2:
                require_form(data, dim, (operator,), "auto")
                continue
            with pytest.raises(CorruptPacket, match="as the contract says"):
                require_form(data, dim, (operator,), "auto")


def test_more_symbols_in_a_code_that_does_not_count_them_are_not_decompressed() -> None:
    operator, dim = MinVarianceSparsifier(0.01), 9000
    symbols = Symbols(dim, -1, 2, np.full(dim, 2, np.int8))
    code = choose_code("packed-huffman", symbols)
    wire_id, parameters = operator.to_wire()
    body = code.encode(symbols)[0] + bytes(4 * (dim + 1))
    data = bytes((wire_id, code.wire_id)) + parameters + body
    with pytest.raises(CorruptPacket, match="at most .* of 9000 symbols"):
        Payload(data, dim, CHANNEL).vector  # noqa: B018


@pytest.mark.parametrize(
    "operator", [StochasticQuantizer(3), TopK(k=4), RULES, Tied(RULES, ((2, 0),))]
)
def test_any_bytes_are_of_the_form_or_corrupt(operator: Compressor) -> None:
    bound, generator = operator.bind(ARRAYS), np.random.default_rng(7)
    whole = bytearray(encode(operator, "auto", vectors()[1]).data)
    kept = 0
    for _ in range(2000):
        data = bytearray(whole[: int(generator.integers(len(whole) + 1))])
        for place in generator.integers(0, 12, 2):
            if place < len(data):
                data[place] = generator.integers(256)
        try:
            require_form(bytes(data), DIM, (bound,), "auto")
            kept += 1
        except CorruptPacket:
            continue
    assert kept < 2000
