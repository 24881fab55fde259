"""Decentralized runs from the command line to their files, on both engines."""

from __future__ import annotations

import csv
import json
import math
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord
from rich.console import Console

from flower_compress.clients.gossip.state import GossipState
from flower_compress.errors import ConfigurationError, UnknownNameError
from flower_compress.strategies import DECENTRALIZED, Relay
from flower_compress.strategies.topology import ring, ring_like
from flower_compress.testing import InProcessGrid
from flower_compress.wire.arrays import read_array, write_array
from flower_compress.wire.mail import EVERYONE
from simulations.client_app import app
from simulations.experiment import Experiment
from simulations.flower_log import quiet_flower
from simulations.records import RoundRecord, cut_off, read_rounds, write_nodes
from simulations.reproduction import load_reproduction
from simulations.runner import _nodes
from simulations.settings import Settings
from tests.simulations.tasks.test_files import write_cifar10

SMALL = Settings.of(
    algorithm="malcom",
    task="digits",
    model="softmax",
    partition="iid",
    clients=5,
    rounds=6,
    step_size="0.5",
    log_every=2,
)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(jobs: list[Settings], out: Path, engine: str = "inprocess") -> dict[str, str]:
    """Return the SHA-256 of the final models by run, with a node for each client."""
    Experiment(jobs, out, console=Console(quiet=True)).run(
        engine, workers=1, clients_per_node=1
    )
    algorithms = json.loads((out / "summary.json").read_text())["algorithms"]
    return {name: entry["model_sha256"]["0"] for name, entry in algorithms.items()}


def every_algorithm(**changes: object) -> list[Settings]:
    return [SMALL.but(algorithm=name, **changes) for name in DECENTRALIZED]


@pytest.mark.usefixtures("with_report")
def test_the_files_agree_with_each_other(tmp_path: Path) -> None:
    jobs = [*every_algorithm(), SMALL.but(name="twice", rounds=12)]
    run(jobs, tmp_path)
    rounds = read_rounds(tmp_path / "rounds.csv")
    nodes, edges = rows_of(tmp_path / "nodes.csv"), rows_of(tmp_path / "edges.csv")
    summary = json.loads((tmp_path / "summary.json").read_text())["algorithms"]
    page = (tmp_path / "report.html").read_text()
    assert "The nodes" in page and "Edges of malcom" in page and "bits down" not in page
    for job in jobs:
        last = [row for row in rounds if row.algorithm == job.label][-1]
        assert (last.round, last.downlink_bits) == (job.rounds, 0)
        # On a ring each node hears two: edges, nodes and rounds count the same bits.
        own = [row for row in edges if row["algorithm"] == job.label]
        assert len(own) == 2 * job.problem.clients
        assert sum(int(row["payload_bits"]) for row in own) == last.uplink_bits
        assert sum(int(row["num_bytes"]) for row in own) == last.uplink_bytes
        of_nodes = [
            row
            for row in nodes
            if row["algorithm"] == job.label and row["round"] == str(job.rounds)
        ]
        numbers = [int(row["node"]) for row in of_nodes]
        assert numbers == list(range(job.problem.clients))
        assert sum(int(row["sent_bits"]) for row in of_nodes) == last.uplink_bits
        accuracies = [float(row["accuracy"]) for row in of_nodes]
        entry = summary[job.label]["nodes"]
        assert entry["least_accuracy"]["mean"] == min(accuracies)
        assert entry["consensus_distance"]["mean"] == pytest.approx(
            np.mean([float(row["distance"]) for row in of_nodes])
        )
        assert entry["bits_an_edge"]["mean"] == last.uplink_bits / len(own)
    bits = {name: entry["uplink_bits"]["mean"] for name, entry in summary.items()}
    assert bits["dpsgd"] == 32 * 650 * 6 * 10
    assert bits["malcom"] < bits["choco-qsgd"] < bits["dpsgd"] / 4
    assert bits["cdprox-sgt"] > 1.5 * bits["malcom"]
    assert summary["malcom"]["bits_fraction_of_sgd"] == bits["malcom"] / bits["dpsgd"]


@pytest.mark.usefixtures("with_report")
def test_a_node_alone_has_a_report(tmp_path: Path) -> None:
    """It sends nothing, and is at no distance from the mean."""
    run([SMALL.but(algorithm="malcom", clients=1, topology="complete")], tmp_path)
    assert (tmp_path / "report.html").exists()
    assert read_rounds(tmp_path / "rounds.csv")[-1].uplink_bits == 0


def test_a_node_that_has_made_no_step_leaves_the_files_whole(tmp_path: Path) -> None:
    relay, task = SMALL.strategy(), SMALL.task
    assert isinstance(relay, Relay)
    initial = ArrayRecord(
        {name: write_array(a) for name, a in task.initial_arrays().items()}
    )
    with quiet_flower():
        config = SMALL.train_config()
        relay.start(InProcessGrid(app, 5), initial, num_rounds=1, train_config=config)
    assert len(_nodes(relay, task, last=True).zeros) == 5
    del relay.zeros[3]
    nodes = _nodes(relay, task, last=True)
    assert nodes.zeros == ()
    record = RoundRecord("malcom", 0, 1, 1.0, None, 0.5, 0, 0, 0, 0, nodes=nodes)
    write_nodes(tmp_path, [record])
    assert [row["zeros"] for row in rows_of(tmp_path / "nodes.csv")] == [""] * 5


