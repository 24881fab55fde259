"""Where runs are computed: in this process, in several, or on Flower's Ray engine."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from flower_compress.arguments import check_count
from flower_compress.errors import (
    ConfigurationError,
    FlowerCompressError,
    MissingExtraError,
    NonFiniteError,
    UnknownNameError,
)
from flower_compress.links import share_decoding
from flower_compress.strategies import many_clients
from flower_compress.testing import InProcessGrid
from flower_compress.testing.deliveries import num_cores

from .checkpointing import Checkpointing
from .flower_log import label_log, log_to
from .gpu_share import choose_gpus, measure_first_client
from .ray_cluster import choose_clients_per_node, ray_started
from .records import RoundRecord
from .runner import run_on_grid
from .settings import Settings
from .tasks import OF_TORCH

__all__ = ["ENGINES", "Report", "run_all", "run_and_report", "set_pull_interval"]

ENGINES = ("inprocess", "ray")
"""The engines, by the names that the command line uses."""

Report = Callable[[Settings, int, RoundRecord | None, str | None], None]
"""Called with each round, its record where it is logged, and in the end the SHA-256."""

_PULL_INTERVAL_SECONDS = 0.01
_SHARED_BYTES = 1 << 28
_LOGGER = logging.getLogger("flwr")


def run_all(
    jobs: Sequence[Settings],
    engine: str,
    report: Report,
    checkpointing: Checkpointing,
    *,
    workers: int = 0,
    threads: int = 0,
    gpus: float = 0.0,
    clients_per_node: int = 0,
    log: Path | None = None,
) -> None:
    """Compute all jobs. One that diverges ends with a row that says so.

    Parameters
    ----------
    jobs : Sequence[Settings]
        The runs.
    engine : str
        One of :data:`ENGINES`. Both end with the same models, byte for byte.
    report : Report
        Called in this process with every round of every run.
    checkpointing : Checkpointing
        How the runs are saved.
    workers : int
        With ``"inprocess"``: how many processes share the jobs; 0 for one a core.
    threads : int
        With ``"inprocess"``: how many clients of a run compute at a time; 0 for one a
        core where that is faster, if one process has the cores to itself and clients
        train networks there.
    gpus : float
        With ``"ray"``: GPUs that a client takes, a fraction to share one; 0 for none,
        and with a device of CUDA for what the first client is measured to take.
    clients_per_node : int
        How many clients share a node of Flower, and its messages; 0 for one, and with
        ``"ray"`` for as many as leave no actor without a node.
    log : Path, optional
        File for Flower's log.

    Raises
    ------
    ConfigurationError
        If `gpus` or `clients_per_node` is negative.
    NonFiniteError
        If all runs have diverged.
    """
    if not gpus >= 0.0:
        raise ConfigurationError(f"gpus must be at least 0, got {gpus}")
    check_count("clients_per_node", clients_per_node, 0)
    lost = _Diverged(len(jobs))
    if engine == "ray":
        with log_to(log):
            _run_on_ray(jobs, report, checkpointing, lost, gpus, clients_per_node)
    elif engine == "inprocess":
        workers = min(len(jobs), workers or num_cores())
        if workers <= 1:
            with log_to(log):
                for job in jobs:
                    with lost:
                        _run_in_process(
                            job, report, checkpointing, threads, clients_per_node
                        )
        else:
            work = partial(
                _work,
                checkpointing=checkpointing,
                threads=threads or 1,
                per_node=clients_per_node,
                log=log,
            )
            _run_in_workers(jobs, report, work, lost, workers)
    else:
        raise UnknownNameError("engine", engine, ENGINES)


class _Diverged:
    """A context for each run: lets one diverge, unless it is the last that might not.

    Parameters
    ----------
    of : int
        How many runs there are.
    """

    def __init__(self, of: int) -> None:
        self._left = of

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, NonFiniteError):
            return False
        self._left -= 1
        return self._left > 0


def _run_in_process(
    job: Settings,
    report: Report,
    checkpointing: Checkpointing,
    threads: int,
    per_node: int,
) -> None:
    from .client_app import app, dispatch

    if not threads and (
        job.problem.task not in OF_TORCH or job.problem.device != "cpu"
    ):
        threads = 1  # Elsewhere clients would wait for each other.
    clients = job.problem.clients
    with share_decoding(_SHARED_BYTES), _seldom_collected():
        grid: Grid
        if per_node > 1:
            nodes = InProcessGrid(app, -(-clients // per_node), threads=threads)
            grid = many_clients(nodes, per_node, clients)
        else:
            grid = InProcessGrid(dispatch, clients, threads=threads)
        run_and_report(grid, job, report, checkpointing)


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Look for cycles a hundred times more rarely meanwhile.

    Messages and states have none, and there are so many of them that looking at them
    takes up to a fifth of a round of a thousand clients.
    """
    before = gc.get_threshold()
    gc.set_threshold(100 * before[0], *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def run_and_report(
    grid: Grid, job: Settings, report: Report, checkpointing: Checkpointing
) -> None:
    """Run `job` on `grid` and report its rounds, in the end the model's SHA-256.

    Raises
    ------
    NonFiniteError
        If it has diverged; its last row says so.
    """
    with label_log(f"{job.label} seed {job.seed}"):
        try:
            result = run_on_grid(
                grid,
                job,
                lambda server_round, record: report(job, server_round, record, None),
                checkpointing,
            )
        except NonFiniteError as error:
            _LOGGER.warning("diverged: %s", error)
            raise
    report(job, job.rounds, None, result.model_sha256)


_Event = tuple[int, int, RoundRecord | None, str | None]


def _end_with_parent() -> None:
    """End this process with the one that started it, however that ended.

    Else workers of a killed experiment would go on, and write their checkpoints where
    the resumed one does.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """Start processes meanwhile that Ctrl-C does not reach: this one ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(
    index: int,
    job: Settings,
    events: Queue[_Event],
    *,
    checkpointing: Checkpointing,
    threads: int,
    per_node: int,
    log: Path | None,
) -> None:

    def report(
        _: Settings, server_round: int, record: RoundRecord | None, sha256: str | None
    ) -> None:
        events.put((index, server_round, record, sha256))

    gc.freeze()  # What is loaded by now stays; no need to look at it again and again.
    try:
        with log_to(log):
            _run_in_process(job, report, checkpointing, threads, per_node)
    finally:
        gc.unfreeze()


def _run_in_workers(
    jobs: Sequence[Settings],
    report: Report,
    work: Callable[[int, Settings, Queue[_Event]], None],
    lost: _Diverged,
    workers: int,
) -> None:
    # Forking a process that has loaded torch is not safe.
    context = multiprocessing.get_context("spawn")
    manager = SyncManager(ctx=context)
    with _not_interrupted():
        manager.start(_end_with_parent)
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, _end_with_parent)
    with manager, pool:
        events: Queue[_Event] = manager.Queue()
        with _not_interrupted():
            pending: set[Future[None]] = {
                pool.submit(work, index, job, events) for index, job in enumerate(jobs)
            }
        try:
            while pending:
                done, pending = wait(pending, 0.1, return_when=FIRST_COMPLETED)
                _drain(events, jobs, report)
                for future in done:
                    with lost:
                        future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            _drain(events, jobs, report)
            raise
        _drain(events, jobs, report)


