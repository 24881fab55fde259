"""The experiments of the papers, from their files and the results that came of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simulations.records import judge
from simulations.report.tables import TextTable, claim_table, tables_of
from simulations.reproduction import Reproduction, reproductions

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

RESULTS = Path(__file__).parents[1] / "results"
"""Of full runs, a folder with a summary.json for each experiment."""
_HERE = "<!-- experiments:"
_UNKNOWN_BEFORE_A_RUN = ("verdict", "here", "in seeds")


def section(experiment: Reproduction, results: Path) -> str:
    """Return what the page says of an experiment."""
    seeds = f"{experiment.seeds} seed{'s' if experiment.seeds > 1 else ''}"
    parts = [
        f"## {experiment.name}",
        f"{experiment.title}. {experiment.source}; {seeds}.",
    ]
    if experiment.differs:
        parts.append(f"Not as in the source: {'; '.join(experiment.differs)}.")
    parts.append(f"```sh\npython -m simulations reproduce {experiment.name}\n```")
    runs = ", ".join(f"`{run.label}`" for run in experiment.runs)
    parts.append(f"Runs: {runs}.")
    parts.extend(_markdown(table) for table in _tables(experiment, results))
    return "\n\n".join(parts)


def _tables(experiment: Reproduction, results: Path) -> Sequence[TextTable]:
    path = results / experiment.name / "summary.json"
    if path.exists():
        return tables_of(json.loads(path.read_text(encoding="utf-8")))
    table = claim_table(judge(experiment.claims, ()))
    kept = [i for i, c in enumerate(table.columns) if c not in _UNKNOWN_BEFORE_A_RUN]
    return [
        TextTable(
            "Claims of the source, whose full run is not among the results yet",
            [table.columns[i] for i in kept],
            [[row[i] for i in kept] for row in table.rows],
        )
    ]


def _markdown(table: TextTable) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    lines = (
        "| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in rows
    )
    return f"{table.title}:\n\n" + "\n".join(lines)


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Put the experiments where the page has its mark."""
    before, mark, after = markdown.partition(_HERE)
    if not mark:
        return markdown
    after = after.partition("-->")[2]
    sections = [section(experiment, RESULTS) for experiment in reproductions()]
    return before + "\n\n".join(sections) + after
