"""Results joined in one page, and the time to a goal that it tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from flower_compress.errors import ConfigurationError
from simulations.network import Network, round_seconds
from simulations.records import RoundRecord, RoundsCsv, summarise, write_json
from simulations.report import Result, merge_reports, read_result
from simulations.report.merged import winners_of
from simulations.report.times import Cost, Goal, costs_of, goals_of, seconds
from tests.command import Command
from tests.simulations.report.test_report import References
from tests.simulations.rows import comparison, record

SETTINGS = {"experiment": "A <comparison>", "clients-per-round": 10.0}


def write(folder: Path, rows: Iterable[RoundRecord] = ()) -> Result:
    rows = list(rows or comparison())
    with RoundsCsv(folder / "rounds.csv") as rounds:
        for row in rows:
            rounds.write(row)
    write_json(folder / "summary.json", summarise(rows, {}, SETTINGS))
    return read_result(folder)


def test_time_is_that_of_so_many_rounds(tmp_path: Path) -> None:
    """The network's own formula, round by round, and Flower's own time."""
    rows = [record("sgd", 0, k, excess=0.5**k, bits=8000 * k) for k in range(11)]
    result = write(tmp_path, rows)
    goal = Goal("log10 excess loss", -1.0)  # 2^-4 is the first below 1/10
    cost = costs_of(result, goal)["sgd"]
    # 100 bytes of framing stand in the rows once.
    assert cost == Cost(4, 410.0, 410.0)
    network = Network(1e6, 2e6, 0.05)
    one = round_seconds(network, uplink_bytes=102.5, downlink_bytes=102.5)
    assert seconds(cost, network, 6.0) == pytest.approx(4 * (one + 6.0))


def test_a_run_of_which_a_seed_does_not_get_there_has_no_cost(tmp_path: Path) -> None:
    rows = [
        record("sgd", seed, k, excess=(0.5 if seed else 0.9) ** k, bits=k)
        for seed in range(2)
        for k in range(5)
    ]
    result = write(tmp_path, rows)
    assert costs_of(result, Goal("log10 excess loss", -1.0)) == {"sgd": None}
    assert costs_of(result, Goal("log10 excess loss", -0.1))["sgd"] is not None


def test_goals_lie_on_the_way_of_the_best(tmp_path: Path) -> None:
    rows = [record("sgd", 0, k, excess=0.1**k) for k in range(11)]
    rows += [record("mcm", 0, k, excess=0.2**k) for k in range(11)]
    goals = goals_of(write(tmp_path, rows))
    assert {goal.kind for goal in goals} == {"log10 excess loss"}
    values = [goal.value for goal in goals]
    assert values == pytest.approx([-5, -7.5, -9, -9.5, -9.9])
    # Without a minimum the accuracy counts, if it tells the rounds apart.
    rows = [record(round_=k, loss=2.0 - 0.1 * k, excess=None) for k in range(11)]
    assert goals_of(write(tmp_path, rows))[0] == Goal("loss", 1.5)
    rows = [replace(row, accuracy=0.05 * row.round) for row in rows]
    assert goals_of(write(tmp_path, rows))[1] == Goal("accuracy", 0.375)


def test_winners_change_with_the_network(tmp_path: Path) -> None:
    rows = [
        record(name, 0, k, excess=rate**k, bits=k * bits)
        for name, rate, rounds, bits in (
            ("sgd", 0.5, 10, 80_000_000),
            ("mcm", 0.5**0.5, 20, 800_000),
        )
        for k in range(rounds + 1)
    ]
    (table,) = winners_of(write(tmp_path, rows))
    assert table.columns[1:] == [f"Flower's own round {s} s" for s in (0, 6, 15)]
    slow, fast = table.rows[0], table.rows[-1]
    assert slow[1].startswith("mcm") and fast[3].startswith("sgd")


def test_the_page_joins_folders_and_refers_to_nothing(
    tmp_path: Path, simulate: Command
) -> None:
    for name in ("one", "two"):
        write(tmp_path / name)
    page = tmp_path / "all.html"
    folders = [str(tmp_path / name) for name in ("one", "two")]
    done = simulate("report", *folders, "--out", str(page))
    assert done.returncode == 0, done.stderr
    assert str(page) in done.stdout
    text = page.read_text()
    references = References()
    references.feed(text)
    assert not references.tags & {"link", "iframe", "object", "embed", "i"}
    assert {address[0] for address in references.addresses} == {"#"}
    assert "://" not in text and text.count("A &lt;comparison&gt;") == 2
    data = re.search(r'id="data">(.*)</script>', text)
    assert data is not None and "<" not in data[1]
    entries = json.loads(data[1])
    assert [entry["name"] for entry in entries] == ["one", "two"]
    costs = entries[0]["goals"][0]["costs"]
    assert "<i>&co</i>" in costs and len(costs["sgd"]) == 3


def test_a_page_takes_the_place_of_no_results(
    tmp_path: Path, simulate: Command
) -> None:
    write(tmp_path)
    rounds = tmp_path / "rounds.csv"
    before = rounds.read_bytes()
    done = simulate("report", str(tmp_path), "--out", str(rounds))
    assert done.returncode == 1 and "expected a page" in done.stderr
    assert rounds.read_bytes() == before


def test_folders_are_told_apart_and_a_page_needs_a_place(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a/run", "b/run", "c", "a/../a/run")]
    results = [(write(folder), folder) for folder in folders]
    text = merge_reports(results, tmp_path / "all.html").read_text()
    data = re.search(r'id="data">(.*)</script>', text)
    assert data is not None
    names = [entry["name"] for entry in json.loads(data[1])]
    assert names == [str(tmp_path / "a/run"), str(tmp_path / "b/run"), "c"]
    with pytest.raises(ConfigurationError, match="a page that can be written"):
        merge_reports(results, tmp_path)


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="summary.json and rounds.csv"):
        read_result(tmp_path)
    result = write(tmp_path)
    result.summary["settings"].clear()
    with pytest.raises(ConfigurationError, match="how many clients"):
        merge_reports([(result, tmp_path)], tmp_path / "page.html")
