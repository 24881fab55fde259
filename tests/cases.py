"""Many light cases as one test: to set up a test takes longer than most of them.

And which cases are enough on other versions than those that are developed on.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any
from zlib import crc32

import pytest

# A round of one strategy is as another's for Flower and NumPy, and the bits of every
# operator and code are in golden packets, which are all read and written there.
_THINNED = ("tests.protocol.", "tests.strategies.", "tests.flower_compress.")
_PARTS = "_test_of_one_case"


def in_one_test(
    names: str | Sequence[str], cases: Iterable[Any], ids: Callable[[Any], str] = str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Try all cases, as ``pytest.mark.parametrize`` does, but within one test.

    For what takes a few milliseconds and changes nothing: the cases share the fixtures.
    The first one that fails ends the test, and is named below its error; one that is
    skipped does not, but shows in the end. Several of these decorators are crossed;
    those of pytest go around them.
    """
    keys, values = [names] if isinstance(names, str) else [*names], list(cases)
    assert values, f"no cases of {names}"

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        test, dimensions = getattr(function, _PARTS, (function, []))
        dimensions = [
            *dimensions,
            [
                (ids(v), dict(zip(keys, v if keys[1:] else [v], strict=True)))
                for v in values
            ],
        ]

        def run(*args: Any, **fixtures: Any) -> None:
            skipped: list[str] = []
            for number, parts in enumerate(product(*dimensions)):
                case = "-".join(label for label, _ in parts)
                if number and is_left_out(test.__module__, case):
                    continue
                given = {name: v for _, part in parts for name, v in part.items()}
                try:
                    test(*args, **fixtures, **given)
                except pytest.skip.Exception as skip:
                    skipped.append(f"{case}: {skip}")
                except BaseException as error:
                    error.add_note(f"Of the cases of {test.__name__}: {case}")
                    raise
            if skipped:
                pytest.skip(f"{len(skipped)} cases, the first one {skipped[0]}")

        signature = inspect.signature(function)
        assert set(keys) <= signature.parameters.keys(), f"{names}: no arguments"
        left = [each for name, each in signature.parameters.items() if name not in keys]
        run.__signature__ = signature.replace(parameters=left)
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(run, name, getattr(test, name))
        run.pytestmark = getattr(function, "pytestmark", [])
        setattr(run, _PARTS, (test, dimensions))
        return run

    return decorate


def has_cases(function: Callable[..., None]) -> bool:
    """Whether it is a test that tries its cases by itself."""
    return hasattr(function, _PARTS)


def is_left_out(module: str, case: str) -> bool:
    """Whether a case that is not the first one need not be tried on these versions.

    On others than those that are developed on, a twelfth is, drawn by its name.
    """
    thins = os.environ.get("REQUIRED_VERSIONS") and module.startswith(_THINNED)
    return bool(thins and crc32(case.encode()) % 12)
