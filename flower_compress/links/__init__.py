"""Links: a vector from a sender to a receiver as bytes, and both ends' states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..compressors import get_compressor
from ..errors import ConfigurationError, UnknownNameError
from .base import Link, ReceiverState, SenderState, accept, commit, fold
from .broadcast import Broadcast, Carries, CatchUp
from .compensated_feedback import CompensatedFeedback
from .direct import Direct
from .error_feedback import ErrorFeedback
from .memory import Memory
from .payload import Channel, Payload, share_decoding

__all__ = [
    "LINKS",
    "Broadcast",
    "Carries",
    "CatchUp",
    "Channel",
    "CompensatedFeedback",
    "Direct",
    "ErrorFeedback",
    "Link",
    "Memory",
    "Payload",
    "ReceiverState",
    "SenderState",
    "accept",
    "commit",
    "fold",
    "get_link",
    "share_decoding",
]

LINKS: dict[str, type[Link]] = {
    cls.kind: cls for cls in (Direct, Memory, ErrorFeedback, CompensatedFeedback)
}
"""Every link by its kind."""


def get_link(config: Mapping[str, Any]) -> Link:
    """Rebuild a link from :meth:`Link.config`."""
    parameters = dict(config)
    kind = parameters.pop("kind", None)
    if not isinstance(kind, str) or kind not in LINKS:
        raise UnknownNameError("link", kind, LINKS)
    compressor = get_compressor(parameters.pop("compressor", {}))
    try:
        return LINKS[kind](compressor, **parameters)
    except TypeError as error:
        raise ConfigurationError(f"link {kind!r}: {error}") from error
