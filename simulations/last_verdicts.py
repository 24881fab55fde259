"""What came of an experiment's claims when it was run last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from .records import WORDS

__all__ = ["last_verdicts"]

_RESULTS: Final = Path(__file__).parents[1] / "docs" / "results"


def last_verdicts(name: str) -> tuple[dict[str, str], Path | None]:
    """Return the claims' verdicts in words, and the file that has them.

    That of the full run in ``runs/``, or else of the shortened one, or else the one
    that comes with the project; None if there is none.

    Parameters
    ----------
    name : str
        Of the experiment.
    """
    folders = (Path("runs") / name, Path("runs") / f"{name}-quick", _RESULTS / name)
    for path in (folder / "summary.json" for folder in folders):
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            verdicts = summary["claims"]["verdicts"]
            return {each["claim"]: WORDS[each["holds"]] for each in verdicts}, path
        except (OSError, ValueError, KeyError, TypeError):
            continue  # Not there, or of a version without claims.
    return {}, None
