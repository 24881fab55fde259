"""Who runs on which node: new nodes are asked for their stable identity."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from logging import getLogger
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from flower_compress.errors import (
    ConfigurationError,
    CorruptPacket,
    FlowerCompressError,
    MissingModError,
    OutOfSyncError,
)
from flower_compress.wire.agreement import PROTOCOL
from flower_compress.wire.ledger import Ledger
from flower_compress.wire.records import array_bytes, num_objects

from ..callbacks.observers import Observers
from .claims import NOWHERE, Claims, Greeted
from .fields import COUNT, ROWS, fields
from .refusals import refusal
from .turns import Turns

__all__ = ["Greeted", "Greetings"]

_log = getLogger("flwr")
_MOST_LISTED = 3
_WAVE = 1 << 14
"""Greetings, or answers to them, that are in memory at once: some 5 kB each."""

_T = TypeVar("_T")


class Greetings:
    """Stable identities of Flower's nodes.

    Flower draws node ids at random in every simulation and a restarted SuperNode may
    come back with another one. So each new node is greeted with a message that the
    mod answers by itself, with the client's identity. What that is worth, see
    :class:`Claims`.

    Only where no client is there yet are answers waited for. Later nodes are greeted
    beside the messages of a round, and their answers are read with the next call. Of
    very many nodes those of the last wave are waited for; the others, greeted before
    them, have answered by then, or are read with the next call.

    Parameters
    ----------
    record : ArrayRecord
        The greeting.
    read : Callable[[int, RecordDict], Greeted]
        Reads the answer of a node; raises FlowerCompressError if it is none.
    mod : str
        Name of the mod that answers, for errors.
    ledger : Ledger
        Where greetings are billed.
    observers : Observers
        Who is told of nodes that are refused.
    trusted : bool (default: False)
        See :class:`Claims`.
    """

    def __init__(
        self,
        record: ArrayRecord,
        read: Callable[[int, RecordDict], Greeted],
        mod: str,
        ledger: Ledger,
        observers: Observers,
        *,
        trusted: bool = False,
    ) -> None:
        self._observers = observers
        self._record, self._read, self._mod = record, read, mod
        self._ledger = ledger
        self._claims = Claims(trusted=trusted)
        # Of nodes that are not known: when they are greeted again, and what they
        # answered last.
        self._turns = Turns()
        self._refusals: dict[int, FlowerCompressError] = {}
        self._pending: dict[str, int] = {}  # Nodes, by the id of the message to them.

    def identity(self, node_id: int) -> int | None:
        """Return the identity of what runs on a node, None if it is not known."""
        return self._claims.identity(node_id)

    def node_id(self, identity: int) -> int:
        """Return the node on which a client runs, 0 if it has to be greeted anew."""
        return self._claims.holder(identity)

    def online(self, node_ids: Iterable[int]) -> list[int]:
        """Return the identities of the greeted ones among those nodes, ascending."""
        return self._claims.identities(node_ids)

    def why_not(self) -> str:
        """Return why connected nodes are no clients, "" if nothing is known of it."""
        waiting = [self._claims.why(node_id) for node_id in self._claims.waiting()]
        refused = [_listed(self._refusals)] if self._refusals else []
        return "; ".join(refused + waiting[:_MOST_LISTED])

    def greet(
        self,
        grid: Grid,
        node_ids: Iterable[int],
        key: str,
        config: ConfigRecord,
        config_key: str,
        timeout: float,
        *,
        waits: bool = False,
    ) -> list[Greeted]:
        """Greet the nodes that are new; return those that came, or moved, by now.

        A node that does not answer, or otherwise, is greeted again after 1, 2, 4, 8,
        ... calls. Where no node is a client its answer is waited for.

        Parameters
        ----------
        grid : Grid
            The grid.
        node_ids : Iterable[int]
            All nodes that are connected.
        key, config, config_key
            Keys of the greeting and of the config beside it.
        timeout : float
            Seconds that nodes are given where their answers are waited for.
        waits : bool (default: False)
            Whether answers are waited for in any case.

        Raises
        ------
        MissingModError
            If all nodes answered, none of them through the mod.
        ConfigurationError
            If all nodes answered, none of them is a client, and what is wrong at one of
            them is something else: the order of its mods, its identity, its version.
        """
        self._turns.begin_call()
        node_ids = list(node_ids)
        self._connect(node_ids)
        arrived = self._collect(grid)
        waits |= not any(self.identity(node_id) is not None for node_id in node_ids)
        new = self._due_now(node_ids)
        if not new:
            return arrived
        *waves, last = _waves(new)
        for wave in waves:
            arrived += self._greet_wave(
                grid, wave, key, config, config_key, timeout, waits=False
            )
        arrived += self._greet_wave(
            grid, last, key, config, config_key, timeout, waits=waits
        )
        if waves and waits:  # Who was greeted earlier has answered by now.
            arrived += self._collect(grid)
        if self._claims.is_empty and self._refusals.keys() >= self._claims.connected:
            self._give_up()
        return arrived

    def _greet_wave(
        self,
        grid: Grid,
        node_ids: list[int],
        key: str,
        config: ConfigRecord,
        config_key: str,
        timeout: float,
        *,
        waits: bool,
    ) -> list[Greeted]:
        """Greet nodes, and return those that came with their answers, if it waits."""
        messages = [
            self._greeting(node_id, key, config, config_key) for node_id in node_ids
        ]
        if not waits:
            for node_id in node_ids:
                self._turns.put_off(node_id)
            if self._push(grid, messages):
                return []
        return self._take(self._ask(grid, messages, timeout))

    def _due_now(self, node_ids: list[int]) -> list[int]:
        """Return the nodes that are to be greeted with this call."""
        new = self._claims.new()
        if not new:
            return []
        if not self._claims.is_empty:
            new = {n for n in new if self._turns.is_due(n)}
        return [node_id for node_id in node_ids if node_id in new]

    def _connect(self, node_ids: list[int]) -> None:
        """Forget what was with nodes that are gone; remind of those that wait."""
        self._claims.connect(node_ids)
        there = self._claims.connected
        self._turns.keep(there)
        for node_id in [n for n in self._refusals if n not in there]:
            del self._refusals[node_id]
        for message_id, node_id in list(self._pending.items()):
            if node_id not in there:
                del self._pending[message_id]
        for node_id in self._claims.waiting():
            if self._turns.is_due(node_id):
                if self._turns.was_put_off(node_id):
                    self._claims.tell(node_id)
                self._turns.put_off(node_id)

    # -- asking --------------------------------------------------------------------

    def _greeting(
        self, node_id: int, key: str, config: ConfigRecord, config_key: str
    ) -> Message:
        content = RecordDict(
            {
                key: ArrayRecord(dict(self._record.items())),
                config_key: ConfigRecord(dict(config)),
            }
        )
        self._ledger.record_bytes("downlink", array_bytes(content), 0)
        return Message(content, node_id, MessageType.TRAIN)

    def _push(self, grid: Grid, messages: list[Message]) -> bool:
        """Send greetings and do not wait; False for a grid that cannot."""
        try:
            ids = list(grid.push_messages(messages))
        except NotImplementedError:
            return False
        if len(ids) != len(messages):  # It leaves out what it could not send.
            ids = [message.metadata.message_id for message in messages]
        silent = []
        for message_id, message in zip(ids, messages, strict=True):
            node_id = message.metadata.dst_node_id
            if message_id:
                self._pending[message_id] = node_id
            if self._turns.failures(node_id) > 1 and node_id not in self._refusals:
                silent.append(node_id)
        if silent:
            _log.warning("%s: no answer to a greeting so far", _named(silent))
        return True

    def _ask(
        self, grid: Grid, messages: list[Message], timeout: float
    ) -> dict[int, Greeted]:
        """Send greetings, and return the answers that come within the timeout."""
        started = time.monotonic()
        replies = list(grid.send_and_receive(messages, timeout=timeout))
        cost_the_timeout = time.monotonic() - started >= timeout
        for message in messages:  # Those that do not answer now may do so yet.
            metadata = message.metadata
            self._pending[metadata.message_id] = metadata.dst_node_id
        greeted = self._open_all(replies)
        silent = []
        for message in messages:
            node_id = message.metadata.dst_node_id
            if node_id in greeted:
                continue
            if node_id in self._refusals or cost_the_timeout:
                self._turns.put_off(node_id)
            if node_id not in self._refusals:
                silent.append(node_id)
        if silent:
            _log.warning("%s: no answer to a greeting so far", _named(silent))
        return greeted

    # -- answers -------------------------------------------------------------------

    def _collect(self, grid: Grid) -> list[Greeted]:
        """Take in who has answered an earlier greeting by now."""
        arrived = []
        for ids in _waves(list(self._pending)) or [[]]:
            replies = list(grid.pull_messages(ids)) if ids else []
            arrived += self._take(self._open_all(replies))
        return arrived

    def _open_all(self, replies: list[Message]) -> dict[int, Greeted]:
        """Read answers; note of each node that gave another one what it was."""
        greeted: dict[int, Greeted] = {}
        refused: dict[int, FlowerCompressError] = {}
        answered = set()
        for reply in replies:
            metadata = reply.metadata
            # Errors that Flower reports about a node do not come from its node id.
            node_id = self._pending.get(metadata.reply_to_message_id, NOWHERE)
            answered.add(metadata.reply_to_message_id)
            if reply.has_content():  # Nobody speaks for another one.
                node_id = metadata.src_node_id
            if node_id == NOWHERE:
                continue  # An error, a second time.
            try:
                greeted[node_id] = self._open(node_id, reply)
            except OutOfSyncError as error:
                _log.warning("node %d is left out for now: %s", node_id, error)
            except FlowerCompressError as error:
                refused[node_id] = error
        for message_id in answered:
            self._pending.pop(message_id, None)
        for node_id in greeted.keys() & refused.keys():
            del refused[node_id]
        self._refusals.update(refused)
        if refused:
            self._complain(refused)
        return greeted

    def _open(self, node_id: int, reply: Message) -> Greeted:
        if reply.has_error():
            raise refusal(reply.error, self._mod)
        self._ledger.record_bytes(
            "uplink", array_bytes(reply.content), 0, objects=num_objects(reply.content)
        )
        greeted = self._read(node_id, reply.content)
        if greeted.protocol != PROTOCOL:
            raise CorruptPacket(
                f"expected protocol {PROTOCOL}, got {greeted.protocol}: install the "
                "same major version of flower-compress at both ends"
            )
        return greeted

    def _take(self, greeted: dict[int, Greeted]) -> list[Greeted]:
        """Take in the nodes that answered, each with the identity it gave."""
        self._turns.forget(greeted)
        for node_id in greeted:
            self._refusals.pop(node_id, None)
        if not greeted.keys().isdisjoint(self._pending.values()):
            self._pending = {
                message_id: node_id
                for message_id, node_id in self._pending.items()
                if node_id not in greeted
            }
        before = set(self._claims.waiting())
        arrived = self._claims.take(greeted)
        for node_id in self._claims.waiting():
            if node_id not in before and node_id in greeted:
                identity, why = greeted[node_id].identity, self._claims.why(node_id)
                self._observers.note("refused", identity, node_id, why, is_logged=True)
        return arrived

    def _complain(self, refused: dict[int, FlowerCompressError]) -> None:
        """Log what nodes answered that are no clients."""
        for node_id, error in refused.items():
            self._observers.note("refused", None, node_id, str(error))
        if any(isinstance(error, MissingModError) for error in refused.values()):
            _log.warning("if %s is missing there, %s", self._mod, self._remedy)

    @property
    def _remedy(self) -> str:
        return f"put it first in the client app, `ClientApp(mods=[{self._mod}(), ...])`"

    def _give_up(self) -> None:
        """Raise what is wrong at all nodes."""
        refused = self._refusals
        vain = f"{len(refused)} of {len(refused)} nodes were greeted in vain"
        others = {
            node_id: error
            for node_id, error in refused.items()
            if not isinstance(error, MissingModError)
        }
        if others:
            raise ConfigurationError(f"{vain}: {_listed(others)}")
        raise MissingModError(
            f"{vain}, and none answered through {self._mod}: {self._remedy}. "
            f"{_listed(refused)}"
        )

    def forget(self, identity: int) -> None:
        """Forget a client: a node that says it is that one is a new one."""
        self._claims.release(identity)

    # -- checkpoints ---------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Return everything but what is on its way, for JSON."""
        return {"nodes": self._claims.save(), **self._turns.save()}

    def restore(self, meta: dict[str, Any], *, heard: bool) -> None:
        """Take over what :meth:`save` gave.

        Parameters
        ----------
        meta : dict[str, Any]
            What was saved.
        heard : bool
            Whether the nodes are where they were then. If not, each is greeted anew,
            and has the first claim to the identity that it had.
        """
        meta = fields(meta, nodes=ROWS, calls=COUNT, failures=ROWS, due=ROWS)
        self._claims.restore(meta["nodes"], heard=heard)
        if heard:
            self._turns.restore(meta["calls"], meta["failures"], meta["due"])


def _waves(items: list[_T]) -> list[list[_T]]:
    """Cut a list into parts of as many greetings as are held in memory at once."""
    return [items[i : i + _WAVE] for i in range(0, len(items), _WAVE)]


def _listed(reasons: dict[int, FlowerCompressError]) -> str:
    """Return each reason once, with the first node that gave it."""
    nodes: dict[str, list[int]] = {}
    for node_id, error in reasons.items():
        nodes.setdefault(str(error), []).append(node_id)
    some = [*nodes.items()][:_MOST_LISTED]
    return "; ".join(f"{_named(given)}: {reason}" for reason, given in some)


def _named(nodes: list[int]) -> str:
    more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
    return f"node {nodes[0]}{more}"
