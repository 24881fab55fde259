"""Interrupted experiments go on, and end as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from rich.console import Console

from flower_compress.errors import CheckpointError, ConfigurationError
from flower_compress.testing import InProcessGrid
from simulations import client_app, server_app
from simulations.experiment import Experiment
from simulations.records import RoundRecord, read_rounds
from simulations.settings import OPTIONS, Settings, dashed

ROOT = Path(__file__).parents[2]
JOB = Settings.of(
    algorithm="rand-mcm",
    clients=4,
    rounds=12,
    partition="iid",
    fraction=0.5,
    sampling="bernoulli",
)
EVERY = 5


class InterruptionError(Exception):
    """Stands for whatever ends a process."""


def begin(
    jobs: list[Settings], out: Path, *, every: int = EVERY, resume: bool = False
) -> Experiment:
    console = Console(quiet=True)
    return Experiment(jobs, out, console=console, checkpoint_every=every, resume=resume)


def interrupt(
    jobs: list[Settings], out: Path, label: str, at: int, *, resume: bool = False
) -> None:
    """Run an experiment until that run has reported that round."""
    runs = begin(jobs, out, resume=resume)
    report = runs.report

    def report_or_raise(
        job: Settings, server_round: int, record: RoundRecord | None, sha: str | None
    ) -> None:
        report(job, server_round, record, sha)
        if (job.label, server_round) == (label, at):
            raise InterruptionError

    runs.report = report_or_raise  # type: ignore[method-assign]
    with pytest.raises(InterruptionError):
        runs.run("inprocess", workers=1)


def results(out: Path) -> tuple[bytes, dict[str, dict[str, str]]]:
    """Return the rows, and the SHA-256 of the final models by run and seed."""
    algorithms = json.loads((out / "summary.json").read_text())["algorithms"]
    digests = {name: entry["model_sha256"] for name, entry in algorithms.items()}
    return (out / "rounds.csv").read_bytes(), digests


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of JOB, run without an interruption and without checkpoints."""
    out = tmp_path_factory.mktemp("whole")
    begin([JOB], out, every=0).run("inprocess")
    return out


def test_checkpoints_change_nothing(whole: Path, tmp_path: Path) -> None:
    begin([JOB], tmp_path).run("inprocess")
    assert results(tmp_path) == results(whole)
    folder = tmp_path / "checkpoints" / "rand-mcm-seed0"
    names = ["round-00000010.ckpt", "round-00000012.ckpt"]
    assert sorted(path.name for path in folder.glob("*.ckpt")) == names
    assert not (whole / "checkpoints").exists()


def spare(_: Path) -> None:
    pass


def tear(rounds: Path) -> None:
    rounds.write_bytes(rounds.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("at", "harm"),
    [(3, spare), (5, tear), (9, spare), (9, tear), (9, Path.unlink), (12, tear)],
)
def test_a_resumed_run_ends_as_a_whole_one(
    at: int, harm: Callable[[Path], None], whole: Path, tmp_path: Path
) -> None:
    interrupt([JOB], tmp_path, "rand-mcm", at)
    rounds = tmp_path / "rounds.csv"
    assert [row.round for row in read_rounds(rounds)] == [*range(at + 1)]
    assert not (tmp_path / "summary.json").exists()
    harm(rounds)
    begin([JOB], tmp_path, resume=True).run("inprocess")
    assert results(tmp_path) == results(whole)


def test_a_run_can_be_interrupted_again(whole: Path, tmp_path: Path) -> None:
    interrupt([JOB], tmp_path, "rand-mcm", 7)
    interrupt([JOB], tmp_path, "rand-mcm", 8, resume=True)
    interrupt([JOB], tmp_path, "rand-mcm", 11, resume=True)
    begin([JOB], tmp_path, resume=True).run("inprocess")
    assert results(tmp_path) == results(whole)


