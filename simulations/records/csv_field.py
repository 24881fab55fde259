"""A value as the text of a CSV field."""

from __future__ import annotations

__all__ = ["to_field"]


def to_field(value: str | int | float | None) -> str:
    """Return a field: empty for None, a float with the digits that give it back."""
    if value is None:
        return ""
    # float() first: the repr of a NumPy scalar names its type.
    return repr(float(value)) if isinstance(value, float) else str(value)
