"""summary.json: means and deviations over seeds, whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from simulations.records import summarise, write_json
from tests.simulations.rows import SETTINGS, record


def test_summary_is_over_seeds_of_the_last_round() -> None:
    rows = [
        record("SGD", seed, round_, loss=1.0 + seed, bits=round_ * 100)
        for seed in (3, 1)
        for round_ in (10, 0)
    ] + [record("mcm", 0, 10, loss=5.0, bits=250)]
    summary = summarise(rows, {("mcm", 0): "ff", ("SGD", 3): "aa"}, SETTINGS)
    sgd, mcm = (summary["algorithms"][name] for name in ("SGD", "mcm"))
    assert sgd["seeds"] == [1, 3]
    assert sgd["rounds"] == 10
    assert sgd["final_loss"] == {"mean": 3.0, "std": pytest.approx(math.sqrt(2.0))}
    assert sgd["uplink_bits"] == {"mean": 1000.0, "std": 0.0}
    assert sgd["uplink_bytes"]["mean"] == 225.0
    assert sgd["bits_fraction_of_sgd"] == 1.0
    assert mcm["bits_fraction_of_sgd"] == 0.25
    assert mcm["final_loss"] == {"mean": 5.0, "std": None}
    assert (sgd["model_sha256"], mcm["model_sha256"]) == ({"3": "aa"}, {"0": "ff"})
    assert summary["settings"] == SETTINGS


def test_log10_excess_loss_is_the_mean_over_the_last_tenth() -> None:
    rows = [record(round_=r, excess=10.0 ** (-r / 10)) for r in range(0, 101, 5)]
    entry = summarise(rows, {}, {})["algorithms"]["sgd"]
    assert entry["log10_excess_loss"]["mean"] == pytest.approx((-9.5 - 10.0) / 2)
    only = summarise([record(excess=1e-3)], {}, {})["algorithms"]["sgd"]
    assert only["log10_excess_loss"]["mean"] == pytest.approx(-3.0)


def test_log10_excess_loss_ends_where_float64_does() -> None:
    rows = [record(round_=r, excess=e) for r, e in ((10, 1e-20), (20, -1e-17))]
    entry = summarise(rows, {}, {})["algorithms"]["sgd"]
    floor = math.log10(np.finfo(np.float64).eps)
    assert entry["log10_excess_loss"]["mean"] == pytest.approx(floor)


def test_unknown_and_diverged_are_null(tmp_path: Path) -> None:
    rows = [record(seed=s, loss=v, excess=None) for s, v in enumerate([1.0, math.inf])]
    settings = {"rate": math.nan, "path": tmp_path, "seeds": (np.int64(1), True)}
    summary = summarise(rows, {}, settings)
    entry = summary["algorithms"]["sgd"]
    assert entry["final_loss"] == {"mean": None, "std": None}
    assert entry["log10_excess_loss"] == {"mean": None, "std": None}
    # The run that diverged ended early, without a model to be measured.
    for name in ("accuracy", "uplink_bytes", "downlink_bytes", "uplink_bits"):
        assert entry[name] == {"mean": None, "std": None}  # type: ignore[literal-required]
    # No payload bits at all: no fraction of them.
    assert entry["bits_fraction_of_sgd"] is None
    assert (
        summarise([record("mcm", bits=8)], {}, {})["algorithms"]["mcm"][
            "bits_fraction_of_sgd"
        ]
        is None
    )
    path = tmp_path / "deep" / "summary.json"
    write_json(path, summary)
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == summary
    assert summary["settings"] == {
        "rate": None,
        "path": str(tmp_path),
        "seeds": [1, True],
    }


def test_summary_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    write_json(path, summarise([record()], {}, {"run": 1}))
    before = path.read_text()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, summarise([record()], {}, {"run": 2}))
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_bits_are_of_the_sgd_on_the_same_task() -> None:
    bits = {"a-sgd": 100, "a-mcm": 10, "b-sgd": 1000, "b-mcm": 50, "c-mcm": 5}
    rows = [record(name, 0, 1, bits=count) for name, count in bits.items()]
    own = {name: {"algorithm": name[2:], "task": name[0]} for name in bits}
    entries = summarise(rows, {}, {"runs": own})["algorithms"]
    found = {name: entry["bits_fraction_of_sgd"] for name, entry in entries.items()}
    assert found == {
        "a-sgd": 1.0,
        "a-mcm": 0.1,
        "b-sgd": 1.0,
        "b-mcm": 0.05,
        "c-mcm": None,
    }
