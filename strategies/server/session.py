"""What the server holds in one run."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from logging import getLogger
from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from flower_compress.compressors import Parts, Tied, Vector
from flower_compress.errors import ConfigurationError
from flower_compress.wire.contract import Contract
from flower_compress.wire.layout import Layout
from flower_compress.wire.ledger import Ledger, in_units

from ..callbacks.observers import Observers
from ..run.model_arrays import check_arrays
from .composition import Composition
from .departures import Departures
from .downlink import Downlinks
from .first_model import Beginning
from .roster import Roster
from .sync_budget import SyncBudget
from .uplink import Uplinks
from .uplink_end import Contribution
from .vector_store import VectorStore

__all__ = ["Session"]

_log = getLogger("flwr")


class Session:
    """The central model, both ends of all links, and what was sent.

    Parameters
    ----------
    composition : Composition
        The algorithm.
    arrays : ArrayRecord
        The initial model.
    ledger : Ledger, optional
        Where what is sent is added; a new one by default.
    keeps_held : bool
        Whether clients are asked to evaluate what they trained on last.
    observers : Observers, optional
        Who is told what happens to clients.

    Raises
    ------
    ConfigurationError
        If the model is bytes, or has no arrays, or such of no numbers.

    Attributes
    ----------
    id : int
        The session's number; clients drop what they remember of another.
    layout : Layout
        The model's arrays.
    arrays : ArrayRecord
        The model w as users see it.
    model : NDArray[np.float32]
        w, shape (d,), without the exact arrays.
    exact : bytes
        The exact arrays.
    optimizer_state : dict[str, NDArray[np.float32]]
        What the server's optimizer remembers.
    beginning : Beginning
        The first model of every client.
    contract : Contract
        What clients are told with their first model.
    downlinks, uplinks, roster
        All clients, with the server's ends of their links.
    departures : Departures
        Which of them are gone.
    ledger : Ledger
        What was sent.
    observers : Observers
        Who is told what happens to clients.
    refused : Counter[int]
        How many updates were refused, by client.
    odd_metrics : Counter[int]
        How many replies' metrics were left out, by client.
    bounds : Bounds
        What a client may contribute, by what the others do.
    sync_budget : SyncBudget
        How often clients may ask for everything anew.
    epoch_budget : SyncBudget
        How often clients may make all memories start from zero.
    update_norm : float
        ||u|| of the last round's update.
    damping : float
        What every update is multiplied with; 1 unless the run has diverged.
    begun_again : ArrayRecord, optional
        The model that it has begun with, if that is not the run's first one.
    """

    def __init__(
        self,
        composition: Composition,
        arrays: ArrayRecord,
        ledger: Ledger | None = None,
        *,
        keeps_held: bool = False,
        observers: Observers | None = None,
    ) -> None:
        self.observers = Observers() if observers is None else observers
        layout = Layout.of(arrays, composition.exact_pattern)
        check_arrays(
            layout, composition.uplink.compressor, composition.downlink.compressor
        )
        self.layout = layout
        self.id = secrets.randbits(32) or 1
        self._take_over(arrays, "the initial model")
        self._unresolved, self._keeps_held = composition, keeps_held
        self.composition = composition = composition.resolve(layout, self.model)
        self.ledger = Ledger() if ledger is None else ledger
        self.refused, self.odd_metrics = Counter[int](), Counter[int]()
        self.failed = Counter[int]()
        """How often in a row clients' apps have failed."""
        self._warned: set[str] = set()
        self.optimizer_state = composition.optimizer.init(layout.dim)
        self.update_norm, self.damping = 0.0, 1.0
        self.begun_again: ArrayRecord | None = None
        self.beginning = Beginning.of(
            composition.first_model,
            composition.downlink,
            layout,
            self.model,
            composition.seed,
        )
        if composition.downlink_carries == "update" and self.beginning.payload:
            # Clients add updates to what they begin with, and so does the server.
            rounded = layout.unflatten(self.beginning.vector, self.exact)
            self._take_over(rounded, "the first model")
        self.begin_ends()
        downlink = composition.downlink
        self.contract = Contract(
            layout,
            composition.uplink,
            self.downlinks.receiver_rate,
            composition.seed,
            composition.groups,
            downlink if isinstance(downlink.compressor, Parts | Tied) else None,
            by_node=composition.identities == "node",
            held=keeps_held and self.downlinks.receiver_rate is None,
            first_model=self.beginning.term,
        )
        self.contract_bytes = self.contract.to_bytes()

    def begin_ends(self) -> None:
        """Begin all links, with :attr:`beginning`; no client is known."""
        links = self.composition
        store = VectorStore(self.layout.dim, links.memory_budget, links.spill_dir)
        self.downlinks = Downlinks(
            links.downlink,
            links.downlink_carries,
            links.groups,
            lambda identity: self.contract.downlink_channel(identity),
            self.beginning,
            store,
            links.downlink_memory,
            links.reset_every,
        )
        self.uplinks = Uplinks(
            links.uplink,
            self.layout.dim,
            links.uplink_memory,
            store,
            links.max_update_norm,
            measures=links.max_norm_ratio is not None,
            trusted=links.identities == "trusted",
        )
        self.bounds = links.bounds(self.layout)
        self.sync_budget = SyncBudget()
        self.epoch_budget = SyncBudget("lost its memory too often")
        self.roster = Roster(
            self.id,
            self.downlinks,
            self.uplinks,
            self.ledger,
            links.identities,
            self.observers,
        )
        self.departures = Departures(
            self.roster, self.uplinks.memories, links.forget_after, self.observers
        )

    def follow(self, arrays: ArrayRecord, what: str = "the model") -> None:
        """Take over a model that is not the one of the last round.

        Raises
        ------
        LayoutMismatchError
            If its arrays are not those of the layout.
        NonFiniteError
            If it holds NaN or infinity; `what` is what the error calls it.
        """
        self._take_over(arrays, what)
        self.downlinks.outdate()

    def _take_over(self, arrays: ArrayRecord, what: str) -> None:
        model, exact = self.layout.flatten(arrays)
        self.layout.check_finite(model, what)
        self.layout.check_exact(exact, what)
        self.arrays, self.model, self.exact = arrays, model.copy(), exact

    def require_unchanged(self) -> None:
        """Raise ConfigurationError if clients could not follow another model."""
        if self.composition.downlink_carries == "update":
            raise ConfigurationError(
                "the downlink carries updates, so the arrays must be those that "
                "the last round returned: expected them unchanged"
            )

    def begin_again(self, arrays: ArrayRecord, damping: float) -> Session:
        """Return a session that goes on from a model with smaller steps.

        Clients take it for a new run: they are greeted and sent the model, dense, and
        all memories begin anew. What was counted is counted on.

        Parameters
        ----------
        arrays : ArrayRecord
            The model.
        damping : float
            What every update is multiplied with.
        """
        session = Session(
            replace(self._unresolved, first_model="dense"),
            arrays,
            self.ledger,
            keeps_held=self._keeps_held,
            observers=self.observers,
        )
        session.refused, session.damping = self.refused, damping
        session.failed = self.failed
        session.odd_metrics, session.begun_again = self.odd_metrics, arrays
        session._warned = self._warned
        session.roster.keep_claims(self.roster)
        session.roster.in_arrays = self.roster.in_arrays
        return session

    def warn_once(self, about: str, text: str, *values: object) -> None:
        """Log a warning, unless there was one about that in this run."""
        if about not in self._warned:
            self._warned.add(about)
            _log.warning(text, *values)

    def tell_of_others(self, direction: str, num_bytes: int) -> None:
        """Warn once of arrays in a message beside the model's, if they are not few."""
        if 10 * num_bytes > self.layout.num_bytes:
            self.warn_once(
                f"other arrays {direction}",
                "a message %s holds %s of arrays in other records than the model's: "
                "they travel as they are, only the model's are compressed",
                *(direction, in_units(num_bytes)),
            )

    # -- clients that leave ----------------------------------------------------------

    def begin_training(self, there: Iterable[int]) -> None:
        """Begin a training with the clients of those identities connected."""
        for identity in self.departures.begin(there):
            self._forget_counts(identity)

    def forget(self, identity: int) -> None:
        """Forget a client.

        Raises
        ------
        ConfigurationError
            If it is not known.
        """
        self.roster.forget([identity], "told to forget it")
        self._forget_counts(identity)

    def _forget_counts(self, identity: int) -> None:
        self.sync_budget.forget(identity)
        self.epoch_budget.forget(identity)
        for counter in (self.refused, self.odd_metrics, self.failed):
            counter.pop(identity, None)

    # -- the server's step -----------------------------------------------------------

    def step(
        self, parts: list[Contribution], exact: list[bytes], server_round: int
    ) -> bool:
        """Estimate the gradient from contributions, and move the model.

        Parameters
        ----------
        parts : list[Contribution]
            Of the clients that take part, in the order of their identities.
        exact : list[bytes]
            Their exact arrays.
        server_round : int
            The round, from 1.

        Returns
        -------
        bool
            Whether there was a step: not if every contribution has weight 0.

        Raises
        ------
        NonFiniteError
            If the update or the model after it is not finite.
        """
        # A run that diverges overflows here, and check_finite says so.
        with np.errstate(over="ignore", invalid="ignore"):
            gradient = self.uplinks.fold(parts, len(self.roster))
            if gradient is None:
                self.pause()
                return False
            self.optimizer_state, update = self.composition.optimizer.step(
                self.optimizer_state, gradient, server_round
            )
            self._take_update(update)
        if self.exact:
            weights = [part.weight for part in parts]
            self.exact = self.layout.average_exact(exact, weights)
        self.arrays = self.layout.unflatten(self.model, self.exact)
        return True

    def on_the_way_to(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the model that goes `damping` of the way to another."""
        model, exact = self.layout.flatten(arrays)
        with np.errstate(over="ignore", invalid="ignore"):  # check_finite says so
            model = self.model + np.float32(self.damping) * (model - self.model)
        return self.layout.unflatten(model, exact)

    def pause(self) -> None:
        """Note a round without a step."""
        if self.composition.downlink_carries == "update":
            self.downlinks.publish_update(None)

    def _take_update(self, update: Vector) -> None:
        if self.damping != 1.0:
            update = update * np.float32(self.damping)
        self.layout.check_finite(update, "the server's update")
        self.update_norm = float(np.linalg.norm(update))
        if self.composition.downlink_carries == "update":
            self.downlinks.publish_update(update)
        preserved = self.composition.preserved
        degraded = None if preserved else self.downlinks.degraded_model
        model = self.model + update if degraded is None else degraded
        self.layout.check_finite(model, "the model after the server's step")
        self.model = model

    def fingerprint(self) -> dict[str, Any]:
        """Return what must not change when a run goes on."""
        return {
            "contract": self.contract_bytes.decode(),
            **self.composition.fingerprint(),
            "optimizer": sorted(self.optimizer_state),
        }
