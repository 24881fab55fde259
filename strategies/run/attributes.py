"""What a strategy that knows nothing of checkpoints keeps in its attributes."""

from __future__ import annotations

import enum
import hashlib
import json
import logging
import re
from dataclasses import is_dataclass
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import Strategy

from flower_compress.errors import ConfigurationError

from .checkpoint import Arrays, Checkpoint

__all__ = ["attributes_digests", "restore_attributes", "save_attributes"]

_SCALARS = (type(None), bool, int, float, str)
_SETTINGS = (
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    partial,
    type,
    PurePath,
    logging.Logger,
    re.Pattern,
    enum.Enum,
)
"""What does not change in a run, and comes again with the program."""


@runtime_checkable
class _KeepsState(Protocol):
    """An object that gives its state, as a torch optimizer or Flower's accountant."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take over what :meth:`state_dict` gave."""


def save_attributes(strategy: Strategy, arrays: Arrays) -> dict[str, Any]:
    """Return what JSON can hold of a strategy's attributes; add arrays to `arrays`.

    Numbers, strings, bytes, arrays, Flower's records, lists, tuples and dicts of them,
    strategies within, and what has ``state_dict`` and ``load_state_dict``. Functions,
    classes, paths, loggers and frozen dataclasses are settings and left out.

    Raises
    ------
    ConfigurationError
        If an attribute is nothing of that; the error names it.
    """
    return _save_object(strategy, type(strategy).__name__, arrays)


def restore_attributes(
    strategy: Strategy, saved: dict[str, Any], checkpoint: Checkpoint
) -> None:
    """Set the attributes to what :func:`save_attributes` gave."""
    for name, value in saved.items():
        kind, content = value
        if kind == "strategy":
            restore_attributes(getattr(strategy, name), content, checkpoint)
        elif kind == "state":
            state = _load(content, checkpoint)
            getattr(strategy, name).load_state_dict(state)
        else:
            setattr(strategy, name, _load(value, checkpoint))


def attributes_digests(strategy: Strategy, where: str = "") -> dict[str, str]:
    """Return a short text for each attribute, which tells whether it has changed.

    Parameters
    ----------
    strategy : Strategy
        The strategy; those within it are looked at too.
    where : str
        Prefix of the names; the class's name by default.

    Raises
    ------
    ConfigurationError
        If :func:`save_attributes` could not save one.
    """
    where = where or type(strategy).__name__
    digests: dict[str, str] = {}
    for name, value in vars(strategy).items():
        if _is_setting(value):
            continue
        if isinstance(value, Strategy):
            digests |= attributes_digests(value, f"{where}.{name}")
            continue
        arrays: Arrays = {}
        kind, content = _save(value, f"{where}.{name}", arrays)
        hashed = hashlib.sha256(json.dumps(content).encode())
        for array in arrays.values():
            hashed.update(np.ascontiguousarray(array).tobytes())
        short = str(content) if kind == "value" else hashed.hexdigest()[:16]
        digests[f"{where}.{name}"] = short
    return digests


def _is_setting(value: object) -> bool:
    parameters = getattr(type(value), "__dataclass_params__", None)
    is_frozen = is_dataclass(value) and bool(getattr(parameters, "frozen", False))
    return is_frozen or isinstance(value, _SETTINGS)


def _save_object(strategy: Strategy, where: str, arrays: Arrays) -> dict[str, Any]:
    return {
        name: _save(value, f"{where}.{name}", arrays)
        for name, value in vars(strategy).items()
        if not _is_setting(value)
    }


def _save(value: Any, where: str, arrays: Arrays) -> list[Any]:
    """Return kind and content."""
    if type(value) in _SCALARS:
        return ["value", value]
    if isinstance(value, Strategy):
        return ["strategy", _save_object(value, where, arrays)]
    if isinstance(value, (ArrayRecord, ConfigRecord, MetricRecord)):
        content = _save(dict(value.items()), where, arrays)
        return [type(value).__name__, content]
    if isinstance(value, Array):
        data = _put(np.frombuffer(value.data, np.uint8), where, arrays)
        return ["Array", [value.dtype, list(value.shape), value.stype, data]]
    if isinstance(value, bytes):
        return ["bytes", _put(np.frombuffer(value, np.uint8), where, arrays)]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return ["ndarray", _put(value, where, arrays)]
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return ["scalar", _put(np.asarray(value), where, arrays)]
    if type(value) in (list, tuple, set, frozenset):
        items = value if isinstance(value, (list, tuple)) else sorted(value, key=repr)
        rows = [_save(item, f"{where}[{i}]", arrays) for i, item in enumerate(items)]
        return [type(value).__name__, rows]
    if isinstance(value, dict):
        pairs = [
            [_save(key, where, arrays), _save(item, f"{where}[{key!r}]", arrays)]
            for key, item in value.items()
        ]
        return ["dict", pairs]
    if isinstance(value, _KeepsState) and not isinstance(value, type):
        return ["state", _save(value.state_dict(), where, arrays)]
    raise ConfigurationError(
        f"a checkpoint cannot hold {where}, a {type(value).__name__}: expected "
        "numbers, strings, arrays, records, lists or dicts of them, or an object with "
        "state_dict and load_state_dict; or give no checkpoint_dir"
    )


def _put(array: np.ndarray[Any, Any], where: str, arrays: Arrays) -> str:
    name = f"strategy/{len(arrays)}/{where}"
    arrays[name] = array
    return name


def _load(saved: list[Any], checkpoint: Checkpoint) -> Any:
    kind, content = saved
    match kind:
        case "value":
            return content
        case "ndarray":
            return checkpoint.array(content)
        case "scalar":
            return checkpoint.array(content)[()]
        case "bytes":
            return checkpoint.array(content).tobytes()
        case "Array":
            dtype, shape, stype, data = content
            return Array(dtype, tuple(shape), stype, checkpoint.array(data).tobytes())
        case "dict":
            return {
                _load(key, checkpoint): _load(item, checkpoint) for key, item in content
            }
        case "list" | "tuple" | "set" | "frozenset":
            makes = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
            return makes[kind](_load(item, checkpoint) for item in content)
        case "ArrayRecord":
            return ArrayRecord(_load(content, checkpoint))
        case "ConfigRecord":
            return ConfigRecord(_load(content, checkpoint))
        case "MetricRecord":
            return MetricRecord(_load(content, checkpoint))
    raise ConfigurationError(f"a checkpoint holds an attribute of unknown kind {kind}")
