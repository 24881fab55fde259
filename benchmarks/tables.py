"""The tables of README.md and docs/, from results/*.json.

A table stands between ``<!-- results: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from .measure import Row
from .registry import SUITES

_ROOT = Path(__file__).parents[1]
PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
_SLOT = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write(results: Path, names: Collection[str] = SUITES) -> list[Path]:
    """Fill the slots of those suites on every page; return the pages that changed."""
    changed = []
    for page in PAGES:
        text = page.read_text()
        filled = fill(text, results, names)
        if filled != text:
            page.write_text(filled)
            changed.append(page)
    return changed


def fill(text: str, results: Path, names: Collection[str] = SUITES) -> str:
    """Return the page with its slots filled; one without results stays as it is."""

    def slot(match: re.Match[str]) -> str:
        if match[2] not in names:
            return match[0]
        suite = SUITES[match[2]]
        paths = suite.files(results)
        if not paths:
            return match[0]
        measured = [json.loads(path.read_text()) for path in paths]
        tables = [
            f"{suite.table(one['rows'])}\n{_machine(one, suite.cores)}\n"
            for one in measured
        ]
        return "\n".join((match[1] + tables[0], *tables[1:])) + match[3]

    return _SLOT.sub(slot, text)


def draw(results: Path) -> list[Path]:
    """Draw the figures of the docs anew; return their files."""
    drawn = []
    for name, suite in SUITES.items():
        path = results / f"{name}.json"
        if suite.figure is not None and path.exists():
            file = _ROOT / "docs" / "figures" / f"{name}.png"
            file.write_bytes(suite.figure(json.loads(path.read_text())["rows"]))
            drawn.append(file)
    return drawn


def _machine(result: Row, cores: str) -> str:
    machine = result["machine"]
    if "threads" in machine:
        cores = f"{machine['threads']} threads"
    device = machine.get("device", machine.get("gpu", ""))
    parts = [device if device != "cpu" else "", f"{machine['processor']}, {cores}"]
    parts += [
        f"{name} {machine[name]}"
        for name in ("driver", "python", "numpy", "zlib", "torch", "compiled")
        if name in machine
    ]
    about = ", ".join(part for part in parts if part)
    repeats = result["repeats"]
    runs = "One run" if repeats == 1 else f"Median of {repeats} runs"
    return f"{runs}. {about}."


if __name__ == "__main__":
    folder = Path(__file__).parent / "results"
    for path in write(folder) + draw(folder):
        print(path)
