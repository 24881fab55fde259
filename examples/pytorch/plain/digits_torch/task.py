"""The network, the digits of one client, and training."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """Two convolutions with BatchNorm, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(32 * 4 * 4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.classifier(self.features(images).flatten(1))


@cache
def digits():
    """Return all images, shape (1797, 64), and their labels."""
    return load_digits(return_X_y=True)


def load_data(partition_id: int, num_partitions: int) -> tuple[DataLoader, DataLoader]:
    """Return a client's digits to train on, and to evaluate on: every fifth."""
    images, labels = digits()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    own = order[partition_id::num_partitions]
    features = torch.tensor(images[own], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    targets = torch.tensor(labels[own])
    held_out = torch.arange(len(own)) % 5 == 0
    train = TensorDataset(features[~held_out], targets[~held_out])
    test = TensorDataset(features[held_out], targets[held_out])
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(test, 256)


def train(net: Net, loader: DataLoader, epochs: int, learning_rate: float) -> float:
    """Train, and return the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9)
    net.train()
    losses = []
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def test(net: Net, loader: DataLoader) -> tuple[float, float]:
    """Return loss and accuracy."""
    net.eval()
    loss, correct, count = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in loader:
            logits = net(images)
            loss += cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
            count += len(labels)
    return loss / count, correct / count
