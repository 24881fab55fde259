"""Counter-based randomness: a draw depends on its key, never on a state.

A stream is keyed by the seed of the run, what the draw is for, whom it concerns,
and a version that is never used twice. So a run draws the same numbers in any
engine, in any order of execution and after a restart, and there is no generator
state to save. The generator is NumPy's Philox 4x64, whose words are the same on every
machine and in every version of NumPy; what is made of them is defined here.
"""

from __future__ import annotations

import sys
import threading
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

__all__ = ["Dither", "Draws", "Purpose", "Stream"]

_MASK = (1 << 64) - 1
_WORDS_PER_BLOCK = 4
_DITHERS_PER_BLOCK = 16
_WORDS_AHEAD = 64
_UINT16 = np.dtype("<u2")


class Purpose(IntEnum):
    """What a stream is for; streams of different purposes never overlap."""

    UPLINK = 1
    DOWNLINK = 2
    SAMPLING = 3
    BATCHES = 4
    GOSSIP = 5
    INITIAL_MODEL = 6


class Stream(NamedTuple):
    """Philox 4x64 with key (seed, index) and counter (0, part, purpose, version).

    Attributes
    ----------
    seed : int
        Seed of the run, taken modulo 2^64.
    purpose : Purpose
        What the draws are for.
    index : int
        Whom they concern (a client's identity, a group), modulo 2^64.
    version : int
        Which draw, modulo 2^64: 2^192 blocks of four words lie between two versions.
    part : int
        Which part of a vector that several operators share, 2^64 blocks apart.
    """

    seed: int
    purpose: Purpose
    index: int = 0  # type: ignore[assignment]  # Not that of a tuple.
    version: int = 0
    part: int = 0

    def at(self, version: int) -> Stream:
        """Return the stream of another version."""
        return Stream(self.seed, self.purpose, self.index, version, self.part)

    def of_part(self, part: int) -> Stream:
        """Return the stream of a part of the vector."""
        return Stream(self.seed, self.purpose, self.index, self.version, part)

    def generator(self) -> np.random.Generator:
        """Return a fresh generator at the start of the stream."""
        return np.random.Generator(
            np.random.Philox(
                key=_words(self.seed, self.index),
                counter=_words(0, self.part, self.purpose, self.version),
            )
        )

    def permutation(self, size: int) -> NDArray[np.int64]:
        """Return what a fresh :meth:`generator` gives first, sooner."""
        thread = _THREAD
        place = 0, int(self.part), int(self.purpose), int(self.version) & _MASK
        thread.seek((int(self.seed) & _MASK, int(self.index) & _MASK), place)
        return thread.generator.permutation(size)

    def draws(self) -> Draws:
        """Return the numbers of the stream, from its start."""
        return Draws(self)


