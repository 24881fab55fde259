"""Pages of the site that stand elsewhere in the checkout, and links between the two.

The pages in ``docs/`` are read in the checkout too, so that their links are relative to
it: ``../CONTRIBUTING.md``, ``../examples``. Here such a link leads to the page that the
file became, else to the file in the repository, if pyproject.toml says where that is.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ELSEWHERE: Mapping[str, str] = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Files in the checkout that are pages, and where."""
PLACEHOLDER = "OWNER"
"""Stands in the addresses of pyproject.toml until the project has a repository."""
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


def address_of(name: str) -> str | None:
    """Return an address of pyproject.toml, None as long as nobody has filled it in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address: str = project["urls"][name]
    return None if PLACEHOLDER in address else address.rstrip("/")


def relink(markdown: str, source: str, address: str | None) -> str:
    """Return a page's text with links as the site has them.

    Parameters
    ----------
    markdown : str
        The text.
    source : str
        The page's file, from the root of the checkout.
    address : str or None
        Of the repository; None leaves of links to it what they are named.

    Raises
    ------
    FileNotFoundError
        If a link leads to nothing in the checkout.
    """
    here = posixpath.dirname(ELSEWHERE.get(source, source.removeprefix("docs/")))

    def target(match: re.Match[str]) -> str:
        bang, text, link = match.groups()
        path, _, anchor = link.partition("#")
        if not path or ":" in path:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{source} links to {link}, which is not there")
        page = ELSEWHERE.get(path) or (
            path.removeprefix("docs/") if path.startswith("docs/") else ""
        )
        if page:
            link = posixpath.relpath(page, here or ".")
        elif address:
            link = f"{address}/blob/main/{path}"
        else:
            return text
        return f"{bang}[{text}]({link}{'#' if anchor else ''}{anchor})"

    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(target, part) for part in parts[::2]]
    return "".join(parts)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Say where the site and the repository are, if they are anywhere yet.

    In the footer: of a ``repo_url`` the theme would ask for figures for each reader.
    """
    config.site_url = address_of("Documentation")
    if link := address_of("Source"):
        config.extra["social"] = [{"icon": "material/source-repository", "link": link}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand elsewhere."""
    from mkdocs.structure.files import File

    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Let links lead where the site has their targets."""
    from mkdocs.exceptions import PluginError

    sources = {made: source for source, made in ELSEWHERE.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    try:
        return relink(markdown, source, address_of("Source"))
    except FileNotFoundError as error:
        raise PluginError(str(error)) from error
