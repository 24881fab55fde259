"""What it means that a node answers its greeting with an error."""

from __future__ import annotations

import re

from flwr.app import Error
from flwr.common.constant import ErrorCode

from flower_compress import errors
from flower_compress.errors import (
    ConfigurationError,
    FlowerCompressError,
    MissingModError,
    OutOfSyncError,
)
from flower_compress.wire.mail import MAIL_STYPE
from flower_compress.wire.packet import STYPE

__all__ = ["refusal"]

_TRANSIENT = (
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
)
_NOT_LOADED = (ErrorCode.LOAD_CLIENT_APP_EXCEPTION, ErrorCode.INVALID_FAB)
_NO_TRAIN = "No train function registered"
_LONGEST = 300
# An error of ours, as a mod puts it, or as Flower does where one was raised.
_NAME = "|".join(errors.__all__)
_OURS = re.compile(rf"({_NAME}): (.*)", re.DOTALL)
_RAISED = re.compile(
    rf"<class 'flower_compress\.errors\.({_NAME})'>:<'(.*)'>", re.DOTALL
)


def refusal(error: Error, mod: str) -> FlowerCompressError:
    """Return what the error means.

    Parameters
    ----------
    error : Error
        The error; what the app itself raises is not among it, since the mod answers a
        greeting without it.
    mod : str
        Name of the mod that should have answered.
    """
    reason = str(error.reason)
    if len(reason) > _LONGEST:
        reason = f"{reason[:_LONGEST]}..."
    text = f"error {error.code}: {reason}"
    if error.code in _TRANSIENT:
        return OutOfSyncError(text)
    if error.code in _NOT_LOADED:
        return ConfigurationError(f"its client app could not be loaded ({text})")
    if _NO_TRAIN in reason:
        return ConfigurationError(
            f"its client app has no train function: register one with `@app.train()`, "
            f"beside any with names of their own, after {mod} was put into the app's "
            f"mods ({text})"
        )
    if own := _OURS.fullmatch(reason) or _RAISED.fullmatch(reason):
        return ConfigurationError(f"its {mod} refused: {': '.join(own.groups())}")
    if error.code == ErrorCode.MOD_FAILED_PRECONDITION:
        text = f"another mod answered in its place ({text})"
    elif STYPE in reason or MAIL_STYPE in reason:
        text = f"another mod, or the app itself, read the packet ({text})"
    return MissingModError(text)
