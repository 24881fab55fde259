"""One version in all places, and what a package registry shows of it."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.findall(r"^## \[(\d.*)\] - (\S+)$", changelog, re.MULTILINE)[0]
    assert newest[0] == PROJECT["version"]
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [newest[0]]
    assert re.findall(r"^date-released: (.*)$", citation, re.MULTILINE) == [newest[1]]
    assert changelog.index("## [Unreleased]") < changelog.index(f"[{newest[0]}]")


def test_the_description_has_no_relative_links(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(ROOT / "setup.py"))
    links = re.findall(r"\]\(([^)]+)\)", given["long_description"])
    source = PROJECT["urls"]["Source"]
    tag = f"v{PROJECT['version']}"
    assert f"{source}/raw/{tag}/docs/figures/parity.png" in links
    assert f"{source}/blob/{tag}/docs/protocol.md#evaluation" in links
    assert all(link.startswith(("https://", "#")) for link in links)
