"""Flower's Ray engine with one client a node, and with several.

Nobody trains: a client subtracts a vector that it has from what it received, so that
what is left is what carries the models. FedAvg is Flower's own, of an app without any
mod. The simulations of a row follow each other in one process. What is measured is the
median wall time of a round, and processor time beside it: of the server's process, and
of the actors, which is the mean, since Linux counts it in hundredths of a second. Ray
would let its actors wait for whatever else the machine does; here they do not. Rounds
in which caches fill are not counted: two, and ten of long vectors, for which numba is
loaded meanwhile.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .markdown import Column, columns
from .measure import Row
from .own_process import lacks, measure_alone, print_row
from .suite import Settings, Suite

_WARM_UP = 2
_MEBI = 1 << 20
_ACTOR = b"ray::ClientAppActor"


ROWS: list[dict[str, Any]] = [
    {
        "num_clients": 20,
        "dim": 65,
        "runs": [["fedavg", 1, 20], ["mcm", 1, 20], ["fedavg", 0, 20], ["mcm", 0, 20]],
    },
    {
        "num_clients": 1000,
        "dim": 65,
        "runs": [
            ["fedavg", 1, 2],
            ["fedavg", 0, 6],
            ["mcm", 0, 6],
            ["rand-mcm", 0, 6],
        ],
    },
    {
        "num_clients": 20,
        "dim": 669_706,
        "runs": [["fedavg", 1, 12], ["mcm", 1, 12], ["fedavg", 0, 12], ["mcm", 0, 12]],
        "warm_up": 10,
    },
    {
        "num_clients": 100,
        "dim": 65,
        "runs": [["malcom", 1, 6], ["malcom", 0, 12]],
    },
    {"num_clients": 300, "dim": 65, "runs": [["malcom", 0, 8]]},
    {"num_clients": 1000, "dim": 65, "runs": [["malcom", 0, 6]]},
]


def _lacks(settings: Settings) -> str | None:
    return lacks(settings) or (None if find_spec("ray") else "Ray")


def _measure(_: Settings, row: dict[str, Any]) -> list[Row]:
    rows: list[Row] = measure_alone("benchmarks.nodes", row)["rows"]
    return rows


def measure(
    num_clients: int,
    dim: int,
    runs: list[tuple[str, int, int]],
    turns: int = 1,
    warm_up: int = _WARM_UP,
) -> Row:
    """Run simulations of one row in this process.

    Parameters
    ----------
    num_clients, dim : int
        N and d.
    runs : list[tuple[str, int, int]]
        Of each: the algorithm, clients a node (0 for what the engine chooses), and
        rounds in one turn.
    turns : int
        How often all of them follow each other.
    warm_up : int
        How many rounds more each has before.
    """
    times = [_Times(warm_up) for _ in runs]
    rows: list[Row] = []
    for _ in range(turns):
        rows = []
        for (algorithm, per_node, rounds), taken in zip(runs, times, strict=True):
            watch, chosen = _simulate(
                algorithm, num_clients, dim, per_node, warm_up + rounds
            )
            taken.add(watch)
            rows.append(
                {
                    "num_clients": num_clients,
                    "dim": dim,
                    "algorithm": algorithm,
                    "per_node": chosen,
                    **taken.medians(),
                    "of_first": taken.wall() / times[0].wall(),
                    **watch.memory,
                }
            )
    return {"rows": rows}


class _Times:
    """What the rounds of several simulations took."""

    def __init__(self, warm_up: int) -> None:
        self._warm_up = warm_up
        self._wall: list[float] = []
        self._driver: list[float] = []
        self._actors: list[float] = []

    def add(self, watch: _Watch) -> None:
        self._wall += watch.seconds[self._warm_up :]
        self._driver += watch.driver_cpu[self._warm_up :]
        self._actors += watch.actors_cpu[self._warm_up :]

    def wall(self) -> float:
        return statistics.median(self._wall)

    def medians(self) -> Row:
        return {
            "ms_a_round": 1e3 * self.wall(),
            "driver_cpu_ms": 1e3 * statistics.median(self._driver),
            "actors_cpu_ms": 1e3 * statistics.mean(self._actors),
        }


def _simulate(
    algorithm: str, num_clients: int, dim: int, per_node: int, rounds: int
) -> tuple[_Watch, int]:
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    from flower_compress.strategies import many_clients
    from simulations.engines import set_pull_interval
    from simulations.ray_cluster import choose_clients_per_node, ray_started

    watch = _Watch()
    server = ServerApp()
    resources: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0.0}

    @server.main()
    def main(grid: Grid, _: Any) -> None:
        logging.getLogger("flwr").setLevel(logging.ERROR)
        set_pull_interval(grid)
        if per_node > 1:
            grid = many_clients(grid, per_node, num_clients)
        strategy = _strategy(algorithm, num_clients)
        strategy.start(grid, _model(dim), rounds, evaluate_fn=watch)

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray reads it so
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    with ray_started(options), contextlib.redirect_stdout(sys.stderr):
        per_node = choose_clients_per_node(num_clients, resources, per_node)
        run_simulation(
            server_app=server,
            client_app=_app(algorithm),
            num_supernodes=-(-num_clients // per_node),
            backend_config={"client_resources": resources},
        )
    return watch, per_node


class _Watch:
    """Times of rounds, by the wall and of processors, and the memory in the end.

    An `evaluate_fn`.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.driver_cpu: list[float] = []
        self.actors_cpu: list[float] = []
        self.memory: dict[str, float] = {}
        self._since = self._driver_since = self._actors_since = 0.0

    def __call__(self, server_round: int, _: object) -> None:
        now, actors = time.perf_counter(), _actors()
        driver_cpu, actors_cpu = time.process_time(), sum(map(_cpu_seconds, actors))
        if server_round:
            self.seconds.append(now - self._since)
            self.driver_cpu.append(driver_cpu - self._driver_since)
            self.actors_cpu.append(actors_cpu - self._actors_since)
        self.memory = {
            "driver_mib": _pss(os.getpid()) / _MEBI,
            "actors_mib": sum(map(_pss, actors)) / _MEBI,
        }
        self._since = time.perf_counter()
        self._driver_since, self._actors_since = time.process_time(), actors_cpu


