"""Any server strategy of Flower over two compressed links."""

from __future__ import annotations

import inspect
import os
from difflib import get_close_matches
from typing import Any, Never

from flwr.serverapp.strategy import Strategy

from flower_compress.arguments import folder_of
from flower_compress.errors import (
    ConfigurationError,
    UnknownNameError,
    WrongTypeError,
)
from flower_compress.links import Link, Memory
from flower_compress.wire.layout import EXACT_PATTERN

from .run.names import owner_of
from .run.strategy import RunStrategy
from .server import (
    DEFAULT_COMPRESSOR,
    DownlinkMemory,
    GradientDescent,
    Groups,
    ResetEvery,
)
from .server.arrays import SmallArrays
from .server.bounds import DEFAULT_NORM_RATIO, DEFAULT_WEIGHT_RATIO
from .server.composition import Composition
from .server.departures import FORGET_AFTER
from .server.evaluation import EvaluateOn
from .server.first_model import FirstModel
from .server.recovery import OnDivergence
from .server.roster import Identities
from .server.wrappable import averages, require_links, require_wrappable
from .server.wrapper import Compressed, StepInside

__all__ = ["compress"]

_INSIDE = "the strategy inside takes it: compress(FedAvg({name}=...))"
_LINKS = "compress takes links: uplink=Memory(C), downlink=Memory(C) for an operator C"
_NAMED = "arguments by name, as uplink=Memory(C)"
_NOT_HERE = {
    "compressor": _LINKS,
    "downlink_compressor": _LINKS,
    "uplink_rate": "the link has it: uplink=Memory(C, rate=...)",
    "downlink_rate": "the link has it: downlink=Memory(C, rate=...)",
    "uplink_memory": (
        "each reply is rebuilt from the client's own memory, so that each one is kept, "
        "and those of absent clients are not used"
    ),
    "downlink_carries": "the downlink carries the model that the strategy inside made",
    "preserved": "the strategy inside makes the model, and it is preserved",
    "step_size": "the strategy inside makes the step: FedAvgM(...), FedAdam(...)",
    "optimizer": "the strategy inside makes the step: FedAvgM(...), FedAdam(...)",
    "sampling": "the strategy inside samples",
    "min_replies": "the strategy inside says how many replies it needs",
}


