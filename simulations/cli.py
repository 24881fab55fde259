"""``python -m simulations``: run and compare algorithms, reproduce experiments."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Final

import click
import typer
from rich.console import Console

from flower_compress.errors import ConfigurationError, FlowerCompressError
from flower_compress.strategies import ALGORITHMS, DECENTRALIZED

from .choices import Name, Names
from .experiment import Experiment
from .last_verdicts import last_verdicts
from .network import parse_network
from .options import (
    OUTPUT,
    PROBLEM,
    RUN,
    CheckpointEvery,
    ClientsPerNode,
    Engine,
    Gpus,
    Link,
    Resume,
    Seeds,
    Threads,
    Workers,
    given_options,
    with_options,
)
from .report import merge_reports, read_result
from .reproduction import Reproduction, load_reproduction, reproductions
from .settings import OPTIONS, Settings, several
from .tasks import TASKS

__all__ = ["main"]

_PROGRAM: Final = "python -m simulations"
_INTERRUPTED: Final = 130  # as of a process that SIGINT has ended

app = typer.Typer(
    help="Compressed federated learning, simulated on real data.",
    # Shells complete the names of programs, and this is one as .venv/bin/simulations.
    add_completion=Path(sys.argv[0]).name == "simulations",
    pretty_exceptions_enable=False,
)

_KNOWN: Final = (*ALGORITHMS, *DECENTRALIZED)
_NAMES: Final = ", ".join(_KNOWN)
_DEFAULT_ALGORITHMS: Final = "sgd,qsgd,diana,artemis,dore,mcm,rand-mcm"


@app.command()
@with_options
def run(
    *,
    given: dict[str, Any],
    algorithm: Annotated[
        str,
        typer.Option(
            help=f"One of: {_NAMES}.",
            click_type=Name("algorithm", _KNOWN),
            metavar="NAME",
            rich_help_panel=PROBLEM,
        ),
    ] = "mcm",
    seed: Annotated[
        int, typer.Option(help="Seed; fixes the whole run.", rich_help_panel=RUN)
    ] = 0,
    engine: Engine = "inprocess",
    gpus: Gpus = 0.0,
    clients_per_node: ClientsPerNode = 0,
    threads: Threads = 0,
    checkpoint_every: CheckpointEvery = 0,
    resume: Resume = False,
    link: Link = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the files; runs/ALGORITHM if not given.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Run one algorithm; write rounds.csv, summary.json, report.png, report.html."""
    _run(
        [Settings.of(algorithm, seed=seed, **given)],
        out or Path("runs") / algorithm,
        engine,
        gpus=gpus,
        clients_per_node=clients_per_node,
        threads=threads,
        link=link,
        checkpoint_every=checkpoint_every,
        resume=resume,
    )


@app.command()
@with_options
def compare(
    *,
    given: dict[str, Any],
    algorithms: Annotated[
        str,
        typer.Option(
            help=f"Names with commas between; of: {_NAMES}. Each takes the options "
            "below that it uses.",
            click_type=Names("algorithm", _KNOWN),
            metavar="NAMES",
            rich_help_panel=PROBLEM,
        ),
    ] = _DEFAULT_ALGORITHMS,
    seeds: Seeds = 1,
    engine: Engine = "inprocess",
    gpus: Gpus = 0.0,
    clients_per_node: ClientsPerNode = 0,
    threads: Threads = 0,
    workers: Workers = 0,
    checkpoint_every: CheckpointEvery = 0,
    resume: Resume = False,
    link: Link = "",
    cutoff: Annotated[
        float,
        typer.Option(
            help="Accuracy at which what each run has sent is compared; 0 for none.",
            min=0.0,
            max=1.0,
            rich_help_panel=OUTPUT,
        ),
    ] = 0.0,
    out: Annotated[
        Path, typer.Option(help="Folder for the files.", rich_help_panel=OUTPUT)
    ] = Path("runs/compare"),
) -> None:
    """Compare algorithms; write rounds.csv, summary.json, report.png, report.html."""
    runs = [
        {"algorithm": name, "seed": seed}
        for name in algorithms.split(",")
        for seed in range(seeds)
    ]
    _run(
        several(runs, given),
        out,
        engine,
        gpus=gpus,
        clients_per_node=clients_per_node,
        threads=threads,
        workers=workers,
        link=link,
        checkpoint_every=checkpoint_every,
        resume=resume,
        cutoff=(cutoff, {}) if cutoff else None,
    )


