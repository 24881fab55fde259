"""A client that returns one gradient at the model it received."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import ConfigRecord
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from flower_compress.mods import CompressionMod

from .app import ObjectiveFactory, make_app
from .batches import batches, number, server_round
from .objective import Arrays, Objective

__all__ = ["gradient_client", "gradient_step"]


def gradient_client(
    objective: ObjectiveFactory, *, mods: Sequence[Mod] = ()
) -> ClientApp:
    """Return an app that answers with g_i, a stochastic gradient of F_i.

    Keys of the train config: ``batch-size`` (0, the default, for the full gradient)
    and ``seed``. The batch depends on the seed, the client and the round alone.

    Parameters
    ----------
    objective : Callable[[Context, ConfigRecord], Objective]
        Builds the client's objective; called with every message, so let it cache.
    mods : Sequence[Mod]
        Further mods, behind the compression mod: they see plain arrays.
    """
    return make_app(
        objective, gradient_step, (CompressionMod(returns="gradient"), *mods)
    )


def gradient_step(
    objective: Objective, arrays: Arrays, config: ConfigRecord, client: int
) -> tuple[float, Arrays]:
    """Return the loss and the gradient on the round's batch; see :data:`Step`."""
    (indices,) = batches(
        objective.num_examples,
        int(number(config, "batch-size", 0)),
        seed=int(number(config, "seed", 0)),
        client=client,
        server_round=server_round(config),
    )
    return objective.gradient(arrays, indices)
