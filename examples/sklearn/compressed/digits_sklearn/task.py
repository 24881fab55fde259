"""The digits of one client, and a model that goes on from given weights."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

Digits = tuple[NDArray[np.float64], NDArray[np.int64]]
CLASSES = np.arange(10)


@cache
def digits() -> Digits:
    """Return all images, shape (1797, 64), and their labels."""
    return load_digits(return_X_y=True)


def load_data(partition_id: int, num_partitions: int) -> tuple[Digits, Digits]:
    """Return a client's digits to train on, and to evaluate on: every fifth."""
    images, labels = digits()
    order = np.random.default_rng(1).permutation(len(labels))
    own = order[partition_id::num_partitions]
    features, targets = images[own] / 16, labels[own]
    held_out = np.arange(len(own)) % 5 == 0
    return (features[~held_out], targets[~held_out]), (
        features[held_out],
        targets[held_out],
    )


def initial_weights() -> list[NDArray[np.float32]]:
    """Return the coefficients, shape (10, 64), and intercepts, shape (10,)."""
    return [np.zeros((10, 64), np.float32), np.zeros(10, np.float32)]


def classifier(weights: list[NDArray[np.float32]], seed: int = 0) -> SGDClassifier:
    """Return logistic regression that goes on from the weights."""
    model = SGDClassifier(
        loss="log_loss", learning_rate="constant", eta0=0.05, random_state=seed
    )
    model.classes_ = CLASSES
    model.coef_, model.intercept_ = (w.astype(np.float64) for w in weights)
    model.t_ = 1.0
    return model