@app.command()
def reproduce(
    *,
    name: Annotated[
        str, typer.Argument(help="The experiment.", show_default=False)
    ] = "",
    listing: Annotated[
        bool,
        typer.Option(
            "--list",
            help="List the experiments, or NAME alone, with their sources, claims and "
            "last verdicts.",
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smaller version, for a first look.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(help="Number of rounds; 0 for the experiment's.", min=0)
    ] = 0,
    seeds: Annotated[
        int, typer.Option(help="Number of seeds; 0 for the experiment's.", min=0)
    ] = 0,
    task: Annotated[
        str | None,
        typer.Option(
            help="Another task than the experiment's, as mnist.",
            click_type=Name("task", TASKS),
        ),
    ] = None,
    data: Annotated[
        str, typer.Option(help=OPTIONS["data"].help, show_default=False)
    ] = "",
    device: Annotated[
        str,
        typer.Option(
            help="Where clients compute; the experiment's if not given.",
            show_default=False,
        ),
    ] = "",
    engine: Engine = "inprocess",
    gpus: Gpus = 0.0,
    clients_per_node: ClientsPerNode = 0,
    threads: Threads = 0,
    workers: Workers = 0,
    checkpoint_every: CheckpointEvery = 100,
    resume: Resume = False,
    link: Link = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the files; runs/NAME if not given.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Run an experiment of the papers, as compare does; without a NAME, list them."""
    if listing or not name:
        _list([load_reproduction(name)] if name else reproductions())
        return
    reproduction = load_reproduction(name, quick=quick)
    if reproduction.timed:
        given = (
            ("workers", workers),
            ("threads", threads),
            ("engine", engine),
            ("clients-per-node", clients_per_node),
        )
        for option, value in given:
            if value not in (0, 1, "inprocess"):
                raise ConfigurationError(
                    f"{name} measures time, in one process: leave {option} out"
                )
        workers = threads = 1
    jobs = reproduction.jobs(
        seeds=seeds, rounds=rounds, task=task or "", data=data, device=device
    )
    _run(
        jobs,
        out or Path("runs") / (f"{name}-quick" if quick else name),
        engine,
        gpus=gpus,
        clients_per_node=clients_per_node,
        threads=threads,
        workers=workers,
        link=link,
        checkpoint_every=checkpoint_every,
        resume=resume,
        about={"experiment": reproduction.title, "source": reproduction.source},
        cutoff=reproduction.cutoff,
        claims=reproduction.claims,
        paper=reproduction.paper,
        differs=(
            *reproduction.differs,
            *load_reproduction(name).changes(jobs),
        ),
    )


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of run, compare or reproduce, each with its summary.json.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page.", rich_help_panel=OUTPUT)] = Path(
        "runs/report.html"
    ),
) -> None:
    """Join results in one page, with time to a goal on a network that you describe."""
    if out.suffix not in (".html", ".htm"):
        raise ConfigurationError(f"expected a page, as --out runs/all.html, got {out}")
    path = merge_reports([(read_result(each), each) for each in folders], out)
    Console(soft_wrap=True, highlight=False).print(f"Report: {path.resolve()}")


def _list(experiments: Iterable[Reproduction]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for entry in experiments:
        console.print(f"[bold]{entry.name}[/]")
        console.print(f"  {entry.title}\n  {entry.source}", markup=False)
        verdicts, where = last_verdicts(entry.name)
        for claim in entry.claims:
            verdict = verdicts.get(claim.text, "not run here yet")
            console.print(f"  - {claim.text}: {verdict}", markup=False)
        if where is not None:
            if where.is_relative_to(Path.cwd()):
                where = where.relative_to(Path.cwd())
            console.print(f"  (verdicts of {where})", markup=False)


def _run(
    jobs: list[Settings],
    out: Path,
    engine: str,
    *,
    gpus: float,
    link: str,
    clients_per_node: int,
    workers: int = 1,
    threads: int = 0,
    **options: Any,
) -> None:
    inprocess = "inprocess"
    for name, only in (("workers", inprocess), ("threads", inprocess), ("gpus", "ray")):
        if given_options([name]) and engine != only:
            raise ConfigurationError(
                f"{name} goes with engine {only}, not with engine {engine}: leave it "
                "out"
            )
    network = parse_network(link) if link else None
    experiment = Experiment(jobs, out, link=network, **options)
    try:
        experiment.run(
            engine,
            workers=workers,
            threads=threads,
            gpus=gpus,
            clients_per_node=clients_per_node,
        )
    except KeyboardInterrupt:
        _say_how_to_go_on(experiment)
        raise typer.Exit(_INTERRUPTED) from None


def _say_how_to_go_on(experiment: Experiment) -> None:
    rounds = (experiment.out / "rounds.csv").resolve()
    lines = [f"Interrupted. The rounds up to here are in {rounds}."]
    if experiment.checkpointing.is_empty():
        lines.append("There is no checkpoint to go on from: see --checkpoint-every.")
    else:
        arguments = [each for each in sys.argv[1:] if each != "--resume"]
        lines.append(f"To go on: {_PROGRAM} {shlex.join(arguments)} --resume")
    _complain("\n".join(lines))


def _complain(text: str, title: str = "") -> None:
    console = Console(stderr=True, soft_wrap=True)
    if title:
        console.print(f"[bold red]{title}:[/]", end=" ")
    console.print(text, markup=False, highlight=False)


def main() -> None:
    """Run the command line; a known error is one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # Not every terminal has every sign.
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except FlowerCompressError as error:
        _complain(str(error), type(error).__name__)
        sys.exit(1)
    except click.Abort:  # Ctrl-C before anything has begun
        sys.exit(_INTERRUPTED)
    except click.ClickException as error:
        _complain(f"{error.format_message()} See --help.", "UsageError")
        sys.exit(error.exit_code)
    sys.exit(code)
