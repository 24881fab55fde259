"""Counter-based randomness: a draw depends on its key, never on a state.

A stream is keyed by the seed of the run, what the draw is for, whom it concerns,
and a version that is never used twice. So a run draws the same numbers in any
engine, in any order of execution and after a restart, and there is no generator
state to save. The generator is NumPy's Philox 4x64 on every device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Purpose", "Stream"]

_MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """What a stream is for; streams of different purposes never overlap."""

    UPLINK = 1
    DOWNLINK = 2
    SAMPLING = 3
    BATCHES = 4


@dataclass(frozen=True, slots=True)
class Stream:
    """Philox 4x64 with key (seed, index) and counter (0, 0, purpose, version).

    Parameters
    ----------
    seed : int
        Seed of the run, taken modulo 2^64.
    purpose : Purpose
        What the draws are for.
    index : int
        Whom they concern (a client's identity, a group), modulo 2^64.
    version : int
        Which draw, modulo 2^64: 2^192 blocks of four words lie between two versions.
    """

    seed: int
    purpose: Purpose
    index: int = 0
    version: int = 0

    def at(self, version: int) -> Stream:
        """Return the stream of another version."""
        return replace(self, version=version)

    def generator(self) -> np.random.Generator:
        """Return a fresh generator at the start of the stream."""
        return np.random.Generator(
            np.random.Philox(
                key=_words(self.seed, self.index),
                counter=_words(0, 0, self.purpose, self.version),
            )
        )

    def uniforms(self, count: int) -> NDArray[np.float32]:
        """Return `count` float32 uniforms in [0, 1), multiples of 2^-24."""
        return self.generator().random(count, dtype=np.float32)


def _words(*numbers: int) -> NDArray[np.uint64]:
    return np.array([int(number) & _MASK for number in numbers], dtype=np.uint64)
