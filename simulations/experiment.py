"""Several runs and the files they leave: CSV, JSON, PNG and HTML."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
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

from flower_compress.errors import ConfigurationError

from .checkpointing import Checkpointing
from .engines import quiet_flower, run_all
from .network import Network
from .records import (
    RoundRecord,
    RoundsCsv,
    cut_off,
    summarise,
    write_json,
    write_nodes,
)
from .report import summary_tables, write_report
from .settings import Settings

__all__ = ["Experiment"]

_Key = tuple[str, int]
_SETTINGS = "settings.json"
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
        Where progress and table are shown.
    checkpoint_every : int
        Rounds between the checkpoints in ``checkpoints/NAME-seedSEED/``; 0 for none.
    resume : bool
        Go on from the checkpoints in `out`. The rows up to there stay as they were.
    about : Mapping[str, str], optional
        What the summary's settings begin with.
    cutoff : tuple[float, Mapping[str, float]], optional
        An accuracy, and published numbers by the runs' names: adds what each run had
        sent when it got there; see :func:`simulations.records.cut_off`.

    Attributes
    ----------
    checkpointing : Checkpointing
        How the runs are saved.

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
    ) -> None:
        self.jobs, self.out, self.link = jobs, out, link
        self.console = console or Console()
        self.checkpointing = Checkpointing(
            out / "checkpoints", checkpoint_every, resume
        )
        self._about, self._cutoff = dict(about or {}), cutoff
        self._settings = _common_settings(jobs)
        with quiet_flower():
            for job in jobs:
                job.strategy()  # What is wrong with it shows before any work.
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
        for name in _FILES:
            (self.out / name).unlink(missing_ok=True)  # of an earlier experiment
        write_json(self.out / _SETTINGS, self._settings)
        self._csv = RoundsCsv(self.out / "rounds.csv").__enter__()
        for label in dict.fromkeys(job.label for job in self.jobs):
            total = sum(job.rounds for job in self.jobs if job.label == label)
            self._bars[label] = self._progress.add_task(label, total=total, status="")
        self._progress.start()
        for job, row in self._earlier:
            self.report(job, row.round, row, None)
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
        key = (job.label, job.seed)
        self._rounds_done[key] = server_round
        if record is not None:
            self._records.append(record)
            self._csv.write(record)
        if sha256 is not None:
            self._sha256[key] = sha256
        self._show(latest=record)

    def run(self, engine: str, *, workers: int = 0, gpus: float = 0.0) -> Path:
        """Compute all jobs and write the files; return the report's path.

        If a run fails, ``rounds.csv`` holds every round up to there.

        Parameters
        ----------
        engine, workers, gpus
            See :func:`simulations.engines.run_all`.
        """
        with self:
            run_all(
                self.jobs,
                engine,
                self.report,
                self.checkpointing,
                workers=workers,
                gpus=gpus,
            )
        return self.finish()

    def finish(self) -> Path:
        """Write summary and report, print the table, return the report's path."""
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
        summary = summarise(records, self._sha256, settings)
        if self._cutoff is not None:
            summary["cutoff"] = cut_off(records, *self._cutoff)
        write_nodes(self.out, records)
        write_json(self.out / "summary.json", summary)
        path = write_report(self.out, records, summary, link=self.link)
        for table in summary_tables(summary):
            self.console.print(table)
        return path

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
        # A setting that another version does not know has its default there.
        default = Settings().as_dict()
        earlier = {**default, **_read_settings(self.out / _SETTINGS)}
        now = {**default, **self._settings}
        differing = [
            f"{name} was {earlier.get(name)} and is {now.get(name)}"
            for name in dict.fromkeys([*now, *earlier])
            if earlier.get(name) != now.get(name)
        ]
        if differing:
            raise ConfigurationError(
                f"{self.out} is of another experiment: {'; '.join(differing)}. Give "
                "the earlier settings, or another folder (--out)"
            )

    def _show(self, *, latest: RoundRecord | None = None, force: bool = False) -> None:
        now = time.monotonic()
        if latest is not None:
            megabytes = (latest.uplink_bytes / 1e6, latest.downlink_bytes / 1e6)
            status = f"loss {latest.loss:.4f}, {megabytes[0]:.2f} MB "
            if any(job.is_decentralized for job in self.jobs):
                status += "on the edges"
            else:
                status += f"up, {megabytes[1]:.2f} MB down"
            self._progress.update(self._bars[latest.algorithm], status=status)
        if not force and now - self._shown_at < 0.2:
            return
        self._shown_at = now
        for label, bar in self._bars.items():
            done = sum(n for key, n in self._rounds_done.items() if key[0] == label)
            self._progress.update(bar, completed=done)


def _common_settings(jobs: Sequence[Settings]) -> dict[str, Any]:
    """Return what the runs share, and under ``"runs"`` what they do not."""
    runs = {job.label: job.as_dict() for job in jobs}
    common = jobs[0].as_dict()
    own = [
        key
        for key, value in common.items()
        if any(values[key] != value for values in runs.values())
        and key not in ("algorithm", "seed")
    ]
    for key in own:
        del common[key]
    common["algorithm"] = [*dict.fromkeys(job.algorithm for job in jobs)]
    common["seed"] = sorted({job.seed for job in jobs})
    if "clients" in common:
        common["num-clients"] = common.pop("clients")
    if len(per_round := {job.clients_per_round for job in jobs}) == 1:
        common["clients-per-round"] = per_round.pop()
    if own or any(job.label != job.algorithm for job in jobs):
        common["runs"] = {
            label: {key: values[key] for key in ("algorithm", *own)}
            for label, values in runs.items()
        }
    return common


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"expected {path} to tell which experiment is to be resumed, got {error}: "
            "give another folder (--out)"
        ) from error
