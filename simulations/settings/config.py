"""Settings from the values of a file or of a Flower config."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from flower_compress.errors import ConfigurationError

from .option import dashed
from .run import OPTIONS, Settings

__all__ = ["convert", "from_config", "read_values"]

_KINDS: Mapping[str, type] = {
    **{"algorithm": str, "name": str, "seed": int},
    **{name: type(found.default) for name, found in OPTIONS.items()},
}


def from_config(config: Mapping[str, Any], **overrides: Any) -> Settings:
    """Read settings from a run config, in which every option has a value.

    Flower fills a run config up with the app's defaults, so that an option counts as
    given where its value is not the default. Unknown keys are ignored.

    Raises
    ------
    ConfigurationError
        If a value has the wrong type, or as for :meth:`Settings.of`.
    """
    values = {**read_values(config), **overrides}
    return Settings.of(
        **{
            name: value
            for name, value in values.items()
            if name not in OPTIONS or value != OPTIONS[name].default
        }
    )


def read_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return algorithm, name, seed and options by name; unknown keys are ignored.

    Raises
    ------
    ConfigurationError
        If a value has the wrong type.
    """
    return {
        name: convert(dashed(name), config[dashed(name)], kind)
        for name, kind in _KINDS.items()
        if dashed(name) in config
    }


def convert(key: str, value: Any, kind: type) -> Any:
    """Return a config's value as bool, int, float or str.

    Raises
    ------
    ConfigurationError
        If it cannot be read as one.
    """
    if kind is str:
        return str(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is bool:
        raise ConfigurationError(f"{key} must be true or false, got {value!r}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{key} must be a number, got {value!r}")
    if kind is int and (not isfinite(value) or int(value) != value):
        raise ConfigurationError(f"{key} must be a whole number, got {value!r}")
    return kind(value)
