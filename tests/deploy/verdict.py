"""What the rounds of a fleet that was killed here and there must look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
TOLERANCE = 1e-2


def check(
    rounds: Sequence[Row],
    devices: int,
    entries: int,
    num_rounds: int,
    tolerance: float = TOLERANCE,
) -> None:
    """Raise AssertionError unless the model is right and nobody was sent it twice."""
    trained = [row for row in rounds if row["round"] > 0]
    numbers = [row["round"] for row in trained]
    assert sorted(set(numbers)) == list(range(1, num_rounds + 1)), numbers
    assert trained[-1]["error"] < tolerance, trained[-1]
    assert trained[0]["dense-bytes"] == 4 * entries * devices, trained[0]
    # Their state was kept: all that the others ever got is compressed.
    later = [row for row in trained[1:] if row["dense-bytes"]]
    assert not later, later


def table(rounds: Sequence[Row]) -> str:
    """Return a line a round."""
    lines = ["round  replies   error     up      down   dense  seconds"]
    for before, row in zip(rounds, rounds[1:], strict=False):
        lines.append(
            f"{row['round']:5}  {row['replies']:7}  {row['error']:.1e}"
            f"  {row['uplink-bytes']:7}  {row['downlink-bytes']:7}"
            f"  {row['dense-bytes']:6}  {row['time'] - before['time']:7.1f}"
        )
    return "\n".join(lines)
