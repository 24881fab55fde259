"""Our TopK and quantizer against what one would write without us."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import StochasticQuantizer, TopK

from .markdown import Column, columns
from .measure import Row, medians
from .subjects import CHANNEL
from .suite import Settings, Suite
from .vectors import random_vector

BUCKET_SIZE = 512
Ways = dict[str, Callable[[], object]]


def plain_qsgd(
    x: NDArray[np.float32],
    levels: int,
    bucket_size: int,
    generator: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """QSGD in a few lines of NumPy, as its equations read; d a multiple of buckets."""
    table = x.reshape(-1, bucket_size)
    norms = np.linalg.norm(table, axis=1).astype(np.float32)
    level = np.abs(table) / norms[:, None] * levels
    uniforms = generator.random(table.shape, dtype=np.float32)
    entries = np.sign(table) * np.floor(level + uniforms)
    return norms, entries.astype(np.int8)


def _top_k(x: NDArray[np.float32]) -> Ways:
    dim = x.size
    kept = dim // 100
    ways: Ways = {
        "ours": lambda: TopK(k=kept).compress(x, CHANNEL.stream),
        "numpy.argpartition": lambda: np.argpartition(np.abs(x), dim - kept)[
            dim - kept :
        ],
    }
    try:
        import torch

        torch.set_num_threads(1)
        tensor = torch.from_numpy(x)
        ways["torch.topk"] = lambda: torch.topk(tensor.abs(), kept, sorted=False)
    except ImportError:
        pass
    return ways


def _qsgd(x: NDArray[np.float32]) -> Ways:
    generator = np.random.Generator(np.random.Philox(7))
    quantizer = StochasticQuantizer(4, bucket_size=BUCKET_SIZE)
    return {
        "ours": lambda: quantizer.compress(x, CHANNEL.stream),
        "plain NumPy": lambda: plain_qsgd(x, 4, BUCKET_SIZE, generator),
    }


TASKS = {"TopK 1 %": _top_k, "QSGD s=4, buckets of 512": _qsgd}


def _measure(settings: Settings, dim: int, task: str) -> list[Row]:
    dim -= dim % BUCKET_SIZE
    seconds = medians(TASKS[task](random_vector("gaussian", dim)), settings.repeats)
    return [
        {
            "task": task,
            "way": way,
            "dim": dim,
            "ms": 1e3 * value,
            "times_ours": value / seconds["ours"],
        }
        for way, value in seconds.items()
    ]


SUITE = Suite(
    "baselines",
    lambda settings: product(settings.dims, TASKS),
    _measure,
    columns(
        2,
        Column("task", "task"),
        Column("way", "way"),
        Column("d", "dim", ","),
        Column("ms", "ms", ".1f"),
        Column("times ours", "times_ours", ".2f"),
    ),
)
