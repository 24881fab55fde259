"""Our TopK and quantizer against what one would write without us."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import StochasticQuantizer, TopK

from .measure import Row, medians
from .throughput import CHANNEL
from .vectors import random_vector


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


def baselines(dim: int, repeats: int, advance: Callable[[], None]) -> list[Row]:
    """Milliseconds, and how many times as long the other way takes."""
    dim -= dim % 512
    x = random_vector("gaussian", dim)
    kept = dim // 100
    generator = np.random.Generator(np.random.Philox(7))
    stream = CHANNEL.stream
    quantizer = StochasticQuantizer(4, bucket_size=512)
    groups: dict[str, dict[str, Callable[[], object]]] = {
        "TopK 1 %": {
            "ours": lambda: TopK(k=kept).compress(x, stream),
            "numpy.argpartition": lambda: np.argpartition(np.abs(x), dim - kept)[
                dim - kept :
            ],
        },
        "QSGD s=4, buckets of 512": {
            "ours": lambda: quantizer.compress(x, stream),
            "plain NumPy": lambda: plain_qsgd(x, 4, 512, generator),
        },
    }
    try:
        import torch

        torch.set_num_threads(1)
        tensor = torch.from_numpy(x)
        groups["TopK 1 %"]["torch.topk"] = lambda: torch.topk(
            tensor.abs(), kept, sorted=False
        )
    except ImportError:
        pass
    rows = []
    for label, functions in groups.items():
        seconds = medians(functions, repeats)
        for name, value in seconds.items():
            rows.append(
                {
                    "task": label,
                    "way": name,
                    "dim": dim,
                    "ms": 1e3 * value,
                    "times_ours": value / seconds["ours"],
                }
            )
        advance()
    return rows
