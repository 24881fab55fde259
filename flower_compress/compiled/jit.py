"""numba's decorators, typed, and the settings of all compiled functions.

A compiled function calls only such functions as its own file defines: what numba keeps
on disk is thrown away when that file changes, and no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic as _intrinsic

__all__ = ["address", "intrinsic", "kernel", "pointer_to", "types"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")

# No fastmath: a sum is rounded as NumPy rounds it, and no product is fused with one.
_SETTINGS: dict[str, Any] = {
    "nogil": True,
    "fastmath": False,
    "error_model": "numpy",
    "boundscheck": False,
}


def kernel(function: _Function) -> _Function:
    """Compile a function when it is first called, and keep it on disk if possible."""
    try:
        return numba.njit(cache=True, **_SETTINGS)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        # Neither the package's folder nor the user's can be written to.
        return numba.njit(**_SETTINGS)(function)  # type: ignore[no-any-return]


def intrinsic(function: _Function) -> _Function:
    """Let a function of types write LLVM's instructions."""
    return _intrinsic(function)  # type: ignore[no-any-return]


def address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return a pointer to an entry of a contiguous flat array."""
    made = context.make_array(kind)(context, builder, array)
    return builder.gep(made.data, [index])


def pointer_to(builder: Any, pointer: Any, kind: Any) -> Any:
    """Return a pointer as one to another type of LLVM."""
    return builder.bitcast(pointer, kind.as_pointer())


del cgutils
