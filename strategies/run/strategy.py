"""A strategy whose run saves itself, goes on later, and may stop early."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable
from functools import partial
from logging import getLogger
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from flwr.serverapp.strategy.strategy_utils import log_strategy_start_info

from flower_compress.arguments import check_count, check_number
from flower_compress.errors import WrongTypeError
from flower_compress.wire.ledger import Ledger, in_units

from ..callbacks import Callback, RunInfo
from ..callbacks.observers import Observers
from .checkpoint import Arrays, Checkpoint
from .fields import COUNT, fields
from .names import refuse_unknown
from .rounds import EvaluateFn, Rounds, ShouldStop
from .saving import (
    Failures,
    KeepsClients,
    Resume,
    Saving,
    check_same_run,
    reading,
)

__all__ = ["RunStrategy"]

_log = getLogger("flwr")


class RunStrategy(Strategy):
    """What the strategies with a server and the relay have in common: a run.

    Subclasses say how a run begins, what of it is saved, and how that is taken over.

    Parameters
    ----------
    checkpoint_dir : path, optional
        Folder for checkpoints, of this run only; with ``resume="auto"`` the folder of
        many runs. See :meth:`start`.
    checkpoint_every : int (default: 10)
        Rounds between checkpoints; the last round is always saved. With 1 a server
        that is killed costs its clients nothing but a repeated round.
    resume : bool or "auto" (default: False)
        Go on from the newest intact checkpoint, if there is one. With ``"auto"``, for
        a server that is always started by the same command, only a run that has not
        ended goes on: each has a folder of its own within `checkpoint_dir`
        (``run-0001``, ``run-0002``), and after one that has ended the next begins.
    greeting_timeout : float (default: 60.0)
        Seconds for which answers to the first greeting are waited for, at most the
        timeout of :meth:`start`. Later nodes are greeted while others train.
    max_failed_rounds : int (default: 3)
        After that many rounds in a row in which clients answered, and every answer
        was an error or asked to be synchronised, the run stops with
        :class:`RoundFailedError`; of it :class:`DivergedError` if every answer was
        NaN, infinite or far too large.
    callbacks : Iterable[Callback] (default: ())
        Who is told of each round, and of what happens to clients: see
        :mod:`flower_compress.strategies.callbacks`. None of them changes the run.
    **kwargs
        Of the next class.

    Attributes
    ----------
    resumed_from : int
        The round of the checkpoint that the run went on from, 0 for a new run.
    """

    name: str = ""
    """What the log calls it; the class's name if empty."""
    num_phases: int = 1
    """Exchanges a round."""

    def __init__(
        self,
        *,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10,
        resume: Resume = False,
        greeting_timeout: float = 60.0,
        max_failed_rounds: int = 3,
        callbacks: Iterable[Callback] = (),
        **kwargs: Any,
    ) -> None:
        check_count("max_failed_rounds", max_failed_rounds, 1)
        check_number(
            "greeting_timeout", greeting_timeout, "be positive", lambda t: t > 0
        )
        refuse_unknown(type(self), RunStrategy, kwargs)
        super().__init__(**kwargs)
        self.saving = Saving(checkpoint_dir, checkpoint_every, resume)
        self.greeting_timeout = greeting_timeout
        self.max_failed_rounds = max_failed_rounds
        self.resumed_from = 0
        self._observers = Observers(callbacks)
        self._greeting_timeout = greeting_timeout
        self._failures = Failures(max_failed_rounds)
        self._num_rounds = 0

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float | None = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Result:
        """Run all rounds; see :meth:`flwr.serverapp.strategy.Strategy.start`.

        Each call is a session of its own: clients drop what they remember of others.
        Only a resumed run goes on with the session of its checkpoint, with all that
        was saved with it. If the grid can bring its clients back to that round too (an
        ``InProcessGrid`` can), the run ends as if it had never stopped, byte for byte.

        Parameters
        ----------
        grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config
            As Flower's. A timeout of None waits until every client has answered.
        evaluate_fn : Callable[[int, ArrayRecord], MetricRecord | None], optional
            As Flower's: evaluates the model of each round, and the initial one as
            round 0.
        should_stop : Callable[[int, Result], bool], optional
            Called at the end of each round with its number and the results so far;
            True ends the run with that round, which is saved as the last one.

        Raises
        ------
        CheckpointError
            At the start: if no checkpoint can be written to the folder, another run
            uses it, none of the checkpoints found is intact, or they hold something
            else than this release saves. Later a full disk is logged, and tried again.
        ConfigurationError
            If the folder holds checkpoints and the run is not to be resumed, or they
            are of a run with another model or other links.
        """
        if not isinstance(grid, Grid):
            raise WrongTypeError("grid", "a Grid, as the server app is given", grid)
        if not isinstance(initial_arrays, ArrayRecord):
            raise WrongTypeError(
                "initial_arrays",
                "an ArrayRecord, as ArrayRecord(model.state_dict())",
                initial_arrays,
            )
        check_count("num_rounds", num_rounds, 0)
        self._greeting_timeout = self.greeting_timeout
        if timeout is not None:
            check_number("timeout", timeout, "be positive", lambda t: t > 0)
            self._greeting_timeout = min(self.greeting_timeout, timeout)
        error: BaseException | None = None
        result = None
        try:
            saved = self.saving.begin()
            self._observers.keep_off(self.saving.metrics_path)
            result = self._begin_or_go_on(saved, grid, initial_arrays)
            self._num_rounds = num_rounds
            info = RunInfo(self._title, self._session_id, num_rounds, self.resumed_from)
            self._observers.start(info, self.ledger)
            _log.info("Starting %s strategy:", self._title)
            log_strategy_start_info(
                num_rounds, result.arrays, train_config, evaluate_config
            )
            self.summary()
            _log.info("")
            rounds = Rounds(
                grid,
                num_rounds,
                timeout,
                ConfigRecord() if train_config is None else train_config,
                ConfigRecord() if evaluate_config is None else evaluate_config,
                self._evaluation(result, evaluate_fn),
                should_stop,
                self.num_phases,
                partial(self._before_sending, isinstance(grid, KeepsClients)),
            )

            def after_round(server_round: int, is_last: bool) -> None:
                if is_last and server_round < num_rounds:
                    self._end_early(server_round, rounds, result)
                self._observers.end_round(server_round, result, self.ledger)
                if server_round:
                    self.saving.after_round(
                        server_round, is_last, result, partial(self._to_save, grid)
                    )

            rounds.run(self, result, self.resumed_from + 1, after_round)
            self._log_end(result)
        except BaseException as raised:
            error = raised
            raise
        finally:
            if result is not None:
                self._observers.end(result, error)
            self.saving.end()
        return result

    def _log_end(self, result: Result) -> None:
        """Log what the run has come to: its last round, and all that was sent."""
        for name, table in (
            ("Training", result.train_metrics_clientapp),
            ("Evaluation", result.evaluate_metrics_clientapp),
            ("Evaluation at the server", result.evaluate_metrics_serverapp),
        ):
            if table:
                last = max(table)
                _log.info("\t├── %s, round %d: %s", name, last, dict(table[last]))
        ledger = self.ledger
        _log.info(
            "\t├── Sent: %s up, %s down; first models and other snapshots %s of it",
            in_units(ledger.uplink.num_bytes),
            in_units(ledger.downlink.num_bytes),
            in_units(ledger.uplink.snapshot_bytes + ledger.downlink.snapshot_bytes),
        )
        _log.info(
            "\t├── Around it, on a network: about %s of requests, TLS and TCP",
            in_units(ledger.uplink.envelope_bytes + ledger.downlink.envelope_bytes),
        )
        where = self.saving.metrics_path
        _log.info(
            "\t└── Every round: in the Result%s",
            "; callbacks=[JsonLines(path)] keeps them in a file"
            if where is None and not self._observers.callbacks
            else f", and in {where}"
            if where is not None
            else "",
        )

    @property
    def _title(self) -> str:
        return self.name or type(self).__name__

    def _begin_or_go_on(
        self, saved: Checkpoint | None, grid: Grid, arrays: ArrayRecord
    ) -> Result:
        self._begin_run(arrays)
        result = Result(arrays=self._begun_with(arrays))
        if saved is not None:
            check_same_run(self._title, self._fingerprint(), saved)
            with reading(saved):
                self._go_on(saved, grid, result)
            _log.info("Resuming after round %d (%s)", saved.server_round, saved.path)
        return result

    def _before_sending(self, keeps_clients: bool, messages: list[Message]) -> None:
        self._on_send(messages)
        if not keeps_clients:  # Else the clients go back with the checkpoint.
            self.saving.note_sent(self._newest_version())

    def _begin_without_start(self, arrays: ArrayRecord) -> None:
        """Begin a run whose rounds another loop configures."""
        if type(self).start is RunStrategy.start:  # Not a subclass's own loop.
            _log.warning(
                "%s is within a wrapper, which is given packets for replies. Flower's "
                "wrappers for privacy read replies: they go inside, as "
                "compress(Wrapper(FedAvg(), ...))",
                self._title,
            )
        if self.saving.folder is not None:
            _log.warning(
                "%s saves no checkpoints, and resumes from none: this run was begun by "
                "another start() (a subclass's own, or a wrapper's), and it is ours "
                "that uses checkpoint_dir. Let it call super().start()",
                self._title,
            )
        self._begin_run(arrays)

    def _begin_run(self, arrays: ArrayRecord) -> None:
        self._failures = Failures(self.max_failed_rounds)
        self.resumed_from = self._num_rounds = 0
        self._begin(arrays)

    def _to_save(self, grid: Grid, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold of the run; add the rest to `arrays`."""
        if isinstance(grid, KeepsClients):
            arrays["clients"] = np.frombuffer(grid.save_clients(), dtype=np.uint8)
        return {
            "name": self._title,
            "run": self._fingerprint(),
            "newest_version": self._newest_version(),
            "failed_rounds": self._failures.in_a_row,
            "answered": self._failures.has_begun,
            **self._save(arrays),
        }

    def _go_on(self, saved: Checkpoint, grid: Grid, result: Result) -> None:
        """Take over a checkpoint."""
        meta = fields(saved.meta, failed_rounds=COUNT, newest_version=COUNT)
        self._failures.in_a_row = meta["failed_rounds"]
        self._failures.has_begun = saved.meta.get("answered") is not False
        clients, skip_to = saved.find("clients"), None
        if clients is not None and isinstance(grid, KeepsClients):
            grid.load_clients(clients.tobytes())
        else:
            # Clients may have heard of newer versions than the checkpoint knows.
            skip_to = self.saving.newest_sent(meta["newest_version"])
        result.arrays = self._restore(saved, skip_to)
        self.saving.restore_metrics(saved, result)
        self.resumed_from = saved.server_round

    # -- what subclasses say ---------------------------------------------------------

    @property
    @abstractmethod
    def ledger(self) -> Ledger:
        """What was sent, in bytes and bits."""

    @property
    @abstractmethod
    def _session_id(self) -> int:
        """The number of the run that has begun."""

    @abstractmethod
    def _begin(self, arrays: ArrayRecord) -> None:
        """Begin a run of one's own from an initial model."""

    def _begun_with(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the model of a run that has begun with `arrays`."""
        return arrays

    @abstractmethod
    def _fingerprint(self) -> dict[str, Any]:
        """Return what must not change when a run goes on."""

    @abstractmethod
    def _save(self, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold of the state; add the rest to `arrays`."""

    @abstractmethod
    def _restore(self, saved: Checkpoint, skip_to: int | None) -> ArrayRecord:
        """Take over what :meth:`_save` gave, and return the model.

        Parameters
        ----------
        saved : Checkpoint
            The checkpoint.
        skip_to : int, optional
            The newest version that was sent, after which the run goes on, where
            clients are not back where they were then; None if they are.
        """

    @abstractmethod
    def _newest_version(self) -> int:
        """Return the newest version of anything that was made to be sent."""

    def _evaluation(
        self, result: Result, evaluate_fn: EvaluateFn | None
    ) -> EvaluateFn | None:
        """Return what evaluates at the server."""
        return evaluate_fn

    def _on_send(self, messages: list[Message]) -> None:
        """Look at the messages of a round before they are sent."""

    def _end_early(self, server_round: int, rounds: Rounds, result: Result) -> None:
        """Do what is due with the last round: it was not known to be one."""
