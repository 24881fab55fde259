"""Timing, and what is written beside every figure."""

from __future__ import annotations

import gc
import platform
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from flower_compress import compiled

Row = dict[str, Any]
STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def medians(
    functions: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, float]:
    """Median seconds of each function; see :func:`timings`."""
    times = timings(functions, repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def timings(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call of each function, called in turns: noise meets all alike.

    One call of each is not counted: it touches the memory for the first time.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, function in functions.items():
                start = clock()
                function()
                times[name].append(clock() - start)
    finally:
        gc.enable()
    return times


def best_of_batches(function: Callable[[], Any], batch: int, repeats: int) -> float:
    """Median over batches of the mean seconds of one call, for short functions."""
    means = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for _ in range(batch):
            function()
        means.append((time.perf_counter() - start) / batch)
    return statistics.median(means[1:])


def each_way() -> Iterator[bool]:
    """Yield False with NumPy alone, then True with the compiled path, if there is one.

    Afterwards it is off, as in all other suites.
    """
    try:
        for on in (False, True) if find_spec("numba") else (False,):
            compiled.switch(on=on)
            yield on
    finally:
        compiled.switch(on=False)


def resident(field: str) -> int:
    """Bytes of resident memory of this process: VmRSS now, VmHWM at most."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise LookupError(f"{STATUS} has no {field}")


def forget_peak() -> None:
    """Let VmHWM begin anew at VmRSS."""
    _CLEAR_REFS.write_text("5")


def machine() -> Row:
    """What the figures were measured on."""
    row: Row = {
        "processor": _processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }
    try:
        import torch

        row["torch"] = torch.__version__
        if torch.cuda.is_available():
            row["gpu"] = torch.cuda.get_device_name()
    except ImportError:
        pass
    return row


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
