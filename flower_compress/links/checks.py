"""What is no operator, or no link, is told so when it is given."""

from __future__ import annotations

from collections.abc import Mapping

from ..compressors import Compressor
from ..errors import WrongTypeError

__all__ = ["require_compressor", "require_link"]

_OPERATOR = "an operator, as RotatedQuantizer(step=1.5)"
_LINK = "a link, as Direct(Identity()) or Memory(RotatedQuantizer(step=1.5))"

# What came is known by what it can do, since nothing here knows Flower.
_STRATEGY = "aggregate_train"
_REMEDIES: Mapping[str, str] = {
    _STRATEGY: "to compress {name}'s own aggregation use compress({name}(...))",
    "acknowledge": (
        "give the link's own operator, or compose links with "
        "CompressedStrategy(uplink=..., downlink=...)"
    ),
    "decompress": "wrap it, as Direct({name}(...))",
}


def require_compressor(value: object, name: str = "compressor") -> None:
    """Raise WrongTypeError unless `value` is an operator."""
    if not isinstance(value, Compressor):
        raise WrongTypeError(name, _OPERATOR, value, _remedy(value, Compressor))


def require_link(value: object, link: type, name: str) -> None:
    """Raise WrongTypeError unless `value` is a `link`."""
    if not isinstance(value, link):
        raise WrongTypeError(name, _LINK, value, _remedy(value, link))


def _remedy(value: object, expected: type) -> str:
    cls = value if isinstance(value, type) else type(value)
    if issubclass(cls, expected):
        return f"give an object, {cls.__name__}(...)"
    found = (text for method, text in _REMEDIES.items() if hasattr(cls, method))
    return next(found, "").format(name=cls.__name__)
