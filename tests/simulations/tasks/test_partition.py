"""Partitions: every example has one client, every client has an example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flower_compress.errors import UnknownNameError
from simulations.tasks.partition import SCHEMES, PartitionError, partition

OF_LABELS = tuple(name for name in SCHEMES if name != "tsne")
LABELS = np.random.Generator(np.random.Philox(0)).integers(0, 10, 500)


def partitions_of(
    labels: NDArray[np.int64], num_clients: int, scheme: str, seed: int, alpha: float
) -> list[NDArray[np.intp]]:
    return partition(labels, num_clients, scheme, seed=seed, alpha=alpha)


@given(
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    data=st.data(),
    scheme=st.sampled_from(OF_LABELS),
    seed=st.integers(0, 2**63),
    alpha=st.floats(1e-6, 1e6),
)
def test_parts_are_sorted_disjoint_covering_and_not_empty(
    labels: list[int], data: st.DataObject, scheme: str, seed: int, alpha: float
) -> None:
    num_clients = data.draw(st.integers(1, len(labels)))
    parts = partitions_of(np.array(labels), num_clients, scheme, seed, alpha)
    assert len(parts) == num_clients
    assert all(len(part) > 0 for part in parts)
    assert all(part.dtype == np.intp for part in parts)
    assert all((np.diff(part) > 0).all() for part in parts)
    np.testing.assert_array_equal(
        np.sort(np.concatenate(parts)), np.arange(len(labels))
    )


@pytest.mark.parametrize("scheme", ["iid", "label"])
@pytest.mark.parametrize("num_clients", [1, 7, 20, 500])
def test_equal_schemes_differ_by_one_example_at_most(
    scheme: str, num_clients: int
) -> None:
    sizes = [len(p) for p in partition(LABELS, num_clients, scheme, seed=3)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("scheme", OF_LABELS)
def test_a_seed_fixes_the_parts(scheme: str) -> None:
    first, second = (partition(LABELS, 20, scheme, seed=4) for _ in range(2))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "quantity"])
def test_another_seed_gives_other_parts(scheme: str) -> None:
    one, two = (partition(LABELS, 20, scheme, seed=seed)[0] for seed in (0, 1))
    assert not np.array_equal(one, two)


def test_label_gives_runs_of_the_sorted_labels() -> None:
    parts = partition(LABELS, 20, "label", seed=0)
    highest = [LABELS[part].max() for part in parts]
    lowest = [LABELS[part].min() for part in parts]
    assert all(h <= low for h, low in zip(highest[:-1], lowest[1:], strict=True))
    assert max(len(np.unique(LABELS[part])) for part in parts) <= 2


def test_dirichlet_is_even_for_large_alpha_and_uneven_for_small() -> None:
    def largest_share(alpha: float) -> float:
        parts = partition(LABELS, 5, "dirichlet", seed=0, alpha=alpha)
        counts = np.array([np.bincount(LABELS[p], minlength=10) for p in parts])
        return float((counts.max(axis=0) / counts.sum(axis=0)).mean())

    assert largest_share(1e4) < 0.25
    assert largest_share(1e-3) > 0.95


def test_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="dirichlet, iid, label"):
        partition(LABELS, 2, "shards", seed=0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_alpha_is_refused_where_it_matters(alpha: float) -> None:
    with pytest.raises(PartitionError, match="alpha"):
        partition(LABELS, 2, "dirichlet", seed=0, alpha=alpha)
    partition(LABELS, 2, "iid", seed=0, alpha=alpha)


@pytest.mark.parametrize(
    ("num_clients", "seed", "message"),
    [(0, 0, "at least one client"), (501, 0, "at most 500"), (2, -1, "non-negative")],
)
def test_bad_numbers_are_refused(num_clients: int, seed: int, message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        partition(LABELS, num_clients, "iid", seed=seed)


def test_one_hot_labels_are_refused() -> None:
    with pytest.raises(PartitionError, match="one-hot"):
        partition(np.zeros((5, 10), np.int64), 2, "iid", seed=0)


def test_quantity_is_skewed_and_nothing_else() -> None:
    sizes = {
        alpha: [len(p) for p in partition(LABELS, 10, "quantity", seed=1, alpha=alpha)]
        for alpha in (0.2, 1e4)
    }
    assert max(sizes[0.2]) > 5 * sorted(sizes[0.2])[5]
    assert max(sizes[1e4]) - min(sizes[1e4]) < 8
    with pytest.raises(PartitionError, match="Dirichlet concentration"):
        partition(LABELS, 2, "quantity", seed=0, alpha=0.0)


def test_clients_are_clusters_of_their_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    generator = np.random.Generator(np.random.Philox(1))
    centres = 20.0 * generator.normal(size=(4, 6))
    group = generator.integers(4, size=120)
    features = np.float32(centres[group] + generator.normal(size=(120, 6)))
    parts = partition(group, 4, "tsne", seed=0, features=features)
    assert [len({*group[part]}) for part in parts] == [1, 1, 1, 1]
    assert sum(map(len, parts)) == 120

    # Another process takes what was found, if it can be.
    (kept,) = tmp_path.glob("flower-compress/*.npy")
    np.save(kept, np.arange(120) % 4)
    parts = partition(group, 4, "tsne", seed=0, features=features.copy())
    np.testing.assert_array_equal(parts[1], np.arange(1, 120, 4))
    kept.write_bytes(b"damaged")
    parts = partition(group, 4, "tsne", seed=0, features=features.copy())
    assert [len({*group[part]}) for part in parts] == [1, 1, 1, 1]
    with pytest.raises(PartitionError, match="tsne divides by the features"):
        partition(group, 4, "tsne", seed=0)
