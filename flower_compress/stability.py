"""How far clients may go in a round before the noise of compression feeds itself.

The theorems of :mod:`~flower_compress.theory` bound the step of clients that send
gradients. Clients that train locally and return weights go far in a round, and then a
link's noise decides: it grows with the vector that is compressed, and that vector with
the noise of the round before. For clients that go the share c of the way to optima of
their own,

    w_i = w_hat_i - c (w_hat_i - t_i),

and links whose operators are unbiased with E||C(x) - x||^2 = omega ||x||^2, all vectors
of a run (the model's distance to the mean optimum, the memories' distances to what they
remember, errors) move linearly, so the second moments of all pairs of them do too.
With exchangeable clients there are at most nine such moments. :func:`moment_factor` is
the spectral radius of their map: below 1 the run contracts, above it diverges, by that
factor a round in ||w - w*||^2.

This is exact for that problem, of any dimension, where the operator has its omega with
equality (RotatedQuantizer, RandK), and an upper bound where omega is one.

What does not depend on w only adds a level at which a run ends. Here that is how far
the optima lie apart, z_i = t_i - w* with sum_i z_i = 0: where no memory learns c z_i,
it is compressed, or missed with the clients that are away, in every round. With the z_i
among the vectors, whose own moments no round changes, the same map gives the run from
its start to its :func:`level`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigurationError

__all__ = ["LinkNoise", "largest_share", "level", "moment_factor"]

Kind = Literal["direct", "memory", "error-feedback"]
_Form = NDArray[np.float64]
_PRECISION = 2.0**-10
_SETTLED = 1e-9
_DOUBLINGS = 24
_FAR = 1e30


@dataclass(frozen=True)
class LinkNoise:
    """What a link does to the second moments of what it carries.

    Parameters
    ----------
    kind : {"direct", "memory", "error-feedback"}
        The link.
    omega : float
        E||C(x) - x||^2 = omega ||x||^2 of its unbiased operator; 0 for a lossless one.
    rate : float
        alpha of a memory; the fraction of the error that error feedback keeps.
    """

    kind: Kind
    omega: float
    rate: float = 0.0


@dataclass(frozen=True)
class _Round:
    """The linear map of one round, see :func:`moment_factor`."""

    uplink: LinkNoise
    downlink: LinkNoise
    carries_update: bool
    preserved: bool
    private: bool
    num_clients: int
    num_active: int
    apart: bool = False

    @property
    def blocks(self) -> dict[str, int]:
        """Names of the vectors that a run remembers, and how many there are of each.

        ``w``: the model's distance to the mean optimum; ``seen``: the clients' model
        less that; ``down``: model less downlink memory, or the downlink's error;
        ``up``: what the uplinks remember; ``apart``: the clients' optima less their
        mean, which stay.
        """
        blocks = {"w": 1}
        if self.carries_update and self.preserved:
            blocks["seen"] = 1
        if self.downlink.kind != "direct":
            blocks["down"] = self.num_clients if self.private else 1
        if self.uplink.kind != "direct":
            blocks["up"] = self.num_clients
        if self.apart:
            blocks["apart"] = self.num_clients
        return blocks

    def __call__(self, moments: _Form, share: float) -> _Form:
        """Return the moments after a round of those before it, shape (m, m)."""
        # At most one a client each way, and one of the update.
        vectors = _Vectors(moments, 2 * self.num_active + 1)
        here: dict[str, list[_Form]] = {}
        start = 0
        for name, count in self.blocks.items():
            here[name] = [vectors.unit(start + i) for i in range(count)]
            start += count
        after = {name: list(forms) for name, forms in here.items()}
        seen = self._send_model(vectors, here, after)
        (w,) = here["w"]
        update = vectors.zero()
        if self.uplink.kind == "memory":
            for memory in here["up"]:
                update = update - memory / self.num_clients
        for i in range(self.num_active):
            gradient = share * seen[i % len(seen)]
            if self.apart:
                gradient = gradient - share * here["apart"][i]
            update = update - self._answer(vectors, here, after, i, gradient)
        self._step(vectors, here, after, w, update)
        rows = [form for name in self.blocks for form in after[name]]
        return vectors.moments_of(rows)

    def _send_model(
        self,
        vectors: _Vectors,
        here: dict[str, list[_Form]],
        after: dict[str, list[_Form]],
    ) -> list[_Form]:
        """Return w_hat less the optimum: one for all clients, or one for each."""
        (w,) = here["w"]
        if self.carries_update:
            return [w + here["seen"][0]] if self.preserved else [w]
        link = self.downlink
        if link.kind == "direct":
            return [vectors.compress(w, link.omega)]
        seen = []
        # Only clients that take part hear of the model, if each has its own.
        for i in range(self.num_active if self.private else 1):
            distance = here["down"][i]
            q = vectors.compress(distance, link.omega)
            seen.append(w - distance + q)
            after["down"][i] = distance - link.rate * q
        return seen

    def _answer(
        self,
        vectors: _Vectors,
        here: dict[str, list[_Form]],
        after: dict[str, list[_Form]],
        client: int,
        gradient: _Form,
    ) -> _Form:
        """Return what a client's payload adds to the estimate of the gradient."""
        link = self.uplink
        if link.kind == "memory":
            memory = here["up"][client]
            q = vectors.compress(gradient - memory, link.omega)
            after["up"][client] = memory + link.rate * q
        elif link.kind == "error-feedback":
            corrected = gradient + here["up"][client]
            q = vectors.compress(corrected, link.omega)
            after["up"][client] = link.rate * (corrected - q)
        else:
            q = vectors.compress(gradient, link.omega)
        return q / self.num_active

    def _step(
        self,
        vectors: _Vectors,
        here: dict[str, list[_Form]],
        after: dict[str, list[_Form]],
        w: _Form,
        update: _Form,
    ) -> None:
        link = self.downlink
        if not self.carries_update:
            after["w"] = [w + update]
            if "down" in after:  # The model moves away from every memory.
                after["down"] = [form + update for form in after["down"]]
            return
        vector = update + here["down"][0] if link.kind != "direct" else update
        received = vectors.compress(vector, link.omega)
        if link.kind != "direct":
            after["down"] = [link.rate * (vector - received)]
        if self.preserved:
            after["w"] = [w + update]
            after["seen"] = [here["seen"][0] + received - update]
        else:
            after["w"] = [w + received]


