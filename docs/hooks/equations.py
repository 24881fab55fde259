"""TeX to MathML when the site is built: no script, no font, no network to show it."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_MATH = re.compile(
    r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL
)


def on_page_content(html_: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace what pymdownx.arithmatex has marked."""
    return _MATH.sub(_mathml, html_)


def _mathml(match: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    tag, kind, tex = match.groups()
    display = "block" if kind == "[" else "inline"
    mathml = convert(html.unescape(tex).strip(), display=display)
    return f'<{tag} class="arithmatex">{mathml}</{tag}>'
