"""A shared link whose sender died, and goes on from what it had saved."""

from __future__ import annotations

import numpy as np
import pytest

from flower_compress import PerArray, RandK, StochasticQuantizer
from flower_compress.compressors import Compressor
from flower_compress.errors import OutOfSyncError
from flower_compress.links import (
    Broadcast,
    Carries,
    Channel,
    ErrorFeedback,
    Link,
    Memory,
    ReceiverState,
    accept,
)
from flower_compress.streams import Purpose, Stream

SHAPES = [("a", (40, 5)), ("b", (7,))]
DIM = 207
QSGD: Compressor = StochasticQuantizer(levels=1)
BY_ARRAY: Compressor = PerArray({"b": RandK(k=2)}, QSGD)


def hear(receiver: ReceiverState, broadcast: Broadcast, held: int) -> ReceiverState:
    needed = broadcast.catch_up(held)
    assert needed.snapshot is None
    return accept(
        receiver,
        base=needed.base,
        version=needed.version,
        payloads=needed.payloads,
        final=True,
        rate=broadcast.rate,
    )


@pytest.mark.parametrize(
    ("link", "carries"),
    [
        (Memory(QSGD), "model"),
        (Memory(BY_ARRAY), "model"),
        (ErrorFeedback(QSGD), "update"),
    ],
)
def test_receivers_that_are_one_payload_ahead_go_back(
    link: Link, carries: Carries
) -> None:
    rng = np.random.default_rng(0)
    link = link.bind(SHAPES)
    channel: Channel = link.channel(Stream(3, Purpose.DOWNLINK), (200, 7))
    initial = np.array([-0.0, *rng.normal(size=DIM - 1)], dtype=np.float32)
    start = link.start(initial) if carries == "model" else initial
    saved, behind = Broadcast.begin(link, carries, initial), ReceiverState(1, start)
    up_to_date = behind
    for _ in range(3):
        vector = rng.normal(size=DIM).astype(np.float32)
        vector[0] = 0.0
        saved = saved.publish(vector, channel)
        up_to_date = hear(up_to_date, saved, saved.version - 1)
    dead = saved
    ahead = [up_to_date]
    for _ in range(3):
        dead = dead.publish(rng.normal(size=DIM).astype(np.float32), channel)
        ahead.append(hear(ahead[-1], dead, dead.version - 1))
    resumed = saved.skip_to(dead.version, DIM, channel)
    following = resumed.publish(rng.normal(size=DIM).astype(np.float32), channel)
    assert following.version > dead.version, "a version is used once"
    value = following.value
    assert value is not None
    for receiver, held in ((behind, 1), (up_to_date, 4), (ahead[1], 4)):
        heard = hear(receiver, following, held).value(following.rate)
        assert heard is not None and heard.tobytes() == value.tobytes()
    # One that has heard more, late, does not take the one sender for the other.
    for receiver in ahead[2:]:
        with pytest.raises(OutOfSyncError, match="of a server that died"):
            hear(receiver, following, 4)
    # What the greeting says tells the three apart.
    assert [following.is_sure(version) for version in range(1, 9)] == [
        *[True] * 4,
        *[False] * 3,
        True,
    ]
    crcs = [state.pending.crc for state in ahead if state.pending is not None]
    is_sent = [following.is_sent(4 + i, crc) for i, crc in enumerate(crcs)]
    assert is_sent == [True, False, False, False]
