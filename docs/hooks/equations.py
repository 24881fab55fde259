"""TeX to MathML when the site is built: no script and no network to show it.

Browsers take what they draw of equations, roots first of all, from a font with a table
for it, and leave it out where the machine has none. So the site brings one, STIX Two
Math, cut down to the characters that its equations have.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

# With what follows it on the line, so that no line begins with a comma.
_MATH = re.compile(
    r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>([,.;:)]*)', re.DOTALL
)
_TAG = re.compile(r"<[^>]*>")
# Browsers show a single letter as one of these, of which h has another place, and draw
# the root by themselves.
_ITALICS = {*range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C), 0x210E} - {0x1D455}
_ROOT = {0x221A}
_INVISIBLE = {0x2061}
_used: set[int] = set()


def on_page_content(html_: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace what pymdownx.arithmatex has marked."""
    return _MATH.sub(_mathml, html_)


def on_post_build(config: MkDocsConfig) -> None:
    """Write the font."""
    import ziamath
    from fontTools.subset import Options, Subsetter, load_font, save_font

    options = Options(
        flavor="woff", layout_features=["ssty", "dtls"], ignore_missing_unicodes=False
    )
    folder = Path(ziamath.__file__).parent / "fonts"
    font = load_font(str(folder / "STIXTwoMath-Regular.ttf"), options)
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=(_used | _ITALICS | _ROOT) - _INVISIBLE)
    subsetter.subset(font)
    save_font(font, str(Path(config.site_dir) / "assets" / "equations.woff"), options)


def _mathml(match: re.Match[str]) -> str:
    from math_core import LatexToMathML

    tag, kind, tex, mark = match.groups()
    mathml = LatexToMathML().convert_with_local_state(
        html.unescape(tex).strip(), displaystyle=kind == "["
    )
    _used.update(map(ord, html.unescape(_TAG.sub("", mathml))))
    return f'<{tag} class="arithmatex">{mathml}{mark}</{tag}>'
