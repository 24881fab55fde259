"""A hundred thousand devices, fifty at a time: what the server keeps stays as it is."""

from __future__ import annotations

import json
import logging
import resource
import time
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord
from flwr.app import RecordDict as Records

from flower_compress import CompressionMod
from flower_compress.links import Channel, Payload
from flower_compress.strategies import CompressedStrategy, Diana, RandMCM
from flower_compress.strategies.run.checkpoint import Checkpoint
from flower_compress.strategies.server.defaults import DEFAULT_COMPRESSOR
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import InProcessGrid
from flower_compress.wire.packet import Packet, find_packet, packet_record

DIM, AT_A_TIME, NEW = 500, 50, 25
ROAMING, BROKEN = 3, 5
"""Of the new nodes of a round: the one that says it is client 7, one without a mod."""


class Crowd(InProcessGrid):
    """Every round 25 of 50 nodes go for good, and 25 others come.

    They are stubs that answer with payloads made beforehand: what costs is the server.
    """

    def __init__(self, named: bool) -> None:
        super().__init__(self._answer, 1)
        self.named, self.first = named, 1000
        x = np.random.default_rng(0).standard_normal(DIM).astype(np.float32)
        channel = Channel(Stream(0, Purpose.UPLINK, 0))
        self._payloads = cycle(
            Payload.encode(x, DEFAULT_COMPRESSOR, "auto", channel.at(k)).compact()
            for k in range(1, 5)
        )
        self._mod = CompressionMod()
        self.move_on()

    def move_on(self) -> None:
        kept = {
            node_id: context
            for node_id, context in self.contexts.items()
            if node_id >= self.first + NEW and node_id % NEW != ROAMING
        }
        self.first += NEW
        for node_id in range(self.first, self.first + AT_A_TIME):
            is_new = node_id >= self.first + NEW
            if node_id not in kept and (is_new or node_id % NEW != ROAMING):
                number = 7 if node_id % NEW == ROAMING else 10**6 + node_id
                config: Any = {"partition-id": number} if self.named else {}
                kept[node_id] = Context(1, node_id, config, Records(), {})
        self.contexts = kept

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def _answer(self, msg: Message, context: Context) -> Message:
        packet = Packet.parse(find_packet(msg.content)[1])
        if packet.greeting:
            if context.node_id % NEW == BROKEN:
                return Message(Error(0, "no such mod"), reply_to=msg)
            return self._mod(msg, context, lambda _, __: msg)
        reply = Packet(
            session=packet.session,
            base=packet.acked,
            version=packet.version,
            acked=packet.version,
            dim=DIM,
            payloads=(next(self._payloads),),
        )
        record = packet_record(reply)
        return Message(
            Records({"arrays": record, "metrics": MetricRecord()}), reply_to=msg
        )


def follow(strategy: CompressedStrategy, named: bool, rounds: int) -> list[Any]:
    """Return rows, twenty in a run: nodes so far, known, MB resident, CPU s a round."""
    grid, rows = Crowd(named), []
    every, started = rounds // 20, time.process_time()

    def evaluate(server_round: int, _: ArrayRecord) -> None:
        nonlocal started
        if server_round and server_round % every == 0:
            seconds = (time.process_time() - started) / every
            known = len(strategy._running.roster)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            greetings = strategy._running.roster._greetings.save()
            kept = sum(len(v) for v in greetings.values() if not isinstance(v, int))
            rows.append((NEW * server_round, known, kept, peak, seconds))
            text = "%7d nodes: %4d known, %4d kept, %7.1f MB, %.4f CPU s a round"
            print(text % rows[-1], flush=True)
            started = time.process_time()
        grid.move_on()

    initial = ArrayRecord({"w": Array(np.zeros(DIM, dtype=np.float32))})
    strategy.start(grid, initial, rounds, evaluate_fn=evaluate)
    return rows


def state_bytes(path: Path) -> int:
    """Return how long a checkpoint is but for what may grow.

    The metrics of the rounds so far, and the 1024 clients that were heard of last.
    """
    meta = Checkpoint.open(path).meta
    grows = json.dumps([meta.get("metrics"), meta["bounds"]])
    return path.stat().st_size - len(grows)


CASES: dict[str, tuple[type[CompressedStrategy], dict[str, Any], bool]] = {
    "diana": (Diana, {}, True),
    "rand-mcm-mean": (RandMCM, {"uplink_memory": "mean", "memory": "average"}, True),
    "rand-mcm-unnamed": (RandMCM, {}, False),
}


@pytest.mark.parametrize(
    ("name", "num_nodes"),
    [
        ("diana", 1500),
        *(pytest.param(name, 100_000, marks=pytest.mark.slow) for name in CASES),
    ],
)
def test_what_is_kept_stays_as_it_is(
    name: str, num_nodes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "flwr")
    cls, extra, named = CASES[name]
    rounds = num_nodes // NEW
    strategy = cls(
        step_size=1e-3,
        weighted_by_key=None,
        fraction_train=0.2,
        fraction_evaluate=0.0,
        checkpoint_dir=tmp_path,
        checkpoint_every=rounds // 2,
        forget_after=8,
        **extra,
    )
    rows = follow(strategy, named, rounds)
    known = [row[1] for row in rows]
    # Those there, and those who left at most eight rounds ago: one in 25 has no mod,
    # and one is always the same client.
    most = AT_A_TIME + 8 * NEW if named else AT_A_TIME
    # Newcomers are greeted while others train, so that half of those there are not
    # known yet; and who has no partition-id is forgotten once it is gone.
    least = 0.9 * (AT_A_TIME if named else NEW)
    assert least < known[-1] <= max(known[5:]) <= most
    # A node for each, and two numbers for each that has not answered yet.
    assert all(row[2] <= row[1] + 2 * (NEW + 2) for row in rows)
    halfway, last = (state_bytes(path) for path in sorted(tmp_path.glob("*.ckpt")))
    print(f"checkpoints: {halfway} bytes halfway, {last} in the end")
    # The numbers of clients and nodes have a digit more by then.
    assert last < 1.05 * halfway
    store = strategy._running.uplinks._store
    vectors = (store.num_bytes_in_ram + store.num_bytes_on_disk) / (4 * DIM)
    assert vectors <= 2 * known[-1]
