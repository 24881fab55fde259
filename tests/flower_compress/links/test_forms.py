"""A payload is refused, undecoded, unless it is of the operator and code agreed on."""

from __future__ import annotations

import numpy as np
import pytest

from flower_compress import (
    ArrayRule,
    Identity,
    PerArray,
    RotatedQuantizer,
    StochasticQuantizer,
)
from flower_compress.coding import CODE_NAMES, choose_code, code_ids
from flower_compress.compressors import Compressor, Tied
from flower_compress.errors import ConfigurationError, CorruptPacket
from flower_compress.links import Direct, Memory, Payload
from flower_compress.links.forms import require_form
from flower_compress.streams import Purpose, Stream
from tests.flower_compress.operators import TABLE, make, row_id

STREAM = Stream(1, Purpose.UPLINK, 2, 3)
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
