"""Operators on torch tensors on a CUDA device, against NumPy on one core."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flower_compress.compressors import Compressor, get_compressor

from .measure import Row, medians
from .throughput import CHANNEL
from .throughput import OPERATORS as ALL
from .vectors import DIMS, random_vector

OPERATORS = {name: config for name, config in ALL.items() if name != "identity"}


def available() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def device(repeats: int, advance: Callable[[], None]) -> list[Row]:
    """Milliseconds to quantize and dequantize the longest vector, both ways."""
    import torch

    x = random_vector("gaussian", DIMS[-1])
    tensor = torch.from_numpy(x).cuda()

    def on_numpy(compressor: Compressor) -> None:
        compressor.decompress(compressor.compress(x, CHANNEL.stream), CHANNEL.stream)

    def on_cuda(compressor: Compressor) -> None:
        stream = CHANNEL.stream
        compressor.decompress(compressor.compress(tensor, stream), stream)
        torch.cuda.synchronize()

    rows = []
    for label, config in OPERATORS.items():
        compressor = get_compressor(config)
        ways = {
            "numpy": partial(on_numpy, compressor),
            "cuda": partial(on_cuda, compressor),
        }
        seconds = medians(ways, repeats)
        rows.append(
            {
                "operator": label,
                "dim": x.size,
                "numpy_ms": 1e3 * seconds["numpy"],
                "cuda_ms": 1e3 * seconds["cuda"],
                "times_faster": seconds["numpy"] / seconds["cuda"],
            }
        )
        advance()
    return rows