@pytest.mark.ray
def test_ray_and_inprocess_end_with_the_same_models(tmp_path: Path) -> None:
    jobs = [
        SMALL.but(algorithm="cdprox-sgt"),
        SMALL.but(name="peers", topology="one-peer-exponential"),
    ]
    here = run(jobs, tmp_path / "here")
    assert here == run(jobs, tmp_path / "ray", engine="ray")
    for name in ("rounds.csv", "nodes.csv", "edges.csv"):
        there = (tmp_path / "ray" / name).read_bytes()
        assert (tmp_path / "here" / name).read_bytes() == there
    assert len({*here.values()}) == len(here)


@pytest.mark.parametrize("algorithm", DECENTRALIZED)
def test_a_resumed_run_leaves_the_files_of_an_uninterrupted_one(
    tmp_path: Path, algorithm: str
) -> None:
    job = SMALL.but(algorithm=algorithm)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    console = Console(quiet=True)
    Experiment([job], whole, console=console, checkpoint_every=2).run("inprocess")
    experiment = Experiment([job], parts, console=console, checkpoint_every=2)

    def stop(*arguments: object) -> None:
        report(*arguments)  # type: ignore[arg-type]
        if arguments[1] == 5:
            raise KeyboardInterrupt

    report, experiment.report = experiment.report, stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        experiment.run("inprocess")
    assert not (parts / "summary.json").exists()
    resumed = Experiment([job], parts, console=console, checkpoint_every=2, resume=True)
    resumed.run("inprocess")
    for name in ("rounds.csv", "nodes.csv", "edges.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    digests = [
        json.loads((out / "summary.json").read_text())["algorithms"][algorithm]
        for out in (whole, parts)
    ]
    assert digests[0] == digests[1]


def test_the_cut_off_is_the_first_row_that_reaches_the_accuracy() -> None:
    def row(name: str, seed: int, number: int, accuracy: float) -> RoundRecord:
        bits = 10**9 * number
        return RoundRecord(name, seed, number, 1.0, None, accuracy, 0, 0, bits, 0)

    records = [
        *(row("fast", 0, i, a) for i, a in enumerate([0.1, 0.5, 0.9, 0.8, 0.95])),
        *(row("fast", 1, i, a) for i, a in enumerate([0.1, 0.5, 0.6, 0.7, 0.9])),
        *(row("slow", 0, i, a) for i, a in enumerate([0.1, 0.9])),
        *(row("slow", 1, i, a) for i, a in enumerate([0.1, 0.2])),
    ]
    cutoff = cut_off(reversed(records), 0.9, {"slow": 7.0})
    assert cutoff == {
        "accuracy": 0.9,
        "rows": {
            "slow": {"rounds": None, "gigabits": None, "paper": 7.0},
            "fast": {"rounds": 3.0, "gigabits": 3.0, "paper": None},
        },
    }


@pytest.mark.parametrize(
    "name", ["malcom-ring", "malcom-complete", "malcom-ablation", "malcom-cifar-ring"]
)
def test_the_experiments_are_the_papers(name: str) -> None:
    reproduction = load_reproduction(name)
    runs = {run.label: run for run in reproduction.runs}
    assert reproduction.cutoff is not None
    assert "malcom" in runs
    for run_ in runs.values():
        assert run_.problem.clients == 10
        relay = run_.strategy()
        assert isinstance(relay, Relay)
        if not run_.label.startswith(("cdprox", "dpsgd")):
            assert relay.step_size == 0.2
    malcom = runs["malcom"].strategy()
    assert isinstance(malcom, Relay)
    assert (malcom.code, malcom.parameters) == ("support-vector", {"l1": 7e-6})
    if "cdprox-sgt" in runs:
        cdprox = runs["cdprox-sgt"].strategy()
        assert isinstance(cdprox, Relay)
        expected = 0.2 if name == "malcom-complete" else 0.02
        assert (cdprox.step_size, cdprox.parameters) == (expected, {"l1": 7e-8})
        assert set(reproduction.cutoff[1]) == {
            "malcom",
            "choco",
            "choco-qsgd",
            "cdprox-sgt",
            "dpsgd",
        }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fraction": 0.5}, "fraction goes with algorithms with a server"),
        ({"client": "local-steps"}, "client goes with algorithms with a server"),
        ({"consensus_step": 0.0}, "consensus-step"),
        ({"consensus_step": 1.5}, "consensus-step"),
        ({"consensus_power": -0.5}, "consensus-power must be at least 0"),
        ({"consensus_power": math.nan}, "consensus-power must be at least 0, got nan"),
        ({"consensus_power": math.inf}, "consensus-power must be at least 0, got inf"),
        ({"l1": "-1"}, "l1 must be"),
        (
            {"l1": "1e-5", "algorithm": "choco"},
            r"cdprox-sgt\), not with choco",
        ),
        ({"topology": "torus"}, "torus"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SMALL.but(**changes)


@pytest.mark.parametrize("name", ["topology", "quantizer", "tau", "code"])
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownNameError, match="nonsense"):
        SMALL.but(**{name: "nonsense"})


