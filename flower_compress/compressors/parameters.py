"""An operator's parameters, all that describes it, as JSON and as bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

__all__ = ["Parameters"]


@dataclass(frozen=True, repr=False)
class Parameters:
    """A frozen dataclass that can be rebuilt from its configuration or its bytes."""

    name: ClassVar[str]
    wire_id: ClassVar[int]

    _wire: ClassVar[struct.Struct] = struct.Struct("<")

    def __repr__(self) -> str:
        parameters = self.config()
        del parameters["name"]
        shown = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
        return f"{type(self).__name__}({shown})"

    def config(self) -> dict[str, Any]:
        """Return the JSON-able configuration that rebuilds the operator."""
        config = {"name": self.name}
        for item in sorted(fields(self), key=lambda item: item.kw_only is True):
            value = getattr(self, item.name)
            if value != item.default or not item.kw_only:
                config[item.name] = value
        return config

    @classmethod
    def from_config(
        cls, parameters: Mapping[str, Any], rebuild: Callable[..., Any]
    ) -> Self:
        """Rebuild the operator from its configuration without the name.

        `rebuild` does so with the configurations of others that it may hold.
        """
        return cls(**parameters)

    def to_wire(self) -> tuple[int, bytes]:
        """Return the id of the operator and its scope, and the packed parameters."""
        packed: tuple[int, bytes] | None = self.__dict__.get("_packed")
        if packed is None:
            packed = self.__dict__["_packed"] = self._pack()
        return packed

    @classmethod
    def wire_size(cls, wire_id: int) -> int:
        """Return how many bytes the packed parameters have."""
        return cls._wire.size

    @classmethod
    def from_wire(cls, wire_id: int, data: bytes) -> Self:
        """Rebuild the operator from its packed parameters.

        Raises struct.error or ConfigurationError if they are wrong.
        """
        return cls(*cls._parameters(*cls._wire.unpack_from(data)))

    def _pack(self) -> tuple[int, bytes]:
        return self.wire_id, self._wire.pack(*self._wire_values())

    def _wire_values(self) -> tuple[Any, ...]:
        """Return what is packed, by default the arguments of the class."""
        return tuple(
            getattr(self, item.name) for item in fields(self) if not item.kw_only
        )

    @classmethod
    def _parameters(cls, *values: Any) -> tuple[Any, ...]:
        """Return the arguments of the class from the packed values."""
        return values
