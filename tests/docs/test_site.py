"""What the site is made of beside its pages; `make docs` builds it."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import runpy
from pathlib import Path

import pytest

from simulations.records import judge, summarise
from simulations.reproduction import reproductions
from tests.cases import in_one_test
from tests.packaging.test_public_names import PUBLIC
from tests.simulations.rows import record

ROOT = Path(__file__).parents[2]
HOOKS = {
    name: runpy.run_path(str(ROOT / "docs" / "hooks" / f"{name}.py"))
    for name in ("pages", "experiments")
}
# Those of modules of torch run with the tests of these.
EXAMPLES = [
    path.relative_to(ROOT)
    for folder in ("flower_compress", "strategies", "clients")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in path.read_text() and "torch" not in path.name
]
relink = HOOKS["pages"]["relink"]


def test_every_public_module_is_in_the_reference() -> None:
    pages = [path.read_text() for path in (ROOT / "docs" / "api").glob("*.md")]
    shown = re.findall(r"^::: ([\w.]+)$", "\n".join(pages), re.MULTILINE)
    assert sorted(shown) == sorted(PUBLIC)
    listed = re.findall(r"^\| \[.*\) \| `([\w.]+)` \|$", "\n".join(pages), re.M)
    assert sorted(listed) == sorted(PUBLIC)


def test_links_lead_to_pages_or_into_the_repository() -> None:
    text = "[a](protocol.md#x) [b](../CONTRIBUTING.md) ![c](figures/parity.png) [d](#e)"
    assert relink(text, "docs/faq.md", None) == text.replace(
        "../CONTRIBUTING.md", "contributing.md"
    )
    assert relink("[i](../faq.md)", "docs/api/index.md", None) == "[i](../faq.md)"
    assert relink("[w](docs/wire-format.md)", "CHANGELOG.md", None) == (
        "[w](wire-format.md)"
    )
    away = "[pytorch](../examples/pytorch) in ![p](../docs/figures/parity.png)"
    assert relink(away, "docs/faq.md", "https://a.b/c") == (
        "[pytorch](https://a.b/c/blob/main/examples/pytorch) in "
        "![p](figures/parity.png)"
    )
    assert relink("[pytorch](../examples/pytorch)", "docs/faq.md", None) == "pytorch"
    block = "```\n[a](nowhere.md)\n```\n"
    assert relink(block, "docs/faq.md", None) == block
    with pytest.raises(FileNotFoundError, match=r"docs/faq.md links to nowhere.md"):
        relink("[a](nowhere.md)", "docs/faq.md", None)


def test_experiments_are_shown_with_what_came_of_them(tmp_path: Path) -> None:
    section = HOOKS["experiments"]["section"]
    entry = next(each for each in reproductions() if each.name == "ghost")
    before = section(entry, tmp_path)
    for claim in entry.claims:
        assert claim.text in before
    assert entry.source in before and "verdict" not in before
    rows = [
        record(run.label, 0, number, excess=0.1**number)
        for run in entry.runs
        for number in range(3)
    ]
    summary = summarise(rows, {}, {}) | {"claims": judge(entry.claims, rows)}
    folder = tmp_path / entry.name
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary))
    after = section(entry, tmp_path)
    assert after.count("| holds |") == len(entry.claims)


@in_one_test("path", EXAMPLES, ids=lambda path: path.as_posix())
def test_examples_of_the_reference_run(path: Path) -> None:
    folder = "" if path.parts[0] == "flower_compress" else "flower_compress."
    module = importlib.import_module(folder + ".".join(path.with_suffix("").parts))
    failed, attempted = doctest.testmod(module)
    assert attempted > 0 == failed
