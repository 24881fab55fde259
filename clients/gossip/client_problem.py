"""The client app behind the mod, as the node's F_i."""

from __future__ import annotations

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from flower_compress.compressors import Vector
from flower_compress.errors import ConfigurationError, FlowerCompressError
from flower_compress.mods.client_mod import Returns
from flower_compress.wire.building import with_record
from flower_compress.wire.layout import Layout
from flower_compress.wire.records import model_record

__all__ = ["ClientProblem", "TrainFailedError"]


class TrainFailedError(FlowerCompressError):
    """The train function answered with an error."""

    def __init__(self, reply: Message) -> None:
        super().__init__(reply.error.reason)
        self.reply = reply


class ClientProblem:
    """A :class:`~flower_compress.clients.gossip.node_algorithm.LocalProblem`.

    Parameters
    ----------
    msg, context, call_next
        What the mod was called with.
    key : str
        Key of the record that holds the model in the message.
    layout : Layout
        The model's arrays.
    returns : {"weights", "gradient"}
        What the train function returns.
    exact : bytes
        The node's exact arrays.

    Attributes
    ----------
    key : str
        Key of the record that holds the model in the reply.
    exact : bytes
        The exact arrays, those that the train function returned once it did.
    reply : Message, optional
        What the train function answered.
    """

    def __init__(
        self,
        msg: Message,
        context: Context,
        call_next: ClientAppCallable,
        key: str,
        layout: Layout,
        returns: Returns,
        exact: bytes,
    ) -> None:
        self._msg, self._context, self._call_next = msg, context, call_next
        self._key, self._layout, self._returns = key, layout, returns
        self.key = key
        self.exact = exact
        self.reply: Message | None = None

    def call(self, x: Vector) -> Message:
        """Return the app's reply to a message with the node's model."""
        arrays = self._layout.unflatten(x, self.exact)
        return self._call_next(with_record(self._msg, self._key, arrays), self._context)

    def gradient(self, x: Vector) -> Vector:
        """Return what the train function returns at x.

        Raises
        ------
        ConfigurationError
            If that is weights.
        TrainFailedError
            If it answers with an error.
        """
        if self._returns != "gradient":
            raise ConfigurationError(
                "the relay's algorithm needs gradients: expected a train function "
                'that returns a gradient and GossipMod(returns="gradient"), got '
                f"returns={self._returns!r}"
            )
        return self._train(x)

    def descend(self, x: Vector, step_size: float) -> Vector:
        """Return x - eta g, or the weights after local training."""
        if self._returns == "weights":
            return self._train(x)
        descended: Vector = x - np.float32(step_size) * self._train(x)
        return descended

    def _train(self, x: Vector) -> Vector:
        reply = self.call(x)
        if reply.has_error():
            raise TrainFailedError(reply)
        self.key, arrays = model_record(reply.content, self._key, "the node's reply")
        unchanged = x if self._returns == "weights" else np.zeros_like(x)
        result, exact = self._layout.flatten(
            self._layout.complete(arrays, unchanged, self.exact)
        )
        self._layout.check_finite(result, "the node's update")
        self._layout.check_exact(exact, "the node's reply")
        self.exact, self.reply = exact, reply
        return result
