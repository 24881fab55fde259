"""The digits data sets: what they hold, and what is said without scikit-learn."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest
import torch

from flower_compress.errors import ConfigurationError, MissingExtraError
from simulations.tasks.dataset import Dataset
from simulations.tasks.digits import load_digits, load_digits28, load_parity


def test_parity_holds_all_digits_with_a_constant_column() -> None:
    parity = load_parity()
    assert parity.features.shape == (1797, 65)
    assert parity.features.dtype == np.float32
    assert parity.labels.dtype == np.int64
    assert parity.features.min() >= 0.0 and parity.features.max() == 1.0
    assert (parity.features[:, -1] == 1.0).all()
    assert (parity.labels == np.where(parity.classes % 2 == 0, 1, -1)).all()
    assert (parity.num_examples, parity.num_features) == (1797, 65)


def test_digits_split_is_stratified_disjoint_and_covering() -> None:
    train, test = load_digits()
    assert (train.num_examples, test.num_examples) == (1437, 360)
    assert train.num_features == test.num_features == 64
    shares = np.bincount(train.labels) / np.bincount(
        np.concatenate([train.labels, test.labels])
    )
    np.testing.assert_allclose(shares, 0.8, atol=0.01)
    together = np.vstack([train.features, test.features])
    everything = load_parity().features[:, :-1]
    order, expected = (
        rows[np.lexsort(rows.T)] for rows in (together, np.asarray(everything))
    )
    np.testing.assert_array_equal(order, expected)


def test_digits_split_is_the_same_in_every_run() -> None:
    train, test = load_digits()
    load_digits.cache_clear()
    again, test_again = load_digits()
    assert train is not again
    np.testing.assert_array_equal(train.features, again.features)
    np.testing.assert_array_equal(test.labels, test_again.labels)


def test_digits28_are_the_digits_interpolated() -> None:
    for small, large in zip(load_digits(), load_digits28(), strict=True):
        assert (large.name, large.image_shape) == ("digits28", (1, 28, 28))
        assert large.features.dtype == np.float32
        assert large.features.min() == 0.0 and large.features.max() == 1.0
        images = torch.tensor(small.features).reshape(-1, 1, 8, 8)
        expected = torch.nn.functional.interpolate(images, (28, 28), mode="bilinear")
        np.testing.assert_allclose(large.features, expected.flatten(1), atol=1e-6)
        np.testing.assert_array_equal(large.labels, small.labels)
        np.testing.assert_array_equal(large.classes, small.classes)


def test_digits28_are_the_same_bytes_everywhere() -> None:
    digests = [
        hashlib.sha256(part.features.tobytes()).hexdigest() for part in load_digits28()
    ]
    assert digests == [
        "aee3220755c7a8982210be9f1e026e81b87a03d1ae1348edea39ce4587bf159f",
        "a2c2767420f97a42182348aafa264f9b7c52cdb75a7d3d4a3a7fe52524446a1c",
    ]
    assert load_digits28() is load_digits28()


def test_arrays_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load_parity().features[0, 0] = 2.0


def test_take_keeps_the_order_of_the_indices() -> None:
    parity = load_parity()
    taken = parity.take(np.array([5, 2]))
    np.testing.assert_array_equal(taken.features, parity.features[[5, 2]])
    np.testing.assert_array_equal(taken.classes, parity.classes[[5, 2]])


def test_unequal_lengths_are_refused() -> None:
    one, two = np.zeros(1, np.int64), np.zeros(2, np.int64)
    with pytest.raises(ConfigurationError, match="as many features as labels"):
        Dataset("toy", np.zeros((2, 1), np.float32), two, one)


def test_without_scikit_learn_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    load_parity.cache_clear()
    with pytest.raises(MissingExtraError, match=r'"flower-compress\[simulation\]"'):
        load_parity()
