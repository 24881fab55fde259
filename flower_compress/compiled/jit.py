"""numba's decorators, typed, and the settings of all compiled functions.

What numba keeps on disk of a function is thrown away when its own file changes, not
when another one does that it calls: so those of :func:`collect` here are all that files
share. After a change of this file ``make clean`` is due.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from logging import getLogger
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic as _intrinsic

__all__ = [
    "address",
    "collect",
    "intrinsic",
    "kernel",
    "pointer_to",
    "types",
    "zeros_above",
]

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")

# No fastmath: a sum is rounded as NumPy rounds it, and no product is fused with one.
_SETTINGS: dict[str, Any] = {
    "nogil": True,
    "fastmath": False,
    "error_model": "numpy",
    "boundscheck": False,
}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called, and keep it on disk.

    That takes seconds. Where none of its file is there yet the log says so: of a file
    that was used before, some functions may never be.

    Raises
    ------
    ImportError
        If there is no folder for that.
    """
    try:
        compiled: Any = numba.njit(cache=True, **_SETTINGS)(function)
    except RuntimeError as error:
        # Each process would compile anew, for seconds.
        raise ImportError(
            "numba can write neither beside flower_compress nor into the user's cache: "
            "set NUMBA_CACHE_DIR to a folder to which it can"
        ) from error
    file = Path(function.__code__.co_filename).stem
    kept = Path(compiled.stats.cache_path).glob(f"{file}.*.nbi")
    if not any(kept):
        _tell()
    dispatcher: Callable[..., Any] = compiled
    return dispatcher


@cache
def _tell() -> None:
    """Say once that there is something to compile."""
    getLogger("flower_compress").warning(
        "numba compiles functions of flower_compress for this processor: that takes "
        "up to half a minute, once, and is kept on disk"
    )


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of types write LLVM's instructions."""
    written: Callable[..., Any] = _intrinsic(function)
    return written


def address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return a pointer to an entry of a contiguous flat array."""
    made = context.make_array(kind)(context, builder, array)
    return builder.gep(made.data, [index])


def pointer_to(builder: Any, pointer: Any, kind: Any) -> Any:
    """Return a pointer as one to another type of LLVM."""
    return builder.bitcast(pointer, kind.as_pointer())


def _zeros(instruction: str) -> Callable[..., Any]:
    """Return a function of LLVM's count of the zeros on one side of 64 bits."""

    @intrinsic
    def zeros(_: Any, number: Any) -> Any:
        """Count them, of a number that is not 0."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(arguments[0], cgutils.true_bit)

        return types.int64(types.uint64), generate

    return zeros


zeros_above, _zeros_below = _zeros("ctlz"), _zeros("cttz")
"""How many bits lie above the highest one, and below the lowest."""


@kernel
def collect(flags: Any, start: int, out: Any, place: int) -> int:
    """Write start + i for each flag i that is 1, not 0; return the place that follows.

    Eight are looked at at a time. What does not fit is left out, and counted.
    """
    eights = flags[: flags.size // 8 * 8].view(np.uint64)
    for n in range(eights.size):
        left = eights[n]
        while left:
            if place < out.size:
                out[place] = start + 8 * n + (_zeros_below(left) >> 3)
            place += 1
            left &= left - np.uint64(1)
    for i in range(eights.size * 8, flags.size):
        if flags[i]:
            if place < out.size:
                out[place] = start + i
            place += 1
    return place