def _figure(rows: list[Row]) -> bytes:
    """Return time and memory of a decentralized run against N, as a PNG."""
    from matplotlib.figure import Figure

    shown = sorted(
        (row for row in rows if row["algorithm"] == "malcom"),
        key=lambda row: int(row["num_clients"]),
    )
    several = [row for row in shown if row["per_node"] > 1]
    alone = [row for row in shown if row["per_node"] == 1]
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for name, drawn, colour, marker in (
        ("several nodes share one of Flower's", several, "#0072B2", "o"),
        ("a node of Flower each", alone, "#D55E00", "s"),
    ):
        at = [row["num_clients"] for row in drawn]
        seconds = [(row["driver_cpu_ms"] + row["actors_cpu_ms"]) / 1e3 for row in drawn]
        mebi = [row["driver_mib"] + row["actors_mib"] for row in drawn]
        time_axes.plot(at, seconds, color=colour, marker=marker, label=name)
        memory_axes.plot(at, mebi, color=colour, marker=marker, label=name)
    for axes, label in (
        (time_axes, "CPU seconds a round"),
        (memory_axes, "MiB, server and actors"),
    ):
        axes.set_xlabel("N")
        axes.set_ylabel(label)
        axes.set_ylim(0.0, 1.1 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
    memory_axes.legend(fontsize="small", loc="lower right")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def _app(algorithm: str) -> Any:
    from flower_compress.strategies import DECENTRALIZED

    from . import nodes_app

    if algorithm == "fedavg":
        return nodes_app.plain
    decentralized = algorithm in DECENTRALIZED
    return nodes_app.gossip if decentralized else nodes_app.compressed


def _strategy(algorithm: str, num_clients: int) -> Any:
    from flwr.serverapp.strategy import FedAvg

    from flower_compress.strategies import DECENTRALIZED, get_algorithm
    from flower_compress.strategies.topology import ring

    if algorithm in DECENTRALIZED:
        return get_algorithm(algorithm)(ring(num_clients), seed=0)
    if algorithm == "fedavg":
        return FedAvg(fraction_evaluate=0.0, weighted_by_key="num-examples")
    return get_algorithm(algorithm)(fraction_evaluate=0.0, seed=0)


def _model(dim: int) -> Any:
    import numpy as np
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({"w": Array(np.zeros(dim, dtype=np.float32))})


def _actors() -> list[int]:
    """Return this process's own in which Flower's clients run."""
    names: dict[int, bytes] = {}
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                names[int(folder.name)] = (folder / "cmdline").read_bytes()
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(stat[1])

    def is_own(process: int) -> bool:
        while process > 1 and process != os.getpid():
            process = parents.get(process, 0)
        return process == os.getpid()

    return [each for each, name in names.items() if _ACTOR in name and is_own(each)]


def _cpu_seconds(process: int) -> float:
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _pss(process: int) -> int:
    """Return a process's memory in bytes, of what it shares its part."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


SUITE = Suite(
    "nodes",
    lambda _: [(row,) for row in ROWS],
    _measure,
    columns(
        1,
        Column("strategy", "algorithm"),
        Column("N", "num_clients", ","),
        Column("d", "dim", ","),
        Column("clients a node", "per_node"),
        Column("ms a round", "ms_a_round", ",.0f"),
        Column("of the first", "of_first", ".2f"),
        Column("CPU ms, server", "driver_cpu_ms", ",.0f"),
        Column("CPU ms, actors", "actors_cpu_ms", ",.0f"),
        Column("MiB, server", "driver_mib", ",.0f"),
        Column("MiB, actors", "actors_mib", ",.0f"),
    ),
    lacks=_lacks,
    repeated=False,
    cores="all cores",
    figure=_figure,
)


if __name__ == "__main__":
    print_row(measure, sys.argv[1:])
