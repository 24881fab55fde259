"""The command line, the engines, and the files that runs leave."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from flower_compress.errors import (
    ConfigurationError,
    MissingExtraError,
    NonFiniteError,
    RoundFailedError,
    UnknownNameError,
)
from simulations import engines, ray_cluster
from simulations.checkpointing import Checkpointing
from simulations.experiment import Experiment
from simulations.gpu_share import GpuMemory, choose_gpus
from simulations.network import parse_network
from simulations.ray_cluster import choose_clients_per_node
from simulations.records import read_rounds
from simulations.settings import (
    OPTIONS,
    Problem,
    Settings,
    convert,
    dashed,
    from_config,
    several,
)
from simulations.tasks import LogisticObjective
from tests.cases import in_one_test
from tests.command import Command

ROOT = Path(__file__).parents[2]
HEADER = (
    "algorithm,seed,round,loss,excess_loss,accuracy,"
    "uplink_bytes,downlink_bytes,uplink_bits,downlink_bits,"
    "uplink_entropy_bits,downlink_entropy_bits,"
    "uplink_formula_bits,downlink_formula_bits"
)
SMALL = Settings.of(clients=4, rounds=6, partition="iid")
RAND = {"algorithm": "rand-mcm"}
AVERAGE = RAND | {"downlink_memory": "average"}
HALF = {"fraction": 0.5}
UNSAVED = Checkpointing(Path("unused"))


def jobs(*algorithms: str, seeds: int = 2) -> list[Settings]:
    return [
        SMALL.but(algorithm=name, seed=seed)
        for name in algorithms
        for seed in range(seeds)
    ]


def experiment(
    runs: list[Settings],
    out: Path,
    engine: str = "inprocess",
    workers: int = 1,
    clients_per_node: int = 0,
) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of the final models by algorithm and seed."""
    Experiment(runs, out, console=Console(quiet=True)).run(
        engine, workers=workers, clients_per_node=clients_per_node
    )
    algorithms = json.loads((out / "summary.json").read_text())["algorithms"]
    return {name: entry["model_sha256"] for name, entry in algorithms.items()}


