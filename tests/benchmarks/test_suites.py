"""Suites measure every operator, fill a slot of the docs, and can be run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks import operators, subjects, tables
from benchmarks.__main__ import RESULTS, main
from benchmarks.compare import committed, slower
from benchmarks.markdown import Column, columns
from benchmarks.registry import SUITES
from benchmarks.suite import Settings
from flower_compress.coding import CODE_NAMES
from flower_compress.compressors import COMPRESSORS, get_compressor


def test_every_operator_is_measured() -> None:
    for configs in (subjects.OPERATORS.values(), operators.OPERATORS):
        assert {config["name"] for config in configs} == set(COMPRESSORS)
        for config in configs:
            get_compressor(config)
    assert set(subjects.CODES) <= set(CODE_NAMES)


def test_every_suite_has_its_slot_and_its_results() -> None:
    pages = "".join(page.read_text() for page in tables.PAGES)
    assert set(re.findall(r"<!-- results: ([\w-]+) -->", pages)) == set(SUITES)
    known = {path for suite in SUITES.values() for path in suite.files(RESULTS)}
    assert set(RESULTS.glob("*.json")) <= known
    for name, suite in SUITES.items():
        assert suite.name == name
        assert list(suite.cases(Settings()))


def test_columns_are_written_as_they_say() -> None:
    table = columns(
        1,
        Column("what", "what"),
        Column("how many", "count", ","),
        Column("double", lambda row: 2 * row["count"], ".1f"),
    )
    rows = [{"what": "a", "count": 1234}, {"what": "b", "count": 5}]
    assert table(rows).splitlines() == [
        "| what | how many | double |",
        "|---|---:|---:|",
        "| a | 1,234 | 2468.0 |",
        "| b | 5 | 10.0 |",
    ]


def test_suites_run_and_write_what_the_tables_need(tmp_path: Path) -> None:
    main(only="lengths,baselines", dims="1024,2000", repeats=1, out=tmp_path)
    for name, num_rows in (("lengths", 2 * 2 * 5 * 2), ("baselines", 2 * 5)):
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert result["repeats"] == 1
        assert "processor" in result["machine"]
        assert len(result["rows"]) == num_rows
        slot = f"<!-- results: {name} -->\n<!-- end -->"
        filled = tables.fill(slot, tmp_path)
        assert filled.count("\n| ") == 1 + num_rows
        assert "One run. " in filled


WITHOUT_FLOWER = """
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("flwr", "ray"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import tests.flower_compress.compressors.test_torch_backend
runpy.run_module("benchmarks", run_name="__main__", alter_sys=True)
"""


def test_a_device_is_measured_without_flower_and_ray(tmp_path: Path) -> None:
    """So are the tests of operators on a device: what a bare machine has is enough."""
    options = ["--only", "device", "--device", "cpu", "--dims", f"1000,{10**13}"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FLOWER, *options, "--repeats", "1"]
        + ["--out", str(tmp_path)],
        cwd=RESULTS.parents[1],
        env={**os.environ, "COLUMNS": "200"},
        check=True,
        capture_output=True,
        text=True,
    )
    result = json.loads((tmp_path / "device-cpu.json").read_text())
    assert result["machine"]["device"] == "cpu"
    assert {"torch", "threads"} <= result["machine"].keys()
    rows = [row for row in result["rows"] if "left_out" not in row]
    assert [row["dim"] for row in rows] == 6 * [1000]
    assert all(row["same_bytes"] for row in rows)
    assert done.stdout.count("| 1,000 |") == 6
    assert "d = 10,000,000,000,000 is left out: it needs up to 1040000.0 GB" in (
        done.stdout
    )
    # A file for each device, and the tables one below the other.
    other = {**result, "machine": {**result["machine"], "device": "Other GPU"}}
    (tmp_path / SUITES["device"].file(other["machine"])).write_text(json.dumps(other))
    slot = "<!-- results: device -->\n<!-- end -->"
    filled = tables.fill(slot, tmp_path)
    assert filled.count("| 1,000 |") == 12
    assert "Other GPU, " in filled


def test_a_processor_does_not_fill_the_table_of_gpus() -> None:
    with pytest.raises(typer.BadParameter, match="got --device cpu"):
        main(only="device", device="cpu")


def test_only_what_is_slower_beyond_the_noise_is_told() -> None:
    def row(name: str, us: float, speed: float) -> dict[str, Any]:
        return {"name": name, "share": 0.5, "encode_us": us, "mb_per_s": speed}

    before = [row(str(i), 10.0, 100.0) for i in range(9)]
    # All of today is slower by a tenth: the machine is.
    cases = [[row(str(i), 11.0, 90.9)] for i in range(9)]
    cases[2] = [row("2", 20.0, 90.9)]  # Really so.
    cases[3] = [row("3", 20.0, 90.9)]  # Once.
    cases[4] = [row("4", 11.0, 50.0)]
    cases[5] = [row("5", 20.0, 90.9)]  # As far apart as that.
    cases[6] = [row("new", 99.0, 1.0)]
    asked: list[int] = []

    def again(place: int) -> list[dict[str, Any]]:
        asked.append(place)
        us = {2: 21.0, 3: 11.0, 4: 11.0, 5: 14.0 + 20.0 * (asked.count(5) > 1)}[place]
        return [row(str(place), us, 51.0 if place == 4 else 90.9)]

    found = slower(before, cases, again)
    assert asked == [2, 2, 3, 3, 4, 4, 5, 5]
    assert [each.what for each in found] == ["name=2, encode_us", "name=4, mb_per_s"]
    assert str(found[0]) == (
        "name=2, encode_us: 10 before, 20 now, 1.82 times as long (noise 5%)"
    )
    assert str(found[1]).startswith("name=4, mb_per_s: 100 before, 51 now, 1.78 ")


def test_results_of_another_machine_are_not_compared() -> None:
    path = RESULTS / "small.json"
    machine = json.loads(path.read_text())["machine"]
    assert committed(path, machine)
    assert committed(path, {**machine, "numpy": "0"}) is None
    assert committed(RESULTS / "none.json", machine) is None


def test_an_unknown_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="'lenghts': expected some of small"):
        main(only="lenghts", dims="9", repeats=1, out=tmp_path)
