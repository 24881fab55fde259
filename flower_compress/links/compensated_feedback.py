"""Error feedback of which a part is added, and a part forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..arguments import check_number
from ..compressors import Vector
from .base import SenderState
from .error_feedback import ErrorFeedback
from .payload import Channel, Payload

__all__ = ["CompensatedFeedback"]


@dataclass(frozen=True)
class CompensatedFeedback(ErrorFeedback):
    """q = C(x + a h), received as q; then h = b h + x - q at the sender.

    Where :class:`ErrorFeedback` keeps a fraction of what it left out of x + e, here x
    alone is what q should have been: with b = 1, what was delivered plus h is at any
    time the sum of all inputs, whatever a. For an unbiased operator
    E||h||^2 contracts with (b - a)^2 + a^2 omega, so that a = b = 1 needs omega < 1.

    The state's vector is b h + x as long as q is pending. If q is lost, that is h.

    Source: Wu, Huang, Huang & Zhang, "Error compensated quantized SGD and its
    applications to large-scale distributed optimization" (ICML 2018).

    Parameters
    ----------
    compressor : Compressor
        The operator C.
    code : str
        Name of the code for its symbols; ``"auto"`` takes the shortest.
    feedback : float, optional
        b, in [0, 1]; default 1.
    compensation : float, optional
        a, in [0, 1]. Default 1 / (omega + 1), which contracts most with b = 1, and 1
        for a contraction.
    """

    compensation: float | None = None

    kind: ClassVar[str] = "compensated-feedback"

    def __post_init__(self) -> None:
        ErrorFeedback.__post_init__(self)
        if self.compensation is not None:
            check_number(
                "compensation",
                self.compensation,
                "lie in [0, 1]",
                lambda a: 0 <= a <= 1,
            )

    def feedback_at(self, dim: int) -> float:
        """Return b."""
        return 1.0 if self.feedback is None else self.feedback

    def compensation_at(self, dim: int) -> float:
        """Return a for vectors of length d."""
        return self._given_or_damped(self.compensation, dim)

    def send(
        self, state: SenderState, x: Vector, version: int, channel: Channel
    ) -> tuple[SenderState, Payload]:
        """Compress `x` plus a part of what was left out so far."""
        corrected, kept = x, x
        if state.vector is not None:
            corrected = x + np.float32(self.compensation_at(x.size)) * state.vector
            kept = x + np.float32(self.feedback_at(x.size)) * state.vector
        payload = Payload.encode(corrected, self.compressor, self.code, channel)
        num_inputs = state.num_inputs + 1
        return SenderState(state.version, kept, payload, version, num_inputs), payload

    def _kept(self, error: Vector) -> Vector:
        """Return all of it: b is applied when it is added."""
        return error

    def config(self) -> dict[str, Any]:
        """Return the JSON-able configuration that rebuilds the link."""
        return {**ErrorFeedback.config(self), "compensation": self.compensation}
