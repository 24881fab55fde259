"""Options that commands have in common, those of a run made of its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Annotated, Any, Final

import click
import typer
from click.core import ParameterSource

from .choices import Name
from .engines import ENGINES
from .settings import OPTIONS, Option, dashed

__all__ = [
    "CheckpointEvery",
    "ClientsPerNode",
    "Engine",
    "given_options",
    "Gpus",
    "Link",
    "OUTPUT",
    "PROBLEM",
    "Resume",
    "RUN",
    "Seeds",
    "Threads",
    "with_options",
    "Workers",
]

PANELS: Final = ("Problem", "Clients", "Compression", "Decentralized", "Run", "Output")
PROBLEM, *_, RUN, OUTPUT = PANELS
_CHOICES_WIDTH: Final = 24

Engine = Annotated[
    str,
    typer.Option(
        help="In this process and its workers, or on Flower's Ray engine.",
        click_type=Name("engine", ENGINES),
        rich_help_panel=RUN,
    ),
]
Link = Annotated[
    str,
    typer.Option(
        help="Network for estimated times: up and down rate of a client, latency; "
        "for example 10/50mbit,40ms.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        help="Processes of the inprocess engine; 0 for one a core.",
        min=0,
        rich_help_panel=RUN,
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        help="Clients of the inprocess engine that compute at a time; 0 for one a core "
        "where clients train networks and that is faster. Models stay the same bytes.",
        min=0,
        rich_help_panel=RUN,
    ),
]
Gpus = Annotated[
    float,
    typer.Option(
        help="GPUs that a client of the ray engine takes, a fraction to share one; "
        "0 for none, and with --device cuda for what the first client takes.",
        rich_help_panel=RUN,
    ),
]
ClientsPerNode = Annotated[
    int,
    typer.Option(
        help="Clients that share a node of Flower, and its messages; 0 for 1, and on "
        "the ray engine for as many as leave no actor without a node.",
        min=0,
        rich_help_panel=RUN,
    ),
]
CheckpointEvery = Annotated[
    int,
    typer.Option(
        help="Rounds between checkpoints, kept in --out; 0 for none.",
        rich_help_panel=RUN,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on from the checkpoints in --out.",
        rich_help_panel=RUN,
    ),
]
Seeds = Annotated[
    int, typer.Option(help="Number of seeds, from 0.", min=1, rich_help_panel=RUN)
]


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a run; it is called with those that are given."""
    own = inspect.signature(function, eval_str=True).parameters

    @wraps(function)
    def command(**values: Any) -> None:
        given = {name: values.pop(name) for name in OPTIONS}
        function(given={name: given[name] for name in given_options(OPTIONS)}, **values)

    # typer reads a command's options off its signature.
    first, *others = (own[name] for name in own if name != "given")
    parameters = [first, *map(_parameter, OPTIONS.values()), *others]
    parameters.sort(key=lambda each: PANELS.index(_panel(each)))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def given_options(names: Iterable[str]) -> list[str]:
    """Return those of a command's options that the command line has."""
    source = click.get_current_context().get_parameter_source
    return [name for name in names if source(name) is ParameterSource.COMMANDLINE]


def _parameter(option: Option) -> inspect.Parameter:
    text, choices = option.help, option.choices
    many = len("|".join(choices)) > _CHOICES_WIDTH
    if many:
        text += f" One of: {', '.join(choices)}."
    declaration = typer.Option(
        help=text,
        rich_help_panel=option.panel,
        show_default=option.default != "",
        click_type=Name(dashed(option.name), choices) if choices else None,
        metavar="NAME" if many else None,
    )
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=option.default,
        annotation=Annotated[type(option.default), declaration],
    )


def _panel(parameter: inspect.Parameter) -> str:
    (declaration,) = parameter.annotation.__metadata__
    return str(declaration.rich_help_panel)
