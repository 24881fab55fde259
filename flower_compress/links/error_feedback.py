"""Error feedback: what a payload leaves out is added to the next vector.

Source: Seide et al. (Interspeech 2014); Karimireddy et al., "Error feedback fixes
SignSGD and other gradient compression schemes" (ICML 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..arguments import check_number
from ..compressors import Vector
from .base import Link, SenderState
from .payload import Channel, Payload

__all__ = ["ErrorFeedback"]


@dataclass(frozen=True)
class ErrorFeedback(Link):
    """q = C(x + e), received as q; then e = feedback * (x + e - q) at the sender.

    The state's vector is x + e as long as q is pending. If q is lost, that whole
    vector is the error: with feedback 1, what was delivered plus e is at any time the
    sum of all inputs. The next payload then carries more than one input, and says so:
    a receiver that takes means has to count it as so many.

    Parameters
    ----------
    compressor : Compressor
        The operator C.
    code : str
        Name of the code for its symbols; ``"auto"`` takes the shortest.
    feedback : float, optional
        The fraction of the error that is kept, in [0, 1]. Default 1 for a
        contraction. An unbiased operator with omega >= 1 is none, and would blow the
        error up: there the default is 1 / (omega + 1) (Philippenko & Dieuleveut 2021,
        remark 2).
    """

    feedback: float | None = None

    kind: ClassVar[str] = "error-feedback"

    def __post_init__(self) -> None:
        Link.__post_init__(self)
        if self.feedback is not None:
            check_number(
                "feedback", self.feedback, "lie in [0, 1]", lambda f: 0 <= f <= 1
            )

    def feedback_at(self, dim: int) -> float:
        """Return the fraction of the error that is kept for vectors of length d."""
        return self._given_or_damped(self.feedback, dim)

    def _given_or_damped(self, given: float | None, dim: int) -> float:
        """Return what is given, else 1, or 1 / (omega + 1) for an unbiased operator."""
        if given is not None:
            return given
        if not self.compressor.unbiased:
            return 1.0
        return 1.0 / (self.compressor.omega(dim) + 1.0)

    def send(
        self, state: SenderState, x: Vector, version: int, channel: Channel
    ) -> tuple[SenderState, Payload]:
        """Compress `x` plus the error so far."""
        corrected = x if state.vector is None else x + state.vector
        payload = Payload.encode(corrected, self.compressor, self.code, channel)
        num_inputs = state.num_inputs + 1
        state = SenderState(state.version, corrected, payload, version, num_inputs)
        return state, payload

    def acknowledge(
        self, state: SenderState, version: int, crc: int | None = None
    ) -> SenderState:
        """Take the pending payload out of the error, if it arrived."""
        if state.pending is None or not state.is_pending(version, crc):
            return SenderState(version, state.vector, num_inputs=state.num_inputs)
        if state.vector is None:
            return SenderState(version)
        return SenderState(version, self._kept(state.vector - state.pending.vector))

    def _kept(self, error: Vector) -> Vector:
        """Return what is kept of the error; it may be changed."""
        feedback = self.feedback_at(error.size)
        if feedback != 1.0:
            error *= np.float32(feedback)
        return error

    def refuse(self, state: SenderState) -> SenderState:
        """Forget the error too: what the peer refused must not be sent again."""
        return SenderState(state.version)

    def config(self) -> dict[str, Any]:
        """Return the JSON-able configuration that rebuilds the link."""
        return {**Link.config(self), "feedback": self.feedback}
