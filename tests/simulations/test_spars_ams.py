"""SPARS-AMS and its comparisons from the settings, and their experiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from rich.console import Console

from flower_compress import (
    Direct,
    ErrorFeedback,
    Identity,
    MinVarianceSparsifier,
    RandK,
    TopK,
)
from flower_compress.clients import local_steps_client
from flower_compress.errors import ConfigurationError
from flower_compress.strategies import (
    SGD,
    AMSGrad,
    CompressedStrategy,
    GradientDescent,
    SparsAMS,
)
from flower_compress.testing import InProcessGrid
from simulations.experiment import Experiment
from simulations.records import read_rounds
from simulations.reproduction import load_reproduction
from simulations.settings import Settings, several
from simulations.tasks import make_task

TOPK = {"algorithm": "topk"}
SIX = ["amsgrad", "spars-ams", "topk", "stoc-mv", "stoc-unif", "qadam"]


@pytest.mark.parametrize(
    ("algorithm", "uplink"),
    [
        ("amsgrad", Direct(Identity())),
        ("spars-ams", ErrorFeedback(TopK(fraction=0.05))),
        ("topk", Direct(TopK(fraction=0.05))),
        ("stoc-mv", Direct(MinVarianceSparsifier(density=0.05))),
        ("stoc-unif", Direct(RandK(fraction=0.05))),
        ("qadam", ErrorFeedback(TopK(fraction=0.05))),
    ],
)
def test_sparsity_is_the_share_that_is_kept(algorithm: str, uplink: Any) -> None:
    run = {"algorithm": algorithm, "step_size": "0.2"}
    others = {"algorithm": "topk"}  # amsgrad keeps everything
    strategy = several([run, others], {"sparsity": 0.05})[0].strategy()
    assert strategy.uplink == uplink
    step = GradientDescent if algorithm == "qadam" else AMSGrad
    assert strategy.optimizer == step(0.2)


@pytest.mark.parametrize("algorithm", SIX)
def test_auto_is_the_usual_step_of_adam(algorithm: str) -> None:
    assert Settings.of(algorithm=algorithm).gamma() == 1e-3
    if algorithm != "qadam":
        local = Settings.of(algorithm=algorithm, client="local-steps")
        assert local.gamma() == 1e-3


def test_only_qadam_has_its_own_clients() -> None:
    clients = {
        name: Settings.of(algorithm=name).train_config()["client"] for name in SIX
    }
    assert clients == dict.fromkeys(SIX, "gradient") | {"qadam": "qadam"}


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (TOPK | {"sparsity": 0.0}, r"sparsity must lie in \(0, 1\], got 0.0"),
        (TOPK | {"sparsity": 1.5}, r"sparsity must lie in \(0, 1\]"),
        ({"algorithm": "qadam", "client": "local-steps"}, "client .* not with qadam"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        Settings.of(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_as_constructed_it_learns_as_federated_averaging_does(partition: str) -> None:
    """With clients that return weights, for which nothing else was changed."""
    task = make_task("digits", model="mlp", partition=partition, num_clients=10)

    def accuracy(strategy: CompressedStrategy) -> float:
        app = local_steps_client(
            lambda context, _: task.objective(int(context.node_config["partition-id"]))
        )
        arrays = {name: Array(array) for name, array in task.initial_arrays().items()}
        config = ConfigRecord({"local-steps": 5, "batch-size": 32})
        grid = InProcessGrid(app, task.num_clients)
        result = strategy.start(grid, ArrayRecord(arrays), 30, train_config=config)
        return task.accuracy({n: array.numpy() for n, array in result.arrays.items()})

    averaged = accuracy(SGD(fraction_evaluate=0.0))
    assert accuracy(SparsAMS(fraction_evaluate=0.0)) > averaged - 0.02
    assert accuracy(SparsAMS(step_size=1e-3, fraction_evaluate=0.0)) < averaged


def test_the_experiment_is_that_of_the_figure() -> None:
    figure = load_reproduction("spars-ams")
    runs = {run.label: run for run in figure.runs}
    assert "figure 1" in figure.source and figure.seeds == 3
    plain = {name: run for name, run in runs.items() if "0.1pct" not in name}
    assert list(plain) == SIX
    assert set(runs) - set(plain) == {f"{name}-0.1pct" for name in SIX[1:]}
    for name, run in runs.items():
        assert run.part.sparsity == (0.01 if name in plain else 0.001)
        assert run.algorithm == name.removesuffix("-0.1pct")
        assert (run.problem.clients, run.problem.model) == (20, "cnn")
        assert run.part.client == "gradient"


def test_another_task_and_its_folder_take_the_place_of_the_digits() -> None:
    figure = load_reproduction("spars-ams")
    jobs = figure.jobs(task="mnist", data="folder")
    problems = {(job.problem.task, job.problem.data) for job in jobs}
    assert problems == {("mnist", "folder")}
    own = {(job.problem.task, job.problem.data) for job in figure.jobs()}
    assert own == {("digits", "")}


@pytest.mark.usefixtures("with_report")
def test_the_experiment_leaves_its_curves(tmp_path: Path) -> None:
    """Two rounds of every run, of 4 clients: who sends how much, and the report."""
    figure = load_reproduction("spars-ams", quick=True)
    jobs = [job.but(clients=4) for job in figure.jobs(rounds=2)]
    Experiment(jobs, tmp_path, console=Console(quiet=True)).run("inprocess", workers=1)
    rows = read_rounds(tmp_path / "rounds.csv")
    last = {row.algorithm: row for row in rows if row.round == rows[-1].round}
    full = last["amsgrad"].uplink_bits
    for name, row in last.items():
        assert np.isfinite(row.loss) and row.downlink_bits == full
        if name != "amsgrad":
            assert 0 < row.uplink_bits < (0.002 if "0.1pct" in name else 0.02) * full
    assert len({row.loss for row in last.values()}) == len(last)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["algorithms"]) == [job.label for job in jobs]
    page = (tmp_path / "report.html").read_text()
    assert "Against rounds" in page and "Against bits up" in page
