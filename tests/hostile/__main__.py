"""``make hostile``: attacks and departures, what came of them, and what they cost."""

from __future__ import annotations

import argparse
import sys

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .cases import Case, Outcome, cases


def _tried(case: Case) -> Outcome:
    try:
        return case.run()
    except Exception as error:  # noqa: BLE001 - a row of the table
        return Outcome(f"{type(error).__name__}: {error}"[:120], "", holds=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="the short form")
    parser.add_argument("--markdown", action="store_true", help="a table for the docs")
    arguments = parser.parse_args()
    chosen = [
        case
        for case in cases()
        if arguments.only.lower() in f"{case.group} {case.name}".lower()
        and (case.quick or not arguments.quick)
    ]
    console, failed = Console(), 0
    table = Table("", "tried", "what happened", "cost", "", title="A hostile fleet")
    if arguments.markdown:
        table.title, table.box = None, box.MARKDOWN
        console = Console(width=500)
    for case in track(chosen, "trying", console=Console(stderr=True)):
        outcome = _tried(case)
        holds = outcome.holds and outcome.affordable
        failed += not holds
        verdict = "holds" if holds else "[red]FAILS[/red]"
        table.add_row(case.group, case.name, outcome.happened, outcome.cost, verdict)
    console.print(table)
    sys.exit(f"{failed} of {len(chosen)} do not hold" if failed else 0)


if __name__ == "__main__":
    main()
