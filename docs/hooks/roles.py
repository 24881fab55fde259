"""Roles of Sphinx in docstrings, :class:`~a.B`, as links of the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Makes each role a link, where the site has a page with that name, else code."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite all docstrings of a package."""
        _rewrite(pkg)


def _rewrite(obj: griffe.Object) -> None:
    if obj.docstring:
        obj.docstring.value = _ROLE.sub(
            lambda role: _link(obj, role[1], role[2]), obj.docstring.value
        )
    for member in obj.members.values():
        if isinstance(member, griffe.Object):
            _rewrite(member)


def _link(obj: griffe.Object, short: str, name: str) -> str:
    shown = name.lstrip(".")
    if short:
        shown = shown.rpartition(".")[2]
    path = _path(obj, name)
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'


def _path(obj: griffe.Object, name: str) -> str:
    """Return the full name of what `name` means in the docstring of `obj`."""
    if name.startswith("."):
        package = obj.module if obj.module.is_init_module else obj.module.parent
        return f"{package.path}{name}" if package else name
    first, _, rest = name.partition(".")
    try:
        return ".".join(filter(None, (obj.resolve(first), rest)))
    except griffe.NameResolutionError:
        return name
