"""Typed errors. Each says what was expected, what came, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Number

__all__ = [
    "BiasedCompressorError",
    "CheckpointError",
    "ConfigurationError",
    "CorruptPacket",
    "DivergedError",
    "FirstModelError",
    "FlowerCompressError",
    "LayoutMismatchError",
    "MissingExtraError",
    "MissingModError",
    "NonFiniteError",
    "OutOfSyncError",
    "RefusedUpdateError",
    "RoundFailedError",
    "StalePacketError",
    "UnknownNameError",
    "WrongTypeError",
]

_LONGEST_SHOWN = 60
_MOST_LISTED = 24


class FlowerCompressError(Exception):
    """Base class of every error this package raises on purpose."""


class ConfigurationError(FlowerCompressError, ValueError):
    """An argument, or a combination of arguments, that cannot work."""


class UnknownNameError(ConfigurationError):
    """A name that is in no registry; the error asks for the nearest that is.

    Parameters
    ----------
    kind : str
        What was looked up, for example ``"algorithm"``.
    name : object
        The name that came.
    known : Iterable[str]
        The names that exist.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        nearest = get_close_matches(str(name)[:_LONGEST_SHOWN].lower(), names, n=1)
        if nearest and len(names) > _MOST_LISTED:
            super().__init__(
                f"unknown {kind} {shown(name)}: did you mean {nearest[0]!r}?"
            )
            return
        question = f"; did you mean {nearest[0]!r}?" if nearest else ""
        super().__init__(
            f"unknown {kind} {shown(name)}: expected one of {', '.join(names)}"
            f"{question}"
        )


class WrongTypeError(ConfigurationError, TypeError):
    """An argument of another kind than what is expected.

    Parameters
    ----------
    name : str
        The argument.
    expected : str
        What it should be.
    value : object
        What came.
    remedy : str, optional
        What to do.
    """

    def __init__(
        self, name: str, expected: str, value: object, remedy: str = ""
    ) -> None:
        advice = f": {remedy}" if remedy else ""
        super().__init__(f"{name} must be {expected}, got {shown(value)}{advice}")


class BiasedCompressorError(ConfigurationError):
    """omega was asked of a compressor that is biased."""


class NonFiniteError(FlowerCompressError, ValueError):
    """A vector to compress holds NaN or infinity."""


class LayoutMismatchError(FlowerCompressError, ValueError):
    """Arrays whose names, shapes or dtypes differ from the agreed layout."""


class CorruptPacket(FlowerCompressError, ValueError):  # noqa: N818
    """Bytes that are not a packet, or were damaged on the way."""


class OutOfSyncError(FlowerCompressError):
    """A packet that builds on a state which the receiver does not hold."""


class FirstModelError(OutOfSyncError):
    """A first model that a client cannot make, or makes otherwise than the server."""


class StalePacketError(OutOfSyncError):
    """A packet that was taken in before, or that a newer one has overtaken."""


class RefusedUpdateError(FlowerCompressError, ValueError):
    """An update that would spoil the model: not finite, or absurdly large."""


class CheckpointError(FlowerCompressError):
    """A checkpoint that cannot be written, or that cannot be trusted."""


class MissingModError(FlowerCompressError):
    """A client answered without the compression mod."""


class MissingExtraError(FlowerCompressError, ImportError):
    """An optional dependency is not installed.

    Parameters
    ----------
    package : str
        The missing package.
    extra : str
        The extra of flower-compress that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f'{package} is not installed: run `pip install "flower-compress[{extra}]"`'
        )


class RoundFailedError(FlowerCompressError):
    """Every client that answered reported an error, several rounds in a row."""


class DivergedError(RoundFailedError, NonFiniteError):
    """Every answer is NaN, infinite or far too large, several rounds in a row.

    The model that the clients were sent has diverged.
    """


def shown(value: object) -> str:
    """Return a value for an error: plain ones as they are, others by their type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (Number, str)):
        text = repr(value) if isinstance(value, str) else str(value)
        return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
