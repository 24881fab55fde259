"""Names on the command line, which shells complete."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from flower_compress.errors import UnknownNameError

__all__ = ["Name", "Names"]

if TYPE_CHECKING:
    _Choice = click.Choice[Any]
else:  # Older versions of click have no type for the choices.
    _Choice = click.Choice


class Name(_Choice):
    """One of several names.

    Parameters
    ----------
    kind : str
        What they are names of.
    known : Iterable[str]
        The names.
    """

    def __init__(self, kind: str, known: Iterable[str]) -> None:
        super().__init__(tuple(known))
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if value not in self.choices:
            raise UnknownNameError(self.kind, value, self.choices)
        return value


class Names(Name):
    """Several of them, with commas between, each once."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        names = dict.fromkeys(name.strip() for name in str(value).split(","))
        for name in names:
            super().convert(name, param, ctx)
        return ",".join(names)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        found = super().shell_complete(ctx, param, last)
        return [CompletionItem(f"{before}{comma}{item.value}") for item in found]
