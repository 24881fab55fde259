"""Which arrays training left as they were."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from flower_compress import RotatedQuantizer
from flower_compress.links import Channel, Payload
from flower_compress.mods.untrained import UntrainedArrays
from flower_compress.streams import Purpose, Stream
from flower_compress.wire.layout import Layout


def test_the_frozen_array_is_named_wherever_it_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    monkeypatch.setattr(UntrainedArrays, "_told", set())
    sizes = {"a": 2, "b": 3, "c": 2}
    model = {name: Array(np.zeros(n, np.float32)) for name, n in sizes.items()}
    layout = Layout.of(ArrayRecord(model))
    channel = Channel(Stream(1, Purpose.UPLINK), layout.sizes)
    for session, frozen in enumerate(sizes):
        parts = [np.full(n, name != frozen, np.float32) for name, n in sizes.items()]
        update = np.concatenate(parts)
        noisy = Payload.encode(update, RotatedQuantizer(step=0.1), "auto", channel)
        for _ in range(2):
            UntrainedArrays().look(session, layout, update, noisy)
        (record,) = caplog.records
        assert f"left 1 of 3 arrays as they were ({frozen})" in record.getMessage()
        caplog.clear()
