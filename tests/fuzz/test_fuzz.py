"""Hostile bytes: nothing but CorruptPacket, in time and memory that dim bounds.

The bounded version of ``make fuzz``: mutations of inputs that decode, and noise.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tests.fuzz.targets import MAX_DIM, fuzz_one, seeds
from tests.steps import at_most_steps

NUM_INPUTS = 30_000

pytest.importorskip("constriction")


@pytest.fixture(scope="module")
def inputs() -> list[bytes]:
    return seeds()


def mutate(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Flip, overwrite, cut, repeat or splice, behind the byte of the target."""
    mutated = bytearray(data)
    for _ in range(int(generator.integers(1, 4))):
        at = int(generator.integers(1, max(len(mutated), 2)))
        length = int(generator.integers(1, 9))
        match int(generator.integers(6)):
            case 0:
                mutated[at : at + 1] = bytes([1 << int(generator.integers(8))])
            case 1:
                mutated[at : at + length] = generator.bytes(length)
            case 2:
                del mutated[at:]
            case 3:
                mutated[at:at] = mutated[at : at + length] * 3
            case 4:
                mutated[at:] = other[at:]
            case 5:
                mutated[at : at + length] = b"\xff" * length
    return bytes(mutated)


def test_seeds_decode(inputs: list[bytes]) -> None:
    assert all(fuzz_one(data) for data in inputs)


def test_mutations_raise_nothing_else(inputs: list[bytes]) -> None:
    generator = np.random.Generator(np.random.Philox(5))
    accepted = 0
    for _ in range(NUM_INPUTS):
        first, other = generator.integers(len(inputs), size=2)
        data = mutate(inputs[first], inputs[other], generator)
        accepted += fuzz_one(data)
    # Both ways are taken: most mutations are noticed, some change a float32.
    assert 0.005 * NUM_INPUTS < accepted < 0.5 * NUM_INPUTS


def test_noise_raises_nothing_else() -> None:
    generator = np.random.Generator(np.random.Philox(6))
    for _ in range(5_000):
        fuzz_one(bytes(generator.bytes(int(generator.integers(0, 400)))))


def test_memory_and_steps_are_bounded_by_the_dimension(inputs: list[bytes]) -> None:
    generator = np.random.Generator(np.random.Philox(7))
    tracemalloc.start()
    try:
        for _ in range(1_500):
            first, other = generator.integers(len(inputs), size=2)
            data = mutate(inputs[first], inputs[other], generator)
            with at_most_steps(100 * MAX_DIM):
                fuzz_one(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The widest alphabet has 65,535 levels, and the caches hold what decoded.
    assert peak < 16_000_000 + 1_000 * MAX_DIM
