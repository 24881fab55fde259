"""What the relay keeps in one run: mail, greetings, and what was sent."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from logging import getLogger
from time import sleep
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from flower_compress.errors import (
    ConfigurationError,
    FlowerCompressError,
    MissingModError,
    OutOfSyncError,
    StalePacketError,
)
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.layout import Layout
from flower_compress.wire.ledger import EdgeLedger, Ledger
from flower_compress.wire.mail import Delivery, Posting, find_mail, mail_record
from flower_compress.wire.measures import measure_letter
from flower_compress.wire.records import array_bytes

from ..callbacks import EventKind
from ..callbacks.observers import Observers
from ..run.checkpoint import Arrays, Checkpoint
from ..run.fields import COUNT, ROWS, TABLE, fields
from ..run.greetings import Greeted, Greetings
from ..run.saving import Failures, KeepsClients
from ..run.seldom import Waiting
from .collection import Collection
from .departures import Departures
from .post_office import PostOffice

__all__ = ["CONFIG_KEY", "RECORD_KEY", "RelaySession"]

_log = getLogger("flwr")
_RETRY_SECONDS = 0.5
RECORD_KEY = "arrays"
CONFIG_KEY = "config"


class RelaySession:
    """All nodes with their mail, and no model but the one that they begin with.

    Parameters
    ----------
    contracts : list[GossipContract]
        Of each node.
    arrays : ArrayRecord
        The common initial model.
    num_phases : int
        Exchanges a round.
    forget_after : int, optional
        See :class:`Departures`.
    observers : Observers
        Who is told what happens to nodes.

    Attributes
    ----------
    id : int
        The session's number; nodes drop what they remember of another.
    office : PostOffice
        Who lacks what.
    departures : Departures
        Who is gone.
    collection : Collection
        The nodes' models, where they are collected.
    edges, ledger, collections
        See :class:`Relay`.
    """

    def __init__(
        self,
        contracts: list[GossipContract],
        arrays: ArrayRecord,
        num_phases: int,
        forget_after: int | None,
        observers: Observers,
    ) -> None:
        self._observers = observers
        self.layout: Layout = contracts[0].layout
        model, exact = self.layout.flatten(arrays)
        self.layout.check_finite(model, "the initial model")
        self.layout.check_exact(exact, "the initial model")
        self._initial, self._exact = model, exact
        self._contracts, self._num_phases = contracts, num_phases
        self._forget_after = forget_after
        self.collection = Collection(self.layout, arrays)
        self.id = secrets.randbits(32) or 1
        self.number = 0
        self.ledger, self.collections, self.edges = Ledger(), Ledger(), EdgeLedger()
        self._begin_mail()

    def _begin_mail(self) -> None:
        contracts = self._contracts
        self.office = PostOffice(
            [tuple(contract.sources) for contract in contracts],
            self.layout.dim,
            self._num_phases,
            keeps_estimates=contracts[0].keeps_estimates,
        )
        self.departures = Departures(
            self.office, contracts, self._forget_after, self._tell
        )
        self._greeting = Delivery(session=self.id, number=0).data
        self.greetings = Greetings(
            mail_record(self._greeting),
            self._read_greeting,
            "GossipMod",
            self.ledger,
            self._observers,
        )

    def _tell(self, kind: EventKind, node: int, reason: str) -> None:
        if kind == "lost" and self._observers.is_noted(node):
            return
        node_id = self.greetings.node_id(node)
        self._observers.note(kind, node, node_id, reason)

    def _read_greeting(self, node_id: int, content: RecordDict) -> Greeted:
        """Read a node's answer to the greeting."""
        found = find_mail(content)
        if found is None:
            raise MissingModError("it answered with a reply that holds no mail")
        if found[1] == self._greeting:
            raise MissingModError("it gave the greeting back as it was")
        posting = Posting.parse(found[1])
        if posting.number or posting.session != self.id:
            raise OutOfSyncError("it answered an earlier delivery, late")
        if len(posting.letters) != 1:
            raise MissingModError(
                "it answered with mail that is no answer to a greeting"
            )
        about = posting.letters[0]
        n = len(self._contracts)
        if not 0 <= about.node < n:
            raise ConfigurationError(
                f"a node says that it is number {about.node}, and the topology has "
                f"nodes 0 to {n - 1}: start as many nodes as it has, each with its own "
                "partition-id"
            )
        return Greeted(about.node, about.version, about.phase)

    # -- who is there ----------------------------------------------------------------

    def online(
        self, grid: Grid, config: ConfigRecord, timeout: float, *, begins: bool
    ) -> list[int]:
        """Greet new nodes, and return those that are there once there are enough.

        Parameters
        ----------
        grid, config, timeout
            See :meth:`Greetings.greet`.
        begins : bool
            Whether this is the run's first exchange, which needs all nodes.

        Raises
        ------
        ConfigurationError
            If all nodes are numbered otherwise than in the topology, or a grid of this
            process has too few that are not.
        """
        n, waiting = len(self._contracts), Waiting()
        while True:
            node_ids = list(grid.get_node_ids())
            arrived = self.greetings.greet(
                grid, node_ids, RECORD_KEY, config, CONFIG_KEY, timeout, waits=begins
            )
            for identity, held, *_ in arrived:
                self._tell("joined", identity, f"holds delivery {held}" * (held > 0))
                if not held:
                    self.office.lose(identity)
            online = self.greetings.online(node_ids)
            if len(online) == n or (online and not begins):
                return online
            if isinstance(grid, KeepsClients):
                why = self.greetings.why_not()
                raise ConfigurationError(
                    f"expected {n} nodes, as the topology has, got {len(online)} in "
                    f"this process, where no more will come{why and '; '}{why}"
                )
            waiting.tell("Waiting for nodes: %d of %d are there.", len(online), n)
            sleep(_RETRY_SECONDS)

    # -- exchanges -------------------------------------------------------------------

    def messages(
        self,
        nodes: list[int],
        delivery: Delivery,
        config: ConfigRecord,
        message_type: str,
    ) -> list[Message]:
        """Return a delivery for each of those nodes, with all that it has to hear."""
        self._observers.begin_exchange()
        if self.office.is_lost:
            _log.warning("No node has a model any more: all begin with their last mean")
            self._initial, self._exact = self.layout.flatten(self.collection.mean)
            self.office.begin_anew()
        there, delivery = set(nodes), replace(delivery, dim=self.layout.dim)
        messages = []
        for node in nodes:
            box = self.office.boxes[node]
            own = delivery
            if box.contract:
                contract = self._contracts[node].to_bytes()
                own = replace(own, contract=contract, exact=self._exact)
                if box.model:
                    own = replace(own, model=self._initial)
            own = self.office.deliver(node, own, there)
            self._bill(node, own)
            content = RecordDict(
                {
                    RECORD_KEY: mail_record(own.data),
                    CONFIG_KEY: ConfigRecord(dict(config)),
                }
            )
            messages.append(
                Message(content, self.greetings.node_id(node), message_type)
            )
        return messages

    def _bill(self, node: int, delivery: Delivery) -> None:
        """Count a delivery: its letters on their edges, all of it as Flower's."""
        bits = snapshot_bytes = 0
        for letter in delivery.letters:
            size = len(letter.data)
            dense = size if letter.snapshot else 0
            measured = measure_letter(letter, self.layout.dim, self.layout.sizes)
            self.edges.record(letter.node, node, size, letter.num_bits, dense, measured)
            bits += letter.num_bits
            snapshot_bytes += dense
        model_bytes = len(delivery.exact)
        if delivery.model is not None:
            model_bytes += delivery.model.nbytes
        bits += 8 * model_bytes
        snapshot_bytes += model_bytes
        self.ledger.record_bytes("downlink", len(delivery.data), bits, snapshot_bytes)

    def accept(
        self, replies: Iterable[Message], ledger: Ledger, failures: Failures
    ) -> dict[int, tuple[Posting, Message]]:
        """Take the usable postings in; return them by node, in the order of the nodes.

        Parameters
        ----------
        replies : Iterable[Message]
            What came.
        ledger : Ledger
            Where it is billed.
        failures : Failures
            Counts the exchanges in which no node could make a step.
        """
        found: dict[int, tuple[Posting, Message]] = {}
        reasons = []
        for msg in replies:
            if msg.has_error():
                reasons.append(str(msg.error.reason))
                self._tell_of("lost", msg, reasons[-1])
                continue
            try:
                node, posting = self._open(msg, ledger)
                if node in found:
                    raise StalePacketError("a second answer of the same node")
                self.office.check(node, posting)
                if posting.model is not None:
                    self.layout.check_exact(posting.exact, f"the model of node {node}")
            except FlowerCompressError as error:
                reasons.append(f"{type(error).__name__}: {error}")
                late = isinstance(error, OutOfSyncError)
                self._tell_of("lost" if late else "refused", msg, reasons[-1])
                continue
            found[node] = posting, msg
        found = dict(sorted(found.items()))
        for node, (posting, _) in found.items():
            if posting.resync:
                self._tell("resynchronised", node, "asks to be synchronised")
            self.office.take_in(node, posting)
        letters = (a for posting, _ in found.values() for a in posting.letters)
        if any(not letter.notice for letter in letters):
            failures.count(len(found), [])
        elif not found:
            failures.count(0, reasons)
        # Else nodes answered, and made no step: no reason to stop, or to begin to count
        # anew, if every step of an earlier exchange has failed.
        return found

    def _tell_of(self, kind: EventKind, msg: Message, reason: str) -> None:
        node_id = msg.metadata.src_node_id
        self._observers.note(kind, self.greetings.identity(node_id), node_id, reason)

    def _open(self, msg: Message, ledger: Ledger) -> tuple[int, Posting]:
        """Read a reply, and bill it."""
        num_bytes, bits, snapshot_bytes = array_bytes(msg.content), 0, 0
        try:
            node = self.greetings.identity(msg.metadata.src_node_id)
            mail = find_mail(msg.content)
            if node is None:
                raise OutOfSyncError("a reply of a node that is no node of the run")
            if mail is None:
                raise OutOfSyncError(
                    "the reply holds no mail: is GossipMod in the client app's mods?"
                )
            posting = Posting.parse(mail[1])
            bits = sum(letter.num_bits for letter in posting.letters)
            snapshot_bytes = sum(len(a.data) for a in posting.letters if a.snapshot)
            if posting.model is not None:
                model_bytes = posting.model.nbytes + len(posting.exact)
                bits += 8 * model_bytes
                snapshot_bytes += model_bytes
        finally:
            ledger.record_bytes("uplink", num_bytes, bits, snapshot_bytes)
        return node, posting

    # -- checkpoints -----------------------------------------------------------------

    def fingerprint(self) -> dict[str, Any]:
        """Return what must not change when a run goes on."""
        return {"contracts": [c.to_bytes().decode() for c in self._contracts]}

    def save(self, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold; add the rest to `arrays`."""
        arrays["mean"], exact = self.layout.flatten(self.collection.mean)
        arrays["exact"] = np.frombuffer(exact, dtype=np.uint8)
        if any(box.model for box in self.office.boxes):
            arrays["initial"] = self._initial
            arrays["initial/exact"] = np.frombuffer(self._exact, dtype=np.uint8)
        return {
            "session": self.id,
            "number": self.number,
            "ledger": self.ledger.as_dict(),
            "collections": self.collections.as_dict(),
            "edges": self.edges.as_rows(),
            "boxes": self.office.save(arrays),
            "greetings": self.greetings.save(),
        }

    def restore(self, saved: Checkpoint, skip_to: int | None) -> None:
        """Take over what :meth:`save` gave.

        Parameters
        ----------
        saved : Checkpoint
            The checkpoint.
        skip_to : int, optional
            The number from which deliveries go on, where nodes are not back where they
            were then and have to be greeted anew; None if they are.
        """
        meta = fields(
            saved.meta,
            session=COUNT,
            number=COUNT,
            ledger=TABLE,
            collections=TABLE,
            edges=ROWS,
            boxes=ROWS,
            greetings=TABLE,
        )
        self.id, self.number = meta["session"], meta["number"]
        self.ledger = Ledger.from_dict(meta["ledger"])
        self.collections = Ledger.from_dict(meta["collections"])
        self.edges = EdgeLedger.from_rows(meta["edges"])
        self._begin_mail()
        self.office.restore(meta["boxes"], saved)
        if skip_to is None:
            self.greetings.restore(meta["greetings"], heard=True)
        else:
            self.greetings.restore(meta["greetings"], heard=False)
            self.number = max(self.number, skip_to)
            self.office.lose_track()
        initial = saved.find("initial")
        if initial is not None:
            # Nodes that have yet to begin do so from what their neighbours began with.
            self._initial = initial
            self._exact = saved.array("initial/exact").tobytes()
        self.collection.mean = self.layout.unflatten(
            saved.array("mean"), saved.array("exact").tobytes()
        )
