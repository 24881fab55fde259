"""Operators that differ from array to array of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from math import prod
from typing import Any, ClassVar, NoReturn, Self

from ..coding import Symbols
from ..errors import ConfigurationError
from ..streams import Stream
from .arrays import Array
from .base import Compressor
from .compressed import Compressed
from .identity import Identity
from .parts import MAX_PARTS, Parts
from .tables import Sizes
from .tied import Tied

__all__ = ["ArrayRule", "PerArray"]


@dataclass(frozen=True, repr=False)
class ArrayRule:
    """The arrays that a rule is for: those that meet all that is given.

    Parameters
    ----------
    name : str (default: "*")
        Pattern of the array's name, as of :mod:`fnmatch`: ``*`` for any characters,
        ``?`` for one, ``[ab]`` for one of those. Upper and lower case differ.
    max_ndim : int, optional
        Largest number of dimensions.
    max_size : int, optional
        Largest number of entries.

    Raises
    ------
    ConfigurationError
        If the pattern is no text, or a limit no integer >= 0.
    """

    name: str = "*"
    max_ndim: int | None = None
    max_size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ConfigurationError(
                f"expected a pattern of arrays' names, got {self.name!r}"
            )
        for label in ("max_ndim", "max_size"):
            limit = getattr(self, label)
            if limit is not None and not (
                isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0
            ):
                raise ConfigurationError(
                    f"{label} must be an integer >= 0 or None, got {limit!r}"
                )

    def __repr__(self) -> str:
        if self == ArrayRule(self.name):
            return repr(self.name)
        given = ", ".join(f"{name}={value!r}" for name, value in self.config().items())
        return f"ArrayRule({given})"

    def match(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether an array of that name and shape is one of them."""
        return (
            (self.max_ndim is None or len(shape) <= self.max_ndim)
            and (self.max_size is None or prod(shape) <= self.max_size)
            and fnmatchcase(name, self.name)
        )

    def config(self) -> dict[str, Any]:
        """Return the JSON-able arguments that differ from their defaults."""
        return {
            item.name: value
            for item in fields(self)
            if (value := getattr(self, item.name)) != item.default
        }


