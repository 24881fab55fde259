"""The compiled path next to NumPy's, in turns in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import product

import numpy as np

from flower_compress import compiled
from flower_compress.compressors import get_compressor
from flower_compress.links import Payload

from .markdown import Column, columns
from .measure import Row, timings
from .subjects import CHANNEL, OPERATORS
from .suite import Settings, Suite
from .vectors import random_vector

LABELS = ("rotated, step 2", "QSGD s=4, buckets", "range L=8", "TopK 1 %")
SHORT_DIM = 20_000
WAYS = ("numpy", "compiled")


def _measure(settings: Settings, dim: int, label: str) -> list[Row]:
    x = random_vector("gaussian", dim)
    compressor = get_compressor(OPERATORS[label])
    compiled.switch(on=True)
    data = Payload.encode(x, compressor, "auto", CHANNEL).data

    def encode() -> object:
        return Payload.encode(x, compressor, "auto", CHANNEL)

    def decode() -> object:
        return Payload(data, dim, CHANNEL).vector

    def on(way: str, function: Callable[[], object]) -> None:
        compiled.switch(on=way == "compiled")
        function()

    functions: dict[str, Callable[[], object]] = {
        "copy": partial(np.copyto, np.empty_like(x), x),
        **{f"{way}_encode": partial(on, way, encode) for way in WAYS},
        **{f"{way}_decode": partial(on, way, decode) for way in WAYS},
    }
    try:
        # Of the processor: in turns with other processes the median would be theirs.
        times = timings(functions, settings.repeats, time.thread_time)
    finally:
        compiled.switch(on=False)
    seconds = {name: statistics.median(each) for name, each in times.items()}
    row: Row = {"operator": label, "dim": dim, "copy_ms": 1e3 * seconds["copy"]}
    for what in ("encode", "decode"):
        for way in WAYS:
            name = f"{way}_{what}"
            row[f"{name}_mb_per_s"] = x.nbytes / 1e6 / seconds[name]
            row[f"{name}_over_copy"] = seconds[name] / seconds["copy"]
            # How far the fastest is below the median: the rest is other processes.
            row[f"{name}_spread"] = 1.0 - min(times[name]) / seconds[name]
    return [row]


def _cell(what: str) -> Column:
    def show(row: Row) -> str:
        speed, copies = row[f"{what}_mb_per_s"], row[f"{what}_over_copy"]
        return f"{speed:.0f}, {copies:.1f}"

    return Column(what.replace("_", ", "), show)


def _spread(row: Row) -> str:
    names = [f"{way}_{what}" for way in WAYS for what in ("encode", "decode")]
    return format(max(row[f"{name}_spread"] for name in names), ".0%")


SUITE = Suite(
    "compiled",
    lambda settings: product((SHORT_DIM, *settings.dims), LABELS),
    _measure,
    columns(
        1,
        Column("operator", "operator"),
        Column("d", "dim", ","),
        *(_cell(f"{way}_{what}") for what in ("encode", "decode") for way in WAYS),
        Column("spread", _spread),
    ),
    lacks=lambda _: None if find_spec("numba") else "numba",
)
