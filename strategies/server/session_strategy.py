"""What the strategies with a server have in common: their run is one session."""

from __future__ import annotations

from collections import Counter
from logging import getLogger
from typing import Any, ClassVar, get_args

from flwr.app import ArrayRecord, Message, MetricRecord

from flower_compress.errors import ConfigurationError, UnknownNameError
from flower_compress.wire.identity import number_of
from flower_compress.wire.ledger import Ledger

from ..run.checkpoint import Arrays, Checkpoint
from ..run.fields import COUNT, fields
from ..run.own_metrics import add_own
from ..run.strategy import RunStrategy
from .composition import Composition
from .evaluation import EvaluateOn
from .recovery import GuardedStep, OnDivergence, Recovery
from .saved_session import restore_session, save_session
from .session import Session
from .watch import NoiseWatch

__all__ = ["SessionStrategy"]

_log = getLogger("flwr")


class SessionStrategy(RunStrategy):
    """A strategy whose run is one :class:`Session`, which subclasses begin.

    Parameters
    ----------
    evaluate_on : {"received", "global", "held"}
        Which model clients evaluate; see :class:`CompressedStrategy`.
    on_divergence : {"warn", "repair"}
        What happens when the noise of compression feeds itself, likewise.
    **kwargs
        Of the next class.

    Attributes
    ----------
    ledger : Ledger
        What was sent, in bytes and bits.
    refused : Counter[int]
        How many updates were refused, here or by the client's own mod, by the client's
        identity; not of clients that are forgotten.
    odd_metrics : Counter[int]
        How many replies' metrics were left out, likewise.
    """

    _not_begun: ClassVar[str]
    """What is said where there is no session yet."""
    _session: Session | None = None

    def __init__(
        self, *, evaluate_on: EvaluateOn, on_divergence: OnDivergence, **kwargs: Any
    ) -> None:
        for name, value, choices in (
            ("evaluate_on", evaluate_on, get_args(EvaluateOn)),
            ("on_divergence", on_divergence, get_args(OnDivergence)),
        ):
            if value not in choices:
                raise UnknownNameError(name, value, choices)
        super().__init__(**kwargs)
        self.evaluate_on: EvaluateOn = evaluate_on
        self.on_divergence: OnDivergence = on_divergence
        self._taken_names: set[str] = set()

    def _begin_session(
        self, composition: Composition, arrays: ArrayRecord, weighted_by: str = ""
    ) -> Session:
        """Begin a session from a model, with what watches over its steps."""
        held = self.evaluate_on == "held"
        self._taken_names = set()
        self._session = session = Session(
            composition, arrays, keeps_held=held, observers=self._observers
        )
        self._watch = NoiseWatch(self._title, session.composition, session.layout.dim)
        repairs = self.on_divergence == "repair"
        recovery = Recovery(session.arrays) if repairs else None
        self._step = GuardedStep(self._watch, recovery, weighted_by)
        # A session that begins again is one of the same run.
        self._number, self._first = session.id, session.fingerprint()
        return session

    @property
    def ledger(self) -> Ledger:
        """What was sent, in bytes and bits."""
        return Ledger() if self._session is None else self._session.ledger

    @property
    def refused(self) -> Counter[int]:
        """How many updates were refused, by the client's identity."""
        return Counter() if self._session is None else self._session.refused

    @property
    def odd_metrics(self) -> Counter[int]:
        """How many replies' metrics were left out, by the client's identity."""
        return Counter() if self._session is None else self._session.odd_metrics

    @property
    def _running(self) -> Session:
        if self._session is None:
            raise ConfigurationError(self._not_begun)
        return self._session

    def _begun_with(self, arrays: ArrayRecord) -> ArrayRecord:
        return self._running.arrays

    @property
    def _session_id(self) -> int:
        return self._number

    def _fingerprint(self) -> dict[str, Any]:
        return self._first

    def _save(self, arrays: Arrays) -> dict[str, Any]:
        session = self._running
        return {
            "number": self._number,
            "step": self._step.save(session, arrays),
            **save_session(session, arrays),
        }

    def _restore(self, saved: Checkpoint, skip_to: int | None) -> ArrayRecord:
        self._session = session = restore_session(self._running, saved, skip_to)
        self._number = fields({"number": session.id, **saved.meta}, number=COUNT)[
            "number"
        ]
        self._step.restore(session, saved)
        return session.arrays

    def forget(self, identity: int | str) -> None:
        """Forget a client at once, as one that was gone for ``forget_after`` rounds.

        Its memory leaves the mean, it leaves the number of clients, and all that is
        kept of it is freed. If it is still there, or comes back, it begins as a new
        client. To be called between rounds, as from an ``evaluate_fn``.

        Parameters
        ----------
        identity : int or str
            The client's ``partition-id``, a number or a name, or its node id without
            one.

        Raises
        ------
        ConfigurationError
            If no run has begun, or there is no such client.
        """
        self._running.forget(number_of(identity))

    def _newest_version(self) -> int:
        return self._running.downlinks.newest

    def _add_counts(self, metrics: MetricRecord, refused_before: int) -> None:
        """Add what a training refused and sent, and who was away, to its metrics."""
        own: dict[str, int | float] = {
            "refused-updates": self.refused.total() - refused_before,
            "uplink-bytes": self.ledger.round_uplink.num_bytes,
            "downlink-bytes": self.ledger.round_downlink.num_bytes,
        }
        share = None if self._session is None else self._session.departures.share
        if share is not None:
            own["absent-memory-share"] = share
        else:  # A client's would be taken for it.
            metrics.pop("absent-memory-share", None)
        add_own(metrics, own, self._taken_names)

    def _tell_of_errors(self, replies: list[Message]) -> None:
        """Warn if nobody has answered an evaluation but with an error."""
        if not replies or not all(msg.has_error() for msg in replies):
            return
        reason = " ".join(str(replies[0].error.reason).split())
        self._running.warn_once(
            "evaluation",
            "no evaluation: all %d clients answered with an error, the first with "
            "%.300s. If the model cannot be read, the app may give its mod to "
            "@app.train alone: expected ClientApp(mods=[...])",
            *(len(replies), reason),
        )

    def _with_sent(self, metrics: MetricRecord | None) -> MetricRecord | None:
        """Return an evaluation's metrics, if it has any, with what it has sent."""
        if metrics is None:
            return None
        own = {
            "uplink-bytes": self.ledger.round_evaluation_uplink.num_bytes,
            "downlink-bytes": self.ledger.round_evaluation_downlink.num_bytes,
        }
        metrics = MetricRecord(dict(metrics))
        add_own(metrics, own, self._taken_names)
        return metrics

    def _log_links(self, before: Composition, num_clients: int) -> None:
        """Log the links, before a session as the composition `before` has them."""
        session = self._session
        composition = before if session is None else session.composition
        layout = None if session is None else session.layout
        *lines, last = composition.describe(layout, num_clients)
        _log.info("\t├──> Compression:")
        for line in lines:
            _log.info("\t│\t├── %s", line)
        _log.info("\t│\t└── %s", last)
