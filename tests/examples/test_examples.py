"""Five lines make an app of Flower's own shape compressed, and as good as before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.apps import EXAMPLES, PACKAGES, changes, run

DOCS = (EXAMPLES.parent / "docs" / "choosing.md").read_text()
every_example = pytest.mark.parametrize("example", PACKAGES)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apps leave their models in the working directory."""
    monkeypatch.chdir(tmp_path)


def files(example: str, variant: str) -> set[str]:
    folder = EXAMPLES / example / variant
    found = (path.relative_to(folder) for path in folder.rglob("*"))
    return {str(path) for path in found if path.suffix in (".py", ".toml")}


@every_example
def test_five_lines_are_the_difference(example: str) -> None:
    assert files(example, "plain") == files(example, "compressed")
    lines = sum(changes(example).values(), [])
    assert len([line for line in lines if line.startswith("+")]) <= 5


@every_example
def test_the_docs_show_the_difference(example: str) -> None:
    section = DOCS[DOCS.index(f"(../examples/{example}") :]
    (block, *_) = re.findall(r"^```diff\n(.*?)^```$", section, re.M | re.S)
    shown = [line for line in block.splitlines() if line and line[0] in "+-"]
    assert shown == sum(changes(example).values(), [])


@pytest.mark.parametrize(
    ("example", "rounds"), [("pytorch", 3), ("sklearn", 12), ("own-strategy", 8)]
)
def test_a_few_rounds_are_as_good(example: str, rounds: int) -> None:
    config = {"num-server-rounds": rounds}
    plain, compressed = (run(example, v, **config) for v in ("plain", "compressed"))
    assert len(plain.accuracies) == len(compressed.accuracies) == rounds
    assert compressed.accuracies[-1] > plain.accuracies[-1] - 0.03
    assert compressed.num_bytes < plain.num_bytes / 4


@pytest.mark.slow
@every_example
def test_a_run_is_within_a_point_at_a_tenth_of_the_bytes(example: str) -> None:
    plain, compressed = (run(example, v) for v in ("plain", "compressed"))
    assert compressed.accuracies[-1] > plain.accuracies[-1] - 0.01
    assert compressed.num_bytes < plain.num_bytes / 10
