"""A run that is stopped early ends as one that was that short from the beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Result

from flower_compress import TopK
from flower_compress.strategies import (
    MCM,
    CDProxSGT,
    CompressedStrategy,
    DoubleSqueeze,
    MalcomPSGD,
    RandMCM,
    Relay,
)
from flower_compress.strategies.run.checkpoint import Checkpoints
from flower_compress.strategies.topology import ring
from flower_compress.testing import InProcessGrid
from tests.strategies.problem import (
    INITIAL,
    NUM_CLIENTS,
    make_app,
    to_record,
    to_vector,
)
from tests.strategies.test_decentralized import make_node_app

STOP = 7
LIMIT = 30
SERVERS: dict[str, Any] = {
    "mcm": MCM,
    "rand-mcm": RandMCM,
    "double-squeeze": lambda **options: DoubleSqueeze(TopK(k=4), **options),
}
RELAYS: dict[str, Any] = {
    "malcom": lambda **options: MalcomPSGD(ring(NUM_CLIENTS), **options),
    "cdprox-sgt": lambda **options: CDProxSGT(ring(NUM_CLIENTS), **options),
}


def run(strategy: CompressedStrategy | Relay, **options: Any) -> Result:
    app = make_node_app() if isinstance(strategy, Relay) else make_app()
    grid = InProcessGrid(app, NUM_CLIENTS)
    return strategy.start(grid, to_record(INITIAL), **options)


def stop_at(last: int) -> Any:
    return lambda server_round, result: server_round >= last


@pytest.mark.parametrize("name", SERVERS)
def test_the_model_is_that_of_a_short_run(name: str) -> None:
    options = {"step_size": 0.05}
    short = run(SERVERS[name](**options), num_rounds=STOP)
    strategy = SERVERS[name](**options)
    stopped = run(strategy, num_rounds=LIMIT, should_stop=stop_at(STOP))
    assert max(stopped.train_metrics_clientapp) == STOP
    assert to_vector(stopped.arrays).tobytes() == to_vector(short.arrays).tobytes()


@pytest.mark.parametrize("collect_every", [0, 3, 7])
@pytest.mark.parametrize("name", RELAYS)
def test_the_relay_collects_the_last_models(name: str, collect_every: int) -> None:
    """Whether or not it was time: that the round is the last one shows at its end."""
    evaluated: list[tuple[int, bytes]] = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        evaluated.append((server_round, to_vector(arrays).tobytes()))
        return MetricRecord({"round": server_round})

    short = RELAYS[name](collect_every=collect_every)
    expected = run(short, num_rounds=STOP)
    relay = RELAYS[name](collect_every=collect_every)
    result = run(
        relay, num_rounds=LIMIT, should_stop=stop_at(STOP), evaluate_fn=evaluate
    )
    model = to_vector(expected.arrays).tobytes()
    assert to_vector(result.arrays).tobytes() == model
    assert evaluated[-1] == (STOP, model)
    assert {n: to_vector(m).tobytes() for n, m in relay.node_models.items()} == {
        n: to_vector(m).tobytes() for n, m in short.node_models.items()
    }
    assert relay.collections.uplink == short.collections.uplink


def test_a_relay_that_never_collects_does_not_at_the_end() -> None:
    relay = RELAYS["malcom"](collect_every=None)
    result = run(relay, num_rounds=LIMIT, should_stop=stop_at(STOP))
    assert not relay.node_models
    assert to_vector(result.arrays).tobytes() == INITIAL.tobytes()


@pytest.mark.parametrize("make", [*SERVERS.values(), *RELAYS.values()])
def test_it_is_asked_once_a_round_with_the_results_so_far(make: Any) -> None:
    asked = []

    def should_stop(server_round: int, result: Result) -> bool:
        asked.append(server_round)
        assert max(result.train_metrics_clientapp) == server_round
        assert max(result.evaluate_metrics_serverapp) == server_round
        return server_round == STOP

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"round": server_round})

    run(make(), num_rounds=LIMIT, should_stop=should_stop, evaluate_fn=evaluate)
    assert asked == [*range(1, STOP + 1)]


@pytest.mark.parametrize("make", [*SERVERS.values(), *RELAYS.values()])
def test_never_stopping_changes_nothing(make: Any) -> None:
    asked: list[int] = []
    expected = run(make(), num_rounds=STOP)

    def should_stop(server_round: int, result: Result) -> bool:
        asked.append(server_round)
        return False

    result = run(make(), num_rounds=STOP, should_stop=should_stop)
    assert to_vector(result.arrays).tobytes() == to_vector(expected.arrays).tobytes()
    assert asked == [*range(1, STOP + 1)]


@pytest.mark.parametrize("make", [*SERVERS.values(), *RELAYS.values()])
def test_the_last_round_is_saved_and_can_be_gone_on_from(
    make: Any, tmp_path: Path
) -> None:
    last = STOP + 4
    app = make_node_app() if isinstance(make(), Relay) else make_app()
    whole = make()
    expected = whole.start(InProcessGrid(app, NUM_CLIENTS), to_record(INITIAL), last)
    options = {"checkpoint_dir": tmp_path, "checkpoint_every": 100}
    run(make(**options), num_rounds=last, should_stop=stop_at(STOP))
    saved = Checkpoints(tmp_path).latest()
    assert saved is not None
    assert saved.server_round == STOP
    grid = InProcessGrid(app, NUM_CLIENTS)
    again = make(**options, resume=True)
    result = again.start(grid, to_record(INITIAL), last)
    assert again.resumed_from == STOP
    assert max(result.train_metrics_clientapp) == last
    if not isinstance(again, Relay):
        # A collection is an exchange of its own, with a number, and so with draws.
        assert (
            to_vector(result.arrays).tobytes() == to_vector(expected.arrays).tobytes()
        )
