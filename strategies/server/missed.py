"""What few clients in a round cost on a downlink that all have in common."""

from __future__ import annotations

from logging import getLogger

from .composition import Composition

__all__ = ["tell_of_missed"]

_log = getLogger("flwr")
_MANY = 4


def tell_of_missed(composition: Composition, num_clients: int, num_active: int) -> None:
    """Say how many payloads a client is sent at once, where they are many.

    A memory, or a model, that all share moves with every payload, and each of them must
    have every one: a client in one round of k is sent the k - 1 that it missed too. One
    of its own moves when it takes part.

    Parameters
    ----------
    composition : Composition
        The algorithm.
    num_clients, num_active : int
        How many clients there are, and how many take part in a round.
    """
    link, carries = composition.downlink, composition.downlink_carries
    is_shared = composition.groups != "client" and not link.compressor.lossless
    is_kept = link.kind == "memory" or carries == "update"
    if not (is_shared and is_kept) or num_clients < _MANY * num_active:
        return
    _log.warning(
        "%d of %d clients take part in a round, and all share one downlink: each is "
        "sent the payloads that it missed too, about %d at once, or the model dense, "
        "whichever is less. A memory for each client needs one: RandMCM(), or "
        'groups="client"',
        num_active,
        num_clients,
        round(num_clients / num_active),
    )