def test_a_damaged_checkpoint_costs_its_rounds_only(
    whole: Path, tmp_path: Path
) -> None:
    interrupt([JOB], tmp_path, "rand-mcm", 11)
    *_, newest = sorted((tmp_path / "checkpoints").rglob("*.ckpt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    begin([JOB], tmp_path, resume=True).run("inprocess")
    assert results(tmp_path) == results(whole)


def test_without_an_intact_checkpoint_nothing_is_changed(tmp_path: Path) -> None:
    interrupt([JOB], tmp_path, "rand-mcm", 11)
    for path in (tmp_path / "checkpoints").rglob("*.ckpt"):
        path.write_bytes(b"torn")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        begin([JOB], tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_what_has_finished_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = JOB.but(algorithm="mcm", task="digits", step_size="0.5")
    jobs = [JOB.but(seed=1), JOB, digits.but(name="digits")]
    begin(jobs, tmp_path / "whole", every=0).run("inprocess", workers=1)
    interrupt(jobs, tmp_path / "cut", "digits", 8)
    interrupt(jobs, tmp_path / "cut", "digits", 9, resume=True)
    assert len(read_rounds(tmp_path / "cut" / "rounds.csv")) == 2 * 13 + 10
    seen = []
    honest = client_app.app

    def count(*args: object) -> object:
        seen.append(args)
        return honest(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(client_app, "app", count)
    begin(jobs, tmp_path / "cut", resume=True).run("inprocess", workers=1)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    assert len(seen) <= 4 * (12 - 5)

    seen.clear()
    begin(jobs, tmp_path / "cut", resume=True).run("inprocess", workers=1)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    assert seen == []


def test_the_flower_app_resumes(whole: Path, tmp_path: Path) -> None:
    interrupt([JOB], tmp_path, "rand-mcm", 8)
    config = {
        **JOB.as_dict(),
        "out": str(tmp_path),
        "checkpoint-every": EVERY,
        "resume": True,
    }
    context = Context(1, 1, {}, RecordDict(), config)
    server_app.app(InProcessGrid(client_app.app, JOB.problem.clients), context)
    assert results(tmp_path) == results(whole)


# --- What is refused, before anything is changed -------------------------------------


@pytest.mark.parametrize("every", [0, EVERY])
def test_checkpoints_are_not_run_over(every: int, tmp_path: Path) -> None:
    interrupt([JOB], tmp_path, "rand-mcm", 8)
    before = contents(tmp_path)
    with pytest.raises(ConfigurationError, match=r"earlier experiment: resume it"):
        begin([JOB], tmp_path, every=every)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("jobs", "match"),
    [
        ([JOB.but(rounds=20)], "rounds was 12 and is 20"),
        ([JOB.but(algorithm="diana")], "algorithm was .'rand-mcm'. and is"),
        ([JOB.but(seed=1)], r"seed was \[0\] and is \[1\]"),
        ([JOB.but(name="other")], r"runs was \['rand-mcm'\] and is \['other'\]"),
        ([JOB, JOB.but(seed=1)], r"seed was \[0\] and is \[0, 1\]"),
        ([JOB.but(batch_size=3, fraction=0.1)], "batch-size was 20 .*fraction was 0.5"),
    ],
)
@pytest.mark.parametrize("checkpointed", [True, False])
def test_another_experiment_is_not_resumed(
    jobs: list[Settings], match: str, checkpointed: bool, whole: Path, tmp_path: Path
) -> None:
    if checkpointed:
        interrupt([JOB], tmp_path, "rand-mcm", 8)
    out = tmp_path if checkpointed else whole
    before = contents(out)
    with pytest.raises(ConfigurationError, match=f"another experiment: .*{match}"):
        begin(jobs, out, resume=True)
    assert contents(out) == before


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({}, None),
        # What rand-mcm ignored, and an option that was not known yet.
        ({"rate": 0.3, "alpha": 0.9, "sparsity": 0.5, "model": "cnn"}, None),
        ({"initial-memory": None}, None),
        ({"levels": 4}, "levels was 4 and is 0"),
        ({"new-option": 1}, "new-option was 1 and is None"),
    ],
)
def test_a_folder_of_an_earlier_version_is_resumed(
    changes: dict[str, object], match: str | None, whole: Path, tmp_path: Path
) -> None:
    """They recorded every option there is, used or not."""
    interrupt([JOB], tmp_path, "rand-mcm", 8)
    record = {
        **{dashed(name): option.default for name, option in OPTIONS.items()},
        **JOB.as_dict(),
        "algorithm": ["rand-mcm"],
        "seed": [0],
        "num-clients": 4,
        "clients-per-round": 2.0,
        **changes,
    }
    del record["clients"]
    record = {name: value for name, value in record.items() if value is not None}
    (tmp_path / "settings.json").write_text(json.dumps(record))
    if match is not None:
        with pytest.raises(ConfigurationError, match=f"another experiment: {match}. G"):
            begin([JOB], tmp_path, resume=True)
        return
    begin([JOB], tmp_path, resume=True).run("inprocess")
    assert results(tmp_path) == results(whole)


def test_what_differs_is_told_of_the_runs_that_it_is_of(tmp_path: Path) -> None:
    jobs = [JOB, JOB.but(name="fine", levels=8), JOB.but(name="finer", levels=16)]
    interrupt(jobs, tmp_path, "fine", 8)
    jobs = [job.but(levels=2) if job is jobs[1] else job for job in jobs]
    jobs = [job.but(rounds=20) for job in jobs]
    expected = r"rounds was 12 and is 20; levels was 8 and is 2 \(fine\)\. Give"
    with pytest.raises(ConfigurationError, match=expected):
        begin(jobs, tmp_path, resume=True)


@pytest.mark.parametrize("text", [None, "", "[1]", "{"])
def test_a_folder_that_does_not_tell_its_settings_is_not_resumed(
    text: str | None, tmp_path: Path
) -> None:
    (tmp_path / "rounds.csv").write_text("of something else")
    if text is not None:
        (tmp_path / "settings.json").write_text(text)
    before = contents(tmp_path)
    with pytest.raises(ConfigurationError, match=r"settings\.json to tell"):
        begin([JOB], tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_without_checkpoints_a_resumed_run_starts_anew(
    whole: Path, tmp_path: Path
) -> None:
    begin([JOB], tmp_path, every=0, resume=True).run("inprocess")
    assert results(tmp_path) == results(whole)
    (saved,) = (tmp_path / "checkpoints").rglob("*.ckpt")
    assert saved.name == "round-00000012.ckpt"


def test_a_negative_interval_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="checkpoint-every must be at least 0"):
        begin([JOB], tmp_path, every=-1)


# --- Processes that are killed --------------------------------------------------------

ROUNDS = 300
COMMON = shlex.split(
    f"--clients 4 --fraction 0.5 --sampling bernoulli --rounds {ROUNDS} "
    "--checkpoint-every 10"
)
RUN = ["run", "--algorithm", "rand-mcm", *COMMON]
COMPARE = ["compare", "--algorithms", "sgd,mcm,rand-mcm", "--workers", "2", *COMMON]


def simulate(
    command: list[str], out: Path, stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "simulations", *command, "--out", str(out)],
        cwd=ROOT,
        stdout=stdout,
        start_new_session=True,
    )


