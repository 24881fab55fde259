"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from .measure import Row


class Column(NamedTuple):
    """A heading, a row's entry (or what is made of the row), and how it is written."""

    heading: str
    entry: str | Callable[[Row], object]
    form: str = ""

    def cell(self, row: Row) -> str:
        entry = self.entry
        return format(row[entry] if isinstance(entry, str) else entry(row), self.form)


def columns(text: int, *shown: Column) -> Callable[[list[Row]], str]:
    """What makes a table of those columns; all but the first `text` are numbers."""
    return partial(_fill, text, shown)


def _fill(text: int, shown: tuple[Column, ...], rows: list[Row]) -> str:
    head = [column.heading for column in shown]
    return table(head, ([column.cell(row) for column in shown] for row in rows), text)


def table(head: list[str], rows: Iterable[Iterable[str]], text: int) -> str:
    """A table; all columns but the first `text` are numbers."""
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * text + "---:|" * (len(head) - text))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
