"""An option: its values, its help, and which runs use it.

The fields of :class:`Settings`, :class:`Problem`, :class:`Server` and
:class:`Decentralized` are declared with :func:`option`, and nowhere else: the command
line, the files of experiments and the Flower app are made from these declarations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from flower_compress.errors import ConfigurationError, UnknownNameError

from .takers import EVERY, Takers

__all__ = [
    "Need",
    "Option",
    "Refusal",
    "below",
    "check_values",
    "dashed",
    "one_of",
    "option",
    "options_of",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Need:
    """What another option must be, for this one to be used.

    Attributes
    ----------
    option : str
        The other option.
    text : str
        What it must be, in words that follow its name.
    holds : Callable[[Any], bool]
        Whether a value is that.
    """

    option: str
    text: str
    holds: Callable[[Any], bool]


def one_of(option: str, *values: Any) -> Need:
    """Need one of these values."""
    texts = [str(value) if isinstance(value, str) else repr(value) for value in values]
    return Need(option, " or ".join(texts).lower(), lambda value: value in values)


def below(option: str, bound: float) -> Need:
    """Need a value below a bound."""
    return Need(option, f"below {bound:g}", lambda value: bool(value < bound))


@dataclass(frozen=True)
class Refusal:
    """Why a run does not use an option.

    Attributes
    ----------
    option : str
        The option's name.
    goes_with : str
        What it belongs to.
    came : str
        What the run has.
    """

    option: str
    goes_with: str
    came: str

    def error(self, *others: Refusal) -> ConfigurationError:
        """Return the error, with what other runs have that do not use it either."""
        came = dict.fromkeys([self.came, *(other.came for other in others)])
        return ConfigurationError(
            f"{dashed(self.option)} goes with {self.goes_with}, not with "
            f"{' or '.join(came)}: leave it out"
        )


@dataclass(frozen=True)
class Option:
    """An option, as declared.

    Attributes
    ----------
    name : str
        The field's name.
    default : bool, int, float or str
        Its value where it is not given; of the option's type.
    help : str
        One sentence.
    panel : str
        The group of options that it is listed in.
    choices : tuple[str, ...]
        The values that there are; empty if they are not names.
    least : int, optional
        Its least value.
    share : bool
        Whether it must lie in (0, 1].
    takers : Takers
        The algorithms that use it.
    needs : tuple[Need, ...]
        What other options must be, for it to be used.
    """

    name: str
    default: Any
    help: str
    panel: str
    choices: tuple[str, ...]
    least: int | None
    share: bool
    takers: Takers
    needs: tuple[Need, ...]

    def refusal(self, algorithm: str, values: Mapping[str, Any]) -> Refusal | None:
        """Return why a run of `algorithm` with all these values does not use it."""
        if algorithm not in self.takers.names:
            return Refusal(self.name, str(self.takers), algorithm)
        for need in self.needs:
            value = values[need.option]
            if not need.holds(value):
                other = dashed(need.option)
                came = str(value).lower()
                return Refusal(self.name, f"{other} {need.text}", f"{other} {came}")
        return None

    def check(self, value: Any) -> None:
        """Raise ConfigurationError for a value that there is not."""
        if self.choices and value not in self.choices:
            raise UnknownNameError(dashed(self.name), value, self.choices)
        if self.least is not None and not self.least <= value < math.inf:
            raise ConfigurationError(
                f"{dashed(self.name)} must be at least {self.least}, got {value}"
            )
        if self.share and not 0.0 < value <= 1.0:
            raise ConfigurationError(
                f"{dashed(self.name)} must lie in (0, 1], got {value}"
            )


def option(
    default: T,
    help: str,
    *,
    panel: str,
    choices: Iterable[str] = (),
    least: int | None = None,
    share: bool = False,
    takers: Takers = EVERY,
    needs: tuple[Need, ...] = (),
) -> T:
    """Declare a field of a dataclass as an option; see :class:`Option`."""
    declared = {
        "default": default,
        "help": help,
        "panel": panel,
        "choices": tuple(choices),
        "least": least,
        "share": share,
        "takers": takers,
        "needs": needs,
    }
    declaration: T = field(default=default, metadata=declared)
    return declaration


def options_of(part: type) -> dict[str, Option]:
    """Return the options among a dataclass' fields, by name."""
    return {
        each.name: Option(each.name, **each.metadata)
        for each in fields(part)
        if each.metadata
    }


def check_values(part: Any) -> None:
    """Check every option of a dataclass.

    Raises
    ------
    UnknownNameError
        If a value is none of the choices.
    ConfigurationError
        If one is out of its range.
    """
    for each in options_of(type(part)).values():
        each.check(getattr(part, each.name))


def dashed(name: str) -> str:
    """Return the name that the command line and files use."""
    return name.replace("_", "-")