@pytest.mark.usefixtures("with_report")
def test_compare_leaves_its_files(tmp_path: Path, simulate: Command) -> None:
    options = "--algorithms sgd,mcm --clients 4 --rounds 20 --seeds 2 --log-every 5"
    words = f"compare {options} --workers 1 --out".split()
    done = simulate(*words, str(tmp_path))
    assert "mcm" in done.stdout and "report.html" in done.stdout
    with (tmp_path / "rounds.csv").open() as file:
        assert file.readline().strip() == HEADER
        rows = list(csv.reader(file))
    assert len(rows) == 2 * 2 * 5
    assert [row[2] for row in rows[:5]] == ["0", "5", "10", "15", "20"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    mcm = summary["algorithms"]["mcm"]
    assert set(mcm["model_sha256"]) == {"0", "1"}
    assert 0 < mcm["bits_fraction_of_sgd"] < 0.3
    assert mcm["uplink_bytes"]["mean"] == pytest.approx(
        np.mean([int(row[6]) for row in rows if row[0] == "mcm" and row[2] == "20"])
    )
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "mcm" in (tmp_path / "report.html").read_text()


def test_workers_change_nothing(tmp_path: Path) -> None:
    runs = jobs("qsgd", "rand-mcm")
    alone = experiment(runs, tmp_path / "1", workers=1)
    shared = experiment(runs, tmp_path / "2", workers=2)
    assert alone == shared
    rounds = [(tmp_path / name / "rounds.csv").read_text() for name in "12"]
    assert rounds[0] == rounds[1]


def test_seeds_differ(tmp_path: Path) -> None:
    (seeds,) = experiment(jobs("mcm"), tmp_path).values()
    assert seeds["0"] != seeds["1"]


@pytest.mark.ray
def test_ray_and_inprocess_end_with_the_same_models(tmp_path: Path) -> None:
    """Memories and error feedback in both directions, shared and not.

    On nodes of three clients and of one.
    """
    runs = [
        *jobs("rand-mcm", "artemis", "sgd", seeds=1),
        SMALL.but(algorithm="mcm", fraction=0.5),
        SMALL.but(
            algorithm="double-squeeze",
            task="digits",
            model="cnn",
            client="local-steps",
            local_steps=2,
            rounds=3,
            fraction=0.5,
        ),
    ]
    here = experiment(runs, tmp_path / "inprocess")
    ray = experiment(runs, tmp_path / "ray", engine="ray", clients_per_node=3)
    assert here == ray
    assert len(here) == 5
    # Bytes and bits of every round.
    written = [tmp_path / name / "rounds.csv" for name in ("inprocess", "ray")]
    assert written[0].read_bytes() == written[1].read_bytes()


@pytest.mark.parametrize(("client", "rounds"), [("gradient", 80), ("local-steps", 40)])
def test_every_algorithm_learns_the_digits(
    client: str, rounds: int, tmp_path: Path
) -> None:
    """Over 8 seeds the accuracies are 0.88 to 0.91, deviations 0.009 to 0.016."""
    names = ("sgd", "diana", "mcm", "double-squeeze")
    shared = {"task": "digits", "rounds": rounds, "client": client, "levels": 4}
    runs = several([{"algorithm": name} for name in names], SMALL.given() | shared)
    experiment(runs, tmp_path)
    last = {row.algorithm: row for row in read_rounds(tmp_path / "rounds.csv")}
    for row in last.values():
        assert row.accuracy > 0.8, row
    assert last["mcm"].downlink_bytes < last["diana"].downlink_bytes / 3


def test_full_batches_converge_linearly_without_noise(tmp_path: Path) -> None:
    """MCM, figure S2: with sigma = 0 Diana reaches what SGD reaches.

    So does Rand-MCM. Over 16 seeds single runs end within 0.5 % of SGD; the coarser
    the quantizer the wider the draws, by eight percent with one level.
    """
    shared = {"batch_size": 0, "rounds": 300, "log_every": 300, "levels": 4}
    runs = [{"algorithm": name} for name in ("sgd", "diana", "rand-mcm")]
    experiment(several(runs, SMALL.given() | shared), tmp_path)
    rows = read_rounds(tmp_path / "rounds.csv")
    last = {row.algorithm: row.excess_loss for row in rows}
    assert last["sgd"] is not None
    assert last["diana"] == pytest.approx(last["sgd"], rel=0.01)
    assert last["rand-mcm"] == pytest.approx(last["sgd"], rel=0.01)


def test_rows_up_to_a_failure_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = LogisticObjective.gradient
    calls = [0]

    def failing(self: LogisticObjective, *args: object) -> object:
        calls[0] += 1
        loss, gradient = honest(self, *args)  # type: ignore[arg-type]
        if calls[0] > 4 * 3:
            gradient["weights"] = gradient["weights"] * np.float32(np.nan)
        return loss, gradient

    monkeypatch.setattr(LogisticObjective, "gradient", failing)
    with pytest.raises(RoundFailedError, match="65 of 65 entries of 'weights'"):
        experiment(jobs("mcm", seeds=1), tmp_path)
    rows = read_rounds(tmp_path / "rounds.csv")
    assert [row.round for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert len({row.loss for row in rows[:-1]}) == 4  # no step since the third round
    assert rows[-1].loss == np.inf


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_diverges_ends_itself_alone(tmp_path: Path, workers: int) -> None:
    """Its last row has an infinite loss, and what was sent until then."""
    lost = SMALL.but(algorithm="mcm", name="lost", step_size="1e30")
    runs = [SMALL.but(algorithm="sgd"), lost, SMALL.but(algorithm="mcm")]
    console = Console(record=True, file=StringIO(), width=200)
    Experiment(runs, tmp_path, console=console).run("inprocess", workers=workers)
    said = console.export_text()
    rows = read_rounds(tmp_path / "rounds.csv")
    last = [row for row in rows if row.algorithm == "lost"][-1]
    assert last.loss == last.excess_loss == np.inf and last.accuracy == 0.0
    assert 1 < last.round < 6 and last.uplink_bits > 0
    assert "lost, seed 0, has diverged" in said
    assert f"no finite model after round {last.round}" in said
    assert "diverged: the server's update" in (tmp_path / "flower.log").read_text()
    algorithms = json.loads((tmp_path / "summary.json").read_text())["algorithms"]
    assert algorithms["lost"]["model_sha256"] == {}
    assert algorithms["lost"]["bits_fraction_of_sgd"] is None
    assert algorithms["mcm"]["rounds"] == algorithms["sgd"]["rounds"] == 6
    assert set(algorithms["mcm"]["model_sha256"]) == {"0"}


def test_a_model_too_large_for_the_clients_has_diverged(tmp_path: Path) -> None:
    """Their gradients overflow before the server's update does."""
    lost = SMALL.but(algorithm="sgd", task="diabetes", step_size="4", rounds=60)
    fine = lost.but(name="fine", step_size="1e-3", rounds=3)
    experiment([lost, fine], tmp_path)
    rows = read_rounds(tmp_path / "rounds.csv")
    last = {row.algorithm: row for row in rows}
    assert last["sgd"].loss == np.inf and last["sgd"].round < 60
    assert last["fine"].round == 3 and last["fine"].loss < 1e9


def test_where_all_diverge_the_experiment_fails(tmp_path: Path) -> None:
    lost = SMALL.but(algorithm="mcm", step_size="1e30")
    with pytest.raises(NonFiniteError, match="lower the step size"):
        experiment([lost, lost.but(seed=1)], tmp_path)
    rows = read_rounds(tmp_path / "rounds.csv")
    assert [row.loss for row in rows if row.seed == 1][-1] == np.inf


def test_a_failure_in_a_worker_ends_the_experiment(tmp_path: Path) -> None:
    runs = [job.but(step_size="1e38") for job in jobs("sgd")]
    with pytest.raises(Exception, match="step size"):
        experiment(runs, tmp_path, workers=2)
    assert read_rounds(tmp_path / "rounds.csv")


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulations", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_mistake_is_one_line_and_touches_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "rounds.csv"
    kept.write_text("of an earlier run")
    done = run_cli("compare", "--algorithms", "sgd,fedfoo", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "UnknownNameError" in done.stderr and "rand-mcm" in done.stderr
    assert "Traceback" not in done.stderr
    assert kept.read_text() == "of an earlier run"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"algorithm": "fedfoo"}, "fedfoo"),
        ({"client": "both"}, "local-steps"),
        ({"rounds": 0}, "rounds"),
        ({"clients": 0}, "clients"),
        ({"fraction": 0.0}, "fraction"),
        ({"step_size": "fast"}, '"auto" or a positive number'),
        ({"step_size": "-1"}, '"auto" or a positive number'),
        ({"name": "a/b"}, "name has lower-case letters"),
        ({"name": "../a"}, "name has lower-case letters"),
        (HALF | {"sampling": "poisson"}, "unknown sampling.*bernoulli, fixed"),
        ({"uplink_memory": "none"}, "unknown uplink-memory.*each, mean, sampled"),
        (RAND | {"downlink_memory": "mean"}, "unknown downlink-memory.*average, each"),
        ({"downlink_memory": "average"}, r"for each client \(rand-mcm\), not with mcm"),
        (RAND | {"reset_every": "7"}, "reset-every goes with downlink-memory average"),
        (AVERAGE | {"reset_every": "0"}, '"auto", "never" or a positive number'),
        (AVERAGE | {"reset_every": "often"}, '"auto", "never" or a positive number'),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        SMALL.but(**change)  # type: ignore[arg-type]


def test_auto_step_size_needs_a_known_smoothness() -> None:
    with pytest.raises(ConfigurationError, match="--step-size"):
        SMALL.but(task="digits", model="cnn").strategy()
    smoothness = SMALL.task.smoothness()
    assert smoothness is not None
    assert SMALL.gamma() == pytest.approx(1 / smoothness)
    assert SMALL.but(client="local-steps").gamma() == 1.0


@pytest.mark.parametrize(
    ("text", "interval"), [("auto", "auto"), ("never", None), ("12", 12)]
)
def test_the_strategy_is_told_what_to_keep(text: str, interval: object) -> None:
    strategy = SMALL.but(
        algorithm="rand-mcm",
        fraction=0.5,
        sampling="bernoulli",
        uplink_memory="mean",
        downlink_memory="average",
        reset_every=text,
    ).strategy()
    assert (strategy.sampling, strategy.fraction_train) == ("bernoulli", 0.5)
    assert strategy.uplink_memory == "mean"
    assert strategy.downlink_memory == "average"
    assert strategy.reset_every == interval


def test_two_runs_of_one_algorithm(tmp_path: Path) -> None:
    half = SMALL.but(algorithm="diana", fraction=0.5)
    other = half.but(name="diana-sampled", uplink_memory="sampled")
    digests = experiment([half, other], tmp_path)
    assert list(digests) == ["diana", "diana-sampled"]
    assert digests["diana"] != digests["diana-sampled"]
    settings = json.loads((tmp_path / "summary.json").read_text())["settings"]
    assert settings["fraction"] == 0.5
    assert "uplink-memory" not in settings
    assert settings["runs"] == {
        "diana": {"algorithm": "diana", "uplink-memory": "each"},
        "diana-sampled": {"algorithm": "diana", "uplink-memory": "sampled"},
    }


def test_the_estimated_time_is_that_of_the_clients_of_a_round(tmp_path: Path) -> None:
    runs = [SMALL.but(clients=5, fraction=0.5)]
    link = parse_network("1mbit")
    assert runs[0].but(sampling="bernoulli").clients_per_round == 2.5
    Experiment(runs, tmp_path, link=link, console=Console(quiet=True)).run("inprocess")
    settings = json.loads((tmp_path / "summary.json").read_text())["settings"]
    assert settings["clients-per-round"] == 2
    runs.append(runs[0].but(name="all", fraction=1.0))
    with pytest.raises(ConfigurationError, match="same number of clients a round"):
        Experiment(runs, tmp_path, link=link)


def test_initial_memory_needs_a_memory() -> None:
    with pytest.raises(ConfigurationError, match="qsgd"):
        SMALL.but(algorithm="qsgd", initial_memory="first").strategy()


def test_unknown_engine() -> None:
    with pytest.raises(UnknownNameError, match="inprocess, ray"):
        engines.run_all([SMALL], "spark", lambda *_: None, UNSAVED)


def test_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"flower-compress\[simulation\]"):
        engines.run_all([SMALL], "ray", lambda *_: None, UNSAVED)


