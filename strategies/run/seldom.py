"""What comes again and again, and is worth saying now and then."""

from __future__ import annotations

from logging import getLogger

__all__ = ["Seldom", "Waiting"]

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
        if _is_due(self.count):
            _log.warning(text + " (failure %d in a row)", *arguments, self.count)

    def over(self) -> int:
        """Begin to count anew; return how many there were."""
        count, self.count = self.count, 0
        return count


class Waiting:
    """Logs what is waited for: when that changes, and else ever more rarely.

    A server may look twice a second whether a device is there, for a night.
    """

    def __init__(self) -> None:
        self._last: tuple[object, ...] = ()
        self._count = 0

    def tell(self, text: str, *arguments: object) -> None:
        """Log it, if it is another thing than before, or it is time."""
        said = text, *arguments
        if said != self._last:
            self._last, self._count = said, 0
        self._count += 1
        if _is_due(self._count):
            _log.info(text, *arguments)


def _is_due(count: int) -> bool:
    """Whether it is the first time, the second, the fourth, the eighth..."""
    return count & (count - 1) == 0
