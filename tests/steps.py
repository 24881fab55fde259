"""How much Python is run: what a time says of an idle machine, on any."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def at_most_steps(most: int) -> Iterator[None]:
    """Fail as soon as more lines of Python were run; each turn of a loop is a line.

    What one call of NumPy does is one: bound the memory of it, too.
    """
    steps = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > most:
            raise AssertionError(f"more than {most} steps")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)
    assert steps <= most, "whoever ran has caught the error above"
