"""Dist-EF-SGD with momentum at the clients, against its equations."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ConfigRecord

from flower_compress import ScaledSign
from flower_compress.clients import momentum_client
from flower_compress.errors import ConfigurationError, RoundFailedError
from flower_compress.strategies import DistEFSGD
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import InProcessGrid
from tests.clients.test_qadam import ETA, OPTIONS, ROUNDS, SEED, objective
from tests.strategies.problem import (
    DIM,
    INITIAL,
    NUM_CLIENTS,
    Vector,
    gradient,
    to_record,
    to_vector,
)

SIZES = (3, DIM - 3)


def compressed(x: Vector, stream: Stream) -> Vector:
    c = ScaledSign(per="tensor")
    return c.decompress(c.compress(x, stream, SIZES), stream, SIZES)


def loop(momentum: float) -> Vector:
    """Algorithm 3 as a plain NumPy loop, with a constant step size."""
    mu, w, total = np.float32(momentum), INITIAL, np.zeros(DIM, np.float32)
    m, e = (np.zeros((NUM_CLIENTS, DIM), np.float32) for _ in range(2))
    for t in range(1, ROUNDS + 1):
        sent = []
        for i in range(NUM_CLIENTS):
            g = gradient(i, w, t)
            m[i] = mu * m[i] + g
            p = (mu * m[i] + g) + e[i]
            sent.append(compressed(p, Stream(SEED, Purpose.UPLINK, i, t)))
            e[i] = p - sent[-1]
        mean = np.sum(np.asarray(sent, np.float64), axis=0) / len(sent)
        total = np.float32(-ETA) * mean.astype(np.float32) + total
        update = compressed(total, Stream(SEED, Purpose.DOWNLINK, 0, t + 1))
        w, total = w + update, total - update
    return w


@pytest.mark.parametrize("momentum", [0.75, None])
def test_equals_its_equations_bit_for_bit(momentum: float | None) -> None:
    """The train config has a say in the momentum, or else the app."""
    config = ConfigRecord({} if momentum is None else {"momentum": momentum})
    grid = InProcessGrid(momentum_client(objective, momentum=0.5), NUM_CLIENTS)
    result = DistEFSGD(**OPTIONS).start(
        grid, to_record(INITIAL), ROUNDS, train_config=config
    )
    expected = loop(0.5 if momentum is None else momentum)
    assert to_vector(result.arrays).tobytes() == expected.tobytes()
    assert np.linalg.norm(expected - INITIAL) > 0.1


def test_a_momentum_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"momentum must lie in \[0, 1\)"):
        momentum_client(objective, momentum=1.0)
    grid = InProcessGrid(momentum_client(objective), NUM_CLIENTS)
    strategy = DistEFSGD(**OPTIONS, max_failed_rounds=1)
    with pytest.raises(RoundFailedError, match=r"momentum must lie in \[0, 1\)"):
        strategy.start(
            grid, to_record(INITIAL), 1, train_config=ConfigRecord({"momentum": 2.0})
        )
