"""The oldest versions that pyproject.toml admits: which they are, and to be held to.

``python -m tests.bounds torch torchvision`` prints ``torch==2.3 torchvision==0.18``;
without a name, what the core depends on. A run of pytest with that in the environment
as ``REQUIRED_VERSIONS`` does not start with any other versions.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def oldest(*names: str) -> list[str]:
    """Return the lower bounds of those packages, ``name==version``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"]
    if names:
        lines = sum(project["optional-dependencies"].values(), [])
    bounds = {
        each.name: bound.version
        for each in map(Requirement, lines)
        for bound in each.specifier
        if bound.operator == ">="
    }
    return [f"{name}=={bounds[name]}" for name in names or bounds]


def missing(required: str) -> list[str]:
    """Return what is here instead of the required versions, nothing if all are here."""
    return [
        f"expected {each}, got {version(each.name)}"
        for each in map(Requirement, required.split())
        if version(each.name) not in each.specifier
    ]


if __name__ == "__main__":
    print(*oldest(*sys.argv[1:]))
