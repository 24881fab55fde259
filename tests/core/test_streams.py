"""Streams: every key has its own numbers, the same on every machine."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_compress.streams import Purpose, Stream

U64 = (1 << 64) - 1


def philox_block(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10, as Salmon et al. (SC 2011) define it."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c0, 1 << 64)
        high1, low1 = divmod(0xCA5A826395121157 * c2, 1 << 64)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & U64, (k1 + 0xBB67AE8584CAA73B) & U64
    return [c0, c1, c2, c3]


def plain_uniforms(stream: Stream, blocks: int) -> list[float]:
    uniforms = []
    for block in range(1, blocks + 1):  # NumPy counts up before it draws.
        counter = [block, 0, int(stream.purpose), stream.version & U64]
        for word in philox_block(counter, [stream.seed & U64, stream.index & U64]):
            uniforms += [
                (half >> 8) / 2**24 for half in (word & 0xFFFFFFFF, word >> 32)
            ]
    return uniforms


def words(stream: Stream, count: int) -> list[int]:
    drawn = stream.generator().integers(0, 1 << 64, size=count, dtype=np.uint64)
    return [int(word) for word in drawn]


def test_no_two_keys_share_a_number() -> None:
    seeds, indices = (0, 1, -1), (0, 1, 2, 1 << 40)
    versions = (0, 1, 2, 3, 1 << 32)
    drawn: list[int] = []
    for seed, purpose, index, version in product(seeds, Purpose, indices, versions):
        drawn += words(Stream(seed, purpose, index, version), 64)
    # Any two of the 64-bit words agree by chance once in 10^11 runs.
    assert len(set(drawn)) == len(drawn)


def test_purposes_have_different_numbers() -> None:
    assert len({int(purpose) for purpose in Purpose}) == len(Purpose)


def test_a_stream_has_no_state() -> None:
    stream = Stream(3, Purpose.UPLINK, 2, 9)
    first = stream.uniforms(100)
    stream.generator().random(7)
    np.testing.assert_array_equal(stream.uniforms(100), first)
    np.testing.assert_array_equal(stream.uniforms(33), first[:33])
    assert stream.uniforms(0).size == 0


def test_at_changes_the_version_alone() -> None:
    stream = Stream(3, Purpose.DOWNLINK, 2, 9)
    assert stream.at(10) == Stream(3, Purpose.DOWNLINK, 2, 10)
    assert stream == Stream(3, Purpose.DOWNLINK, 2, 9)


@pytest.mark.parametrize("name", ["seed", "index", "version"])
@pytest.mark.parametrize(
    ("number", "same"),
    [
        (-1, U64),
        (-5, (1 << 64) - 5),
        ((1 << 64) + 7, 7),
        (1 << 200, 0),
        (-(1 << 70), 0),
    ],
)
def test_numbers_are_taken_modulo_two_to_the_64(
    name: str, number: int, same: int
) -> None:
    start = Stream(1, Purpose.BATCHES)
    one = replace(start, **{name: number})  # type: ignore[arg-type]
    other = replace(start, **{name: same})  # type: ignore[arg-type]
    assert words(one, 4) == words(other, 4)
    assert words(one, 4) != words(Stream(1, Purpose.BATCHES, 1, 1), 4)


def test_uniforms_are_multiples_in_the_unit_interval() -> None:
    uniforms = Stream(0, Purpose.SAMPLING).uniforms(200_000)
    assert uniforms.dtype == np.float32
    assert uniforms.min() >= 0.0
    assert uniforms.max() < 1.0
    steps = uniforms.astype(np.float64) * 2**24
    np.testing.assert_array_equal(steps, np.floor(steps))
    # The last of the 24 bits is a fair coin as well.
    odd = int((steps % 2).sum())
    assert abs(odd - 100_000) < 4 * np.sqrt(50_000)
    standard_error = 1 / np.sqrt(12 * 200_000)
    assert abs(uniforms.mean(dtype=np.float64) - 0.5) < 4 * standard_error


@given(
    seed=st.integers(-(1 << 70), 1 << 70),
    purpose=st.sampled_from(Purpose),
    index=st.integers(0, U64),
    version=st.integers(0, U64),
)
@settings(max_examples=25, deadline=None)
def test_uniforms_are_those_of_a_plain_philox(
    seed: int, purpose: Purpose, index: int, version: int
) -> None:
    stream = Stream(seed, purpose, index, version)
    assert stream.uniforms(24).tolist() == plain_uniforms(stream, 3)


def test_plain_philox_gives_the_published_answer() -> None:
    # Random123's known answers, kat_vectors, philox4x64 with 10 rounds.
    assert philox_block([0] * 4, [0] * 2) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


# Multiples of 2^-24.
GOLDEN = [
    (
        Stream(0, Purpose.UPLINK),
        [11608175, 10798432, 9166834, 1065822, 7259850, 2018691],
    ),
    (
        Stream(42, Purpose.DOWNLINK, 7, 3),
        [12456193, 11215715, 11915562, 7456712, 13838063, 5170322],
    ),
    (
        Stream(-1, Purpose.SAMPLING, 1 << 63, 1 << 40),
        [13367144, 719052, 10185597, 12950429, 1977193, 8825015],
    ),
    (
        Stream((1 << 64) + 1, Purpose.BATCHES, 1, 2),
        [8401337, 5392951, 15292293, 10370848, 4730915, 5464205],
    ),
]


@pytest.mark.parametrize(("stream", "expected"), GOLDEN)
def test_uniforms_are_pinned(stream: Stream, expected: list[int]) -> None:
    assert (stream.uniforms(6) * 2**24).astype(int).tolist() == expected
