"""How far honest updates are from the median: what `max_norm_ratio` must let through.

Networks learn scikit-learn's digits as ordinary apps do, some clients with a hundred
times the data of others. Of every update its length is noted, over that which the bound
takes for ordinary; and of every exact array its distance to the model's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.clientapp import ClientApp

from flower_compress.strategies import ALGORITHMS
from flower_compress.strategies.server.bounds import ExactBounds, NormBound
from flower_compress.testing import FaultyGrid, InProcessGrid, RandomFaults

from .markdown import Column, columns
from .measure import Row
from .suite import Settings, Suite

CLIENTS, BATCH, STEP_SIZE, SEED = 10, 32, 0.1, 0
ROUNDS = {1: 40, 10: 6, 50: 3}
"""By local epochs."""
FEW = ("sgd", "diana", "mcm", "double-squeeze")
DIVISIONS = {
    "label": "a label each",
    "dirichlet": "Dirichlet(0.1)",
    "sizes": "1 to 100 times the examples",
    "one-large": "one with 100 times the others'",
}
EVENTS = {
    "": "",
    "drop": "step size / 10 at half",
    "warm-up": "step size from 1/1000",
    "partial": "3 of 10 a round",
    "restarts": "all lose their state at half",
    "batch-norm": "BatchNorm",
}


class Setting(NamedTuple):
    """One run."""

    division: str
    epochs: int
    event: str
    strategy: str


def _cases(_: Settings) -> Iterator[tuple[Setting]]:
    for epochs in ROUNDS:
        for division in DIVISIONS:
            for strategy in _strategies(division, epochs):
                yield (Setting(division, epochs, "", strategy),)
    for event in list(EVENTS)[1:]:
        for strategy in FEW:
            yield (Setting("one-large", 1, event, strategy),)


def _strategies(division: str, epochs: int) -> Iterable[str]:
    if epochs > 1:
        return FEW[:1]
    return ALGORITHMS if division == "one-large" else FEW[:2]


def _measure(_: Settings, setting: Setting) -> list[Row]:
    from simulations.flower_log import quiet_flower

    with quiet_flower(), _noted() as (norms, distances):
        refused = _run(setting)
    row = {**setting._asdict(), "rounds": ROUNDS[setting.epochs]}
    row |= {"updates": len(norms), "largest": max(norms)}
    return [{**row, "exact": max(distances, default=0.0), "refused": refused}]


def _run(setting: Setting) -> int:
    rounds = ROUNDS[setting.epochs]
    task = _task(setting.division, setting.event == "batch-norm")
    grid = FaultyGrid(
        InProcessGrid(_app(setting, task), CLIENTS), RandomFaults(reorder=False)
    )

    def after_round(server_round: int, _: ArrayRecord) -> None:
        if setting.event == "restarts" and server_round == rounds // 2:
            for node_id in grid.get_node_ids():
                grid.restart(node_id)

    share = 0.3 if setting.event == "partial" else 1.0
    strategy: Any = ALGORITHMS[setting.strategy](
        fraction_train=share, fraction_evaluate=0.0, seed=SEED
    )
    initial = task.initial_arrays()
    arrays = ArrayRecord({key: _written(array) for key, array in initial.items()})
    strategy.start(grid, arrays, rounds, evaluate_fn=after_round)
    return int(sum(strategy.refused.values()))


def _written(array: Any) -> Any:
    from flower_compress.wire.arrays import write_array

    return write_array(array)


def _app(setting: Setting, task: Any) -> ClientApp:
    from flower_compress.clients.app import make_app
    from flower_compress.clients.batches import batches, server_round
    from flower_compress.mods import CompressionMod

    def objective_of(context: Context, _: ConfigRecord) -> Any:
        return task.objective(int(context.node_config["partition-id"]))

    def train(objective: Any, arrays: Any, config: ConfigRecord, client: int) -> Any:
        current = server_round(config)
        chosen = batches(
            objective.num_examples,
            BATCH,
            seed=SEED,
            client=client,
            server_round=current,
            count=setting.epochs * -(-objective.num_examples // BATCH),
        )
        return objective.local_steps(arrays, chosen, _step_size(setting, current))

    return make_app(objective_of, train, (CompressionMod(returns="weights"),))


def _step_size(setting: Setting, current: int) -> float:
    half = ROUNDS[setting.epochs] // 2
    if setting.event == "drop" and current > half:
        return STEP_SIZE / 10
    if setting.event == "warm-up":
        return float(STEP_SIZE * min(1.0, 1000.0 ** (current / half - 1)))
    return STEP_SIZE


@cache
def _task(division: str, batch_norm: bool) -> Any:
    from simulations.tasks import images
    from simulations.tasks.digits import load_digits

    train, test = load_digits()
    parts = _parts(train.classes, division)
    if not batch_norm:
        return images.ImageTask(train, test, parts, "mlp", SEED, "cpu")
    with patch.object(images, "build_model", _with_batch_norm):
        return images.ImageTask(train, test, parts, "mlp", SEED, "cpu")


def _with_batch_norm(name: str, examples: Any, seed: int) -> Any:
    import torch
    from torch import nn

    from simulations.tasks.models import build_model

    plain = build_model(name, examples, seed)
    layers = OrderedDict(plain.named_children())
    layers["relu"] = nn.Sequential(nn.BatchNorm1d(128), nn.ReLU())
    model = torch.nn.Sequential(layers)
    return model


def _parts(classes: Any, division: str) -> list[Any]:
    from simulations.tasks.partition import partition

    if division in ("label", "dirichlet"):
        return partition(classes, CLIENTS, division, seed=SEED, alpha=0.1)
    shares = np.geomspace(1, 100, CLIENTS)
    if division == "one-large":
        shares = np.where(np.arange(CLIENTS) < CLIENTS - 1, 1, 100)
    order = np.random.default_rng(SEED).permutation(classes.size)
    ends = np.floor(shares.cumsum() / shares.sum() * classes.size).astype(int)
    return np.split(order, ends[:-1])


@contextmanager
def _noted() -> Iterator[tuple[list[float], list[float]]]:
    """Note ratios of updates and of exact arrays while a run lasts."""
    ratios: list[float] = []
    distances: list[float] = []
    judge, limit = NormBound.limit, ExactBounds._limit

    def of_norms(self: NormBound, norms: Any) -> float:
        largest = judge(self, norms)
        # Where fewer than three clients were heard, no client is ordinary.
        if self.ratio is not None and largest < 2.0**63:
            ratios.extend(norm * self.ratio / largest for norm in norms.values())
        return largest

    def of_exact(
        self: ExactBounds, number: int, found: list[float], held: Any
    ) -> float:
        largest = limit(self, number, found, held)
        if held.dtype.kind == "f" and self._ratio is not None and largest:
            distances.extend(each * self._ratio / largest for each in found)
        return largest

    with (
        patch.object(NormBound, "limit", of_norms),
        patch.object(ExactBounds, "_limit", of_exact),
    ):
        yield ratios, distances


def _table(rows: list[Row]) -> str:
    worst: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        key = row["division"], row["event"], row["epochs"]
        if key not in worst or row["largest"] > worst[key]["largest"]:
            worst[key] = row
    return columns(
        2,
        Column("clients' data", lambda row: DIVISIONS[row["division"]]),
        Column("and", lambda row: EVENTS[row["event"]]),
        Column("local epochs", "epochs"),
        Column("longest over ordinary", "largest", ".1f"),
        Column("with", "strategy"),
    )(list(worst.values()))


SUITE = Suite("norm-ratios", _cases, _measure, _table, repeated=False)
