"""A client that trains locally and returns its weights, as Flower clients do."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import ConfigRecord
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from flower_compress.errors import ConfigurationError
from flower_compress.mods import CompressionMod
from flower_compress.mods.first_model import Build

from .app import ObjectiveFactory, make_app
from .batches import batches, number, server_round
from .objective import Arrays, Objective

__all__ = ["local_steps_client"]


def local_steps_client(
    objective: ObjectiveFactory,
    *,
    mods: Sequence[Mod] = (),
    first_model: Build | None = None,
) -> ClientApp:
    """Return an app that answers with the weights after K local optimizer steps.

    The mod sends the difference to the weights received. Keys of the train config:
    ``local-steps`` K (default 1), ``local-step-size`` (default 0.1), ``batch-size``
    (0, the default, for all examples) and ``seed``.

    Parameters
    ----------
    objective : Callable[[Context, ConfigRecord], Objective]
        Builds the client's objective; called with every message, so let it cache.
    mods : Sequence[Mod]
        Further mods, behind the compression mod: they see plain arrays.
    first_model : Callable[[int], ArrayRecord], optional
        Makes the first model from the run's seed; see
        :class:`~flower_compress.CompressionMod`.
    """
    mod = CompressionMod(returns="weights", first_model=first_model)
    return make_app(objective, _step, (mod, *mods))


def _step(
    objective: Objective, arrays: Arrays, config: ConfigRecord, client: int
) -> tuple[float, Arrays]:
    steps = int(number(config, "local-steps", 1))
    step_size = number(config, "local-step-size", 0.1)
    if steps < 1 or not step_size > 0:
        raise ConfigurationError(
            "local-steps and local-step-size must be positive, got "
            f"{steps} and {step_size}"
        )
    chosen = batches(
        objective.num_examples,
        int(number(config, "batch-size", 0)),
        seed=int(number(config, "seed", 0)),
        client=client,
        server_round=server_round(config),
        count=steps,
    )
    return objective.local_steps(arrays, chosen, step_size)