def kill_once_it_has_rows(command: list[str], out: Path, rows: int) -> None:
    """Run until rounds.csv has so many lines, kill, and wait for its workers to end."""
    rounds = out / "rounds.csv"
    with simulate(command, out, subprocess.PIPE) as process:
        while not rounds.exists() or rounds.read_bytes().count(b"\n") < rows:
            assert process.poll() is None, "it has ended before it had those rows"
            time.sleep(0.001)
        process.kill()
        try:
            # Its output ends when nobody can write to it any more. (Whether there is
            # still such a process would not do: who is dead may wait for its parent.)
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    with simulate(RUN, out) as process:
        assert process.wait(timeout=120) == 0
    return out


@pytest.mark.parametrize(
    "repetition",
    [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 20))],
)
def test_a_killed_run_ends_as_a_whole_one(
    repetition: int, whole_run: Path, tmp_path: Path
) -> None:
    generator = random.Random(repetition)
    kill_once_it_has_rows(RUN, tmp_path, generator.randrange(2, ROUNDS - 20))
    with simulate([*RUN, "--resume"], tmp_path) as process:
        assert process.wait(timeout=120) == 0
    assert results(tmp_path) == results(whole_run)


def test_workers_end_with_the_process_that_is_killed(tmp_path: Path) -> None:
    """Else they would go on beside the resumed experiment."""
    kill_once_it_has_rows(COMPARE, tmp_path, 50)
    assert not list(tmp_path.rglob(f"round-*{ROUNDS}.ckpt"))
