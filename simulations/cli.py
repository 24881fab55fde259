"""``python -m simulations``: run and compare algorithms, reproduce experiments."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console

from flower_compress.errors import FlowerCompressError
from flower_compress.strategies import ALGORITHMS, DECENTRALIZED
from flower_compress.strategies.server.sampling import Sampling
from flower_compress.strategies.server.uplink import UplinkMemory
from flower_compress.strategies.topology import TOPOLOGIES

from .engines import ENGINES
from .experiment import Experiment
from .network import parse_network
from .reproduction import load_reproduction, reproductions
from .settings import CLIENTS, QUANTIZERS, Settings
from .tasks import FILED, MODELS, SCHEMES, TASKS

__all__ = ["main"]

app = typer.Typer(
    help="Compressed federated learning, simulated on real data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_NAMES = ", ".join([*ALGORITHMS, *DECENTRALIZED])
_DEFAULT_ALGORITHMS = "sgd,qsgd,diana,artemis,dore,mcm,rand-mcm"
_DATA = f"Folder with the files of {' or '.join(FILED)}; nothing is downloaded."
_HELP = {
    "task": f"One of: {', '.join(TASKS)}.",
    "model": f"With a task of images, one of: {', '.join(MODELS)}.",
    "partition": f"One of: {', '.join(SCHEMES)}.",
    "clients": "Number of clients N.",
    "alpha": "Concentration of the dirichlet partition.",
    "data": _DATA,
    "rounds": "Number of rounds.",
    "batch_size": "Examples a gradient; 0 for all of them.",
    "levels": "Levels of the quantizer; 0 for 1, and 8 in a decentralized run.",
    "sparsity": "Share k/d that the sparsifiers keep (spars-ams, topk, stoc-mv, "
    "stoc-unif, qadam).",
    "bucket_size": "Entries that share a norm; 0 for the whole vector.",
    "step_size": 'gamma; "auto" is 1/L with gradient clients, 1 with local steps, '
    "0.001 with Adam's steps.",
    "client": f"One of: {', '.join(CLIENTS)}.",
    "local_steps": "Steps of a local-steps client.",
    "local_step_size": "Their size.",
    "fraction": "Share of the clients that is drawn each round.",
    "sampling": f"One of: {', '.join(get_args(Sampling))} (each client on its own).",
    "uplink_memory": "What the server keeps of the uplinks' memories; one of: "
    f"{', '.join(get_args(UplinkMemory))}.",
    "downlink_memory": "each, or average: one for all clients (rand-mcm).",
    "reset_every": "Rounds between resets of that average: auto (4 sqrt(d)), never or "
    "a number.",
    "initial_memory": "zero, or first: h_0 = g_1, sent dense and billed.",
    "topology": f"Decentralized: who talks to whom; one of: {', '.join(TOPOLOGIES)}.",
    "consensus_step": "Decentralized: gamma of the averaging.",
    "l1": 'Decentralized: mu of malcom and cdprox-sgt; "auto" is the paper\'s.',
    "quantizer": f"Decentralized, one of: {', '.join(QUANTIZERS)} (levels between the "
    "least and the greatest entry; of the largest magnitude).",
    "tau": "Decentralized: how the range quantizer is scaled down; exact, lemma, none.",
    "code": "Decentralized: code of the symbols; auto is the algorithm's own.",
    "residual": "Decentralized: whether differences to estimates are sent.",
    "rate": "Decentralized: of the estimates; 0 for the operator's default.",
    "device": "Where clients compute, as torch names it: cpu, cuda.",
    "log_every": "Rounds between evaluations; 0 for a thousand a run.",
}
_Engine = Annotated[str, typer.Option(help=f"One of: {', '.join(ENGINES)}.")]
_Link = Annotated[
    str,
    typer.Option(
        help="Network for estimated times: up and down rate of a client, latency; "
        "for example 10/50mbit,40ms."
    ),
]
_Workers = Annotated[
    int, typer.Option(help="Processes of the inprocess engine; 0 for one a core.")
]
_Gpus = Annotated[
    float,
    typer.Option(
        help="GPUs that a client of the ray engine takes, a fraction to share one; "
        "with --device cuda."
    ),
]
_CheckpointEvery = Annotated[
    int, typer.Option(help="Rounds between checkpoints, kept in --out; 0 for none.")
]
_Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoints in --out.")
]


def _with_settings(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each of the Settings that runs share."""
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[type(field.default), typer.Option(help=help_text)],
        )
        for field in fields(Settings)
        if (help_text := _HELP.get(field.name)) is not None
    ]
    own = inspect.signature(function, eval_str=True).parameters

    @wraps(function)
    def command(**values: Any) -> None:
        shared = {name: values.pop(name) for name in _HELP}
        function(shared=shared, **values)

    # typer reads a command's options off its signature.
    signature = inspect.Signature(
        [
            *(own[name] for name in own if name != "shared"),
            *parameters,
        ]
    )
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {
        name: parameter.annotation for name, parameter in signature.parameters.items()
    }
    return command


