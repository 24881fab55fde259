"""A run that diverges goes back, and on with smaller steps."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedProx,
)

from flower_compress import CompressionMod, Memory, StochasticQuantizer
from flower_compress.errors import (
    ConfigurationError,
    NonFiniteError,
    UnknownNameError,
)
from flower_compress.strategies import MCM, Dore, RandMCM, compress
from flower_compress.strategies.callbacks import JsonLines
from flower_compress.testing import InProcessGrid

DIM, CLIENTS = 600, 6
NOISY = StochasticQuantizer(levels=1, bucket_size=64)
TARGETS = np.random.default_rng(1).standard_normal((CLIENTS, DIM)).astype(np.float32)
OPTIMUM = TARGETS.mean(axis=0)


def make_grid(share: float, scale: float = 1.0, mod: Any = None) -> InProcessGrid:
    app = ClientApp(mods=[CompressionMod(), *([mod] if mod else [])])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        w = msg.content.array_records["arrays"]["w"].numpy()
        target = np.float32(scale) * TARGETS[int(context.node_config["partition-id"])]
        record = ArrayRecord({"w": Array(w - np.float32(share) * (w - target))})
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=msg)

    return InProcessGrid(app, CLIENTS)


def distance(strategy: Any, share: float, rounds: int, grid: Any = None) -> float:
    initial = ArrayRecord({"w": Array(np.zeros(DIM, np.float32))})
    result = strategy.start(grid or make_grid(share), initial, num_rounds=rounds)
    w = result.arrays["w"].numpy()
    return float(np.linalg.norm(w - OPTIMUM) / np.linalg.norm(OPTIMUM))


def of_flower(operator: Any = None, **options: Any) -> Any:
    """FedAvg over the links of MCM."""
    own = {key: options.pop(key) for key in ("fraction_evaluate",) if key in options}
    if operator is not None:
        options |= {"uplink": Memory(operator), "downlink": Memory(operator)}
    return compress(FedAvg(**own), **options)


@pytest.mark.parametrize("kind", [RandMCM, Dore, of_flower])
def test_a_repaired_run_gets_nearer(kind: Any) -> None:
    """Warned of only, it ends far beyond where it began."""
    left = kind(NOISY, fraction_evaluate=0.0)
    assert distance(left, 0.9, 25) > 10
    repaired = kind(NOISY, fraction_evaluate=0.0, on_divergence="repair")
    assert distance(repaired, 0.9, 80) < 0.5
    assert 0 < repaired._running.damping < 1


def test_all_is_counted_on_and_the_log_says_what_was_done(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.WARNING, "flwr")
    strategy = MCM(NOISY, fraction_evaluate=0.0, on_divergence="repair")
    distance(strategy, 0.9, 12)
    said = [r.getMessage() for r in caplog.records if "goes on from" in r.getMessage()]
    assert said and "dense" in said[0] and " of each step" in said[0]
    # Every client gets a dense model at the start, and after every repair.
    dense = CLIENTS * 4 * DIM
    assert strategy.ledger.downlink.snapshot_bytes == dense * (1 + len(said))


def test_overflow_is_repaired_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be past what float32 holds before its growth is a habit."""
    initial = ArrayRecord({"w": Array(np.zeros(DIM, np.float32))})

    def start(**options: Any) -> ArrayRecord:
        strategy = MCM(
            step_size=lambda r: 3e38 if r == 5 else 0.5,
            fraction_evaluate=0.0,
            **options,
        )
        return strategy.start(make_grid(0.9, 10.0), initial, num_rounds=30).arrays

    with pytest.raises(NonFiniteError):
        start()
    w = start(on_divergence="repair")["w"].numpy()
    assert np.linalg.norm(w - 10 * OPTIMUM) < np.linalg.norm(OPTIMUM)


@pytest.mark.parametrize("kind", [MCM, of_flower], ids=["mcm", "compress"])
def test_what_does_not_diverge_is_as_without(kind: Any) -> None:
    initial = ArrayRecord({"w": Array(np.zeros(DIM, np.float32))})
    models = [
        kind(fraction_evaluate=0.0, on_divergence=on_divergence)
        .start(make_grid(0.9), initial, num_rounds=15)
        .arrays["w"]
        .data
        for on_divergence in ("warn", "repair")
    ]
    assert models[0] == models[1]


