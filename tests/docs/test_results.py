"""The results of full runs that come with the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.last_verdicts import last_verdicts
from simulations.records import WORDS
from simulations.report import read_result
from simulations.reproduction import load_reproduction

RESULTS = Path(__file__).parents[2] / "docs" / "results"
NAMES = sorted(path.parent.name for path in RESULTS.glob("*/summary.json"))
_MOST_BYTES = 300_000


def test_there_are_results() -> None:
    assert "overhead" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_results_are_of_the_experiment_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, experiment = read_result(RESULTS / name), load_reproduction(name)
    assert [*result.summary["algorithms"]] == [run.label for run in experiment.runs]
    assert {row.algorithm for row in result.records} == {*result.summary["algorithms"]}
    verdicts = {each["claim"]: each for each in result.summary["claims"]["verdicts"]}
    assert [*verdicts] == [claim.text for claim in experiment.claims]
    for claim in experiment.claims:
        assert verdicts[claim.text]["at_most"] == claim.at_most
        assert verdicts[claim.text]["at_least"] == claim.at_least
    assert (RESULTS / name / "rounds.csv").stat().st_size < _MOST_BYTES
    monkeypatch.chdir(tmp_path)  # Without runs of this checkout.
    words, _ = last_verdicts(name)
    assert words == {text: WORDS[each["holds"]] for text, each in verdicts.items()}


def test_the_page_has_a_row_for_each() -> None:
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        holding = load_holding(name)
        assert f"| [`{name}`]({name}/summary.json) | {holding} |" in text


def load_holding(name: str) -> str:
    verdicts = read_result(RESULTS / name).summary["claims"]["verdicts"]
    return f"{sum(each['holds'] is True for each in verdicts)} of {len(verdicts)}"
