"""``python -m benchmarks``: measure, write results/*.json and the tables of the docs.

Every suite is written when it is done, so a run can be stopped and gone on with. What
got slower than the committed results is printed (:mod:`benchmarks.compare`).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from flower_compress import compiled

from . import tables
from .compare import committed, slower
from .measure import Row
from .registry import SUITES
from .suite import Case, Settings, Suite

RESULTS = Path(__file__).parent / "results"

_DEFAULT = Settings()


def main(
    only: Annotated[
        str, typer.Option(help="Suites to run, with commas between; default all.")
    ] = ",".join(SUITES),
    dims: Annotated[
        str, typer.Option(help="Lengths of the long vectors, with commas between.")
    ] = ",".join(map(str, _DEFAULT.dims)),
    repeats: Annotated[
        int, typer.Option(help="Runs of which the median is taken.")
    ] = _DEFAULT.repeats,
    device: Annotated[
        str, typer.Option(help="Of the suite 'device': cuda, cuda:1, cpu.")
    ] = _DEFAULT.device,
    out: Annotated[Path, typer.Option(help="Folder for the JSON files.")] = RESULTS,
) -> None:
    """Measure speed and code length, and write them down."""
    # The tables are NumPy's path but for one suite, which turns the other on.
    compiled.switch(on=False)
    lengths = tuple(int(dim) for dim in dims.split(","))
    settings = Settings(lengths, repeats, device)
    is_gpu = device.startswith("cuda") or not device
    if "device" in only.split(",") and out == RESULTS and not is_gpu:
        raise typer.BadParameter(
            f"the table of the docs is a GPU's, got --device {device}: name another "
            "folder with --out"
        )
    suites, shown = [], []
    for name in only.split(","):
        if name not in SUITES:
            raise typer.BadParameter(f"{name!r}: expected some of {', '.join(SUITES)}")
        lacking = SUITES[name].lacks(settings)
        if lacking is None:
            suites.append(SUITES[name])
        else:
            typer.echo(f"no {lacking}: the suite {name!r} is left out")
    out.mkdir(parents=True, exist_ok=True)
    # Refreshed between measurements: a thread that does it waits for the interpreter's
    # lock, and each time NumPy gives that up and takes it back costs microseconds then.
    with Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        auto_refresh=False,
    ) as progress:
        for suite in suites:
            cases = list(suite.cases(settings))
            machine = suite.machine(settings)
            path = out / suite.file(machine)
            before = committed(RESULTS / path.name, machine)
            task = progress.add_task(suite.name, total=len(cases))
            progress.refresh()
            measured: list[list[Row]] = []
            for case in cases:
                measured.append(suite.measure(settings, *case))
                progress.update(task, advance=1, refresh=True)
            rows = [row for case in measured for row in case]
            result = {
                "machine": machine,
                "repeats": repeats if suite.repeated else 1,
                "rows": rows,
            }
            path.write_text(json.dumps(result, indent=1) + "\n")
            progress.console.print(f"{suite.name}: {path}")
            if "device" in machine:
                shown.append(suite.table(rows))
            if before is not None and (suite.repeated or suite.is_median):
                again = partial(_again, suite, settings, cases)
                for each in slower(before, measured, again):
                    progress.console.print(f"slower: {suite.name}: {each}")
    for table in shown:
        typer.echo(f"\n{table}")
    if out == RESULTS:
        for path in tables.write(RESULTS, [suite.name for suite in suites]):
            typer.echo(f"tables: {path}")
        if any(suite.figure is not None for suite in suites):
            for path in tables.draw(RESULTS):
                typer.echo(f"figure: {path}")


def _again(
    suite: Suite, settings: Settings, cases: list[Case], place: int
) -> list[Row]:
    return suite.measure(settings, *cases[place])


if __name__ == "__main__":
    typer.run(main)
