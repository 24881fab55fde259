"""A run's callbacks, and its log of what happens to clients."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from logging import INFO, WARNING, getLogger
from pathlib import Path
from typing import Final

from flwr.serverapp.strategy import Result

from flower_compress.errors import ConfigurationError, WrongTypeError
from flower_compress.wire.ledger import Ledger, Traffic

from .base import Callback, ClientEvent, EventKind, RoundMetrics, RunInfo
from .json_lines import JsonLines

__all__ = ["Observers"]

_log = getLogger("flwr")
_MOST_LINES: Final = 20
"""Lines in a row on one kind of event, of a round: what is more is counted."""


class Observers:
    """Tells callbacks of a run, and the log of its clients.

    A callback that raises is logged once, with its name, and told no more in that run.

    Parameters
    ----------
    callbacks : Iterable[Callback]
        Whom to tell, in this order.

    Raises
    ------
    WrongTypeError
        If one is no :class:`Callback`.
    ConfigurationError
        If one is there twice.
    """

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
            raise WrongTypeError("callbacks", "a list, as [JsonLines(path)]", callbacks)
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise WrongTypeError(
                    "a callback",
                    "a Callback of flower_compress.strategies.callbacks",
                    callback,
                    "give an object, not the class"
                    if isinstance(callback, type)
                    else "",
                )
        if len({id(callback) for callback in self.callbacks}) < len(self.callbacks):
            raise ConfigurationError(
                "callbacks must be objects of their own, got one of them twice"
            )
        self._told = list(self.callbacks)
        self._count_anew(0)
        self._uplink, self._downlink = Traffic(), Traffic()

    def keep_off(self, path: Path | None) -> None:
        """Raise ConfigurationError if a callback would write the run's own file."""
        for callback in self.callbacks:
            if path is None or not isinstance(callback, JsonLines):
                continue
            if callback.path.resolve() == path.resolve():
                raise ConfigurationError(
                    f"JsonLines was given {callback.path}, which a run with a "
                    "checkpoint_dir writes itself: give it another file"
                )

    def start(self, run: RunInfo, ledger: Ledger) -> None:
        """Begin to tell of a run, whose ledger stands where it does."""
        self._told = list(self.callbacks)
        self._count_anew(run.resumed_from)
        self._uplink, self._downlink = ledger.uplink.copy(), ledger.downlink.copy()
        self._tell(lambda callback: callback.on_start(run))

    def begin_round(self, server_round: int) -> None:
        """Note which round has begun."""
        self.server_round = server_round
        self._lines.clear()

    def end_round(self, server_round: int, result: Result, ledger: Ledger) -> None:
        """Tell of a round that is over."""
        for kind, count in self._lines.items():
            if count > _MOST_LINES:
                more = count - _MOST_LINES
                _log.info("client %s: %d more in round %d", kind, more, server_round)
        metrics = RoundMetrics(
            dict(result.train_metrics_clientapp.get(server_round, {})),
            dict(result.evaluate_metrics_clientapp.get(server_round, {})),
            dict(result.evaluate_metrics_serverapp.get(server_round, {})),
            ledger.uplink - self._uplink,
            ledger.downlink - self._downlink,
            dict(self._counts),
            time.monotonic() - self._begun,
        )
        self._uplink, self._downlink = ledger.uplink.copy(), ledger.downlink.copy()
        self._tell(lambda callback: callback.on_round(server_round, metrics))
        self._count_anew(server_round)

    def end(self, result: Result, error: BaseException | None) -> None:
        """Tell that the run is over."""
        self._tell(lambda callback: callback.on_end(result, error))

    # -- clients ---------------------------------------------------------------------

    def note(
        self,
        kind: EventKind,
        identity: int | None,
        node_id: int,
        reason: str = "",
        *,
        is_logged: bool = False,
    ) -> None:
        """Tell of a client; `is_logged` if the log has it in other words."""
        event = ClientEvent(kind, self.server_round, identity, node_id, reason)
        self._counts[kind] += 1
        self._lines[kind] += not is_logged
        if kind != "joined":
            self._noted.add(identity)
        if self._lines[kind] <= _MOST_LINES and not is_logged:
            _log.log(WARNING if kind == "refused" else INFO, "%s", event)
        self._tell(lambda callback: callback.on_event(event))

    def begin_exchange(self) -> None:
        """Forget of whom something was told: messages are about to be sent."""
        self._noted.clear()

    def is_noted(self, identity: int) -> bool:
        """Whether something was told of a client in this exchange, but its joining."""
        return identity in self._noted

    # -- how -------------------------------------------------------------------------

    def _count_anew(self, server_round: int) -> None:
        self.server_round = server_round
        self._counts, self._lines = Counter[str](), Counter[str]()
        self._noted: set[int | None] = set()
        self._begun = time.monotonic()

    def _tell(self, tell: Callable[[Callback], None]) -> None:
        for callback, error in self._fail(tell):
            self._told = [other for other in self._told if other is not callback]
            _log.warning(
                "callback %s is switched off, since it raised %s: %s. The run goes on",
                type(callback).__name__,
                type(error).__name__,
                error,
                exc_info=error,
            )

    def _fail(
        self, tell: Callable[[Callback], None]
    ) -> Iterator[tuple[Callback, Exception]]:
        for callback in list(self._told):
            try:
                tell(callback)
            except Exception as error:  # noqa: BLE001 - whatever it is ends no run
                yield callback, error
