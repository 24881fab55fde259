"""Which operator a strategy is to have by default: the fewest bits that bear anything.

Clients that go the share c of the way to optima of their own, where all is known; and
networks that learn the digits for so many local epochs, as people's apps do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

from .digits import run_digits
from .local_training import limit, predicted, run_shares
from .markdown import Column, columns
from .measure import Row
from .suite import Settings, Suite

SHARES = (0.1, 0.3, 0.5, 0.9, 1.0)
DIMS: tuple[int, ...] = (100, 1_000, 20_000)
CLIENTS: tuple[int, ...] = (4, 10, 50)
FRACTIONS = (1.0, 0.5)
STRATEGIES = (
    "mcm",
    "rand-mcm",
    "diana",
    "artemis",
    "dore",
    "qsgd",
    "artemis-nd",
    "double-squeeze",
)
WITH_MEMORIES = STRATEGIES[:5]
"""Which end at the optimum; the others level off, as those without a memory do."""
LEVELLING = ("sgd", *STRATEGIES[5:])
"""Those, and averaging, which levels off too where only some take part in a round."""
AROUND_THE_LEVEL = {1.0: 1.1, 0.5: 1.4}
"""How far beyond the level of theory, which is a mean, one run may end: with a share of
the clients in a round it matters which were drawn last."""
AT_MOST = {1.0: 1.0, 0.5: 2.0}
"""Where they are to end whatever theory says, of the distance at the start. With half
of the clients averaging itself ends near 1."""
CANDIDATES: dict[str, dict[str, Any]] = {
    "rotated, step 1": {"name": "rotated-quantizer", "step": 1.0},
    "rotated, step 1.5": {"name": "rotated-quantizer", "step": 1.5},
    "rotated, step 2": {"name": "rotated-quantizer", "step": 2.0},
    "rotated, step 3": {"name": "rotated-quantizer", "step": 3.0},
    "QSGD, 4 levels": {"name": "stochastic-quantizer", "levels": 4},
    "QSGD, 1 level": {"name": "stochastic-quantizer", "levels": 1},
}
DEFAULT = "default"
EPOCHS_AND_ROUNDS = ((1, 40), (5, 20), (50, 6))


def _cases(_: Settings) -> Iterator[tuple[Any, ...]]:
    for name, operator in product(STRATEGIES, (DEFAULT, *CANDIDATES)):
        yield _shares, name, operator
    yield _shares, "sgd", DEFAULT
    for model, partition, (epochs, rounds) in product(
        ("mlp", "cnn"), ("iid", "label"), EPOCHS_AND_ROUNDS
    ):
        yield _digits, model, partition, epochs, rounds


def _measure(_: Settings, measure: Callable[..., list[Row]], *case: Any) -> list[Row]:
    from simulations.flower_log import quiet_flower

    with quiet_flower():
        return measure(*case)


def _shares(name: str, operator: str) -> list[Row]:
    """All cases for the default, and for others four clients, which bear noise worst.

    Strategies that level off are to do so where theory says, at any length.
    """
    from flower_compress.compressors import get_compressor
    from flower_compress.errors import NonFiniteError
    from flower_compress.strategies import get_algorithm

    build: Any = get_algorithm(name)
    dims, clients = DIMS, CLIENTS
    fractions = FRACTIONS[1:] if name == "sgd" else FRACTIONS
    if name not in WITH_MEMORIES:
        dims, clients = (1_000,), (4, 10)
    if operator != DEFAULT:
        dims, clients = (1_000,), (4,)
    if operator != DEFAULT:
        build = partial(build, get_compressor(CANDIDATES[operator]))
    rows = []
    for share, dim, num_clients, fraction in product(SHARES, dims, clients, fractions):
        strategy = build(
            fraction_train=fraction, min_train_nodes=1, fraction_evaluate=0.0
        )
        allowed, level = limit(share), None
        if name not in WITH_MEMORIES:
            level = predicted(strategy, share, dim, num_clients)
            allowed = min(AROUND_THE_LEVEL[fraction] * level, AT_MOST[fraction])
        try:
            outcome = run_shares(strategy, share, dim, num_clients)
        except NonFiniteError:
            outcome = None
        rows.append(
            {
                "part": "shares",
                "strategy": name,
                "operator": operator,
                "share": share,
                "dim": dim,
                "clients": num_clients,
                "fraction": fraction,
                "limit": allowed,
                "level": level,
                "distance": None if outcome is None else outcome.distance,
                "up": None if outcome is None else outcome.up,
                "down": None if outcome is None else outcome.down,
            }
        )
    return rows


def _digits(model: str, partition: str, epochs: int, rounds: int) -> list[Row]:
    """Federated averaging and every strategy on the same digits."""
    rows: list[Row] = []
    for name in ("sgd", *STRATEGIES):
        ended = run_digits(name, model, partition, epochs, rounds)
        rows.append(
            {
                "part": "digits",
                "strategy": name,
                "model": model,
                "partition": partition,
                "epochs": epochs,
                "rounds": rounds,
                "accuracy": ended.accuracy,
                "bytes": ended.up + ended.down,
            }
        )
    return rows


def _table(rows: list[Row]) -> str:
    shares = [row for row in rows if row["part"] == "shares"]
    digits = [row for row in rows if row["part"] == "digits"]
    return "\n".join(
        (_table_of_shares(shares), _table_of_levels(shares), _table_of_digits(digits))
    )


def _table_of_shares(rows: list[Row]) -> str:
    summaries = []
    for name, operator in product(STRATEGIES, (DEFAULT, *CANDIDATES)):
        own = [
            row
            for row in rows
            if row["strategy"] == name and row["operator"] == operator
        ]
        if not own:
            continue
        ended = [row for row in own if row["distance"] is not None]
        long = [row for row in ended if row["dim"] >= 1_000 and row["fraction"] == 1.0]
        worst = "-"
        if ended:
            worst = f"{max(row['distance'] / row['limit'] for row in ended):.2g}"
        too_far = [
            row
            for row in own
            if row["distance"] is None or row["distance"] > row["limit"]
        ]
        summaries.append(
            {
                "strategy": name,
                "operator": operator,
                "up": max(row["up"] for row in long) if long else None,
                "down": max(row["down"] for row in long) if long else None,
                "worst": worst if len(ended) == len(own) else "not finite",
                "failed": f"{len(too_far)} of {len(own)}",
            }
        )
    return columns(
        2,
        Column("strategy", "strategy"),
        Column("operator", "operator"),
        Column("bits up", lambda row: _bits(row["up"])),
        Column("bits down", lambda row: _bits(row["down"])),
        Column("furthest, of the limit", "worst"),
        Column("beyond it", "failed"),
    )(summaries)


def _table_of_levels(rows: list[Row]) -> str:
    """Strategies that level off: the furthest of all cases, and the level there."""
    summaries = []
    for name, fraction in product(LEVELLING, FRACTIONS):
        own = [
            row
            for row in rows
            if (row["strategy"], row["operator"]) == (name, DEFAULT)
            and row["fraction"] == fraction
        ]
        if not own:
            continue
        cells = {}
        for share in SHARES:
            ended = (row for row in own if row["share"] == share)
            row = max(ended, key=lambda row: float(row["distance"]))
            cells[f"c = {share:g}"] = f"{row['distance']:.2f} ({row['level']:.2f})"
        summaries.append(
            {
                "strategy": "FedAvg" if name == "sgd" else name,
                "clients": "all" if fraction == 1.0 else "half",
                "beyond": max(row["distance"] / row["level"] for row in own),
                **cells,
            }
        )
    return columns(
        2,
        Column("levels off", "strategy"),
        Column("in a round", "clients"),
        *(Column(f"c = {share:g}", f"c = {share:g}") for share in SHARES),
        Column("furthest, of its level", "beyond", ".2f"),
    )(summaries)


def _table_of_digits(rows: list[Row]) -> str:
    cases = dict.fromkeys(
        (row["model"], row["partition"], row["epochs"], row["rounds"]) for row in rows
    )
    summaries: list[Row] = []
    for model, partition, epochs, rounds in cases:
        own = {
            row["strategy"]: row
            for row in rows
            if (row["model"], row["partition"], row["epochs"])
            == (model, partition, epochs)
        }
        summaries.append(
            {
                "problem": f"{model}, {partition}",
                "epochs": epochs,
                "rounds": rounds,
                **{name: row["accuracy"] for name, row in own.items()},
            }
        )
    names = ("sgd", *STRATEGIES)
    return columns(
        1,
        Column("digits", "problem"),
        Column("local epochs", "epochs"),
        Column("rounds", "rounds"),
        *(Column("FedAvg" if name == "sgd" else name, name, ".3f") for name in names),
    )(summaries)


def _bits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


SUITE = Suite("defaults", _cases, _measure, _table, repeated=False)