@pytest.mark.parametrize("kind", [MCM, of_flower], ids=["mcm", "compress"])
def test_a_round_of_nothing_but_nan_is_repaired(
    kind: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients whose training overflows at a model that is too far away."""
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    rounds = 0

    def spoil(msg: Message, context: Context, call_next: Any) -> Message:
        nonlocal rounds
        reply = call_next(msg, context)
        if msg.content.config_records["config"]["server-round"] == 6:
            reply.content["arrays"]["w"] = Array(np.full(DIM, np.nan, np.float32))
            rounds += 1
        return reply

    left = kind(fraction_evaluate=0.0)
    distance(left, 0.5, 7, make_grid(0.5, mod=spoil))
    (told,) = [r for r in caplog.records if "every update is NaN" in r.getMessage()]
    assert 'on_divergence="repair"' in told.getMessage()
    repaired = kind(fraction_evaluate=0.0, on_divergence="repair")
    assert distance(repaired, 0.5, 30, make_grid(0.5, mod=spoil)) < 0.01
    assert rounds == 2 * CLIENTS
    assert repaired._running.damping == 0.5


def test_a_strategy_with_a_step_of_its_own_cannot_go_back() -> None:
    private = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.0, 1.0, CLIENTS)
    for inside in (FedAdam(), private):
        with pytest.raises(ConfigurationError, match="goes with plain averaging"):
            compress(inside, on_divergence="repair")
    compress(FedProx(), on_divergence="repair")


def test_a_resumed_run_keeps_its_step(tmp_path: Path) -> None:
    def strategy(**options: Any) -> MCM:
        return MCM(
            NOISY,
            fraction_evaluate=0.0,
            on_divergence="repair",
            checkpoint_dir=tmp_path,
            checkpoint_every=5,
            **options,
        )

    grid, first = make_grid(0.9), strategy()
    distance(first, 0.9, 30, grid)
    damping = first._running.damping
    assert damping < 1
    again = strategy(resume=True)
    distance(again, 0.9, 30, grid)
    assert again.resumed_from == 30
    assert again._running.damping == damping


class KilledError(Exception):
    """What a server does that is killed."""


@pytest.mark.parametrize(
    ("kind", "first_model"), [(MCM, 8), (of_flower, "dense")], ids=["mcm", "compress"]
)
def test_a_resumed_run_goes_back_as_one_that_never_stopped(
    kind: Any, first_model: Any, tmp_path: Path
) -> None:
    """Killed before it has gone back, and after that: what it was told is kept."""
    initial = ArrayRecord({"w": Array(np.zeros(DIM, np.float32))})

    def run(folder: Path, killed_in: int = -1, **options: Any) -> Any:
        models: dict[int, bytes] = {}

        def note(server_round: int, arrays: ArrayRecord) -> None:
            models[server_round] = arrays["w"].data
            if server_round == killed_in:
                raise KilledError

        strategy = kind(
            NOISY,
            fraction_evaluate=0.0,
            on_divergence="repair",
            first_model=first_model,
            checkpoint_dir=folder,
            checkpoint_every=1,
            callbacks=[JsonLines(folder / "told.jsonl")],
            **options,
        )
        with suppress(KilledError):
            strategy.start(make_grid(0.9), initial, 14, evaluate_fn=note)
        return strategy, models

    whole, models = run(tmp_path / "whole")
    assert whole._running.damping < 1
    for killed_in in (4, 13):
        folder = tmp_path / str(killed_in)
        run(folder, killed_in)
        again, later = run(folder, resume=True)
        assert again.resumed_from == killed_in - 1
        assert later == {n: models[n] for n in range(killed_in, 15)}
        assert again._running.damping == whole._running.damping
        assert again._running.contract == whole._running.contract
        told = (folder / "told.jsonl").read_text().splitlines()
        rows = [json.loads(row) for row in told]
        sessions = [row["session"] for row in rows if row["kind"] == "start"]
        assert len(sessions) == 2 and len(set(sessions)) == 1


def test_a_step_of_size_0_is_none_to_go_back_to() -> None:
    initial = ArrayRecord({"w": Array(np.ones(DIM, np.float32))})
    strategy = MCM(
        step_size=lambda number: {1: 0.0, 9: 3e38}.get(number, 0.5),
        fraction_evaluate=0.0,
        on_divergence="repair",
    )
    models: dict[int, bytes] = {}

    def note(server_round: int, arrays: ArrayRecord) -> None:
        models[server_round] = arrays["w"].data

    strategy.start(make_grid(0.5, 1000.0), initial, 9, evaluate_fn=note)
    assert models[9] == models[7] != models[0]


def test_another_word_is_refused() -> None:
    for make in (MCM, of_flower):
        with pytest.raises(UnknownNameError, match="repair, warn"):
            make(on_divergence="retry")
