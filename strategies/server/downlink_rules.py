"""What a downlink may be made of."""

from __future__ import annotations

from typing import Literal

from flower_compress.errors import ConfigurationError
from flower_compress.links import Carries, ErrorFeedback, Link

__all__ = ["DownlinkMemory", "Groups", "ResetEvery", "check_downlink"]

Groups = int | Literal["client"]
DownlinkMemory = Literal["each", "average"]
ResetEvery = int | Literal["auto"] | None


def check_downlink(
    link: Link,
    carries: Carries,
    groups: Groups,
    preserved: bool,
    memory: DownlinkMemory,
    reset_every: ResetEvery,
) -> None:
    """Raise ConfigurationError for a combination that cannot work."""
    if memory not in ("each", "average"):
        raise ConfigurationError(
            f'downlink_memory must be "each" or "average", got {memory!r}'
        )
    if memory == "average" and (groups != "client" or link.kind != "memory"):
        raise ConfigurationError(
            "only memories of the clients' own can be averaged: expected "
            f'groups="client" and a Memory link, got {groups!r} and '
            f"{type(link).__name__}"
        )
    if not (
        reset_every is None
        or reset_every == "auto"
        or (isinstance(reset_every, int) and reset_every >= 1)
    ):
        raise ConfigurationError(
            'reset_every must be a positive number of rounds, "auto" or None, got '
            f"{reset_every!r}"
        )
    if carries not in ("model", "update"):
        raise ConfigurationError(
            f'downlink_carries must be "model" or "update", got {carries!r}'
        )
    if groups != "client" and not (isinstance(groups, int) and groups >= 1):
        raise ConfigurationError(
            f'groups must be a positive number or "client", got {groups!r}'
        )
    if carries == "update" and groups == "client":
        raise ConfigurationError(
            "updates add up at the receivers, so none may be dropped: expected "
            'groups to be a number, got "client"'
        )
    if not preserved and (carries != "update" or groups != 1):
        raise ConfigurationError(
            "a degraded model takes the update that all clients receive: expected "
            f'downlink_carries="update" and groups=1, got {carries!r} and '
            f"{groups!r}"
        )
    if carries == "model" and isinstance(link, ErrorFeedback):
        raise ConfigurationError(
            "with ErrorFeedback what is left out of one model would be added to "
            'the next: expected downlink_carries="update"'
        )
    if carries == "update" and link.kind == "memory":
        raise ConfigurationError(
            "a Memory link carries the model: expected Direct or ErrorFeedback "
            'with downlink_carries="update"'
        )
