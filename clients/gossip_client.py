"""A client that is a node of a decentralized run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from .app import ObjectiveFactory, make_app
from .gossip import GossipMod
from .gradient import gradient_step

__all__ = ["gossip_client"]


def gossip_client(
    objective: ObjectiveFactory,
    *,
    mods: Sequence[Mod] = (),
    device: str | Callable[[Message], str | None] | None = None,
) -> ClientApp:
    """Return an app that is a node: it computes g_i, the mod does the rest.

    Keys of the train config: those of :func:`gradient_client`.

    Parameters
    ----------
    objective : Callable[[Context, ConfigRecord], Objective]
        Builds the node's objective; called with every message, so let it cache.
    mods : Sequence[Mod]
        Further mods, behind the gossip mod: they see plain arrays.
    device : str or Callable[[Message], str or None], optional
        Where the node compresses; see :class:`~.gossip.GossipMod`.
    """
    mod = GossipMod(returns="gradient", device=device)
    return make_app(objective, gradient_step, (mod, *mods))