class _Vectors:
    """Random vectors with their second moments, and operators that add noise.

    A vector is a linear form of a basis: the vectors of the state, and the noise of
    each compression, which is independent of everything before it.
    """

    def __init__(self, moments: _Form, num_compressions: int) -> None:
        self._size = len(moments)
        room = self._size + num_compressions
        self._moments = np.zeros((room, room))
        self._moments[: self._size, : self._size] = moments

    def zero(self) -> _Form:
        return np.zeros(len(self._moments))

    def unit(self, place: int) -> _Form:
        form = self.zero()
        form[place] = 1.0
        return form

    def compress(self, vector: _Form, omega: float) -> _Form:
        """Return C(x) = x + noise of variance omega ||x||^2."""
        if omega == 0.0:
            return vector
        place, self._size = self._size, self._size + 1
        self._moments[place, place] = omega * float(vector @ self._moments @ vector)
        return vector + self.unit(place)

    def moments_of(self, vectors: Sequence[_Form]) -> _Form:
        """Return the second moments of all pairs of `vectors`."""
        forms = np.array(vectors)
        moments: _Form = forms @ self._moments @ forms.T
        return moments


def moment_factor(
    share: float,
    uplink: LinkNoise,
    downlink: LinkNoise,
    *,
    num_clients: int,
    num_active: int = 0,
    carries_update: bool = False,
    preserved: bool = True,
    private: bool = False,
) -> float:
    """Return the factor by which a round changes ||w - w*||^2 in the long run.

    Parameters
    ----------
    share : float
        c: the share of the way to their optima that clients go in a round (for
        gradients, gamma times the curvature).
    uplink, downlink : LinkNoise
        The links.
    num_clients : int
        N.
    num_active : int
        How many of them take part in a round, drawn anew each time; 0 for all.
    carries_update, preserved, private
        As ``downlink_carries``, ``preserved`` and ``groups="client"`` of
        :class:`~flower_compress.strategies.CompressedStrategy`.

    Raises
    ------
    ConfigurationError
        If the numbers of clients are not positive, or there are fewer than take part.
    """
    num_active = _checked(num_clients, num_active)
    round_ = _Round(
        uplink, downlink, carries_update, preserved, private, num_clients, num_active
    )
    basis = _exchangeable(list(round_.blocks.values()), num_clients)
    return float(np.abs(np.linalg.eigvals(_matrix_of(round_, basis, share))).max())