def compress(
    strategy: Strategy,
    *misplaced: Never,
    uplink: Link | None = None,
    downlink: Link | None = None,
    groups: Groups = 1,
    seed: int = 0,
    exact_pattern: str = EXACT_PATTERN,
    small_arrays: SmallArrays = "dense",
    evaluate_on: EvaluateOn = "received",
    on_divergence: OnDivergence = "warn",
    downlink_memory: DownlinkMemory = "each",
    reset_every: ResetEvery = "auto",
    memory_budget: int | None = 1 << 28,
    spill_dir: str | os.PathLike[str] | None = None,
    max_update_norm: float | None = None,
    forget_after: int | None = FORGET_AFTER,
    max_norm_ratio: float | None = DEFAULT_NORM_RATIO,
    max_weight_ratio: float | None = DEFAULT_WEIGHT_RATIO,
    identities: Identities = "claimed",
    first_model: FirstModel = "dense",
    **kwargs: Any,
) -> Compressed:
    """Return `strategy` with its models and its clients' answers compressed.

    The strategy samples, configures and aggregates as before. What it is given are
    plain replies: with w its model, w_hat what the clients receive of it, and w_i' what
    client i returns,

        q_i = C_up(w_hat - w_i' - h_i),   h_i += alpha q_i    (a Memory uplink)
        w_i = w - (h_i + q_i)                                 (given to the strategy)

    in an ArrayRecord of the names, shapes and dtypes of the initial model, beside the
    reply's other records, under its own keys. The model that the strategy makes of
    them has the dtypes of the initial one. A client whose answer cannot be used has
    reported an error, for the strategy.

    The clients need :class:`~flower_compress.CompressionMod`, first in their list, and
    no configuration. docs/composing.md says what goes with what, differential privacy
    above all.

    Parameters
    ----------
    strategy : Strategy
        Any of :mod:`flwr.serverapp.strategy`, or one of your own: FedAvg, FedAdam,
        FedProx, Krum, a wrapper for differential privacy, ...
    uplink : Link, optional
        Carries the difference that local training made. Default: a Memory link with
        ``DEFAULT_COMPRESSOR``, 1.7 bits an entry.
    downlink : Link, optional
        Carries the model; the same by default.
    groups : int or "client" (default: 1)
        Number of groups of clients that share a downlink, its memory and its draws;
        ``"client"`` gives every client its own.
    seed : int (default: 0)
        Fixes every draw of the compressors. Flower's strategies sample, and add noise,
        with the global generators of Python and NumPy.
    exact_pattern : str
        Regular expression for names of arrays that are never compressed.
    evaluate_on : {"received", "global", "held"} (default: "received")
        As :class:`CompressedStrategy` has it; with ``"held"`` a client that has not
        trained is sent the server's.
    on_divergence : {"warn", "repair"} (default: "warn")
        As :class:`CompressedStrategy` has it; ``"repair"`` for strategies that take the
        plain mean, as FedAvg and FedProx: others keep more than the model, which cannot
        go back with it.
    small_arrays, downlink_memory, reset_every, memory_budget, spill_dir
        As :class:`CompressedStrategy` has them, and so with `max_update_norm`,
        `max_norm_ratio`, `max_weight_ratio`, `identities` and `first_model`; weights
        are those that the strategy has a ``weighted_by_key`` for.
    forget_after : int or None (default: 50)
        Rounds after which a client that is gone is forgotten, with all that is kept of
        it; see :class:`CompressedStrategy`. Its memory is used only when it answers.
    **kwargs
        Every argument of :class:`~flower_compress.strategies.run.RunStrategy`:
        ``checkpoint_dir``, ``checkpoint_every``, ``resume``, ``greeting_timeout``,
        ``max_failed_rounds``. A checkpoint holds the strategy's attributes too.

    Raises
    ------
    ConfigurationError
        If the strategy cannot be compressed, the links cannot carry what they must, or
        there is a `checkpoint_dir` and an attribute of the strategy cannot be saved.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAdam
    >>> from flower_compress.strategies import compress
    >>> strategy = compress(FedAdam(eta=0.01))
    """
    if misplaced:
        raise WrongTypeError("what follows the strategy", _NAMED, misplaced[0], _LINKS)
    _check_names(kwargs)
    require_wrappable(strategy)
    uplink = Memory(DEFAULT_COMPRESSOR) if uplink is None else uplink
    downlink = Memory(DEFAULT_COMPRESSOR) if downlink is None else downlink
    require_links(uplink, downlink)
    step = StepInside(type(strategy).__name__)
    composition = Composition(
        uplink,
        downlink,
        optimizer=GradientDescent() if averages(strategy) else step,
        groups=groups,
        seed=seed,
        exact_pattern=exact_pattern,
        small_arrays=small_arrays,
        uplink_memory="sampled",
        downlink_memory=downlink_memory,
        reset_every=reset_every,
        memory_budget=memory_budget,
        spill_dir=folder_of("spill_dir", spill_dir),
        max_update_norm=max_update_norm,
        forget_after=forget_after,
        max_norm_ratio=max_norm_ratio,
        max_weight_ratio=max_weight_ratio,
        identities=identities,
        first_model=first_model,
    )
    return Compressed(
        strategy,
        composition,
        evaluate_on=evaluate_on,
        on_divergence=on_divergence,
        **kwargs,
    )


def _check_names(kwargs: dict[str, Any]) -> None:
    of_run = set(inspect.signature(RunStrategy.__init__).parameters)
    own = inspect.signature(compress).parameters
    known = {*of_run, *own} - {"self", "misplaced", "kwargs"}
    for name in kwargs.keys() - known:
        if name in _NOT_HERE:
            raise ConfigurationError(f"compress takes no {name}: {_NOT_HERE[name]}")
        if name.startswith(("fraction_", "min_", "weighted_")) or name.endswith("_key"):
            raise ConfigurationError(
                f"compress takes no {name}: " + _INSIDE.format(name=name)
            )
        if not get_close_matches(name, known) and (owner := owner_of(name)):
            raise ConfigurationError(
                f"compress takes no {name}: the strategy inside takes it: "
                f"compress({owner}({name}=...))"
            )
        raise UnknownNameError("argument of compress", name, known)
