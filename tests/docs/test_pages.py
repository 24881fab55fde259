"""Every Python block of docs/ runs, and the tables are those of the results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.__main__ import RESULTS
from flower_compress.coding import CODE_NAMES
from flower_compress.compressors import COMPRESSORS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("api/*.md")])
EVERY = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(DOCS).with_suffix("").as_posix()
)


def test_there_are_pages() -> None:
    assert {page.stem for page in PAGES} >= {"compression", "wire-format"}


@EVERY
def test_python_blocks_run(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S):
        exec(compile(block, page.name, "exec"), {"__name__": page.stem})  # noqa: S102


@EVERY
def test_tables_are_the_results(page: Path) -> None:
    text = page.read_text()
    assert tables.fill(text, RESULTS) == text, "run: python -m benchmarks.tables"


@EVERY
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    named = re.findall(r"`([\w.-]+/[\w./-]*)`", (ROOT / page).read_text())
    assert len(named) > 20
    for path in named:
        assert (ROOT / path).exists(), path


def test_every_operator_and_code_is_described() -> None:
    text = (DOCS / "compression.md").read_text()
    for cls in COMPRESSORS.values():
        assert f"`{cls.__name__}" in text
        assert f"`{cls.__name__}`" in (ROOT / "README.md").read_text()
    for name in CODE_NAMES:
        assert f"`{name}`" in text


def test_wire_format_lists_every_id() -> None:
    text = (DOCS / "wire-format.md").read_text()
    for cls in COMPRESSORS.values():
        assert re.search(rf"^\| {cls.wire_id} \| `{cls.name}` \|", text, re.M), cls.name
    for name in CODE_NAMES[1:]:
        assert re.search(rf"^\| \d+ \| `{name}` \|", text, re.M), name
