"""Every suite, in the order in which they run; each is imported when it is asked for.

So a suite runs where the packages that only others need are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from .suite import Suite

_NAMES = (
    "small",
    "throughput",
    "compiled",
    "inprocess",
    "lengths",
    "baselines",
    "operators",
    "optimizer",
    "server-memory",
    "scale",
    "large",
    "lost-memories",
    "nodes",
    "norm-ratios",
    "hostile-decoding",
    "defaults",
    "local-epochs",
    "first-model",
    "device",
)


class _Suites(Mapping[str, Suite]):
    """A suite by its name, which is that of its module."""

    def __getitem__(self, name: str) -> Suite:
        if name not in _NAMES:
            raise KeyError(name)
        module = import_module(f".{name.replace('-', '_')}", __package__)
        suite: Suite = module.SUITE
        return suite

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


SUITES: Mapping[str, Suite] = _Suites()
