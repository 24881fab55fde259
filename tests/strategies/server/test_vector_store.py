"""A store of vectors is a mapping, whatever part of it lies on disk."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_compress.compressors import Vector
from flower_compress.errors import ConfigurationError, LayoutMismatchError
from flower_compress.strategies.run.checkpoint import Arrays, Checkpoints, LazyArray
from flower_compress.strategies.server.vector_store import (
    SpillError,
    VectorStore,
)

DIM = 5
NBYTES = 4 * DIM


def vector(seed: int, dim: int = DIM) -> Vector:
    return np.random.default_rng(seed).normal(size=dim).astype(np.float32)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Writes beyond this length fail, after the part that fits, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@settings(deadline=None)
@given(
    budget=st.none() | st.integers(0, 4 * NBYTES),
    steps=st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 99))),
)
def test_a_store_is_a_mapping(
    budget: int | None, steps: list[tuple[int, int | None]]
) -> None:
    store = VectorStore(DIM, budget)
    slots = [store.slot() for _ in range(6)]
    expected: dict[int, Vector] = {}
    most = 0
    for index, seed in steps:
        if seed is None:
            slots[index].vector = None
            expected.pop(index, None)
        else:
            expected[index] = vector(seed)
            slots[index].vector = vector(seed)
        for number, slot in enumerate(slots):
            np.testing.assert_array_equal(slot.vector, expected.get(number))
        most = max(most, len(expected))
        held = store.num_bytes_in_ram + store.num_bytes_on_disk
        assert held == len(expected) * NBYTES
        assert budget is None or store.num_bytes_in_ram <= budget
        file = store._file
        # A vector is written beside the one that it replaces.
        assert file is None or os.fstat(file.fileno()).st_size <= (most + 1) * NBYTES
    store.close()


def test_the_budget_is_used_first_and_again() -> None:
    store = VectorStore(DIM, 2 * NBYTES)
    slots = [store.slot() for _ in range(3)]
    for seed, slot in enumerate(slots):
        slot.vector = vector(seed)
    assert (store.num_bytes_in_ram, store.num_bytes_on_disk) == (2 * NBYTES, NBYTES)
    slots[0].vector = None
    slots[2].vector = vector(3)
    assert (store.num_bytes_in_ram, store.num_bytes_on_disk) == (2 * NBYTES, 0)


def test_places_given_back_are_filled_first() -> None:
    store = VectorStore(DIM, 0)
    slots = [store.slot() for _ in range(3)]
    for seed in range(9):
        slots[seed % 3].vector = None
        slots[seed % 2].vector = vector(seed)
    assert store._file is not None
    assert os.fstat(store._file.fileno()).st_size == 3 * NBYTES


@pytest.mark.parametrize("budget", [None, NBYTES])
def test_without_a_spill_there_is_no_file(budget: int | None, tmp_path: Path) -> None:
    store = VectorStore(DIM, budget, tmp_path / "spill")
    slot = store.slot()
    for seed in range(3):
        slot.vector = vector(seed)
    assert not list(tmp_path.iterdir())


def test_the_file_has_no_name(tmp_path: Path) -> None:
    store = VectorStore(DIM, 0, tmp_path / "deep" / "spill")
    store.slot().vector = vector(0)
    assert store.num_bytes_on_disk == NBYTES
    assert not list((tmp_path / "deep" / "spill").iterdir())


def test_in_ram_the_array_itself_is_held() -> None:
    given_vector = vector(0)
    slot = VectorStore(DIM, None).slot()
    slot.vector = given_vector
    assert np.shares_memory(slot.vector, given_vector)
    assert given_vector.flags.writeable


@pytest.mark.parametrize("budget", [None, 0])
def test_what_is_read_is_read_only(budget: int | None) -> None:
    slot = VectorStore(DIM, budget).slot()
    slot.vector = vector(0)
    held = slot.vector
    assert held is not None
    with pytest.raises(ValueError, match="read-only"):
        held[0] = 1.0


def test_a_view_with_strides_is_spilled_right() -> None:
    slot = VectorStore(DIM, 0).slot()
    slot.vector = vector(0, 2 * DIM)[::2]
    np.testing.assert_array_equal(slot.vector, vector(0, 2 * DIM)[::2])


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize(
    "wrong",
    [vector(0, DIM + 1), vector(0).reshape(1, DIM), vector(0).astype(np.float64)],
    ids=["longer", "matrix", "float64"],
)
def test_another_layout_is_refused(budget: int | None, wrong: Vector) -> None:
    slot = VectorStore(DIM, budget).slot()
    slot.vector = vector(1)
    with pytest.raises(LayoutMismatchError, match=r"shape \(5,\) and dtype float32"):
        slot.vector = wrong
    np.testing.assert_array_equal(slot.vector, vector(1))


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="got -1"):
        VectorStore(DIM, -1)


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    store = VectorStore(DIM, 0, tmp_path)
    first, second = store.slot(), store.slot()
    with largest_file(NBYTES + NBYTES // 2):
        first.vector = vector(1)
        with pytest.raises(ConfigurationError, match="another folder, or a budget abo"):
            second.vector = vector(2)
        with pytest.raises(SpillError):
            first.vector = vector(4)
    assert second.vector is None
    assert store.num_bytes_on_disk == NBYTES
    np.testing.assert_array_equal(first.vector, vector(1))
    second.vector = vector(3)
    np.testing.assert_array_equal(first.vector, vector(1))
    np.testing.assert_array_equal(second.vector, vector(3))


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    slot = VectorStore(DIM, 0, tmp_path / "file").slot()
    with pytest.raises(ConfigurationError, match=r"file.*give another folder"):
        slot.vector = vector(0)


def test_slots_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    store = VectorStore(DIM, NBYTES)
    slots = [store.slot() for _ in range(3)]
    slots[0].vector, slots[1].vector = vector(0), vector(1)
    arrays: Arrays = {}
    for number, slot in enumerate(slots):
        slot.save(arrays, f"memory/{number}")
    assert [isinstance(array, LazyArray) for array in arrays.values()] == [False, True]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {}, arrays)
    checkpoint = checkpoints.latest()
    assert checkpoint is not None
    for number, slot in enumerate(slots):
        slot.vector = vector(9)
        slot.restore(checkpoint, f"memory/{number}")
    np.testing.assert_array_equal(slots[0].vector, vector(0))
    np.testing.assert_array_equal(slots[1].vector, vector(1))
    assert slots[2].vector is None


def test_closing_gives_the_file_back() -> None:
    store = VectorStore(DIM, 0)
    slot = store.slot()
    slot.vector = vector(0)
    file = store._file
    store.close()
    store.close()
    assert file is not None and file.closed
    with pytest.raises(ValueError, match="closed"):
        _ = slot.vector


def test_a_store_that_nobody_holds_closes_itself() -> None:
    store = VectorStore(DIM, 0)
    store.slot().vector = vector(0)
    file = store._file
    del store
    gc.collect()
    assert file is not None and file.closed


RESIDENT = """
import re
import sys
from pathlib import Path

import numpy as np

from flower_compress.strategies.server.vector_store import VectorStore

dim, num_vectors, budget = 62_000, 2_000, 16_000_000


def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])


before = peak()
store = VectorStore(dim, budget, Path(sys.argv[1]))
slots = [store.slot() for _ in range(num_vectors)]
for number, slot in enumerate(slots):
    slot.vector = np.full(dim, number, dtype=np.float32)
for number, slot in enumerate(slots):
    assert slot.vector.min() == slot.vector.max() == number
assert store.num_bytes_in_ram + store.num_bytes_on_disk == 4 * dim * num_vectors
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_stays_bounded(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 8_000_000 < int(done.stdout) < 50_000_000
