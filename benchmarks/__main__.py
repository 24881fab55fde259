"""``python -m benchmarks``: measure, write results/*.json and the tables of the docs.

Every suite is written when it is done, so a run can be stopped and gone on with.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from . import (
    baselines,
    device,
    lengths,
    operators,
    optimizer,
    server_memory,
    tables,
    throughput,
)
from .measure import Row, machine
from .vectors import DIMS

RESULTS = Path(__file__).parent / "results"
Advance = Callable[[], None]

_DIMS = ",".join(map(str, DIMS))
_SUITES = "small,throughput,lengths,baselines,operators,optimizer,server-memory,device"


def suites(
    dims: list[int], repeats: int
) -> dict[str, tuple[int, Callable[[Advance], list[Row]]]]:
    """Name of each suite: how many steps it takes, and the suite."""

    def each(
        measure: Callable[[int, Advance], list[Row]], advance: Advance
    ) -> list[Row]:
        parts = [measure(dim, advance) for dim in dims]
        return [row for part in parts for row in part]

    def speed(dim: int, advance: Advance) -> list[Row]:
        return throughput.throughput(dim, repeats, advance)

    def others(dim: int, advance: Advance) -> list[Row]:
        return baselines.baselines(dim, repeats, advance)

    return {
        "small": (
            len(throughput.OPERATORS),
            partial(throughput.small, 124, 7 * repeats),
        ),
        "throughput": (len(dims) * throughput.num_pairs(), partial(each, speed)),
        "lengths": (len(dims) * lengths.num_rows(), partial(each, lengths.lengths)),
        "baselines": (2 * len(dims), partial(each, others)),
        "operators": (operators.num_rows(), partial(operators.operators, repeats)),
        "optimizer": (
            len(optimizer.FRACTIONS),
            partial(optimizer.optimizer, repeats),
        ),
        "server-memory": (len(server_memory.ROWS), server_memory.server_memory),
        "device": (len(device.OPERATORS), partial(device.device, repeats)),
    }


def main(
    only: Annotated[
        str, typer.Option(help="Suites to run, with commas between; default all.")
    ] = _SUITES,
    dims: Annotated[
        str, typer.Option(help="Lengths of the long vectors, with commas between.")
    ] = _DIMS,
    repeats: Annotated[
        int, typer.Option(help="Runs of which the median is taken.")
    ] = 7,
    out: Annotated[Path, typer.Option(help="Folder for the JSON files.")] = RESULTS,
) -> None:
    """Measure speed and code length, and write them down."""
    chosen = suites([int(dim) for dim in dims.split(",")], repeats)
    names = only.split(",")
    for name in names:
        if name not in chosen:
            raise typer.BadParameter(f"{name!r}: expected some of {', '.join(chosen)}")
    for name, needed, available in (
        ("device", "CUDA device", device.available()),
        ("server-memory", "/proc/self/status", server_memory.available()),
    ):
        if name in names and not available:
            typer.echo(f"no {needed}: the suite {name!r} is left out")
            names.remove(name)
    out.mkdir(parents=True, exist_ok=True)
    # Refreshed between measurements: a thread that does it waits for the interpreter's
    # lock, and each time NumPy gives that up and takes it back costs microseconds then.
    with Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        auto_refresh=False,
    ) as progress:
        for name in names:
            steps, measure = chosen[name]
            task = progress.add_task(name, total=steps)
            progress.refresh()
            rows = measure(partial(progress.update, task, advance=1, refresh=True))
            once = name == "server-memory"
            result = {
                "machine": machine(),
                "repeats": 1 if once else repeats,
                "rows": rows,
            }
            path = out / f"{name}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")
            progress.console.print(f"{name}: {path}")
    if out == RESULTS:
        for path in tables.write(RESULTS):
            typer.echo(f"tables: {path}")


if __name__ == "__main__":
    typer.run(main)
