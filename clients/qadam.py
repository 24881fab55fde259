"""A client that sends Adam's direction instead of its gradient.

Source: Chen, Shen, Huang & Liu, "Quantized Adam with error feedback" (ACM
Transactions on Intelligent Systems and Technology, 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod

from flower_compress.arguments import check_number
from flower_compress.compressors import Vector
from flower_compress.errors import FlowerCompressError
from flower_compress.mods import CompressionMod
from flower_compress.wire.layout import EXACT_PATTERN, Layout
from flower_compress.wire.packet import Packet, find_packet
from flower_compress.wire.records import model_record

from .app import ObjectiveFactory, make_app
from .gradient import gradient_step

__all__ = ["QAdamMod", "qadam_client"]

_STATE_KEY = "flower_compress.qadam"


class QAdamMod:
    """CompressionMod for a train function that returns a gradient, with moments.

    The client keeps its own moments of the gradient g and sends

        m_t = beta1 m_{t-1} + (1 - beta1) g
        v_t = beta2 v_{t-1} + (1 - beta2) g^2
        u = m_t / sqrt(v_t + eps)

    over the uplink, with error feedback where the server says so
    (:func:`flower_compress.strategies.qadam`). t counts the rounds in which the client
    took part. The moments are in ``Context.state``; each session begins with zeros.

    Parameters
    ----------
    beta1, beta2 : float
        Decay of the two moments, in [0, 1).
    eps : float
        Positive.
    exact_pattern : str
        As for the strategy: arrays of such names are no gradients, and stay as they
        are.
    """

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        *,
        exact_pattern: str = EXACT_PATTERN,
    ) -> None:
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            check_number(name, beta, "lie in [0, 1)", lambda b: 0 <= b < 1)
        check_number("eps", eps, "be positive", lambda e: e > 0)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.exact_pattern = exact_pattern
        self._compression = CompressionMod(returns="gradient")

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
                direction = self._direction(gradient, layout, context, session)
                reply.content[key] = layout.unflatten(direction, exact)
            return reply

        return self._compression(msg, context, with_moments)

    def _direction(
        self, gradient: Vector, layout: Layout, context: Context, session: int
    ) -> Vector:
        """Return u; the moments in the context move on."""
        m, v = _moments(context, session, layout.dim)
        m = np.float32(self.beta1) * m + np.float32(1.0 - self.beta1) * gradient
        with np.errstate(over="ignore"):  # check_finite tells
            square = gradient * gradient
            v = np.float32(self.beta2) * v + np.float32(1.0 - self.beta2) * square
        layout.check_finite(v, "the second moment of the client's gradient")
        context.state[_STATE_KEY] = ConfigRecord(
            {"session": session, "moments": m.tobytes() + v.tobytes()}
        )
        direction: Vector = m / np.sqrt(v + np.float32(self.eps))
        return direction


def qadam_client(
    objective: ObjectiveFactory,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    mods: Sequence[Mod] = (),
) -> ClientApp:
    """Return an app that answers with u, Adam's direction at the model it received.

    Keys of the train config: those of :func:`gradient_client`.

    Parameters
    ----------
    objective : Callable[[Context, ConfigRecord], Objective]
        Builds the client's objective; called with every message, so let it cache.
    beta1, beta2, eps : float
        See :class:`QAdamMod`.
    mods : Sequence[Mod]
        Further mods, behind that one: they see plain arrays, a gradient in the reply.
    """
    return make_app(objective, gradient_step, (QAdamMod(beta1, beta2, eps), *mods))


def _session(msg: Message) -> tuple[str, int] | None:
    """Return key and session of the packet to train with in a message, if any."""
    found = find_packet(msg.content)
    if found is None:
        return None
    try:
        return found[0], Packet.parse(found[1]).session
    except FlowerCompressError:
        return None  # CompressionMod tells the server.


def _moments(context: Context, session: int, dim: int) -> tuple[Vector, Vector]:
    """Return the moments so far, zeros in a new session."""
    record = context.state.get(_STATE_KEY)
    if isinstance(record, ConfigRecord) and record["session"] == session:
        data = record["moments"]
        if isinstance(data, bytes):
            m, v = np.frombuffer(data, np.float32).reshape(2, dim)
            return m, v
    return np.zeros(dim, np.float32), np.zeros(dim, np.float32)