def _drain(events: Queue[_Event], jobs: Sequence[Settings], report: Report) -> None:
    while True:
        try:
            index, server_round, record, sha256 = events.get_nowait()
        except Empty:
            return
        report(jobs[index], server_round, record, sha256)


def _run_on_ray(
    jobs: Sequence[Settings],
    report: Report,
    checkpointing: Checkpointing,
    lost: _Diverged,
    gpus: float,
    clients_per_node: int,
) -> None:
    """All jobs in one simulation: a session each, so nothing leaks between them."""
    if find_spec("ray") is None:
        raise MissingExtraError("ray", "simulation")
    from flwr.simulation import run_simulation

    from .client_app import app

    clients, per_node = max(job.problem.clients for job in jobs), 1
    server, stopped = ServerApp(), threading.Event()

    @server.main()
    def main(grid: Grid, _: Context) -> None:
        set_pull_interval(grid)
        _end_with(stopped, grid)
        if per_node > 1:
            grid = many_clients(grid, per_node, clients)
        for job in jobs:
            with lost:
                run_and_report(grid, job, report, checkpointing)

    for job in jobs:
        job.task.optimum()  # No heavy arithmetic while Ray forks its processes.
    gpus = max(choose_gpus(job, gpus, measure_first_client) for job in jobs)
    resources: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus}
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    with ray_started(options):
        per_node = choose_clients_per_node(clients, resources, clients_per_node)
        try:
            run_simulation(
                server_app=server,
                client_app=app,
                num_supernodes=-(-clients // per_node),
                backend_config={"client_resources": resources},
            )
        finally:
            stopped.set()


def _end_with(stopped: threading.Event, grid: Grid) -> None:
    """Let the server app fail where it asks for replies that nobody will give.

    After Ctrl-C Flower would leave its thread behind, which keeps the process alive.
    """
    pull = grid.pull_messages

    def pull_unless_stopped(message_ids: Iterable[str]) -> Iterable[Message]:
        if stopped.is_set():
            raise FlowerCompressError("interrupted")
        return pull(message_ids)

    grid.pull_messages = pull_unless_stopped  # type: ignore[method-assign]


def set_pull_interval(grid: Grid) -> None:
    """Poll for replies often, where the grid polls at all."""
    if hasattr(grid, "pull_interval"):
        grid.pull_interval = _PULL_INTERVAL_SECONDS