@pytest.mark.slow
def test_resnet18_on_cifar10_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path, monkeypatch)
    settings = (
        load_reproduction("malcom-cifar-ring")
        .runs[0]
        .but(
            data=str(tmp_path),
            clients=2,
            topology="ring",
            batch_size=4,
            rounds=2,
            log_every=1,
        )
    )
    task = settings.task
    relay = settings.strategy()
    initial = ArrayRecord(
        {name: write_array(a) for name, a in task.initial_arrays().items()}
    )
    losses = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> None:
        model = {name: read_array(array) for name, array in arrays.items()}
        losses.append(task.evaluate(model).loss)

    with quiet_flower():
        relay.start(
            InProcessGrid(app, 2),
            initial,
            num_rounds=2,
            train_config=settings.train_config(),
            evaluate_fn=evaluate,
        )
    assert isinstance(relay, Relay)
    assert np.isfinite(losses).all() and losses[-1] != losses[0]
    counts = [
        int(model["1.num_batches_tracked"].numpy())
        for model in relay.node_models.values()
        if "1.num_batches_tracked" in model
    ]
    model = relay.node_models[0]
    tracked = [name for name in model if name.endswith("num_batches_tracked")]
    assert len(tracked) == 20 and counts in ([], [2, 2])
    assert all(int(model[name].numpy()) == 2 for name in tracked)
    # Statistics stay at their node, weights come together.
    other = relay.node_models[1]
    means = [name for name in model if name.endswith("running_mean")]
    assert any((model[n].numpy() != other[n].numpy()).any() for n in means)
    dim = sum(array.numpy().size for n, array in model.items() if "running" not in n)
    assert relay.edges.total.payload_bits < 2.5 * 2 * 2 * dim


@pytest.mark.slow
def test_ten_thousand_rounds_without_drift_or_growth() -> None:
    """The ring experiment with the small CNN, in process."""
    settings = Settings.of(
        algorithm="malcom",
        task="digits",
        model="cnn",
        partition="iid",
        clients=10,
        topology="ring-like",
        batch_size=64,
        rounds=10_000,
        step_size="0.2",
        log_every=100,
    )
    task, relay = settings.task, settings.strategy()
    assert isinstance(relay, Relay)
    grid = InProcessGrid(app, 10)
    accuracies: list[float] = []
    memory: list[int] = []
    sizes: list[int] = []
    drift: list[float] = []
    W = ring_like(10).mixing

    def evaluate(server_round: int, arrays: ArrayRecord) -> None:
        if server_round % 100:
            return
        model = {name: read_array(array) for name, array in arrays.items()}
        accuracies.append(task.accuracy(model))
        memory.append(_resident_bytes())
        if server_round:
            sizes.append(len(grid.save_clients()))
            drift.append(_drift(grid, W))

    initial = ArrayRecord(
        {name: write_array(a) for name, a in task.initial_arrays().items()}
    )
    with quiet_flower():
        relay.start(
            grid,
            initial,
            num_rounds=settings.rounds,
            train_config=settings.train_config(),
            evaluate_fn=evaluate,
        )
    assert min(accuracies[10:]) > 0.9 and np.mean(accuracies[-10:]) > 0.96
    # What a node holds of its neighbours is what they hold of themselves.
    assert max(drift) < 1e-9
    assert max(sizes[10:]) < 1.02 * min(sizes[10:])
    assert max(memory[20:]) < memory[20] + 64 * 2**20


def _drift(grid: InProcessGrid, W: np.ndarray) -> float:
    """Return max_i ||s_i - sum_j w_ij y_j||_inf, y_j with what is on its way."""
    states = []
    for context in grid.contexts.values():
        data = context.state["flower_compress.gossip"]["state"]
        state = GossipState.from_bytes(data)
        assert state is not None
        states.append(state)
    worst = 0.0
    for i, state in enumerate(states):
        expected = sum(
            W[i, j] * other.own[0, EVERYONE] for j, other in enumerate(states) if i != j
        )
        worst = max(worst, float(np.abs(state.heard[0, EVERYONE] - expected).max()))
    return worst


def _resident_bytes() -> int:
    """Return the most memory that this process has had so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def test_the_drift_of_an_exact_ring_is_rounding() -> None:
    relay = SMALL.strategy()
    assert isinstance(relay, Relay)
    grid = InProcessGrid(app, 5)
    task = SMALL.task
    initial = ArrayRecord(
        {name: write_array(a) for name, a in task.initial_arrays().items()}
    )
    with quiet_flower():
        relay.start(grid, initial, num_rounds=6, train_config=SMALL.train_config())
    assert 0.0 < _drift(grid, ring(5).mixing) < 1e-12
    assert _drift(grid, ring_like(5).mixing) > 1e-3
