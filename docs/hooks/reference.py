"""The reference has every public name: what a page lacks ends the build."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_MODULE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
_LIBRARY = Path(__file__).parents[2] / ".venv" / "editor"


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Look for the anchor of each name that a module of the page has in `__all__`."""
    from mkdocs.exceptions import PluginError

    for module in _MODULE.findall(page.markdown or ""):
        missing = [n for n in exports(module) if f'id="{module}.{n}"' not in html]
        if missing:
            raise PluginError(
                f"{page.file.src_uri} lacks {', '.join(missing)} of {module}: a name "
                "without a docstring is left out"
            )
    return html


def exports(module: str) -> list[str]:
    """Return `__all__` of a module, which need not be imported."""
    path = _LIBRARY.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []
