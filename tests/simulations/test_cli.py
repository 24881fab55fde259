"""The command line: its help, its slips, an interruption, and how quiet it is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flower_compress.strategies.run.folder_lock import FolderLock
from simulations.settings import OPTIONS, dashed
from tests.command import Command

ROOT = Path(__file__).parents[2]
PANELS = ("Problem", "Clients", "Compression", "Decentralized", "Run", "Output")


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "simulations", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell started in the background ignores it, and all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run_alone(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    with start(*arguments, **environment) as process:
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.mark.parametrize("command", ["run", "compare"])
def test_the_help_has_every_option_in_its_group(
    command: str, simulate: Command
) -> None:
    text = simulate(command, "--help", COLUMNS="200").stdout
    groups = dict(
        re.findall(r"─ (\w+) ─+╮\n(.*?)╰", text, flags=re.DOTALL),
    )
    assert tuple(groups)[1:] == PANELS
    for name, option in OPTIONS.items():
        assert f"--{dashed(name)} " in groups[option.panel]
        for choice in option.choices:
            assert choice in groups[option.panel]
    assert "--seed" in groups["Run"] and "--out" in groups["Output"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("run --algorithm mmc", "unknown algorithm 'mmc': .*; did you mean 'mcm'"),
        ("compare --algorithms sgd,rand_mcm", "did you mean 'rand-mcm'"),
        ("run --algorithm malcom --topology rings", "did you mean 'ring'"),
        ("run --algorithm malcom --code golomb", "did you mean 'nested-golomb'"),
        ("run --task digit", "did you mean 'digits'"),
        ("run --engine rays", "unknown engine 'rays': .*; did you mean 'ray'"),
        ("reproduce malcom-rings", "did you mean 'malcom-ring'"),
        ("reproduce malcom-ring --task minst", "did you mean 'mnist'"),
        ("run --task mnist", "task mnist is read from files: .* --data FOLDER"),
        ("run --task mnist --data openml", "only .* from openml.org, not mnist: give"),
        ("reproduce malcom-cifar-ring", "task cifar10 is read .* --data FOLDER"),
        ("run --algorithm mcm --rate 0.1", "rate goes with .*, not with mcm: leave"),
        ("run --algorithm topk --levels 0", "levels goes with .*, not with topk"),
        ("compare --algorithms sgd,mcm --tau lemma", "tau .* not with sgd or mcm"),
        (
            "run --alpha 0.5",
            "alpha goes with partition dirichlet or quantity, not with",
        ),
        ("run --gpus 1", "gpus goes with engine ray, not with engine inprocess"),
        ("compare --engine ray --workers 2", "workers goes with engine inprocess, not"),
        (
            "reproduce malcom-ring --data x",
            "data goes with task mnist or .* or cifar10 or a9a",
        ),
        ("run --rounds many", "Invalid value for '--rounds': .* See --help"),
        ("run --round 3", "No such option.*--round.*--rounds.* See --help"),
        ("runs", "No such command 'runs'.* See --help"),
    ],
)
def test_a_slip_is_one_line(
    command: str, expected: str, tmp_path: Path, simulate: Command
) -> None:
    out = [] if command == "runs" else ["--out", str(tmp_path)]
    done = simulate(*command.split(), *out)
    assert done.returncode in (1, 2) and done.stdout == ""
    assert re.search(expected, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_a_command_the_help_is_shown() -> None:
    done = run_alone()
    assert done.returncode == 0
    assert "reproduce" in done.stdout


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The command as `make dev` installs it."""
    path = tmp_path / "simulations"
    lines = ["import sys", f"sys.path.insert(0, {str(ROOT)!r})"]
    path.write_text(
        "\n".join([*lines, "from simulations.cli import main", "main()", ""])
    )
    return path


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("run --algorithm ra", ["rand-mcm"]),
        ("run --topology ring", ["ring", "ring-like"]),
        ("compare --algorithms sgd,ra", ["sgd,rand-mcm"]),
        ("run --conse", ["--consensus-step", "--consensus-power"]),
    ],
)
def test_shells_complete_names(typed: str, offered: list[str], script: Path) -> None:
    words = f"simulations {typed}"
    done = subprocess.run(
        [sys.executable, str(script)],
        env={
            **os.environ,
            "_SIMULATIONS_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == offered


# --- What it says while it runs -------------------------------------------------------

SMALL = ("--clients", "4", "--rounds", "6")


def test_the_log_goes_to_a_file_and_the_end_says_where(
    tmp_path: Path, simulate: Command
) -> None:
    options = ("--algorithms", "sgd,mcm", "--seeds", "2", "--workers", "2")
    options += ("--cutoff", "0.5")
    done = simulate("compare", *options, *SMALL, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Until the model had an accuracy of 0.5" in done.stdout
    log = tmp_path / "flower.log"
    assert f"Flower's log: {log}" in done.stdout
    assert f"Report: {tmp_path / 'report.html'}" in done.stdout
    assert re.search(r"^Time: \d:\d\d:\d\d$", done.stdout, re.MULTILINE)
    assert re.search(r"24 of 24 rounds; (sgd|mcm): loss", done.stdout)
    assert "ROUND" not in done.stdout and done.stderr == ""
    assert len(done.stdout.splitlines()) < 30
    lines = log.read_text().splitlines()
    for run in ("sgd seed 0", "sgd seed 1", "mcm seed 0", "mcm seed 1"):
        own = [line for line in lines if f" {run}: " in line]
        assert [line for line in own if line.endswith("[ROUND 6/6]")]
    assert all(re.match(r"\d{4}-\d\d-\d\d .* (INFO|WARNING) .*: .", ln) for ln in lines)


def test_a_new_experiment_begins_a_new_log(tmp_path: Path, simulate: Command) -> None:
    (tmp_path / "flower.log").write_text("of an earlier run\n")
    assert simulate("run", *SMALL, "--out", str(tmp_path)).returncode == 0
    assert "earlier" not in (tmp_path / "flower.log").read_text()


def test_earlier_results_are_set_aside(tmp_path: Path, simulate: Command) -> None:
    """What is refused late, as a device that is not there, has lost nothing."""
    aside, wrong = tmp_path / "earlier", ("--algorithm", "sgd", "--step-size", "1e38")
    out = ("--out", str(tmp_path))
    done = simulate("run", "--algorithm", "mcm", *SMALL, *out)
    before = (tmp_path / "rounds.csv").read_bytes()
    assert done.returncode == 0 and not aside.exists()
    for _ in range(2):  # The second time there is nothing to set aside.
        assert simulate("run", *wrong, *SMALL, *out).returncode == 1
        assert (aside / "rounds.csv").read_bytes() == before
        assert (aside / "summary.json").exists() and (aside / "flower.log").exists()
        assert not (tmp_path / "summary.json").exists()


def test_a_folder_has_one_experiment(tmp_path: Path, simulate: Command) -> None:
    lock = FolderLock(tmp_path, "--out")
    (tmp_path / "summary.json").write_text("of the other")
    done = simulate("run", *SMALL, "--out", str(tmp_path))
    assert done.returncode == 1 and "give another --out" in done.stderr
    assert (tmp_path / "summary.json").read_text() == "of the other"
    lock.release()
    assert simulate("run", *SMALL, "--out", str(tmp_path)).returncode == 0


def test_flags_of_operators(tmp_path: Path, simulate: Command) -> None:
    operator = "stochastic-quantizer:levels=4,subtractive"
    command = ("run", *SMALL, "--algorithm", "qsgd", "--out", str(tmp_path), "--uplink")
    for value, said in (("false", "omega 2.0"), ("True", "omega 0.33")):
        done = simulate(*command, f"{operator}={value}")
        assert done.returncode == 0, done.stderr
        assert said in (tmp_path / "flower.log").read_text()
    done = simulate(*command, f"{operator}=true,levels=2")
    assert done.returncode == 1 and "levels once" in done.stderr


def test_a_failure_shows_the_end_of_the_log(tmp_path: Path, simulate: Command) -> None:
    options = ("--algorithm", "sgd", "--step-size", "1e38")
    done = simulate("run", *options, *SMALL, "--out", str(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and done.stderr.count("\n") < 4
    lines = done.stdout.splitlines()
    assert lines[-1] == f"Flower's log: {tmp_path / 'flower.log'}"
    assert len([line for line in lines if " sgd seed 0: " in line]) == 10


@pytest.mark.parametrize(
    ("every", "workers"),
    [pytest.param("0", "1", marks=pytest.mark.slow), ("10", "2")],
)
def test_ctrl_c_says_how_to_go_on(every: str, workers: str, tmp_path: Path) -> None:
    """SIGINT to the whole process group, as a terminal sends it."""
    arguments = ["compare", "--algorithms", "sgd,mcm", "--rounds", "100000"]
    arguments += ["--checkpoint-every", every, "--workers", workers]
    arguments += ["--log-every", "10", "--out", str(tmp_path)]
    rounds = tmp_path / "rounds.csv"
    with start(*arguments) as process:
        while not rounds.exists() or rounds.read_bytes().count(b"\n") < 8:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    first, second, *others = err.splitlines()
    assert first == f"Interrupted. The rounds up to here are in {rounds}."
    assert others == [] and "Traceback" not in out
    if every == "0":
        assert second.startswith("There is no checkpoint to go on from")
    else:
        command = " ".join(["python -m simulations", *arguments, "--resume"])
        assert second == f"To go on: {command}"
    assert json.loads((tmp_path / "settings.json").read_text())["rounds"] == 100000


def test_a_terminal_that_lacks_a_sign_shows_another(tmp_path: Path) -> None:
    """A table has dashes and a plus-minus, which not every encoding has."""
    options = ("--algorithms", "sgd", "--seeds", "2", "--rounds", "2", "--workers", "1")
    arguments = ("compare", *options, "--out", str(tmp_path))
    done = run_alone(*arguments, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "Report:" in done.stdout
