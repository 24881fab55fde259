"""Several runs and the files they leave: CSV, JSON, PNG and HTML."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from .engines import run_all
from .network import Network
from .records import RoundRecord, RoundsCsv, summarise, write_summary
from .report import summary_table, write_report
from .settings import Settings

__all__ = ["Experiment", "run_experiment"]

_Key = tuple[str, int]


class Experiment:
    """Collects rounds, keeps ``rounds.csv`` up to date, and shows the progress.

    Use it as a context manager around the runs, then call :meth:`finish`.

    Parameters
    ----------
    jobs : Sequence[Settings]
        The runs; they differ in algorithm and seed only.
    out : Path
        Folder of the files; made if it is missing.
    link : Network, optional
        Network for which the report estimates the time.
    console : Console, optional
        Where progress and table are shown.
    """

    def __init__(
        self,
        jobs: Sequence[Settings],
        out: Path,
        *,
        link: Network | None = None,
        console: Console | None = None,
    ) -> None:
        self.jobs, self.out, self.link = jobs, out, link
        self.console = console or Console()
        self._records: list[RoundRecord] = []
        self._sha256: dict[_Key, str] = {}
        self._rounds_done: dict[_Key, int] = {}
        self._shown_at = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.out.mkdir(parents=True, exist_ok=True)
        for name in ("summary.json", "report.html", "report.png"):
            (self.out / name).unlink(missing_ok=True)  # of an earlier experiment
        self._csv = RoundsCsv(self.out / "rounds.csv").__enter__()
        for algorithm in dict.fromkeys(job.algorithm for job in self.jobs):
            total = sum(job.rounds for job in self.jobs if job.algorithm == algorithm)
            self._bars[algorithm] = self._progress.add_task(
                algorithm, total=total, status=""
            )
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._show(force=True)
        self._progress.stop()
        self._csv.__exit__(kind, error, trace)

    def report(
        self,
        job: Settings,
        server_round: int,
        record: RoundRecord | None,
        sha256: str | None,
    ) -> None:
        """Take in one round; see :data:`simulations.engines.Report`."""
        key = (job.algorithm, job.seed)
        self._rounds_done[key] = server_round
        if record is not None:
            self._records.append(record)
            self._csv.write(record)
        if sha256 is not None:
            self._sha256[key] = sha256
        self._show(latest=record)

    def finish(self) -> Path:
        """Write summary and report, print the table, return the report's path."""
        order = {job.algorithm: i for i, job in enumerate(self.jobs)}
        records = sorted(
            self._records, key=lambda row: (order[row.algorithm], row.seed, row.round)
        )
        with RoundsCsv(self.out / "rounds.csv") as rounds:
            for record in records:
                rounds.write(record)
        summary = summarise(records, self._sha256, self._settings())
        write_summary(self.out / "summary.json", summary)
        path = write_report(self.out, records, summary, link=self.link)
        self.console.print(summary_table(summary))
        return path

    def _settings(self) -> dict[str, Any]:
        common = self.jobs[0].as_dict()
        common["algorithm"] = [*dict.fromkeys(job.algorithm for job in self.jobs)]
        common["seed"] = sorted({job.seed for job in self.jobs})
        common["num-clients"] = common.pop("clients")
        common["gamma"] = self.jobs[0].gamma()
        return common

    def _show(self, *, latest: RoundRecord | None = None, force: bool = False) -> None:
        now = time.monotonic()
        if latest is not None:
            megabytes = (latest.uplink_bytes / 1e6, latest.downlink_bytes / 1e6)
            status = (
                f"loss {latest.loss:.4f}, {megabytes[0]:.2f} MB up, "
                f"{megabytes[1]:.2f} MB down"
            )
            self._progress.update(self._bars[latest.algorithm], status=status)
        if not force and now - self._shown_at < 0.2:
            return
        self._shown_at = now
        for algorithm, bar in self._bars.items():
            done = sum(n for key, n in self._rounds_done.items() if key[0] == algorithm)
            self._progress.update(bar, completed=done)


def run_experiment(
    jobs: Sequence[Settings],
    out: Path,
    *,
    engine: str,
    link: Network | None = None,
    workers: int = 0,
    console: Console | None = None,
) -> Path:
    """Compute all jobs and write their files; returns the report's path.

    If a run fails, ``rounds.csv`` holds every round up to there.
    """
    with Experiment(jobs, out, link=link, console=console) as experiment:
        run_all(jobs, engine, experiment.report, workers=workers)
    return experiment.finish()
