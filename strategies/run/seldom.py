"""Warnings that come again and again, and are worth saying now and then."""

from __future__ import annotations

from logging import getLogger

__all__ = ["Seldom"]

_log = getLogger("flwr")


class Seldom:
    """Logs the first of many like warnings, the second, the fourth, the eighth...

    Attributes
    ----------
    count : int
        How many there were since :meth:`over`.
    """

    def __init__(self) -> None:
        self.count = 0

    def warn(self, text: str, *arguments: object) -> None:
        """Log a warning, if it is one of those; it ends with how many there were."""
        self.count += 1
        if self.count & (self.count - 1) == 0:
            _log.warning(text + " (failure %d in a row)", *arguments, self.count)

    def over(self) -> int:
        """Begin to count anew; return how many there were."""
        count, self.count = self.count, 0
        return count
