"""Entropy and formula bits of payloads, and ledgers that count them on request."""

from __future__ import annotations

import gc
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flower_compress import (
    DitheredQuantizer,
    Identity,
    PerArray,
    RandK,
    ScaledSign,
    StochasticQuantizer,
    TopK,
)
from flower_compress.compressors import Compressor
from flower_compress.formula_bits import malcom_bits, qsgd_bits
from flower_compress.links import Channel, Payload
from flower_compress.strategies import MCM, SGD, CompressedStrategy
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import InProcessGrid
from flower_compress.wire import measures
from flower_compress.wire.measures import is_measuring, measure, measuring
from tests.cases import in_one_test
from tests.strategies.problem import INITIAL, make_app, to_record

DIM = 96
X = np.random.default_rng(0).standard_normal(DIM).astype(np.float32)
SIZES = (32, 64)
CHANNEL = Channel(Stream(1, Purpose.UPLINK), SIZES)


def entropy(symbols: Any) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-np.sum(counts * np.log2(counts / symbols.size)))


def payload(operator: Compressor, channel: Channel = CHANNEL) -> Payload:
    sent = Payload.encode(X, operator, "auto", channel)
    return Payload(sent.data, DIM, channel)  # as it arrives


def quantized(operator: Compressor) -> tuple[float, float]:
    symbols = operator.compress(X, CHANNEL.stream, SIZES).symbols
    assert symbols is not None
    bits = 32.0 * len(operator.compress(X, CHANNEL.stream, SIZES).values)
    return bits + entropy(symbols.dense()), bits


def test_a_payload_that_many_are_sent_is_measured_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, count = [], measures._counts
    monkeypatch.setattr(
        measures, "_counts", lambda symbols: (calls.append(1), count(symbols))[1]
    )
    sent, other = payload(StochasticQuantizer(2)), payload(StochasticQuantizer(4))
    alone = measure([sent])
    assert measure([sent]) == alone and measure([other]) != alone
    assert len(calls) == 2
    both = measure([sent, other])
    assert both[0] <= alone[0] + measure([other])[0] <= both[0] + 1
    del sent, other
    gc.collect()
    assert not measures._MEASURED  # nothing is held that nobody else holds


def test_by_hand() -> None:
    qsgd, buckets = StochasticQuantizer(2), StochasticQuantizer(2, bucket_size=48)
    assert measure([payload(qsgd)]) == (
        math.ceil(quantized(qsgd)[0]),
        math.ceil(qsgd_bits(DIM, 2)),
    )
    assert measure([payload(buckets)])[1] == math.ceil(2 * qsgd_bits(48, 2))
    uneven = StochasticQuantizer(2, bucket_size=22)  # 22, 22, 22, 22 and 8
    assert measure([payload(uneven)])[1] == math.ceil(5 * qsgd_bits(20, 2))
    assert measure([payload(Identity())]) == (32 * DIM, 32 * DIM)
    assert measure([payload(ScaledSign())])[1] == 32 + DIM
    k = math.ceil(5 * (32 + math.log2(DIM)))
    assert measure([payload(TopK(k=5))])[1] == measure([payload(RandK(k=5))])[1] == k
    malcom = DitheredQuantizer(4)
    symbols = malcom.compress(X, CHANNEL.stream, SIZES).symbols
    assert symbols is not None
    shares = np.unique(symbols.dense(), return_counts=True)[1] / DIM
    assert measure([payload(malcom)]) == (
        math.ceil(quantized(malcom)[0]),
        math.ceil(64 + malcom_bits(shares, DIM)),
    )
    both = measure([payload(Identity()), payload(ScaledSign())])
    assert both[1] == 32 * DIM + 32 + DIM


def test_parts_count_each_by_itself() -> None:
    rules = PerArray({"scale": Identity()}, ScaledSign())
    bound = rules.bind((("scale", (32,)), ("weight", (64,))))
    channel = Channel(CHANNEL.stream, SIZES, bound)
    assert measure([payload(bound, channel)])[1] == 32 * 32 + 32 + 64


def test_bytes_that_are_no_payload_count_nothing() -> None:
    sent = payload(StochasticQuantizer(2))
    assert measure([Payload(sent.data[:-3], DIM, CHANNEL)]) == (0, 0)


def test_the_last_that_asks_ends_it() -> None:
    """Two threads need not end in the order in which they began."""
    first, second = measuring(), measuring()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert is_measuring()
    second.__exit__(None, None, None)
    assert not is_measuring()


@in_one_test("cls", [SGD, MCM])
def test_a_ledger_counts_them_on_request(cls: type[CompressedStrategy]) -> None:
    extra = {} if cls is SGD else {"compressor": StochasticQuantizer(1)}
    ledgers = []
    for asked in (True, False):
        strategy = cls(weighted_by_key=None, fraction_evaluate=0.0, **extra)
        if asked:
            with measuring():
                assert is_measuring()
                strategy.start(InProcessGrid(make_app(), 3), to_record(INITIAL), 5)
        else:
            strategy.start(InProcessGrid(make_app(), 3), to_record(INITIAL), 5)
        ledgers.append(strategy.ledger)
    measured, plain = ledgers
    assert not is_measuring()
    for direction in ("uplink", "downlink"):
        traffic, other = getattr(measured, direction), getattr(plain, direction)
        assert (other.entropy_bits, other.formula_bits) == (0, 0)
        assert replace(traffic, entropy_bits=0, formula_bits=0) == other
        if cls is SGD:
            assert traffic.entropy_bits == traffic.formula_bits == traffic.payload_bits
        else:
            assert 0 < traffic.entropy_bits < traffic.payload_bits
            assert traffic.formula_bits > traffic.payload_bits
