"""Several runs and the files they leave: CSV, JSON, PNG and HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from flower_compress.errors import ConfigurationError
from flower_compress.strategies.run.folder_lock import FolderLock

from .checkpointing import Checkpointing
from .engines import run_all
from .flower_log import FILE_NAME, last_lines, quiet_flower
from .network import Network
from .progress import duration, make_console, make_display
from .recorded import differences, read_settings, record_settings
from .records import (
    Claim,
    RoundRecord,
    RoundsCsv,
    cut_off,
    judge,
    round_seconds,
    summarise,
    write_json,
    write_nodes,
)
from .report import claim_lines, summary_tables, write_report
from .settings import Settings

__all__ = ["Experiment"]

_Key = tuple[str, int]
_SETTINGS = "settings.json"
_LAST_LINES = 10
_LARGE = 1e6
_ASIDE = "earlier"
_FILES = ("summary.json", "report.html", "report.png", "nodes.csv", "edges.csv")


class Experiment:
    """Collects rounds, keeps ``rounds.csv`` up to date, and shows the progress.

    :meth:`run` does it all. Where the runs are not ours to start, use it as a context
    manager around them, then call :meth:`finish`.

    Parameters
    ----------
    jobs : Sequence[Settings]
        The runs, of different names or seeds; every name with the same seeds.
    out : Path
        Folder of the files; made if it is missing.
    link : Network, optional
        Network for which the report estimates the time.
    console : Console, optional
        Where progress and tables are shown; the standard output.
    checkpoint_every : int
        Rounds between the checkpoints in ``checkpoints/NAME-seedSEED/``; 0 for none.
    resume : bool
        Go on from the checkpoints in `out`. The rows up to there stay as they were.
    about : Mapping[str, str], optional
        What the summary's settings begin with.
    cutoff : tuple[float, Mapping[str, float]], optional
        An accuracy, and published numbers by the runs' names: adds what each run had
        sent when it got there; see :func:`simulations.records.cut_off`.
    claims : Sequence[Claim]
        What the source claims: adds what the rounds make of it.
    differs : Sequence[str]
        What is not as in the source, in words.
    paper : Mapping[str, float], optional
        The source's log10 excess loss of some of the runs, for the tables.

    Attributes
    ----------
    checkpointing : Checkpointing
        How the runs are saved.
    log : Path
        Flower's log.

    Raises
    ------
    ConfigurationError
        If a run's settings cannot work, `out` has the checkpoints of an experiment
        that is not to be resumed, or one is to be resumed that differs from the one
        in `out`. Nothing in `out` has been changed then.
    CheckpointError
        If there are checkpoints of a run to resume, and none is intact.
    """

    def __init__(
        self,
        jobs: Sequence[Settings],
        out: Path,
        *,
        link: Network | None = None,
        console: Console | None = None,
        checkpoint_every: int = 0,
        resume: bool = False,
        about: Mapping[str, str] | None = None,
        cutoff: tuple[float, Mapping[str, float]] | None = None,
        claims: Sequence[Claim] = (),
        differs: Sequence[str] = (),
        paper: Mapping[str, float] | None = None,
    ) -> None:
        self.jobs, self.out, self.link = jobs, out, link
        self.console = console or make_console()
        self.log = out / FILE_NAME
        self.checkpointing = Checkpointing(
            out / "checkpoints", checkpoint_every, resume
        )
        self._about, self._cutoff = dict(about or {}), cutoff
        self._claims, self._differs, self._paper = claims, differs, dict(paper or {})
        self._settings = record_settings(jobs)
        with quiet_flower():
            for job in jobs:  # What is wrong with it shows before any work.
                job.problem.check_files()
                job.strategy()
        if link is not None and "clients-per-round" not in self._settings:
            raise ConfigurationError(
                "a link needs runs with the same number of clients a round, to tell "
                "the bytes of one client: leave it out"
            )
        self._check_out()
        self._earlier = [
            (job, row) for job in jobs for row in self.checkpointing.earlier_rows(job)
        ]
        self._records: list[RoundRecord] = []
        self._sha256: dict[_Key, str] = {}
        self._rounds_done: dict[_Key, int] = {}

    def __enter__(self) -> Self:
        self.out.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.out, "--out")
        if not self.checkpointing.resume:
            self._set_aside()
        for name in _FILES:
            (self.out / name).unlink(missing_ok=True)  # of an earlier experiment
        write_json(self.out / _SETTINGS, self._settings)
        self._csv = RoundsCsv(self.out / "rounds.csv").__enter__()
        totals = dict.fromkeys((job.label for job in self.jobs), 0)
        for job in self.jobs:
            totals[job.label] += job.rounds
        for origin in self._origins():
            self.console.print(f"{origin[0].upper()}{origin[1:]}.", highlight=False)
        self._display = make_display(self.console, totals)
        for job, row in self._earlier:
            self.report(job, row.round, row, None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.stop()
        self._csv.__exit__(kind, error, trace)
        self._lock.release()
        if isinstance(error, Exception):
            for line in last_lines(self.log, _LAST_LINES):
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._print_path("Flower's log", self.log)

    def report(
        self,
        job: Settings,
        server_round: int,
        record: RoundRecord | None,
        sha256: str | None,
    ) -> None:
        """Take in one round; see :data:`simulations.engines.Report`."""
        key = (job.label, job.seed)
        self._rounds_done[key] = server_round
        if record is not None:
            self._records.append(record)
            self._csv.write(record)
        if sha256 is not None:
            self._sha256[key] = sha256
        done = sum(
            n for (label, _), n in self._rounds_done.items() if label == job.label
        )
        status = None if record is None else _status(job, record)
        self._display.update(job.label, done, status)

    def run(
        self,
        engine: str,
        *,
        workers: int = 0,
        threads: int = 0,
        gpus: float = 0.0,
        clients_per_node: int = 0,
    ) -> Path:
        """Compute all jobs and write the files; return the report's path.

        If a run fails, ``rounds.csv`` holds every round up to there. One that diverges
        ends with a loss of infinity, and the others go on.

        Parameters
        ----------
        engine, workers, threads, gpus, clients_per_node
            See :func:`simulations.engines.run_all`.
        """
        with self:
            run_all(
                self.jobs,
                engine,
                self.report,
                self.checkpointing,
                workers=workers,
                threads=threads,
                gpus=gpus,
                clients_per_node=clients_per_node,
                log=self.log,
            )
        return self.finish()

    def finish(self) -> Path:
        """Write summary and report, print tables and paths, return the report's."""
        order = {job.label: i for i, job in enumerate(self.jobs)}
        records = sorted(
            self._records, key=lambda row: (order[row.algorithm], row.seed, row.round)
        )
        with RoundsCsv(self.out / "rounds.csv") as rounds:
            for record in records:
                rounds.write(record)
        gammas = {job.label: job.gamma() for job in reversed(self.jobs)}
        gamma = gammas if len({*gammas.values()}) > 1 else self.jobs[0].gamma()
        settings = {**self._about, **self._settings, "gamma": gamma}
        if origins := self._origins():
            settings["stand-ins"] = "; ".join(origins)
        summary = summarise(records, self._sha256, settings)
        if self._cutoff is not None:
            summary["cutoff"] = cut_off(records, *self._cutoff)
        if self._paper:
            summary["paper"] = self._paper
        if any(claim.measure == "seconds" for claim in self._claims):
            summary["round_seconds"] = round_seconds(records)
        if self._claims:
            differs = [*self._differs, *self._origins()]
            summary["claims"] = judge(self._claims, records, differs)
        write_nodes(self.out, records)
        write_json(self.out / "summary.json", summary)
        path = write_report(self.out, records, summary, link=self.link)
        for table in summary_tables(summary):
            self.console.print(table)
        for record in {(row.algorithm, row.seed): row for row in records}.values():
            if not math.isfinite(record.loss):
                self.console.print(
                    f"{record.algorithm}, seed {record.seed}, has diverged: no finite "
                    f"model after round {record.round}. Try a smaller step size, or an "
                    "operator with less noise.",
                    highlight=False,
                    soft_wrap=True,
                )
        for line in claim_lines(summary):
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._print_path("Report", path)
        self._print_path("Flower's log", self.log)
        self.console.print(f"Time: {duration(self._display.seconds)}")
        return path

    def _set_aside(self) -> None:
        """Keep the results of an earlier experiment, of which there is a summary."""
        if (self.out / "summary.json").exists():
            aside = self.out / _ASIDE
            aside.mkdir(exist_ok=True)
            for name in (*_FILES, "rounds.csv", _SETTINGS, FILE_NAME):
                (aside / name).unlink(missing_ok=True)
                if (self.out / name).exists():
                    (self.out / name).rename(aside / name)
            self._print_path("The results that were here", aside)
        self.log.unlink(missing_ok=True)

    def _origins(self) -> list[str]:
        """Return what stands in for the examples that the tasks are named after."""
        return [*dict.fromkeys(filter(None, (job.task.origin for job in self.jobs)))]

    def _check_out(self) -> None:
        """Refuse the folder of another experiment."""
        fresh = self.checkpointing.is_empty()
        if not self.checkpointing.resume:
            if fresh:
                return
            raise ConfigurationError(
                f"{self.out} holds the checkpoints of an earlier experiment: resume it "
                "(--resume), or give another folder (--out)"
            )
        if fresh and not (self.out / "rounds.csv").exists():
            return
        earlier = read_settings(self.out / _SETTINGS)
        differing = differences(earlier, self._settings)
        if differing:
            raise ConfigurationError(
                f"{self.out} is of another experiment: {'; '.join(differing)}. Give "
                "the earlier settings, or another folder (--out)"
            )

    def _print_path(self, what: str, path: Path) -> None:
        self.console.print(f"{what}: {path.resolve()}", soft_wrap=True)


def _status(job: Settings, record: RoundRecord) -> str:
    loss = f"{record.loss:.4f}" if record.loss < _LARGE else f"{record.loss:.3g}"
    up = f"loss {loss}, {record.uplink_bytes / 1e6:.2f} MB"
    if job.is_decentralized:
        return f"{up} on the edges"
    return f"{up} up, {record.downlink_bytes / 1e6:.2f} MB down"
