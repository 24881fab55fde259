"""Operators on torch tensors on a CUDA device, against NumPy on one core."""

from __future__ import annotations

from flower_compress.compressors import get_compressor

from .markdown import Column, columns
from .measure import Row, medians
from .subjects import CHANNEL, OPERATORS
from .suite import Settings, Suite
from .vectors import DIMS, random_vector


def _lacks() -> str | None:
    try:
        import torch
    except ImportError:
        return "torch"
    return None if torch.cuda.is_available() else "CUDA device"


def _measure(settings: Settings, label: str) -> list[Row]:
    """Milliseconds to quantize and dequantize the longest vector, both ways."""
    import torch

    x = random_vector("gaussian", DIMS[-1])
    tensor = torch.from_numpy(x).cuda()
    compressor, stream = get_compressor(OPERATORS[label]), CHANNEL.stream

    def on_numpy() -> None:
        compressor.decompress(compressor.compress(x, stream), stream)

    def on_cuda() -> None:
        compressor.decompress(compressor.compress(tensor, stream), stream)
        torch.cuda.synchronize()

    seconds = medians({"numpy": on_numpy, "cuda": on_cuda}, settings.repeats)
    return [
        {
            "operator": label,
            "dim": x.size,
            "numpy_ms": 1e3 * seconds["numpy"],
            "cuda_ms": 1e3 * seconds["cuda"],
            "times_faster": seconds["numpy"] / seconds["cuda"],
        }
    ]


SUITE = Suite(
    "device",
    lambda _: [(label,) for label in OPERATORS if label != "identity"],
    _measure,
    columns(
        1,
        Column("operator", "operator"),
        Column("d", "dim", ","),
        Column("NumPy, ms", "numpy_ms", ".1f"),
        Column("CUDA, ms", "cuda_ms", ".2f"),
        Column("times faster", "times_faster", ".0f"),
    ),
    lacks=_lacks,
)
