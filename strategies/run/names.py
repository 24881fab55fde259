"""Names of arguments: those that a class passes on to the next one."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from flwr.serverapp import strategy as of_flower
from flwr.serverapp.strategy import FedAvg, Strategy

from flower_compress.errors import ConfigurationError, UnknownNameError

__all__ = ["owner_of", "refuse_fixed", "refuse_unknown"]

_BEST_KNOWN = ("FedAdam", "FedProx", "Krum")
"""Of several strategies that take an argument, one of these is named."""
_ITS_OWN = (
    "it is what the algorithm is; CompressedStrategy(uplink=..., downlink=...) takes "
    "any mixture"
)


def refuse_unknown(kind: type, after: type, kwargs: Iterable[str]) -> None:
    """Raise UnknownNameError where no class behind `after` takes an argument.

    Parameters
    ----------
    kind : type
        What is made.
    after : type
        The class that passes them on to those behind it in the order of `kind`'s bases.
    kwargs : Iterable[str]
        Names of the arguments.
    """
    bases = kind.__mro__
    behind = _names_of(bases[bases.index(after) + 1 :])
    for name in kwargs:
        if name not in behind:
            known = behind | _names_of(bases)
            near = name in known or get_close_matches(name.lower(), known)
            owner = None if near else owner_of(name)
            if owner and issubclass(kind, FedAvg):
                raise ConfigurationError(
                    f"{kind.__name__} takes no {name}: {owner} does, and "
                    f"compress({owner}({name}=...)) is that over compressed links"
                )
            raise UnknownNameError(f"argument of {kind.__name__}", name, known)


def owner_of(name: str) -> str | None:
    """Return a strategy of Flower's that takes an argument, None if there is none.

    Parameters
    ----------
    name : str
        The argument.
    """
    for owner in (*_BEST_KNOWN, *sorted(vars(of_flower))):
        kind = getattr(of_flower, owner, None)
        if not (isinstance(kind, type) and issubclass(kind, Strategy)):
            continue
        if name in _names_of([kind]):
            return owner
    return None


def _names_of(kinds: Iterable[type]) -> set[str]:
    names: set[str] = set()
    for kind in kinds:
        if "__init__" in vars(kind) and kind is not object:
            parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
            names |= {each.name for each in parameters if each.kind not in _VARIADIC}
    return names - {"self"}


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def refuse_fixed(
    who: object, kwargs: Mapping[str, Any], *fixed: str, **instead: str
) -> None:
    """Raise ConfigurationError for arguments that an algorithm sets itself.

    Parameters
    ----------
    who : object
        The strategy that is made, or the name of what makes it.
    kwargs : Mapping[str, Any]
        What it was given beside its own arguments.
    *fixed : str
        What it sets itself.
    **instead : str
        What it takes under another name, and what to give instead.
    """
    name = who if isinstance(who, str) else type(who).__name__
    for argument in kwargs:
        remedy = _ITS_OWN if argument in fixed else instead.get(argument)
        if remedy is not None:
            raise ConfigurationError(f"{name} takes no {argument}: {remedy}")
