"""``python -m simulations``: run and compare algorithms."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flower_compress.errors import FlowerCompressError
from flower_compress.strategies import ALGORITHMS

from .engines import ENGINES
from .experiment import run_experiment
from .network import parse_network
from .partition import SCHEMES
from .settings import CLIENTS, Settings
from .tasks import MODELS, TASKS

__all__ = ["main"]

app = typer.Typer(
    help="Compressed federated learning, simulated on real data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_NAMES = ", ".join(ALGORITHMS)
Task = Annotated[str, typer.Option(help=f"One of: {', '.join(TASKS)}.")]
Model = Annotated[
    str, typer.Option(help=f"With task digits, one of: {', '.join(MODELS)}.")
]
Partition = Annotated[str, typer.Option(help=f"One of: {', '.join(SCHEMES)}.")]
Clients = Annotated[int, typer.Option(help="Number of clients N.")]
Alpha = Annotated[float, typer.Option(help="Concentration of the dirichlet partition.")]
Rounds = Annotated[int, typer.Option(help="Number of rounds.")]
BatchSize = Annotated[int, typer.Option(help="Examples a gradient; 0 for all.")]
Levels = Annotated[int, typer.Option(help="Levels s of the stochastic quantizer.")]
BucketSize = Annotated[
    int, typer.Option(help="Entries that share a norm; 0 for the whole vector.")
]
StepSize = Annotated[
    str,
    typer.Option(help='gamma; "auto" is 1/L (gradient clients) or 1 (local steps).'),
]
Client = Annotated[str, typer.Option(help=f"One of: {', '.join(CLIENTS)}.")]
LocalSteps = Annotated[int, typer.Option(help="Steps of a local-steps client.")]
LocalStepSize = Annotated[float, typer.Option(help="Their step size.")]
Fraction = Annotated[float, typer.Option(help="Share of the clients in each round.")]
InitialMemory = Annotated[
    str, typer.Option(help="zero, or first: h_0 = g_1, sent dense and billed.")
]
LogEvery = Annotated[
    int, typer.Option(help="Rounds between evaluations; 0 for 1000 a run.")
]
Engine = Annotated[str, typer.Option(help=f"One of: {', '.join(ENGINES)}.")]
Link = Annotated[
    str,
    typer.Option(
        help="Network for estimated times: up/down rate of a client and latency, "
        "for example 10/50mbit,40ms."
    ),
]
Workers = Annotated[
    int, typer.Option(help="Processes of the inprocess engine; 0 for one a core.")
]


class _Default(StrEnum):
    ALGORITHMS = "sgd,qsgd,diana,artemis,dore,mcm,rand-mcm"


@app.command()
def run(
    algorithm: Annotated[str, typer.Option(help=f"One of: {_NAMES}.")] = "mcm",
    task: Task = "parity",
    model: Model = "softmax",
    partition: Partition = "label",
    clients: Clients = 20,
    alpha: Alpha = 0.5,
    rounds: Rounds = 400,
    batch_size: BatchSize = 20,
    levels: Levels = 1,
    bucket_size: BucketSize = 0,
    step_size: StepSize = "auto",
    client: Client = "gradient",
    local_steps: LocalSteps = 5,
    local_step_size: LocalStepSize = 0.1,
    fraction: Fraction = 1.0,
    initial_memory: InitialMemory = "zero",
    log_every: LogEvery = 0,
    seed: Annotated[int, typer.Option(help="Seed; fixes the whole run.")] = 0,
    engine: Engine = "inprocess",
    link: Link = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files [runs/ALGORITHM].")
    ] = None,
) -> None:
    """Run one algorithm; write rounds.csv, summary.json, report.png and report.html."""
    settings = Settings(
        algorithm=algorithm,
        task=task,
        model=model,
        partition=partition,
        clients=clients,
        alpha=alpha,
        rounds=rounds,
        batch_size=batch_size,
        levels=levels,
        bucket_size=bucket_size,
        step_size=step_size,
        seed=seed,
        client=client,
        local_steps=local_steps,
        local_step_size=local_step_size,
        fraction=fraction,
        initial_memory=initial_memory,
        log_every=log_every,
    )
    _run([settings], out or Path("runs") / algorithm, engine, link, workers=1)


@app.command()
def compare(
    algorithms: Annotated[
        str, typer.Option(help=f"Names with commas between; of: {_NAMES}.")
    ] = _Default.ALGORITHMS.value,
    task: Task = "parity",
    model: Model = "softmax",
    partition: Partition = "label",
    clients: Clients = 20,
    alpha: Alpha = 0.5,
    rounds: Rounds = 400,
    batch_size: BatchSize = 20,
    levels: Levels = 1,
    bucket_size: BucketSize = 0,
    step_size: StepSize = "auto",
    client: Client = "gradient",
    local_steps: LocalSteps = 5,
    local_step_size: LocalStepSize = 0.1,
    fraction: Fraction = 1.0,
    initial_memory: InitialMemory = "zero",
    log_every: LogEvery = 0,
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0.", min=1)] = 1,
    engine: Engine = "inprocess",
    workers: Workers = 0,
    link: Link = "",
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(
        "runs/compare"
    ),
) -> None:
    """Compare algorithms; write rounds.csv, summary.json, report.png, report.html."""
    names = list(dict.fromkeys(name.strip() for name in algorithms.split(",")))
    first = Settings(
        algorithm=names[0],
        task=task,
        model=model,
        partition=partition,
        clients=clients,
        alpha=alpha,
        rounds=rounds,
        batch_size=batch_size,
        levels=levels,
        bucket_size=bucket_size,
        step_size=step_size,
        client=client,
        local_steps=local_steps,
        local_step_size=local_step_size,
        fraction=fraction,
        initial_memory=initial_memory,
        log_every=log_every,
    )
    jobs = [
        replace(first, algorithm=name, seed=seed)
        for name in names
        for seed in range(seeds)
    ]
    _run(jobs, out, engine, link, workers)


def _run(
    jobs: list[Settings], out: Path, engine: str, link: str, workers: int
) -> None:
    network = parse_network(link) if link else None
    for job in jobs:
        job.strategy()  # Whatever is wrong with the settings shows before any work.
    console = Console()
    path = run_experiment(
        jobs, out, engine=engine, link=network, workers=workers, console=console
    )
    console.print(f"Report: {path.resolve()}", soft_wrap=True)


def main() -> None:
    """Run the command line; a known error is one line, not a traceback."""
    try:
        app()
    except FlowerCompressError as error:
        Console(stderr=True).print(
            f"[bold red]Error:[/] {type(error).__name__}: ", end="", soft_wrap=True
        )
        Console(stderr=True).print(str(error), markup=False, soft_wrap=True)
        sys.exit(1)
