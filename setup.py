"""The README as a package's description: there relative links would lead nowhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import setuptools

_ROOT = Path(__file__).parent
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
_LINK = re.compile(r"(!?)(\[[^\[\]]*\])\((?!https?:|#)([^)\s]+)\)")


def _absolute(link: re.Match[str]) -> str:
    kind = "raw" if link[1] else "blob"
    place = f"{_PROJECT['urls']['Source']}/{kind}/v{_PROJECT['version']}"
    return f"{link[1]}{link[2]}({place}/{link[3]})"


setuptools.setup(
    long_description=_LINK.sub(
        _absolute, (_ROOT / "README.md").read_text(encoding="utf-8")
    ),
    long_description_content_type="text/markdown",
)