class Draws:
    """The numbers of one stream, one request after the other.

    Every request starts with a fresh block of four words, so what it returns depends
    only on how many blocks the requests before it took. Block b of a stream is
    Philox 4x64-10 of the counter (b + 1, part, purpose, version).

    Parameters
    ----------
    stream : Stream
        The key.
    """

    __slots__ = ("_ahead", "_block", "_key", "_place")

    def __init__(self, stream: Stream) -> None:
        self._key = int(stream.seed) & _MASK, int(stream.index) & _MASK
        version = int(stream.version) & _MASK
        self._place = int(stream.part), int(stream.purpose), version
        self._block = 0
        self._ahead: NDArray[np.uint64] | None = None

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return `count` words of 64 bits."""
        words: NDArray[np.uint64]
        first, ahead = _WORDS_PER_BLOCK * self._block, self._ahead
        self._block += -(-count // _WORDS_PER_BLOCK)
        if ahead is not None and first + count <= ahead.size:
            return ahead[first : first + count]
        place = first // _WORDS_PER_BLOCK, *self._place
        fast = compiled("philox", count)
        if fast is not None:
            words = fast.words(self._key, place, count)
            return words
        thread = _THREAD
        thread.seek(self._key, place)
        if first or count > _WORDS_AHEAD:
            words = thread.philox.random_raw(count)
            return words
        # Where little is asked for first, so it will be again: to go to a place takes
        # longer than these words.
        words = self._ahead = thread.philox.random_raw(_WORDS_AHEAD)
        return words[:count]

    def skip_words(self, count: int) -> tuple[tuple[int, int], tuple[int, ...]]:
        """Leave out `count` words; return key and counter that those before them have.

        For who computes them elsewhere: the first block of them is that of the counter
        plus one.
        """
        place = self._block, *self._place
        self._block += -(-count // _WORDS_PER_BLOCK)
        return self._key, place

    def dither(self, count: int) -> NDArray[np.uint16]:
        """Return `count` integers j in [0, 2^16), four a word, the lowest bits first.

        A dither u = j / 2^16 is uniform on the multiples of 2^-16 in [0, 1).
        """
        words = self.words(-(-count // 4))
        if sys.byteorder == "big":
            words.byteswap(inplace=True)
        return words.view(_UINT16)[:count]

    def short_dither(self, count: int) -> NDArray[np.uint8]:
        """Return `count` integers j in [0, 2^8), eight a word, the lowest bits first.

        A dither u = j / 2^8 is uniform on the multiples of 2^-8 in [0, 1).
        """
        words = self.words(-(-count // 8))
        if sys.byteorder == "big":
            words.byteswap(inplace=True)
        return words.view(np.uint8)[:count]

    def signs(self, count: int) -> NDArray[np.uint8]:
        """Return `count` bits, 64 a word, the lowest first; 1 stands for minus."""
        return np.unpackbits(self.packed_signs(count), count=count, bitorder="little")

    def packed_signs(self, count: int) -> NDArray[np.uint8]:
        """Return :meth:`signs`, eight a byte, the lowest bit first."""
        words = self.words(-(-count // 64))
        if sys.byteorder == "big":
            words.byteswap(inplace=True)
        return words.view(np.uint8)[: -(-count // 8)]

    def dither_in_parts(self, count: int) -> Dither:
        """Return :meth:`dither`, to be drawn part by part."""
        if count <= 4 * _WORDS_AHEAD:
            return Dither(self._key, 0, self._place, self.dither(count))
        start = self._block
        self._block += -(-count // _DITHERS_PER_BLOCK)
        return Dither(self._key, start, self._place)

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return `count` uniforms in [0, 1): a word's highest 53 bits over 2^53."""
        high: NDArray[np.float64] = (self.words(count) >> np.uint64(11)).astype(float)
        return high * 2.0**-53


class Dither:
    """Dithers as :meth:`Draws.dither` returns them, of which parts are drawn when due.

    Parameters
    ----------
    key, start, place
        The stream, and the block that the first dithers are made of.
    drawn : NDArray[np.uint16], optional
        All of them, if they were drawn.
    """

    __slots__ = ("_drawn", "_key", "_place", "_start")

    def __init__(
        self,
        key: tuple[int, int],
        start: int,
        place: tuple[int, int, int],
        drawn: NDArray[np.uint16] | None = None,
    ) -> None:
        self._key, self._start, self._place = key, start, place
        self._drawn = drawn

    def part(self, start: int, end: int) -> NDArray[np.uint16]:
        """Return the dithers from `start` to before `end`."""
        if self._drawn is not None:
            return self._drawn[start:end]
        block, skipped = divmod(start, _DITHERS_PER_BLOCK)
        place = self._start + block, *self._place
        count = -(-(end - start + skipped) // 4)
        fast = compiled("philox", count)
        if fast is not None:
            words = fast.words(self._key, place, count)
        else:
            thread = _THREAD
            thread.seek(self._key, place)
            words = thread.philox.random_raw(count)
        if sys.byteorder == "big":
            words.byteswap(inplace=True)
        dithers: NDArray[np.uint16] = words.view(_UINT16)
        return dithers[skipped : skipped + end - start]


class _Thread(threading.local):
    """One generator a thread: its state is set anew for each request."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(0)
        self.generator = np.random.Generator(self.philox)
        self.place: dict[str, Any] = {}
        self.state: Any = {
            "bit_generator": "Philox",
            "state": self.place,
            "buffer": (0,) * _WORDS_PER_BLOCK,
            "buffer_pos": _WORDS_PER_BLOCK,
            "has_uint32": 0,
            "uinteger": 0,
        }

    def seek(self, key: tuple[int, int], counter: tuple[int, int, int, int]) -> None:
        """Go to a place: that costs a tenth of making a generator."""
        self.place["counter"], self.place["key"] = counter, key
        self.philox.state = self.state


_THREAD = _Thread()


def _words(*numbers: int) -> NDArray[np.uint64]:
    return np.array([int(number) & _MASK for number in numbers], dtype=np.uint64)