@app.command()
@_with_settings
def run(
    *,
    shared: dict[str, Any],
    algorithm: Annotated[str, typer.Option(help=f"One of: {_NAMES}.")] = "mcm",
    seed: Annotated[int, typer.Option(help="Seed; fixes the whole run.")] = 0,
    engine: _Engine = "inprocess",
    gpus: _Gpus = 0.0,
    link: _Link = "",
    checkpoint_every: _CheckpointEvery = 0,
    resume: _Resume = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the files; runs/ALGORITHM if not given."),
    ] = None,
) -> None:
    """Run one algorithm; write rounds.csv, summary.json, report.png, report.html."""
    experiment = Experiment(
        [Settings(algorithm=algorithm, seed=seed, **shared)],
        out or Path("runs") / algorithm,
        link=parse_network(link) if link else None,
        checkpoint_every=checkpoint_every,
        resume=resume,
    )
    _run(experiment, engine, gpus)


@app.command()
@_with_settings
def compare(
    *,
    shared: dict[str, Any],
    algorithms: Annotated[
        str, typer.Option(help=f"Names with commas between; of: {_NAMES}.")
    ] = _DEFAULT_ALGORITHMS,
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0.", min=1)] = 1,
    engine: _Engine = "inprocess",
    gpus: _Gpus = 0.0,
    workers: _Workers = 0,
    link: _Link = "",
    checkpoint_every: _CheckpointEvery = 0,
    resume: _Resume = False,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(
        "runs/compare"
    ),
) -> None:
    """Compare algorithms; write rounds.csv, summary.json, report.png, report.html."""
    names = dict.fromkeys(name.strip() for name in algorithms.split(","))
    jobs = [
        Settings(algorithm=name, seed=seed, **shared)
        for name in names
        for seed in range(seeds)
    ]
    experiment = Experiment(
        jobs,
        out,
        link=parse_network(link) if link else None,
        checkpoint_every=checkpoint_every,
        resume=resume,
    )
    _run(experiment, engine, gpus, workers)


@app.command()
def reproduce(
    *,
    name: Annotated[str, typer.Argument(help="The experiment.")] = "",
    listing: Annotated[
        bool, typer.Option("--list", help="List the experiments and their sources.")
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
        str, typer.Option(help="Another task than the experiment's, as mnist.")
    ] = "",
    data: Annotated[str, typer.Option(help=_DATA)] = "",
    device: Annotated[
        str, typer.Option(help="Where clients compute; the experiment's if not given.")
    ] = "",
    engine: _Engine = "inprocess",
    gpus: _Gpus = 0.0,
    workers: _Workers = 0,
    link: _Link = "",
    checkpoint_every: _CheckpointEvery = 100,
    resume: _Resume = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; runs/NAME if not given.")
    ] = None,
) -> None:
    """Run an experiment of the papers, as compare does; without a NAME, list them."""
    if listing or not name:
        _list_reproductions()
        return
    reproduction = load_reproduction(name, quick=quick)
    experiment = Experiment(
        reproduction.jobs(
            seeds=seeds, rounds=rounds, task=task, data=data, device=device
        ),
        out or Path("runs") / (f"{name}-quick" if quick else name),
        link=parse_network(link) if link else None,
        checkpoint_every=checkpoint_every,
        resume=resume,
        about={"experiment": reproduction.title, "source": reproduction.source},
        cutoff=reproduction.cutoff,
    )
    _run(experiment, engine, gpus, workers)


def _list_reproductions() -> None:
    console = Console(soft_wrap=True, highlight=False)
    for entry in reproductions():
        console.print(f"[bold]{entry.name}[/]")
        console.print(f"  {entry.title}\n  {entry.source}", markup=False)


def _run(experiment: Experiment, engine: str, gpus: float, workers: int = 1) -> None:
    path = experiment.run(engine, workers=workers, gpus=gpus)
    experiment.console.print(f"Report: {path.resolve()}", soft_wrap=True)


def main() -> None:
    """Run the command line; a known error is one line, not a traceback."""
    try:
        app()
    except FlowerCompressError as error:
        console = Console(stderr=True, soft_wrap=True)
        console.print(f"[bold red]{type(error).__name__}:[/]", end=" ")
        console.print(str(error), markup=False, highlight=False)
        sys.exit(1)
