"""Streams: every key has its own numbers, the same on every machine."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

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


def plain_words(stream: Stream, start: int, count: int) -> list[int]:
    """The words from block `start` on: NumPy counts up before it draws."""
    words: list[int] = []
    for block in range(start, start - (-count // 4)):
        counter = [block + 1, 0, int(stream.purpose), stream.version & U64]
        words += philox_block(counter, [stream.seed & U64, stream.index & U64])
    return words[:count]


def plain_dither(words: list[int], count: int) -> list[int]:
    return [word >> shift & 0xFFFF for word in words for shift in (0, 16, 32, 48)][
        :count
    ]


def plain_signs(words: list[int], count: int) -> list[int]:
    return [word >> bit & 1 for word in words for bit in range(64)][:count]


def plain_uniforms(words: list[int]) -> list[float]:
    return [(word >> 11) / 2**53 for word in words]


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
    first = stream.draws().uniforms(100)
    stream.generator().random(7)
    other = stream.draws()
    other.words(1000)
    np.testing.assert_array_equal(stream.draws().uniforms(100), first)
    np.testing.assert_array_equal(stream.draws().uniforms(33), first[:33])


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
    one = start._replace(**{name: number})
    other = start._replace(**{name: same})
    assert words(one, 4) == words(other, 4)
    assert words(one, 4) != words(Stream(1, Purpose.BATCHES, 1, 1), 4)
    drawn = [stream.draws().words(4).tolist() for stream in (one, other)]
    assert drawn[0] == drawn[1] == words(one, 4)


keys = st.builds(
    Stream,
    seed=st.integers(-(1 << 70), 1 << 70),
    purpose=st.sampled_from(Purpose),
    index=st.integers(-(1 << 65), 1 << 65),
    version=st.integers(0, 1 << 65),
    part=st.just(0),
)


@given(stream=keys, count=st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_words_are_those_of_numpy_and_of_a_plain_philox(
    stream: Stream, count: int
) -> None:
    drawn = stream.draws().words(count)
    assert drawn.dtype == np.uint64
    assert drawn.tolist() == plain_words(stream, 0, count)
    counter = np.array([0, 0, int(stream.purpose), stream.version & U64], np.uint64)
    key = np.array([stream.seed & U64, stream.index & U64], np.uint64)
    numpy_philox = np.random.Philox(counter=counter, key=key)
    np.testing.assert_array_equal(drawn, numpy_philox.random_raw(count))
    assert drawn.tolist() == words(stream, count)


WORDS_OF = {
    "words": lambda count: count,
    "dither": lambda count: -(-count // 4),
    "signs": lambda count: -(-count // 64),
    "uniforms": lambda count: count,
}
requests = st.tuples(
    st.sampled_from(sorted(WORDS_OF)),
    st.sampled_from([0, 1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257]),
)


@given(stream=keys, asked=st.lists(requests, max_size=8))
@settings(max_examples=60, deadline=None)
def test_every_request_starts_with_a_fresh_block(
    stream: Stream, asked: list[tuple[str, int]]
) -> None:
    draws, block = stream.draws(), 0
    for name, count in asked:
        num_words = WORDS_OF[name](count)
        expected = plain_words(stream, block, num_words)
        drawn = getattr(draws, name)(count)
        assert drawn.shape == (count,)
        if name == "words":
            assert drawn.tolist() == expected
        elif name == "dither":
            assert drawn.dtype == np.dtype("<u2")
            assert drawn.tolist() == plain_dither(expected, count)
        elif name == "signs":
            assert drawn.dtype == np.uint8
            assert drawn.tolist() == plain_signs(expected, count)
        else:
            assert drawn.dtype == np.float64
            assert drawn.tolist() == plain_uniforms(expected)
        block += -(-num_words // 4)


def test_two_requests_of_a_stream_share_no_number() -> None:
    draws = Stream(1, Purpose.UPLINK).draws()
    drawn = [word for count in (1, 2, 3, 4, 5, 100) for word in draws.words(count)]
    assert len(set(drawn)) == len(drawn)


def test_draws_of_one_stream_do_not_disturb_each_other() -> None:
    """All draws of a thread set the state of one generator."""
    streams = [Stream(seed, Purpose.UPLINK, seed + 1, seed + 2) for seed in range(5)]
    alone = [
        [draws.words(7).tolist() for _ in range(20)]
        for draws in (stream.draws() for stream in streams)
    ]
    together = [stream.draws() for stream in streams]
    mixed: list[list[list[int]]] = [[] for _ in streams]
    for _ in range(20):
        for kept, draws in zip(mixed, together, strict=True):
            kept.append(draws.words(7).tolist())
    assert mixed == alone


def test_threads_draw_the_same_numbers() -> None:
    streams = [Stream(seed, Purpose.DOWNLINK, 1, seed) for seed in range(6)]

    def draw(stream: Stream) -> list[int]:
        draws, numbers = stream.draws(), []
        for _ in range(200):
            numbers.append(int(draws.words(1000).sum(dtype=np.uint64)))
            numbers.append(int(draws.dither(1000).sum(dtype=np.int64)))
        return numbers

    expected = [draw(stream) for stream in streams]
    barrier = threading.Barrier(len(streams))

    def wait_and_draw(stream: Stream) -> list[int]:
        barrier.wait()
        return draw(stream)

    with ThreadPoolExecutor(len(streams)) as pool:
        assert list(pool.map(wait_and_draw, streams)) == expected


def test_numpy_integers_are_keys_as_well() -> None:
    plain = Stream(1, Purpose.UPLINK, 2, 3).draws().words(5)
    numbers = (np.int64(1), Purpose.UPLINK, np.int32(2), np.uint64(3))
    np.testing.assert_array_equal(Stream(*numbers).draws().words(5), plain)


# --- Statistics -----------------------------------------------------------------------

MANY = 1 << 18


def chi_square(counts: NDArray[np.int64]) -> float:
    """Standard deviations of Pearson's statistic from its mean."""
    expected = counts.sum() / counts.size
    statistic = float((np.square(counts - expected) / expected).sum())
    freedom = counts.size - 1
    return abs(statistic - freedom) / math.sqrt(2 * freedom)


