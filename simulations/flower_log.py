"""Flower's log, several lines a round: into a file, and what is wrong to the terminal.

Several processes may write to one file; each line names the run that it is of.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["FILE_NAME", "label_log", "last_lines", "log_to", "quiet_flower"]

FILE_NAME: Final = "flower.log"
"""The file's name in the folder of an experiment."""

_LOGGER = logging.getLogger("flwr")
_TIME = logging.Formatter()


class _File(logging.FileHandler):
    """Appends to the file; `run` is the run that the lines are of."""

    run = ""

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(record.getMessage().strip())

    def format(self, record: logging.LogRecord) -> str:
        moment = _TIME.formatTime(record)
        prefix = " ".join(filter(None, (moment, record.levelname, self.run)))
        lines = filter(str.strip, super().format(record).splitlines())
        return "\n".join(f"{prefix}: {line}" for line in lines)


@contextmanager
def log_to(path: Path | None) -> Iterator[None]:
    """Send Flower's log to a file meanwhile, and only errors to other places.

    Parameters
    ----------
    path : Path or None
        The file, to which is added; its folder is made. None for no file.
    """
    if path is None:
        with quiet_flower():
            yield
        return
    others = [(handler, handler.level) for handler in _LOGGER.handlers]
    propagated, _LOGGER.propagate = _LOGGER.propagate, False
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _File(path, encoding="utf-8")
    file.setLevel(logging.INFO)
    for handler, level in others:
        handler.setLevel(max(level, logging.ERROR))
    _LOGGER.addHandler(file)
    try:
        yield
    finally:
        _LOGGER.removeHandler(file)
        file.close()
        _LOGGER.propagate = propagated
        for handler, level in others:
            handler.setLevel(level)


@contextmanager
def label_log(run: str) -> Iterator[None]:
    """Name the run that the lines are of meanwhile."""
    files = [handler for handler in _LOGGER.handlers if isinstance(handler, _File)]
    before = [file.run for file in files]
    for file in files:
        file.run = run
    try:
        yield
    finally:
        for file, old in zip(files, before, strict=True):
            file.run = old


@contextmanager
def quiet_flower() -> Iterator[None]:
    """Let Flower log nothing but errors meanwhile."""
    before = _LOGGER.level
    _LOGGER.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _LOGGER.setLevel(before)


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log; none if there is no such file."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, count)]
    except OSError:
        return []
