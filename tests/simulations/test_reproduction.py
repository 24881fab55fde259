"""Experiments as data: the files there are, and what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flower_compress.errors import ConfigurationError, UnknownNameError
from simulations import last_verdicts
from simulations.records import Claim, read_rounds
from simulations.reproduction import (
    EXPERIMENTS,
    Reproduction,
    load_reproduction,
    reproductions,
)
from simulations.tasks import STANDING_IN
from tests.command import Command

NAMES = sorted(path.stem for path in EXPERIMENTS.iterdir())

TEXT = """\
title = "A comparison"
source = "A paper, figure 1"
seeds = 2

[settings]
clients = 4
rounds = 6
batch-size = 3

[quick]
rounds = 2
seeds = 1

[[runs]]
algorithm = "sgd"

[[runs]]
name = "fine"
algorithm = "mcm"
levels = 8
rounds = 12

[paper]
fine = -2.5

[[claims]]
claim = "It sends less"
run = "fine"
measure = "bits"
against = "sgd"
at-most = 0.5
paper = 0.1
"""


def load(tmp_path: Path, text: str, *, quick: bool = False) -> Reproduction:
    path = tmp_path / "figure-1.toml"
    path.write_text(text)
    return Reproduction.load(path, quick=quick)


def test_a_file_gives_its_runs(tmp_path: Path) -> None:
    figure = load(tmp_path, TEXT)
    assert (figure.name, figure.title) == ("figure-1", "A comparison")
    assert figure.source == "A paper, figure 1"
    sgd, fine = figure.runs
    assert (sgd.label, sgd.rounds, sgd.batch_size, sgd.levels) == ("sgd", 6, 3, 0)
    assert (fine.label, fine.algorithm, fine.rounds) == ("fine", "mcm", 12)
    assert (fine.problem.clients, fine.levels) == (4, 8)
    assert figure.claims == (
        Claim("It sends less", "fine", "bits", "sgd", at_most=0.5, paper=0.1),
    )
    assert figure.paper == {"fine": -2.5}


def test_what_is_changed_is_told(tmp_path: Path) -> None:
    figure, quick = load(tmp_path, TEXT), load(tmp_path, TEXT, quick=True)
    assert figure.changes(figure.jobs()) == ()
    assert figure.changes(quick.jobs()) == (
        "rounds was 6 and is 2 (sgd)",
        "rounds was 12 and is 2 (fine)",
        "seeds was 2 and is 1",
    )


def test_quick_takes_the_place_of_everything_else(tmp_path: Path) -> None:
    figure = load(tmp_path, TEXT, quick=True)
    assert figure.seeds == 1
    sizes = [(run.rounds, run.problem.clients) for run in figure.runs]
    assert sizes == [(2, 4), (2, 4)]


def test_what_quick_sets_must_be_of_use(tmp_path: Path) -> None:
    text = TEXT.replace("rounds = 2", "rate = 0.5")
    assert load(tmp_path, text).runs
    with pytest.raises(ConfigurationError, match="rate goes with .* not with sgd or m"):
        load(tmp_path, text, quick=True)


def test_jobs_are_all_runs_with_all_seeds(tmp_path: Path) -> None:
    figure = load(tmp_path, TEXT)
    jobs = [(job.label, job.seed, job.rounds) for job in figure.jobs()]
    assert jobs == [("sgd", 0, 6), ("sgd", 1, 6), ("fine", 0, 12), ("fine", 1, 12)]
    jobs = [(job.label, job.seed, job.rounds) for job in figure.jobs(seeds=1, rounds=3)]
    assert jobs == [("sgd", 0, 3), ("fine", 0, 3)]


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("title", "titel", "unknown key of the file 'titel': expected one of .*title"),
        ("batch-size", "batch", r"unknown key of \[settings\] 'batch'"),
        ("clients = 4", "seed = 4", r"unknown key of \[settings\] 'seed'"),
        ("clients = 4", 'name = "a"', r"unknown key of \[settings\] 'name'"),
        ("levels", "level", r"unknown key of \[\[runs\]\] 'level'"),
        ("rounds = 2", "round = 2", r"unknown key of \[quick\] 'round'"),
        ("seeds = 2\n", "", "the file lacks 'seeds'"),
        ('algorithm = "mcm"\n', "", r"\[\[runs\]\] lacks 'algorithm'"),
        ('"mcm"', '"mmc"', "unknown algorithm 'mmc'"),
        ('"fine"', '"sgd"', "a name of its own for each run, got sgd, sgd"),
        ("seeds = 2", "seeds = 0", "seeds must be at least 1"),
        ("seeds = 2", 'seeds = "two"', "seeds must be a number"),
        ("levels = 8", 'levels = "eight"', "levels must be a number"),
        ("levels = 8", "rate = 0.1", r"rate goes with .*choco.*, not with mcm"),
        ("batch-size = 3", "rate = 0.1", "rate goes with .*, not with sgd or mcm"),
        ("levels = 8", "step-size = 0.1\nalpha = 0.5", "alpha goes with partition"),
        ("levels = 8", 'downlink-memory = "average"', "not with mcm"),
        ("[settings]", "[settings", "line 5"),
        ("fine = -2.5", "mcm = 1", r"unknown key of \[paper\] 'mcm'"),
        ("at-most", "most", r"unknown key of \[\[claims\]\] 'most'"),
        ("at-most = 0.5\n", "", "expected at-most, at-least or both"),
        ('"bits"', '"bytes"', "unknown measure 'bytes'"),
        ('run = "fine"', 'run = "mcm"', r"unknown run of \[\[claims\]\] 'mcm'"),
        ("paper = 0.1", "accuracy = 0.1", "bits takes no accuracy"),
        (TEXT[TEXT.index("[[runs]]") :], "[runs]", r"one \[\[runs\]\] or more"),
        (TEXT[TEXT.index("[settings]") :], "settings=1\nruns=[]", "must be a table"),
    ],
)
def test_a_mistake_in_a_file_is_named(
    old: str, new: str, match: str, tmp_path: Path
) -> None:
    assert old in TEXT
    with pytest.raises(ConfigurationError, match=rf"figure-1\.toml: .*{match}"):
        load(tmp_path, TEXT.replace(old, new, 1))


def test_there_is_no_such_experiment() -> None:
    with pytest.raises(UnknownNameError, match="expected one of .*partial-part"):
        load_reproduction("figure-0")


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_can_start(name: str, quick: bool) -> None:
    for job in load_reproduction(name, quick=quick).jobs(seeds=1):
        if job.problem.task not in STANDING_IN:  # Clusters of so many take long.
            assert job.strategy().seed == job.seed


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if "cifar" not in name])
def test_every_experiment_runs_and_is_judged(
    name: str, tmp_path: Path, simulate: Command
) -> None:
    small = ["--quick", "--rounds", "2", "--workers", "1", "--out", str(tmp_path)]
    done = simulate("reproduce", name, *small)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    claims = load_reproduction(name).claims
    verdicts = summary["claims"]["verdicts"]
    assert [each["claim"] for each in verdicts] == [claim.text for claim in claims]
    assert any("rounds was" in text for text in summary["claims"]["differs"])
    tables = {run.problem.task for run in load_reproduction(name).runs} & {*STANDING_IN}
    for task in tables:
        assert f"stand in for {task}" in "".join(summary["claims"]["differs"])


def test_partial_participation_is_that_of_the_paper() -> None:
    figure = load_reproduction("partial-participation")
    runs = {run.label: run for run in figure.runs}
    for run in runs.values():
        assert (run.part.fraction, run.part.sampling) == (0.5, "bernoulli")
        assert (run.bucket_size, run.step_size) == (0, "auto")
        assert run.levels == (0 if run.algorithm == "sgd" else 2)
        assert (run.problem.clients, run.batch_size, run.rounds) == (20, 20, 4000)
    reset = {name: run.strategy() for name, run in runs.items()}
    assert reset["rand-mcm"].downlink_memory == "each"
    assert reset["rand-mcm-average-no-reset"].reset_every is None
    assert reset["rand-mcm-average-reset"].reset_every == "auto"
    assert reset["diana-sampled"].uplink_memory == "sampled"


@pytest.mark.parametrize("arguments", [[], ["--list"]])
def test_experiments_are_listed_with_their_sources(
    arguments: list[str],
    simulate: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # Without runs of this checkout.
    monkeypatch.setattr(last_verdicts, "_RESULTS", tmp_path)
    lines = simulate("reproduce", *arguments).stdout.splitlines()
    for entry in reproductions():
        start = lines.index(entry.name)
        assert [line.strip() for line in lines[start + 1 : start + 3]] == [
            entry.title,
            entry.source,
        ]
        claims = lines[start + 3 : start + 3 + len(entry.claims)]
        assert len(claims) == len(entry.claims) > 0
        for line, claim in zip(claims, entry.claims, strict=True):
            assert line == f"  - {claim.text}: not run here yet"
    assert [entry.name for entry in reproductions()] == NAMES


def test_one_experiment_is_listed_alone_with_the_verdicts_that_there_are(
    simulate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = load_reproduction("overhead").claims
    verdicts = [{"claim": claim.text, "holds": True} for claim in claims]
    text = json.dumps({"claims": {"verdicts": verdicts}})
    inside, outside = tmp_path / "checkout", tmp_path / "elsewhere"
    inside.mkdir()
    monkeypatch.chdir(inside)
    for results in (inside / "results", outside / "results"):
        monkeypatch.setattr(last_verdicts, "_RESULTS", results)
        path = results / "overhead" / "summary.json"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        lines = simulate("reproduce", "overhead", "--list").stdout.splitlines()
        assert (lines[0], len(lines)) == ("overhead", 3 + len(claims) + 1)
        assert lines[-2] == f"  - {claims[-1].text}: holds"
        shown = path.relative_to(inside) if results.parent == inside else path
        assert lines[-1] == f"  (verdicts of {shown})"
    assert simulate("reproduce", "nonsense", "--list").returncode == 1


@pytest.mark.usefixtures("with_report")
def test_reproduce_leaves_the_files_of_compare(
    tmp_path: Path, simulate: Command
) -> None:
    arguments = ["partial-participation", "--quick", "--out", str(tmp_path)]
    small = ["--rounds", "4", "--workers", "1", "--link", "10/50mbit,40ms"]
    done = simulate("reproduce", *arguments, *small)
    assert done.returncode == 0, done.stderr
    figure = load_reproduction("partial-participation")
    labels = [run.label for run in figure.runs]
    rows = [(row.algorithm, row.round) for row in read_rounds(tmp_path / "rounds.csv")]
    assert rows == [(label, number) for label in labels for number in range(5)]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["algorithms"]) == labels
    settings = summary["settings"]
    assert settings["source"] == figure.source
    assert settings["clients-per-round"] == 10.0
    assert settings["runs"]["diana-sampled"]["algorithm"] == "diana"
    page = (tmp_path / "report.html").read_text()
    assert "rand-mcm-average-reset" in page and "S7 to S10" in page
    verdicts = summary["claims"]["verdicts"]
    assert [each["claim"] for each in verdicts] == [c.text for c in figure.claims]
    meets = verdicts[0]
    levels = [
        summary["algorithms"][name]["log10_excess_loss"]["mean"]
        for name in ("rand-mcm", "diana")
    ]
    assert meets["value"] == pytest.approx(levels[0] - levels[1])
    assert (
        meets["holds"] and meets["claim"] in page and "rounds was 4000 and is" in page
    )
    line = next(x for x in done.stdout.splitlines() if meets["claim"] in x)
    assert line.split()[0] == "holds" and f"{meets['value']:.4g}" in line

    rounds = (tmp_path / "rounds.csv").read_bytes()
    assert "--resume" in simulate("reproduce", *arguments, *small).stderr
    assert simulate("reproduce", *arguments, *small, "--resume").returncode == 0
    assert (tmp_path / "rounds.csv").read_bytes() == rounds
    wrong = simulate("reproduce", *arguments, "--resume")
    assert wrong.returncode == 1
    assert "rounds was 4 and is 200" in wrong.stderr and "Traceback" not in wrong.stderr


def test_the_last_verdicts_are_those_of_the_full_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(last_verdicts, "_RESULTS", tmp_path / "results")
    assert last_verdicts.last_verdicts("a") == ({}, None)
    for folder, holds in (("results/a", None), ("runs/a-quick", False), ("runs/a", 1)):
        path = tmp_path / folder / "summary.json"
        path.parent.mkdir(parents=True)
        verdict = {"claim": "less", "holds": holds if holds is None else bool(holds)}
        path.write_text(json.dumps({"claims": {"verdicts": [verdict]}}))
        words, where = last_verdicts.last_verdicts("a")
        expected = {None: "not known", False: "does not hold", 1: "holds"}[holds]
        assert words == {"less": expected}
        assert where is not None and (tmp_path / where) == path
    path.write_text("{}")
    assert last_verdicts.last_verdicts("a")[0] == {"less": "does not hold"}
