"""Where two descriptions of a run, as JSON has them, differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

__all__ = ["differences"]

_LONGEST = 60
_ABSENT = "nothing"


def differences(was: Any, is_now: Any, path: str = "") -> Iterator[str]:
    """Yield each difference, as ``"contract.seed was 0 and is 1"``.

    Parameters
    ----------
    was, is_now : Any
        What JSON can hold. A string that holds a JSON object is taken apart too.
        Values are cut to some sixty characters.
    path : str
        Where they stand.
    """
    was, is_now = _opened(was), _opened(is_now)
    if was == is_now:
        return
    if isinstance(was, dict) and isinstance(is_now, dict):
        for name in sorted(was.keys() | is_now.keys()):
            where = f"{path}.{name}" if path else name
            yield from differences(was.get(name), is_now.get(name), where)
    elif not (isinstance(was, list) and isinstance(is_now, list)):
        yield f"{path} was {_shown(was)} and is {_shown(is_now)}"
    elif len(was) != len(is_now):
        yield (
            f"{path} was {_shown(was)} and is {_shown(is_now)} ({len(was)} and "
            f"{len(is_now)} entries)"
        )
    else:
        for index, (one, other) in enumerate(zip(was, is_now, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")


def _opened(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _shown(value: Any) -> str:
    text = _ABSENT if value is None else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
