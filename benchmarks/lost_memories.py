"""What it costs that a client on another node gets no memory back.

Clients go a share of the way to optima of their own, each with noise of its own a
round. In the middle of the run clients come back as other nodes, which hold nothing.
With trusted identities they are sent their uplink memories, else they begin with none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_compress import CompressionMod, StochasticQuantizer
from flower_compress.strategies import ALGORITHMS, CompressedStrategy
from flower_compress.testing import FaultyGrid, InProcessGrid, RandomFaults

from .markdown import Column, columns
from .measure import Row
from .suite import Settings, Suite

DIM, NUM_CLIENTS, SEEDS = 400, 10, 4
NOISE = 0.3
NEAR = 1.1


class Setting(NamedTuple):
    """A row of the table, but for how many clients move."""

    algorithm: str
    levels: int | None
    """Of QSGD, in buckets of 64; None for the strategy's default operators."""
    share: float
    before: int
    """Rounds until clients move: errors no longer fall."""
    after: int


SETTINGS = (
    Setting("mcm", None, 0.3, 24, 12),
    Setting("artemis", None, 0.3, 24, 12),
    Setting("diana", None, 0.3, 24, 12),
    Setting("diana", 1, 0.1, 80, 60),
)


def _measure(_: Settings, setting: Setting, num_moving: int) -> list[Row]:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    mean: dict[str, list[float]] = {}
    for identities in ("trusted", "claimed"):
        squares = [
            np.square(distances(setting, num_moving, identities, seed))
            for seed in range(SEEDS)
        ]
        mean[identities] = np.sqrt(np.mean(squares, axis=0)).tolist()
    before = setting.before
    floor = float(np.mean(mean["trusted"][before * 3 // 4 : before]))
    after = {name: rows[before:] for name, rows in mean.items()}
    return [
        {
            "strategy": setting.algorithm,
            "operator": "default" if setting.levels is None else "QSGD",
            "share": setting.share,
            "moving": num_moving,
            "alpha": _alpha(setting),
            "floor": floor,
            "peak_trusted": max(after["trusted"]) / floor,
            "peak_claimed": max(after["claimed"]) / floor,
            "rounds": sum(distance > NEAR * floor for distance in after["claimed"]),
            "num_clients": NUM_CLIENTS,
            "dim": DIM,
        }
    ]


def _strategy(setting: Setting, **kwargs: Any) -> CompressedStrategy:
    operators = []
    if setting.levels is not None:
        operators = [StochasticQuantizer(levels=setting.levels, bucket_size=64)]
    return ALGORITHMS[setting.algorithm](*operators, fraction_evaluate=0.0, **kwargs)


def _alpha(setting: Setting) -> float:
    rate = _strategy(setting).uplink.memory_rate(DIM)
    assert rate is not None
    return rate


def distances(
    setting: Setting, num_moving: int, identities: str, seed: int
) -> list[float]:
    """Return ||w - w*|| / ||w*|| after each round."""
    targets = np.random.default_rng(seed).standard_normal((NUM_CLIENTS, DIM))
    optimum = targets.mean(axis=0)
    app = ClientApp(mods=[CompressionMod()])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        server_round = msg.content.config_records["config"]["server-round"]
        assert isinstance(server_round, int)
        rng = np.random.default_rng([seed, client, server_round])
        w = msg.content.array_records["arrays"]["w"].numpy()
        target = targets[client] + NOISE * rng.standard_normal(DIM)
        w = w - setting.share * (w - target)
        record = ArrayRecord({"w": Array(w.astype(np.float32))})
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=msg)

    grid = FaultyGrid(InProcessGrid(app, NUM_CLIENTS), RandomFaults(reorder=False))
    found: list[float] = []

    def after_round(server_round: int, arrays: ArrayRecord) -> None:
        w = arrays["w"].numpy()
        if server_round:
            found.append(float(np.linalg.norm(w - optimum) / np.linalg.norm(optimum)))
        if server_round == setting.before:
            for node_id in list(grid.get_node_ids())[:num_moving]:
                grid.restart(node_id)
                grid.rename(node_id, 10_000 + node_id)

    strategy = _strategy(setting, identities=identities, seed=seed)
    initial = ArrayRecord({"w": Array(np.zeros(DIM, dtype=np.float32))})
    rounds = setting.before + setting.after
    strategy.start(grid, initial, rounds, evaluate_fn=after_round)
    return found


def _cases(_: Settings) -> Iterable[tuple[Setting, int]]:
    yield SETTINGS[0], 1
    yield from ((setting, NUM_CLIENTS) for setting in SETTINGS)


SUITE = Suite(
    "lost-memories",
    _cases,
    _measure,
    columns(
        1,
        Column("strategy", lambda row: f"{row['strategy']}, {row['operator']}"),
        Column("share a round", "share", "g"),
        Column("1/α", lambda row: 1 / row["alpha"], ".1f"),
        Column("moved", lambda row: f"{row['moving']} of {row['num_clients']}"),
        Column("memory sent: error at most", "peak_trusted", ".2f"),
        Column("from zero: error at most", "peak_claimed", ".2f"),
        Column("rounds of it above 1.1", "rounds"),
    ),
    repeated=False,
)
