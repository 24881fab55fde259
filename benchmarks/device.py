"""Operators, lengths and payloads of torch tensors on a device, against a copy there.

A copy of the vector, in the same process, is the floor of what reads and writes it
once: `share` is its time over that of the operator. Times are of CUDA's events, on
other devices of the processor's clock. Encoding takes a tensor to bytes on the host,
decoding takes bytes to a tensor. Needs torch and NumPy, neither Flower nor Ray.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from flower_compress.compressors import get_compressor
from flower_compress.links import Payload

from .markdown import Column, columns
from .measure import Row, machine
from .subjects import CHANNEL, OPERATORS
from .suite import Case, Settings, Suite
from .vectors import DIMS

_LONG = 100_000_000
_MEASURED = (
    "QSGD s=1",
    "QSGD s=4, buckets",
    "range L=8",
    "rotated, step 2",
    "scaled sign",
    "TopK 1 %",
)
_NEEDS = {"device": 64, "host": 40}
"""Bytes an entry, at most, of a vector, its symbols and what stands between."""

_WARM_UP = 2
_LONGEST_SECONDS = 2.0
"""Of the repetitions of one function, unless the first one takes longer."""


def _device(settings: Settings) -> str:
    return settings.device or "cuda"


def _lacks(settings: Settings) -> str | None:
    try:
        import torch
    except ImportError:
        return "torch"
    if _device(settings).startswith("cuda") and not torch.cuda.is_available():
        return "CUDA device (or say --device cpu --out FOLDER)"
    return None


def _machine(settings: Settings) -> Row:
    import torch

    from flower_compress.compressors.arrays.backends import COMPILE

    row = machine()
    row.pop("gpu", None)
    device = _device(settings)
    row["threads"] = torch.get_num_threads()
    row["device"] = device
    if device.startswith("cuda"):
        row["device"] = torch.cuda.get_device_name(device)
        row["driver"] = _driver(torch.cuda.get_device_properties(device))
    if os.environ.get(COMPILE):
        row["compiled"] = os.environ[COMPILE]
    return row


def _driver(properties: Any) -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version,uuid", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    drivers = [line.split(",") for line in lines.stdout.splitlines()]
    own = str(getattr(properties, "uuid", ""))
    of_uuid = [driver for driver, uuid in drivers if own and own in uuid]
    return (of_uuid or [drivers[0][0]])[0].strip()


def _cases(settings: Settings) -> Iterator[Case]:
    dims = settings.dims if settings.dims != DIMS else (*DIMS, _LONG)
    for dim in dims:
        for label in _MEASURED:
            yield dim, label


def _measure(settings: Settings, dim: int, label: str) -> list[Row]:
    import torch

    device = torch.device(_device(settings))
    row: Row = {"operator": label, "dim": dim}
    lacking = _lacking_memory(device, dim)
    if lacking is not None:
        return [{**row, "left_out": lacking}]
    try:
        return [{**row, **_figures(device, dim, label, settings.repeats)}]
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return [{**row, "left_out": "the device ran out of memory"}]


def _lacking_memory(device: Any, dim: int) -> str | None:
    """Say what memory is lacking for vectors of that length."""
    import torch

    needed, free = {"host": _NEEDS["host"] * dim}, {"host": _free_on_host()}
    if device.type == "cuda":
        needed["device"] = _NEEDS["device"] * dim
        free["device"] = torch.cuda.mem_get_info(device)[0]
    else:
        needed["host"] += _NEEDS["device"] * dim
    for where, size in needed.items():
        if size > free[where]:
            gigabytes = f"{size / 1e9:.1f} GB on the {where}, {free[where] / 1e9:.1f}"
            return f"needs up to {gigabytes} are free"
    return None


def _free_on_host() -> float:
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return 1024.0 * int(line.split()[1])
    except OSError:  # Not Linux.
        pass
    return float("inf")


def _figures(device: Any, dim: int, label: str, repeats: int) -> Row:
    import torch

    x = torch.randn(
        dim, generator=torch.Generator(device).manual_seed(2026), device=device
    )
    into, code = torch.empty_like(x), "nested-golomb"
    compressor, stream = get_compressor(OPERATORS[label]), CHANNEL.stream
    compressed = compressor.compress(x, stream)
    payload = Payload.encode(x, compressor, "auto", CHANNEL)
    same = payload.tensor(device).cpu().numpy().tobytes() == payload.vector.tobytes()
    # Its value is kept: what arrives is decoded anew.
    data, num_bits = payload.data, payload.num_bits
    del payload
    functions: dict[str, Callable[[], object]] = {
        "copy": lambda: into.copy_(x),
        "quantize": lambda: compressor.compress(x, stream),
        "dequantize": lambda: compressor.decompress(compressed, stream),
        "count": lambda: compressed.num_bits(code),
        "encode": lambda: Payload.encode(x, compressor, "auto", CHANNEL),
        "decode": lambda: Payload(data, dim, CHANNEL).tensor(device),
    }
    ms = {name: _milliseconds(f, device, repeats) for name, f in functions.items()}
    return {
        "bits_per_entry": num_bits / dim,
        **{f"{name}_ms": value for name, value in ms.items()},
        "quantize_share": ms["copy"] / ms["quantize"],
        "dequantize_share": ms["copy"] / ms["dequantize"],
        "same_bytes": same,
    }


def _milliseconds(function: Callable[[], object], device: Any, repeats: int) -> float:
    """Return the median of one call, of fewer where they take long."""
    limit = 1e3 * _LONGEST_SECONDS
    first = _one_call(function, device)
    if repeats > 1 and first < limit / 4:
        # The first call of all allocates, and may compile.
        first = min(first, *(_one_call(function, device) for _ in range(_WARM_UP)))
    count = int(max(1.0, min(repeats, limit / max(first, 1e-6))))
    return statistics.median(_one_call(function, device) for _ in range(count))


def _one_call(function: Callable[[], object], device: Any) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - began)
    import torch

    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


_TABLE = columns(
    1,
    Column("operator", "operator"),
    Column("d", "dim", ","),
    Column("bits/entry", "bits_per_entry", ".3f"),
    Column("copy, ms", "copy_ms", ".3f"),
    Column("quantize, ms", "quantize_ms", ".3f"),
    Column("copy / quantize", "quantize_share", ".0%"),
    Column("dequantize, ms", "dequantize_ms", ".3f"),
    Column("copy / dequantize", "dequantize_share", ".0%"),
    Column("exact length, ms", "count_ms", ".2f"),
    Column("encode, ms", "encode_ms", ".1f"),
    Column("decode, ms", "decode_ms", ".1f"),
    Column("as on the host", lambda row: "yes" if row["same_bytes"] else "NO"),
)


def _table(rows: list[Row]) -> str:
    text = _TABLE([row for row in rows if "left_out" not in row])
    left = {(row["dim"], row["left_out"]) for row in rows if "left_out" in row}
    for dim, why in sorted(left):
        text += f"\nd = {dim:,} is left out: it {why}.\n"
    return text


SUITE = Suite("device", _cases, _measure, _table, lacks=_lacks, machine=_machine)