def test_the_flower_app_has_a_key_for_every_setting() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    config = tool["flwr"]["app"]["config"]
    others = {"algorithm", "seed", "out", "checkpoint-every", "resume"}
    others |= {"clients-per-node"}
    assert set(config) == {*map(dashed, OPTIONS)} | others
    assert from_config(config, clients=20) == Settings()


def test_run_config_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="rounds must be a whole number"):
        from_config({"rounds": 1.5})
    with pytest.raises(ConfigurationError, match="levels must be a number"):
        from_config({"levels": "four"})
    with pytest.raises(ConfigurationError, match="resume must be true or false"):
        convert("resume", "yes", bool)


@in_one_test(
    ("clients", "room", "cores", "expected"),
    [
        (20, 2, 2, 10),
        (21, 2, 2, 11),
        (1000, 64, 4, 125),  # Flower asks no more than cores + 4 at once,
        (1000, 64, 64, 32),  # and never more than 32.
        (4, 16, 16, 1),
    ],
)
def test_each_actor_has_one_node(
    clients: int,
    room: int,
    cores: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    resources = {"num_cpus": 1, "num_gpus": 0.0}
    monkeypatch.setattr(ray_cluster, "_room", lambda _: room)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    caplog.clear()
    with caplog.at_level(logging.INFO, "flwr"):
        assert choose_clients_per_node(clients, resources) == expected
    assert f"{expected} a node: Ray has room for {room} actors" in caplog.text
    assert choose_clients_per_node(clients, resources, 7) == 7


def test_as_many_actors_share_a_gpu_as_it_has_room_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def took(client_mebi: int, total_gibi: int = 16) -> Callable[..., GpuMemory]:
        return lambda _: GpuMemory(client_mebi << 20, total_gibi << 30)

    # The device is looked for when the task is made.
    problem = Problem(task="digits", model="cnn", device="cuda")
    job = Settings(problem=problem)
    with caplog.at_level(logging.INFO, "flwr"):
        # 16 GiB / (1.25 * 1 GiB + 600 MiB) = 8.7
        assert choose_gpus(job, 0.0, took(1024)) == 0.125
    assert "8 actors share a GPU of 16.0 GiB: the first client took 1.00" in caplog.text
    assert choose_gpus(job, 0.0, took(12 << 10)) == 1.0
    assert choose_gpus(job, 0.0, took(0, 1 << 14)) == 1e-4
    with pytest.raises(
        ConfigurationError, match="quarter more does not fit a GPU of 16.0"
    ):
        choose_gpus(job, 0.0, took(13 << 10))
    assert choose_gpus(job, 0.5, took(13 << 10)) == 0.5
    assert choose_gpus(SMALL, 0.0, took(13 << 10)) == 0.0


def test_several_clients_a_node_in_this_process(tmp_path: Path) -> None:
    runs = jobs("mcm", seeds=1)
    here = experiment(runs, tmp_path / "alone")
    several = tmp_path / "several"
    assert experiment(runs, several, clients_per_node=3) == here
    with pytest.raises(ConfigurationError, match="clients_per_node must be a whole"):
        experiment(runs, tmp_path / "wrong", clients_per_node=-1)


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_of_ray_runs_the_same_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two raylets with one core each stand for two machines."""
    import ray
    from ray.cluster_utils import Cluster

    runs = jobs("mcm", seeds=1)
    here = experiment(runs, tmp_path / "inprocess")
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, include_dashboard=False)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        assert experiment(runs, tmp_path / "cluster", engine="ray") == here
    finally:
        ray.shutdown()
        cluster.shutdown()
    log = (tmp_path / "cluster" / "flower.log").read_text()
    assert "4 clients on 2 nodes, 2 a node: Ray has room for 2 actors" in log


@pytest.mark.ray
@pytest.mark.slow
def test_ray_starts_while_the_server_app_computes(tmp_path: Path) -> None:
    """Ray forks while the server app is in BLAS: they once waited for each other."""
    options = [
        "--engine",
        "ray",
        "--clients",
        "3",
        "--rounds",
        "2",
        "--step-size",
        "0.5",
    ]
    command = [sys.executable, "-m", "simulations", "run", *options]
    subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")},
        check=True,
        capture_output=True,
        timeout=300,
    )
    assert len(read_rounds(tmp_path / "rounds.csv")) == 3
