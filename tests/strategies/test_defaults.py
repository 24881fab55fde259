"""As constructed without arguments, strategies converge wherever averaging does.

Clients go the share c of the way to optima of their own, w - c (w - t_i), for sixty
rounds. Without compression and with all clients the distance to the mean optimum
shrinks by (1 - c)^60; with half of them plain averaging ends near 1, and memories do
better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.defaults import AROUND_THE_LEVEL
from benchmarks.local_training import Outcome, limit, predicted, run_shares
from flower_compress.strategies import (
    ALGORITHMS,
    MCM,
    QSGD,
    SGD,
    Artemis,
    ArtemisND,
    CompressedStrategy,
    Diana,
    Dore,
    DoubleSqueeze,
    RandMCM,
)

STRATEGIES: dict[str, Callable[..., CompressedStrategy]] = {
    "mcm": MCM,
    "rand-mcm": RandMCM,
    "diana": Diana,
    "artemis": Artemis,
    "dore": Dore,
}
SHARES = (0.1, 0.3, 0.5, 0.9, 1.0)
MOST_BITS_DOWN = dict.fromkeys(STRATEGIES, 1.8) | {"dore": 2.5, "diana": 32.0}
every_strategy = pytest.mark.parametrize("name", STRATEGIES)


def run(
    name: str, share: float, dim: int, num_clients: int, fraction: float = 1.0
) -> Outcome:
    strategy = STRATEGIES[name](
        fraction_train=fraction, min_train_nodes=1, fraction_evaluate=0.0
    )
    return run_shares(strategy, share, dim, num_clients)


@every_strategy
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_where_noise_is_borne_worst(name: str, share: float) -> None:
    """Few clients, half of them in a round."""
    outcome = run(name, share, dim=1000, num_clients=4, fraction=0.5)
    assert outcome.distance <= limit(share)


def test_memories_take_away_the_noise_of_drawing_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plain averaging forgets who is away; the compressed run knows what they want."""
    monkeypatch.setitem(STRATEGIES, "sgd", SGD)
    plain = run("sgd", 0.9, dim=1000, num_clients=10, fraction=0.5)
    assert plain.distance > 0.3
    for name in ("mcm", "rand-mcm", "diana", "artemis", "dore"):
        outcome = run(name, 0.9, dim=1000, num_clients=10, fraction=0.5)
        assert outcome.distance < 1e-3, name


@pytest.mark.parametrize(
    ("share", "num_clients", "fraction"),
    [(0.1, 4, 1.0), (1.0, 5, 1.0), (1.0, 4, 0.5)],
)
@pytest.mark.parametrize("build", [QSGD, ArtemisND, DoubleSqueeze])
def test_without_memories_they_level_off_where_theory_says(
    build: Any, share: float, num_clients: int, fraction: float
) -> None:
    strategy = build(
        fraction_train=fraction, min_train_nodes=1, fraction_evaluate=0.0, seed=1
    )
    level = predicted(strategy, share, 1000, num_clients)
    distance = run_shares(strategy, share, 1000, num_clients).distance
    # With half of them it matters whom the last rounds drew.
    around = AROUND_THE_LEVEL[fraction]
    assert level / around < distance < level * around
    # With half of them plain averaging ends where it began, at c = 1.
    if fraction == 1.0 or build is ArtemisND:
        assert distance < 1.0


@every_strategy
def test_bits(name: str) -> None:
    outcome = run(name, 0.5, dim=1000, num_clients=4)
    assert outcome.distance <= 1e-5
    assert outcome.up <= 1.8
    assert outcome.down <= MOST_BITS_DOWN[name]


@pytest.mark.slow
@every_strategy
@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("num_clients", [4, 10, 50])
@pytest.mark.parametrize("dim", [100, 1000, 20_000])
@pytest.mark.parametrize("share", SHARES)
def test_every_case(
    name: str, share: float, dim: int, num_clients: int, fraction: float
) -> None:
    outcome = run(name, share, dim, num_clients, fraction)
    assert outcome.distance <= limit(share)
    if name == "mcm" and fraction == 1.0 and 0.3 <= share <= 0.9:
        assert outcome.distance <= 1e-5
    # With half of the clients those of a shared downlink are sent what they missed too.
    if dim >= 1000 and fraction == 1.0:
        assert outcome.up <= 1.8
        assert outcome.down <= MOST_BITS_DOWN[name]


@pytest.mark.parametrize("name", [*STRATEGIES, "double-squeeze"])
def test_no_argument_is_the_argument(name: str) -> None:
    strategy: Any = ALGORITHMS[name]()
    assert strategy._compose().largest_share(1000, 10, 5) == 1.0
