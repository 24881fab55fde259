"""Attributes of strategies go into a checkpoint and come back the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import FedAvg

from flower_compress import TopK
from flower_compress.errors import ConfigurationError
from flower_compress.strategies.run.attributes import (
    attributes_digests,
    restore_attributes,
    save_attributes,
)
from flower_compress.strategies.run.checkpoint import Arrays, Checkpoints


class Momentum:
    """Has a state, as an optimizer of torch."""

    def __init__(self) -> None:
        self.moved = np.zeros(2)

    def state_dict(self) -> dict[str, Any]:
        return {"moved": self.moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moved = state["moved"]


class Keeps(FedAvg):
    """Keeps one of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = FedAvg()
        self.momentum = Momentum()
        self.compressor = TopK(k=3)
        self.kept: dict[str, Any] = {}


KEPT: dict[str, Any] = {
    "none": None,
    "numbers": [1, 2**70, 0.1, float("inf"), True],
    "text": ("a", b"\x00\xff"),
    "nested": {1: {"b": [(), {}]}, (2, "c"): "d"},
    "sets": [{3, 1}, frozenset({"x", "y"})],
    "arrays": [np.arange(6, dtype=np.int16).reshape(2, 3), np.zeros(0, np.float16)],
    "scalars": [np.float32(0.1), np.bool_(True)],
    "order": {"b": 1, "a": 2},
}


def round_trip(strategy: Keeps, folder: Path) -> Keeps:
    arrays: Arrays = {}
    meta = {"strategy": save_attributes(strategy, arrays)}
    Checkpoints(folder).save(1, meta, arrays)
    saved = Checkpoints(folder).latest()
    assert saved is not None
    other = Keeps()
    restore_attributes(other, saved.meta["strategy"], saved)
    return other


def test_every_kind_comes_back(tmp_path: Path) -> None:
    strategy = Keeps()
    strategy.kept = KEPT
    strategy.inside.fraction_train = 0.25
    strategy.momentum.moved = np.array([1.0, np.nan])
    other = round_trip(strategy, tmp_path)
    assert repr(other.kept) == repr(KEPT)
    assert [type(x) for x in other.kept["scalars"]] == [np.float32, np.bool_]
    assert other.inside.fraction_train == 0.25
    assert other.inside.train_metrics_aggr_fn is not None
    np.testing.assert_array_equal(other.momentum.moved, [1.0, np.nan])


def test_records_come_back(tmp_path: Path) -> None:
    strategy = Keeps()
    record = ArrayRecord(
        {"w": Array(np.arange(3)), "v": Array(np.ones((), np.float32))}
    )
    strategy.kept = {
        "arrays": record,
        "nothing": ArrayRecord(),
        "config": ConfigRecord({"a": [1, 2], "b": b"c"}),
        "metrics": MetricRecord({"x": [0.5]}),
    }
    kept = round_trip(strategy, tmp_path).kept
    assert kept == strategy.kept
    assert [type(value) for value in kept.values()] == [
        type(value) for value in strategy.kept.values()
    ]


def test_digests_tell_what_has_changed() -> None:
    one, other = Keeps(), Keeps()
    assert attributes_digests(one) == attributes_digests(other)
    other.inside.fraction_train = 0.5
    other.momentum.moved = np.ones(2)
    other.kept = {"a": np.zeros(3)}
    before, after = attributes_digests(one), attributes_digests(other)
    assert {name for name in before if before[name] != after[name]} == {
        "Keeps.inside.fraction_train",
        "Keeps.momentum",
        "Keeps.kept",
    }
    assert after["Keeps.inside.fraction_train"] == "0.5"


@pytest.mark.parametrize("value", [object(), iter(()), np.array(["text"]), 1j])
def test_others_are_named(value: Any) -> None:
    strategy = Keeps()
    strategy.kept = {"deep": [1, value]}
    with pytest.raises(ConfigurationError, match=r"Keeps.kept\['deep'\]\[1\], a"):
        save_attributes(strategy, {})