@dataclass(frozen=True, repr=False, init=False)
class PerArray(Compressor):
    """Each array of a model goes to the operator of the first rule that it matches.

    The arrays of a rule are one vector, those that match none another; each operator
    acts on its own, with draws of its own, and has a code of its own. So

        ||C(x) - x||^2 = sum_j ||C_j(x_j) - x_j||^2,

    omega is the largest of the operators' and the contraction the least, and from them
    follow the rates of links. With one biased operator among them the whole is biased.
    It is an operator of links, which know the arrays of a model once a run begins: it
    compresses no vector by itself. Arrays with :class:`Identity` are sent as float32,
    and take part in the server's step as all others. Exact arrays (``exact_pattern``
    of the strategies) are something else: averaged as they are, with no step and no
    link, they are no part of the vector and never meet a rule.

    Parameters
    ----------
    rules : Mapping[str or ArrayRule, Compressor]
        Operators by the arrays that they are for, a text being a pattern of names; the
        first that matches counts. At most 254.
    default : Compressor
        The operator of all other arrays.

    Raises
    ------
    ConfigurationError
        If a rule is neither a text nor an :class:`ArrayRule`, or an operator none, or
        one with rules of its own.

    Examples
    --------
    >>> from flower_compress import ArrayRule, Identity, PerArray, RotatedQuantizer
    >>> rules = {"head.*": Identity(), ArrayRule(max_ndim=1): RotatedQuantizer(0.1)}
    >>> compressor = PerArray(rules, default=RotatedQuantizer(step=1.5))
    """

    rules: tuple[tuple[ArrayRule, Compressor], ...]
    default: Compressor

    name: ClassVar[str] = "per-array"
    wire_id: ClassVar[int] = Parts.wire_id

    def __init__(self, rules: Mapping[Any, Compressor], default: Compressor) -> None:
        if not isinstance(rules, Mapping):
            raise ConfigurationError(
                f"expected a mapping from arrays to operators, got {rules!r}"
            )
        pairs = tuple((_arrays(key), operator) for key, operator in rules.items())
        for operator in (*(operator for _, operator in pairs), default):
            of_arrays = isinstance(operator, PerArray | Tied)
            if of_arrays or not isinstance(operator, Compressor):
                raise ConfigurationError(
                    "expected an operator without rules of its own for every rule and "
                    f"the default, got {operator!r}"
                )
        if len(pairs) >= MAX_PARTS:
            raise ConfigurationError(
                f"expected at most {MAX_PARTS - 1} rules, got {len(pairs)}"
            )
        object.__setattr__(self, "rules", pairs)
        object.__setattr__(self, "default", default)

    def __repr__(self) -> str:
        rules = ", ".join(f"{rule}: {operator}" for rule, operator in self.rules)
        return f"PerArray({{{rules}}}, default={self.default})"

    @property
    def operators(self) -> tuple[Compressor, ...]:
        """The operators of the rules in their order, and the default."""
        return *(operator for _, operator in self.rules), self.default

    @property
    def unbiased(self) -> bool:
        """Whether all operators are."""
        return all(operator.unbiased for operator in self.operators)

    @property
    def shared_randomness(self) -> bool:
        """Whether any operator's is."""
        return any(operator.shared_randomness for operator in self.operators)

    def bind(self, arrays: Sequence[tuple[str, tuple[int, ...]]]) -> Compressor:
        """Return the operator for a vector made of these arrays.

        Parameters
        ----------
        arrays : Sequence[tuple[str, tuple[int, ...]]]
            Name and shape of each, in the order of the vector.
        """
        conditions = [rule for rule, _ in self.rules]
        chosen = [
            next(
                (i for i, rule in enumerate(conditions) if rule.match(name, shape)),
                len(conditions),
            )
            for name, shape in arrays
        ]
        used = sorted(set(chosen))
        operators = tuple(self.operators[i] for i in used) or (self.default,)
        if all(operator.lossless for operator in operators):
            return Identity()
        if len(operators) == 1:
            return operators[0]
        groups = tuple(used.index(i) for i in chosen)
        sizes = tuple(prod(shape) for _, shape in arrays)
        return Parts(operators, groups, sizes, self)

    def but_first(self, arrays: ArrayRule, operator: Compressor) -> PerArray:
        """Return these rules with another one before the default."""
        return PerArray({**dict(self.rules), arrays: operator}, self.default)

    # --- Configuration ----------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """Return the JSON-able configuration that rebuilds the operator."""
        return {
            "name": self.name,
            "rules": [
                [arrays.config(), operator.config()] for arrays, operator in self.rules
            ],
            "default": self.default.config(),
        }

    @classmethod
    def from_config(
        cls,
        parameters: Mapping[str, Any],
        rebuild: Callable[[Mapping[str, Any]], Compressor],
    ) -> Self:
        """Rebuild the operator from what :meth:`config` gave, without the name."""
        unknown = set(parameters) - {"rules", "default"}
        if unknown or "default" not in parameters:
            raise ConfigurationError(
                f"compressor {cls.name!r}: expected rules and a default, got "
                f"{sorted(parameters)}"
            )
        rules = {
            ArrayRule(**arrays): rebuild(operator)
            for arrays, operator in parameters.get("rules", ())
        }
        return cls(rules, rebuild(parameters["default"]))

    # --- What only a vector of known arrays has ---------------------------------------

    def omega(self, dim: int) -> float:
        """Return the largest omega of the operators for `dim` entries."""
        return max(operator.omega(dim) for operator in self.operators)

    def contraction(self, dim: int) -> float:
        """Return the least contraction of the operators for `dim` entries."""
        return min(operator.contraction(dim) for operator in self.operators)

    def alphabet(self, dim: int) -> None:
        """There are no symbols but those of the operators."""
        return

    def compress(
        self, x: Array, stream: Stream, sizes: Sizes | None = None
    ) -> Compressed:
        """Raise ConfigurationError: the arrays are not known."""
        self._refuse()

    def decompress(
        self,
        compressed: Compressed,
        stream: Stream | None = None,
        sizes: Sizes | None = None,
    ) -> Array:
        """Raise ConfigurationError: the arrays are not known."""
        self._refuse()

    def num_values(
        self, dim: int, symbols: Symbols | None, sizes: Sizes | None = None
    ) -> int:
        """Raise ConfigurationError: the arrays are not known."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigurationError(
            "PerArray needs the names of a model's arrays: give it to a link of a "
            "strategy, or call bind with names and shapes"
        )


def _arrays(key: object) -> ArrayRule:
    if isinstance(key, str):
        return ArrayRule(key)
    if isinstance(key, ArrayRule):
        return key
    raise ConfigurationError(
        f"expected a pattern of arrays' names or ArrayRule(...) as a rule, got {key!r}"
    )
