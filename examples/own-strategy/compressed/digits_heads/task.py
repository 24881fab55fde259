"""A body that all clients share, heads of their own, and the digits of one client."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

NUM_CLASSES = 3
"""Classes of a client: each sees three digits, and numbers them in its own way."""


class Body(nn.Module):
    """What is learned together."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features."""
        return self.layers(images)


def make_head() -> nn.Linear:
    """Return the layer that a client keeps to itself."""
    return nn.Linear(64, NUM_CLASSES)


@cache
def all_digits():
    """Return all images, shape (1797, 64), and their labels."""
    return load_digits(return_X_y=True)


def load_data(partition_id: int, num_partitions: int) -> list[torch.Tensor]:
    """Return images and labels to train on, and to evaluate on: every fifth."""
    images, labels = all_digits()
    digits = [(partition_id + shift) % 10 for shift in (0, 3, 5)]
    mine = [i for i, label in enumerate(labels) if label in digits]
    rows = [
        i for i in mine if i % num_partitions != (partition_id + 1) % num_partitions
    ]
    features = torch.tensor(images[rows], dtype=torch.float32) / 16
    targets = torch.tensor([digits.index(labels[i]) for i in rows])
    held_out = torch.arange(len(rows)) % 5 == 0
    return [
        features[~held_out],
        targets[~held_out],
        features[held_out],
        targets[held_out],
    ]


def train(
    body: Body, head: nn.Linear, images: torch.Tensor, labels: torch.Tensor, epochs: int
) -> float:
    """Train both, and return the mean loss."""
    model = nn.Sequential(body, head)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            loss = cross_entropy(model(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def accuracy(
    body: Body, head: nn.Linear, images: torch.Tensor, labels: torch.Tensor
) -> float:
    """Return the share of labels that are right."""
    return float((head(body(images)).argmax(1) == labels).float().mean())
