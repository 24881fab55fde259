"""Every code block of the README runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.__main__ import RESULTS
from benchmarks.registry import SUITES
from tests.command import Command

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def lines() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line]


def test_no_block_is_left_out() -> None:
    fences = re.findall(r"^```(\w+)$", README, re.MULTILINE)
    assert set(fences) == {"python", "sh"}
    assert len(blocks("python")) == 6


@pytest.mark.parametrize("index", range(6))
def test_python_block_runs(index: int, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {"__name__": "readme"}
    exec(compile(blocks("python")[index], f"block {index}", "exec"), scope)  # noqa: S102
    printed = capsys.readouterr().out.splitlines()
    if "result" in scope:
        mean, sent = float(printed[-2]), [int(n) for n in printed[-1].split()]
        assert mean == pytest.approx(2.0, abs=0.1)
        dense = 200 * 5 * 40_000
        assert max(sent) < dense / 10


@pytest.mark.parametrize("line", [x for x in lines() if x.startswith("make")])
def test_make_target_exists(line: str) -> None:
    command = [*shlex.split(line), "--dry-run"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def test_pip_line_installs_this_package() -> None:
    assert [x for x in lines() if x.startswith("pip")] == ["pip install ."]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(re.split("[<>=]", d)[0] for d in project["dependencies"]) == [
        "flwr",
        "numpy",
    ]


SIMULATIONS = "python -m simulations "
BENCHMARKS = "python -m benchmarks --only "


def test_benchmark_lines_name_suites_whose_results_are_shown() -> None:
    named = [x.removeprefix(BENCHMARKS) for x in lines() if x.startswith(BENCHMARKS)]
    assert named == ["local-epochs"]
    assert set(named) <= set(SUITES)
    assert tables.fill(README, RESULTS) == README, "run: python -m benchmarks.tables"


def _a_line_of_each_command() -> Iterator[Any]:
    """That others of the same command can start is tested too (test_settings.py)."""
    seen: set[str] = set()
    for line in lines():
        if line.startswith(SIMULATIONS):
            command = line.split()[3]
            marks = [pytest.mark.slow] if command in seen else []
            yield pytest.param(line, marks=marks)
            seen.add(command)


@pytest.mark.parametrize("line", [*_a_line_of_each_command()])
def test_simulation_line_runs(line: str, tmp_path: Path, simulate: Command) -> None:
    """As it stands, but for one round and one seed, in one process, unsaved."""
    python, flag, module, *words = shlex.split(line)
    assert (python, flag, module) == ("python", "-m", "simulations")
    if words[0] == "report":
        page = tmp_path / "page.html"
        done = simulate(*words, "--out", str(page))
        assert done.returncode == 0, done.stderr
        assert page.exists()
        return
    words += ["--out", str(tmp_path), "--workers", "1", "--checkpoint-every", "0"]
    words[words.index("--rounds") + 1] = "1"
    words[words.index("--seeds") + 1] = "1"
    done = simulate(*words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").exists()


def test_every_line_is_covered() -> None:
    known = ("make", "pip", SIMULATIONS, BENCHMARKS)
    assert all(line.startswith(known) for line in lines())


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
