"""What the reference is made of, as the site needs it."""

# The types of griffe are there with the extra "docs" only.
# mypy: allow-subclassing-any

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")


class Library(griffe.Extension):
    """Roles of Sphinx become links, and functions come before modules of their name.

    :class:`~a.B` is a link where the site has that name, else code. After
    ``from .compress import compress`` the package has the function, not the module.
    """

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite all docstrings of a package."""
        _rewrite(pkg)
        for module in [pkg, *_submodules(pkg)]:
            for name in map(str, module.exports or ()):
                shadow = module.members.get(name)
                if isinstance(shadow, griffe.Module) and name in shadow.members:
                    function = shadow.members[name]
                    module.members[name] = griffe.Alias(name, function, parent=module)


def _submodules(module: griffe.Module) -> list[griffe.Module]:
    """Return all modules below one, before anything is changed."""
    found = [m for m in module.members.values() if isinstance(m, griffe.Module)]
    return found + [below for each in found for below in _submodules(each)]


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
