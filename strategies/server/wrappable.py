"""Which of Flower's strategies can be given compressed links, and what others need."""

from __future__ import annotations

from collections.abc import Iterator

from flwr.app import ConfigRecord
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    FedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    Strategy,
)

from flower_compress.errors import ConfigurationError
from flower_compress.links import ErrorFeedback, Link

from ..run.strategy import RunStrategy
from .weighting import UNIFORM

__all__ = [
    "averages",
    "client_side_clipping",
    "require_links",
    "require_unclipped",
    "require_wrappable",
    "weight_key",
]

_CLIPPING_NORM = "clipping_norm"
"""Flower's wrappers for privacy at the clients tell them so what to clip to."""

ClipsAtClients = (
    DifferentialPrivacyClientSideFixedClipping
    | DifferentialPrivacyClientSideAdaptiveClipping
)


def require_wrappable(strategy: object) -> Strategy:
    """Return `strategy` if it can be wrapped.

    Raises
    ------
    ConfigurationError
        If not; the error says what to do instead.
    """
    if isinstance(strategy, type):
        raise ConfigurationError(
            f"expected a strategy, got the class {strategy.__name__}: make one of it, "
            f"compress({strategy.__name__}(...))"
        )
    if not isinstance(strategy, Strategy):
        raise ConfigurationError(
            "expected a strategy of flwr.serverapp.strategy, got "
            f"{type(strategy).__name__}: strategies of flwr.server and workflows "
            "(secure aggregation adds masked integers, which compression would spoil) "
            "cannot be compressed"
        )
    for part in _parts(strategy):
        _require_part(part, type(part).__name__)
    return strategy


def _require_part(part: Strategy, name: str) -> None:
    if isinstance(part, RunStrategy):
        raise ConfigurationError(
            f"{name} is compressed already: give it its links as arguments, or wrap "
            "the plain strategy, compress(FedAvg(...))"
        )
    if isinstance(part, (FedXgbBagging, FedXgbCyclic)):
        raise ConfigurationError(
            f"{name} sends trees, as text: there is no vector to compress; use it as "
            "it is"
        )
    if type(part).start is not Strategy.start:
        raise ConfigurationError(
            f"{name} has a start of its own, which would not be called: expected "
            "configure_train and aggregate_train to do its work; what start saves or "
            "logs belongs in the evaluate_fn, or in checkpoint_dir; one that averages "
            "as FedAvg does can be derived from MCM, start and all"
        )


def require_links(uplink: object, downlink: object) -> None:
    """Raise ConfigurationError unless both are links that can carry what they must."""
    for name, link in (("uplink", uplink), ("downlink", downlink)):
        if not isinstance(link, Link):
            raise ConfigurationError(
                f"expected {name} to be a link, got {link!r}: for an operator C, "
                "Memory(C) or Direct(C)"
            )
    if isinstance(downlink, ErrorFeedback):
        raise ConfigurationError(
            "the downlink carries the model, and ErrorFeedback would add what it left "
            "out of one model to the next: expected Memory or Direct"
        )


def require_unclipped(config: ConfigRecord) -> None:
    """Raise ConfigurationError if a wrapper around the compression clips updates."""
    if _CLIPPING_NORM in config:
        raise ConfigurationError(
            "compression makes clipped updates longer than the bound that the noise of "
            "differential privacy is for: expected the wrapper inside, as "
            "compress(DifferentialPrivacyClientSideFixedClipping(FedAvg(), ...))"
        )


def averages(strategy: Strategy) -> bool:
    """Whether the new model is the mean of the clients' and nothing else."""
    return type(strategy).aggregate_train is FedAvg.aggregate_train


def client_side_clipping(strategy: Strategy) -> ClipsAtClients | None:
    """Return the wrapper that counts on clipping by the clients, if there is one."""
    for part in _parts(strategy):
        if isinstance(part, ClipsAtClients):
            return part
    return None


def weight_key(strategy: Strategy) -> str:
    """Return the key of the clients' weights that a strategy looks at, if it does."""
    keys = (getattr(part, "weighted_by_key", None) for part in _parts(strategy))
    return next((key for key in keys if isinstance(key, str)), UNIFORM)


def _parts(strategy: Strategy) -> Iterator[Strategy]:
    """Yield a strategy, and those that it wraps, from outside in."""
    part: object = strategy
    while isinstance(part, Strategy):
        yield part
        part = getattr(part, "strategy", None)