def level(
    share: float,
    uplink: LinkNoise,
    downlink: LinkNoise,
    *,
    spread: float,
    num_clients: int,
    num_active: int = 0,
    num_rounds: int | None = None,
    carries_update: bool = False,
    preserved: bool = True,
    private: bool = False,
) -> float:
    """Return the ``E||w - w*||^2 / ||w_0 - w*||^2`` at which a run levels off.

    The fixed point of the moments, to which a run goes that does not diverge. Without
    a memory on the uplink every client compresses c (w_hat - w* - z_i), which stays as
    long as the z_i are not all zero: for QSGD with all N clients

        E||w_{k+1} - w*||^2 = ((1 - c)^2 + c^2 omega / N) E||w_k - w*||^2
                              + c^2 omega / N zeta^2,    zeta^2 = sum_i ||z_i||^2 / N

        level = c^2 omega / N zeta^2 / (1 - (1 - c)^2 - c^2 omega / N),

    in units of ||w_0 - w*||^2. Where S of the clients take part, drawn anew each time,
    their mean optimum is another than that of all, even uncompressed: that adds
    c^2 zeta^2 (N - S) / (S (N - 1)) a round. Error feedback keeps the same vectors and
    adds what it left out. With Artemis-ND's downlink what is left out of the updates
    stays between the clients' model and the server's for good: its level is what has
    added up by the time that the updates have died out.

    Parameters
    ----------
    spread : float
        zeta^2 / ||w_0 - w*||^2. About N - 1 where the optima are independent draws
        whose expectation is w_0.
    num_rounds : int, optional
        After how many rounds; by default after all, infinity where a run diverges.
    share, uplink, downlink, num_clients, num_active, carries_update, preserved, private
        As :func:`moment_factor` has them.

    Raises
    ------
    ConfigurationError
        If the numbers of clients are not positive, or there are fewer than take part,
        or the spread is negative, or of one client.
    """
    num_active = _checked(num_clients, num_active)
    if not 0 <= spread < math.inf or (num_clients == 1 and spread > 0):
        raise ConfigurationError(
            f"expected a finite spread >= 0 of the clients' optima, and 0 for one "
            f"client, got {spread} for {num_clients}"
        )
    round_ = _Round(
        uplink,
        downlink,
        carries_update,
        preserved,
        private,
        num_clients,
        num_active,
        apart=spread > 0,
    )
    basis = _exchangeable(list(round_.blocks.values()), num_clients)
    start = np.zeros(len(basis))
    start[0] = 1.0
    if spread > 0:  # The two patterns of the optima come last, and sum to zero.
        start[-2:] = spread, -spread / (num_clients - 1)
    matrix = _matrix_of(round_, basis, share)
    with np.errstate(over="ignore", invalid="ignore"):
        if num_rounds is not None:
            end = float((np.linalg.matrix_power(matrix, num_rounds) @ start)[0])
            return max(0.0, end) if math.isfinite(end) else math.inf
        return _settled(matrix, start)


def _settled(matrix: _Form, start: _Form) -> float:
    """Return the first moment after 2, 4, 8, ... rounds, once it stays."""
    before = 1.0
    for _ in range(_DOUBLINGS):
        matrix = matrix @ matrix
        now = float((matrix @ start)[0])
        if not now < _FAR:
            return math.inf
        if abs(now - before) <= _SETTLED:
            break
        before = now
    return max(0.0, now)


def _checked(num_clients: int, num_active: int) -> int:
    """Return how many take part, where 0 stands for all."""
    num_active = num_active or num_clients
    if not 1 <= num_active <= num_clients:
        raise ConfigurationError(
            f"expected 1 or more clients and at most all of them in a round, got "
            f"{num_active} of {num_clients}"
        )
    return num_active


def _matrix_of(round_: _Round, basis: list[_Form], share: float) -> _Form:
    """Return what a round does to moments given as sums of the patterns of `basis`."""
    columns = []
    for pattern in basis:
        # Which clients take part is drawn: the mean over all draws is what is the same
        # for every client.
        moments = round_(pattern, share)
        columns.append([float((moments * p).sum() / p.sum()) for p in basis])
    return np.array(columns).T


def _exchangeable(counts: list[int], num_clients: int) -> list[_Form]:
    """Return a basis of the moments that no renumbering of the clients changes."""
    starts = np.cumsum([0, *counts])
    patterns = []
    for i, rows in enumerate(counts):
        for j in range(i, len(counts)):
            parts = [np.ones((rows, counts[j]))]
            if rows == counts[j] == num_clients > 1:
                parts = [np.eye(rows), 1.0 - np.eye(rows)]
            for part in parts:
                pattern = np.zeros((starts[-1], starts[-1]))
                across = slice(starts[i], starts[i + 1])
                down = slice(starts[j], starts[j + 1])
                pattern[across, down] = part
                pattern[down, across] = part.T
                patterns.append(pattern)
    return patterns


def largest_share(
    uplink: LinkNoise,
    downlink: LinkNoise,
    *,
    num_clients: int,
    num_active: int = 0,
    carries_update: bool = False,
    preserved: bool = True,
    private: bool = False,
    most: float = 1.0,
) -> float:
    """Return the largest c in [0, most] up to which a run does not diverge.

    To three digits. It is 1, or `most`, for links that bear any local training that
    stops at the clients' optima. Clients that overshoot them, by momentum or too large
    a step, go further than that: uncompressed a run bears c < 2. The other parameters
    are those of :func:`moment_factor`.
    """

    def diverges(share: float) -> bool:
        factor = moment_factor(
            share,
            uplink,
            downlink,
            num_clients=num_clients,
            num_active=num_active,
            carries_update=carries_update,
            preserved=preserved,
            private=private,
        )
        return factor > 1.0 + 1e-9

    if not diverges(most):
        return most
    low, high = 0.0, most
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if diverges(middle) else (middle, high)
    return low
