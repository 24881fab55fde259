"""Runs whose time is what they show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from simulations.experiment import Experiment
from simulations.records import Claim, judge
from simulations.reproduction import Reproduction
from tests.command import Command
from tests.simulations.rows import record

TEXT = """\
title = "Time"
source = "A paper, table 3"
seeds = 2
timed = true

[settings]
clients = 4
rounds = 4
log-every = 4

[[runs]]
algorithm = "sgd"

[[runs]]
algorithm = "mcm"

[[claims]]
claim = "It takes no ten times as long"
run = "mcm"
measure = "seconds"
against = "sgd"
at-most = 10.0
"""


def test_runs_of_one_seed_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "time.toml"
    path.write_text(TEXT)
    jobs = [(job.label, job.seed) for job in Reproduction.load(path).jobs()]
    assert jobs == [("sgd", 0), ("mcm", 0), ("sgd", 1), ("mcm", 1)]
    path.write_text(TEXT.replace("timed = true", "timed = false"))
    jobs = [(job.label, job.seed) for job in Reproduction.load(path).jobs()]
    assert jobs == [("sgd", 0), ("sgd", 1), ("mcm", 0), ("mcm", 1)]


def test_times_are_judged_as_ratios_seed_by_seed() -> None:
    times = {("sgd", 0): 2.0, ("sgd", 1): 4.0, ("mcm", 0): 3.0, ("mcm", 1): 4.0}
    rows = [replace(record(*key, 1), seconds=time) for key, time in times.items()]
    claim = Claim("as fast", "mcm", "seconds", "sgd", at_most=1.08)
    (verdict,) = judge([claim], rows)["verdicts"]
    assert verdict["value"] == 1.25 and verdict["holds"] is False
    unknown = [replace(row, seconds=None) for row in rows]
    assert judge([claim], unknown)["verdicts"][0]["holds"] is None


@pytest.mark.usefixtures("with_report")
def test_a_round_of_each_run_is_timed(tmp_path: Path) -> None:
    path = tmp_path / "time.toml"
    path.write_text(TEXT)
    time = Reproduction.load(path)
    Experiment(time.jobs(), tmp_path, claims=time.claims).run("inprocess", workers=1)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [*summary["round_seconds"]] == ["sgd", "mcm"]
    assert all(entry["mean"] > 0 for entry in summary["round_seconds"].values())
    (verdict,) = summary["claims"]["verdicts"]
    assert 0.1 < verdict["value"] < 10
    assert "Processor time of a round" in (tmp_path / "report.html").read_text()


def test_time_is_not_shared_by_workers(simulate: Command) -> None:
    wrong = simulate("reproduce", "overhead", "--workers", "2")
    assert wrong.returncode == 1 and "leave workers out" in wrong.stderr
