"""A client that keeps moments of its gradient, and sends what they make of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from flower_compress.compressors import Vector
from flower_compress.errors import FlowerCompressError
from flower_compress.mods import CompressionMod
from flower_compress.mods.client_mod import evaluates
from flower_compress.wire.layout import EXACT_PATTERN, Layout
from flower_compress.wire.packet import Packet, find_packet
from flower_compress.wire.records import model_record, records_of

__all__ = ["Moments", "MomentsMod"]

Moments = NDArray[np.float32]
"""Vectors that a client keeps, one a row."""


class MomentsMod(ABC):
    """CompressionMod for a train function that returns a gradient, with moments.

    They are in ``Context.state``; each session begins with zeros, and a round counts
    in which the client took part. Evaluations are the app's own.

    Parameters
    ----------
    exact_pattern : str
        As for the strategy: arrays of such names are no gradients, and stay as they
        are.
    """

    state_key: ClassVar[str]
    names: ClassVar[tuple[str, ...]]

    def __init__(self, *, exact_pattern: str = EXACT_PATTERN) -> None:
        self.exact_pattern = exact_pattern
        self._compression = CompressionMod(returns="gradient")

    @abstractmethod
    def step(
        self, moments: Moments, gradient: Vector, config: ConfigRecord
    ) -> tuple[Moments, Vector]:
        """Return the moments after a gradient, and what takes its place.

        Parameters
        ----------
        moments : NDArray[np.float32]
            Those before, one a row, shape (len(names), d); not to be written into.
        gradient : NDArray[np.float32]
            Shape (d,), all entries finite.
        config : ConfigRecord
            The train config, empty if there is none.
        """

    def __call__(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        """Handle one message."""
        found = _session(msg)

        def with_moments(msg: Message, context: Context) -> Message:
            if found is None:
                return call_next(msg, context)
            key, session = found
            _, received = model_record(msg.content, key, "the message")
            layout = Layout.of(received, self.exact_pattern)
            _, exact = layout.flatten(received)
            reply = call_next(msg, context)
            if not reply.has_error():
                key, arrays = model_record(reply.content, key, "the client's reply")
                zeros = np.zeros(layout.dim, np.float32)
                gradient, exact = layout.flatten(layout.complete(arrays, zeros, exact))
                layout.check_finite(gradient, "the client's gradient")
                config = next(records_of(msg.content, ConfigRecord), ConfigRecord())
                before = self._moments(context, session, layout.dim)
                with np.errstate(over="ignore"):  # check_finite tells
                    moments, direction = self.step(before, gradient, config)
                for name, moment in zip(self.names, moments, strict=True):
                    layout.check_finite(moment, f"the {name} of the client's gradient")
                context.state[self.state_key] = ConfigRecord(
                    {"session": session, "moments": moments.tobytes()}
                )
                reply.content[key] = layout.unflatten(direction, exact)
            return reply

        return self._compression(msg, context, with_moments)

    def _moments(self, context: Context, session: int, dim: int) -> Moments:
        """Return the moments so far, zeros in a new session."""
        record = context.state.get(self.state_key)
        if isinstance(record, ConfigRecord) and record["session"] == session:
            data = record["moments"]
            if isinstance(data, bytes):
                return np.frombuffer(data, np.float32).reshape(len(self.names), dim)
        return np.zeros((len(self.names), dim), np.float32)


def _session(msg: Message) -> tuple[str, int] | None:
    """Return key and session of the packet to train with in a message, if any."""
    found = find_packet(msg.content)
    if found is None or evaluates(msg):
        return None
    try:
        return found[0], Packet.parse(found[1]).session
    except FlowerCompressError:
        return None  # CompressionMod tells the server.
