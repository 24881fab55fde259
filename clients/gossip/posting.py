"""What a node sends: the payloads of a step, and its answer to a delivery."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flower_compress.compressors import Vector
from flower_compress.errors import ConfigurationError, MissingExtraError
from flower_compress.links import Payload
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.mail import Delivery, Letter, Posting, payload_crc

from .blocked import difference
from .state import GossipState

__all__ = ["compress", "post"]


def compress(
    state: GossipState,
    delivery: Delivery,
    contract: GossipContract,
    phases: tuple[str, ...],
    device: str | None = None,
) -> GossipState:
    """Return the state with the payloads of a step, to be posted, as its pending ones.

    q_i = C(z_i - y_i), one for everyone or one for each target of the round. On a
    device of torch, if one is given: what others decode is the same bytes there.

    Raises
    ------
    ConfigurationError
        If torch has no such device here.
    MissingExtraError
        If there is a device, and no torch.
    """
    z = state.vectors[phases[delivery.phase]]
    letters = []
    for target in contract.targets_of(delivery.round):
        x = z
        if contract.keeps_estimates:
            with np.errstate(over="ignore"):
                x = difference(z, state.own[delivery.phase, target])
        payload = Payload.encode(
            x if device is None else _on_device(x, device),
            contract.compressor,
            contract.code,
            contract.channel(contract.node, target, delivery.number),
        )
        letters.append(
            Letter(
                target, delivery.number, delivery.phase, payload.data, payload.num_bits
            )
        )
    return replace(
        state,
        pending=tuple(letters),
        pending_crc=payload_crc(tuple(letters)),
        due={**state.due, delivery.phase: delivery.round},
        stepped=(delivery.round, delivery.phase),
    )


def _on_device(x: Vector, device: str) -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch", "torch") from error
    try:
        return torch.from_numpy(np.require(x, None, ["C", "W"])).to(device)
    except (AssertionError, RuntimeError) as error:
        raise ConfigurationError(
            "expected a device that torch has here, as 'cuda' or 'cpu', got "
            f"{device!r}: {str(error).splitlines()[0]}"
        ) from error


def _snapshots(state: GossipState, delivery: Delivery) -> tuple[Letter, ...]:
    """Return the node's estimates of itself as letters."""
    return tuple(
        Letter(
            target,
            delivery.number,
            phase,
            estimate.astype("<f8", copy=False).tobytes(),
            64 * estimate.size,
            snapshot=True,
        )
        for (phase, target), estimate in state.own.items()
    )


def post(state: GossipState, delivery: Delivery, contract: GossipContract) -> Posting:
    """Return the answer to a delivery that was taken in."""
    letters = _snapshots(state, delivery) if delivery.want_snapshot else ()
    notices = tuple(
        Letter(node, delivery.number, 0, b"", 0, notice=True)
        for node in sorted(state.unreadable)
    )
    collected = delivery.collect and state.vectors
    return Posting(
        session=state.session,
        number=delivery.number,
        phase=delivery.phase,
        received=state.received,
        dim=contract.layout.dim,
        empty=not state.vectors,
        model=state.vectors["model"] if collected else None,
        exact=state.exact if collected else b"",
        letters=(*letters, *notices, *state.pending),
    )
