"""Operators from words, as ``random-sparsifier:p=0.1``."""

from __future__ import annotations

import math
from dataclasses import fields

from flower_compress.compressors import COMPRESSORS, Compressor
from flower_compress.errors import ConfigurationError, UnknownNameError

from .option import dashed

__all__ = ["parse_operator"]


def parse_operator(text: str) -> Compressor:
    """Return the operator that `text` names, with its parameters.

    Parameters
    ----------
    text : str
        A name in ``flower_compress.compressors.COMPRESSORS``; after a colon its
        parameters, with commas between: ``"stochastic-quantizer:levels=4,norm=inf"``.

    Raises
    ------
    UnknownNameError
        If there is no such operator, or it has no such parameter.
    ConfigurationError
        If a parameter has no value, or one that cannot be.
    """
    name, _, rest = text.partition(":")
    if name not in COMPRESSORS:
        raise UnknownNameError("operator", name, COMPRESSORS)
    known = {dashed(each.name): each.name for each in fields(COMPRESSORS[name])}
    parameters: dict[str, bool | int | float | str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if dashed(key) not in known:
            raise UnknownNameError(f"parameter of {name}", key, known)
        if not (equals and value):
            raise ConfigurationError(
                f"expected {name}:{key}=VALUE, got {text!r}: give the parameter a value"
            )
        if known[dashed(key)] in parameters:
            raise ConfigurationError(f"expected {key} once in {text!r}, got it twice")
        parameters[known[dashed(key)]] = _number(value)
    try:
        return COMPRESSORS[name](**parameters)
    except TypeError as error:
        raise ConfigurationError(f"operator {text!r}: {error}") from error


def _number(value: str) -> bool | int | float | str:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    return value  # "inf" is the name of a norm.