def test_dithers_are_uniform_and_independent() -> None:
    dither = Stream(0, Purpose.UPLINK).draws().dither(MANY)
    assert chi_square(np.bincount(dither >> 6, minlength=1024)) < 4
    assert chi_square(np.bincount(dither & 1023, minlength=1024)) < 4
    centred = dither.astype(np.float64) - 32767.5
    for lag in (1, 2, 3, 4, 16):
        product = centred[:-lag] * centred[lag:]
        deviation = product.mean() / (65536**2 / 12) * math.sqrt(product.size)
        assert abs(deviation) < 4
    # Every place within a word is as good as the others.
    assert np.abs(centred.reshape(-1, 4).mean(axis=0)).max() < 4 * 18919 / 256


def test_signs_are_fair_coins() -> None:
    signs = Stream(0, Purpose.DOWNLINK).draws().signs(MANY)
    assert set(np.unique(signs).tolist()) == {0, 1}
    assert abs(int(signs.sum()) - MANY / 2) < 4 * math.sqrt(MANY / 4)
    by_place = signs.reshape(-1, 64).sum(axis=0)
    assert np.abs(by_place - MANY / 128).max() < 4 * math.sqrt(MANY / 256)
    patterns = signs.reshape(-1, 8) @ (1 << np.arange(8))
    assert chi_square(np.bincount(patterns, minlength=256)) < 4


def test_uniforms_are_multiples_in_the_unit_interval() -> None:
    uniforms = Stream(0, Purpose.SAMPLING).draws().uniforms(MANY)
    assert uniforms.min() >= 0.0
    assert uniforms.max() < 1.0
    steps = uniforms * 2**53
    np.testing.assert_array_equal(steps, np.floor(steps))
    # The last of the 53 bits is a fair coin as well.
    odd = int((steps % 2).sum())
    assert abs(odd - MANY / 2) < 4 * math.sqrt(MANY / 4)
    assert abs(uniforms.mean() - 0.5) < 4 / math.sqrt(12 * MANY)
    assert chi_square(np.bincount((uniforms * 1024).astype(int), minlength=1024)) < 4


def test_neighbouring_streams_are_independent() -> None:
    """Versions, clients and seeds one apart, as a run has them."""
    start = Stream(7, Purpose.UPLINK, 3, 5)
    others = [
        start._replace(version=6),
        start._replace(index=4),
        start._replace(seed=8),
        start._replace(purpose=Purpose.DOWNLINK),
    ]
    centred = start.draws().uniforms(MANY) - 0.5
    for other in others:
        correlation = 12 * (centred * (other.draws().uniforms(MANY) - 0.5)).mean()
        assert abs(correlation) < 4 / math.sqrt(MANY)


def test_plain_philox_gives_the_published_answer() -> None:
    # Random123's known answers, kat_vectors, philox4x64 with 10 rounds.
    assert philox_block([0] * 4, [0] * 2) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


# Words, dithers, signs as bits of one number (the first is the lowest), and uniforms
# over 2^-53, requested in this order.
GOLDEN = [
    (
        Stream(0, Purpose.UPLINK),
        [0xA4C5607FB1206F77, 0x10435EC58BDFF201, 0x1ECD83886EC6CA79],
        [41071, 24395, 24612, 44798, 32292, 20712],
        0x354217F0D69E3275F8,
        [5017523544383279, 3407523136843974],
    ),
    (
        Stream(42, Purpose.DOWNLINK, 7, 3),
        [0xAB2363FFBE11011E, 0x71C7C864B5D12AC9, 0x4EE492B1D326EF37],
        [14884, 5193, 51721, 59359, 60979, 22447],
        0x2104970BBB3C48489C,
        [6562992884819705, 3911410471986369],
    ),
    (
        Stream(-1, Purpose.SAMPLING, 1 << 63, 1 << 40),
        [0xAF8CC4ACBF7681B, 0xC59B9DC89B6B7DF4, 0x86A8B7941E2B69B2],
        [24892, 25809, 20397, 40359, 24632, 28374],
        0x10FAC0FDEB7B87112F,
        [4387166131419996, 6927980768875906],
    ),
    (
        Stream((1 << 64) + 1, Purpose.BATCHES, 1, 2),
        [0x524A37228031B9B4, 0x9E3F20A3E9578534, 0x53608DA948302342],
        [24931, 19151, 192, 12866, 16993, 48830],
        0xA8583937BBE236C75,
        [5124156938497062, 7966498676765533],
    ),
]


@pytest.mark.parametrize(("stream", "words", "dither", "signs", "uniforms"), GOLDEN)
def test_draws_are_pinned(
    stream: Stream,
    words: list[int],
    dither: list[int],
    signs: int,
    uniforms: list[int],
) -> None:
    draws = stream.draws()
    assert draws.words(3).tolist() == words
    assert draws.dither(6).tolist() == dither
    bits = draws.signs(70).tolist()
    assert sum(bit << place for place, bit in enumerate(bits)) == signs
    assert (draws.uniforms(2) * 2**53).astype(int).tolist() == uniforms
