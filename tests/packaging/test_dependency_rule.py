"""Inner rings never import outer ones (DESIGN.md, section 2), read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Where each part of the library lies in the checkout.
FOLDERS = {
    "flower_compress": ROOT / "flower_compress",
    "flower_compress.strategies": ROOT / "strategies",
    "flower_compress.clients": ROOT / "clients",
}
# Everything else that has Python files: one import root holds there too.
OTHER_FOLDERS = ("simulations", "tests", "benchmarks", "docs", "examples")

# The modules of the core that know Flower; `import flower_compress` brings them
# together with the rest. All others are pure: standard library, NumPy, one another.
FLOWER_FACING = (
    "contract",
    "gossip_contract",
    "layout",
    "ledger",
    "mail",
    "mods",
    "records",
    "state_store",
    "testing",
)

# Never executed by an import of the library: a device may lack them.
LAZY_ONLY = {"torch", "constriction", "networkx"}
NEVER_IN_LIBRARY = {"simulations", "tests", "benchmarks"}
NEVER_ANYWHERE = {"strategies", "clients"}


@dataclass(frozen=True)
class Import:
    """One imported name: absolute, and when it is executed."""

    name: str
    line: int
    lazy: bool  # inside a function
    typing_only: bool  # under `if TYPE_CHECKING:`

    @property
    def top(self) -> str:
        """The top-level package."""
        return self.name.partition(".")[0]


def find_imports(source: str, module: str, *, is_package: bool) -> list[Import]:
    """Return every import in `source`, relative ones made absolute.

    ``from a import b`` counts as ``a.b``, which is right whether b is a module or not.
    """
    package = module if is_package else module.rpartition(".")[0]

    def names(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
                base = ".".join([*parents, *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if (
                called in {"import_module", "__import__"}
                and isinstance(first, ast.Constant)
                and isinstance(first.value, str)
            ):
                yield first.value

    def walk(node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[Import]:
        for name in names(node):
            yield Import(name, getattr(node, "lineno", 0), lazy, typing_only)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            lazy = True
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.body:
                yield from walk(child, lazy, True)
            for child in node.orelse:
                yield from walk(child, lazy, typing_only)
            return
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy, typing_only)

    return list(walk(ast.parse(source), lazy=False, typing_only=False))


def within(name: str, package: str) -> bool:
    """Whether `name` is `package` or lies in it."""
    return name == package or name.startswith(f"{package}.")


def ring(module: str) -> str:
    """Return the ring a module of the library belongs to."""
    parts = module.split(".")
    if len(parts) == 1:
        return "flower-facing"
    if parts[1] in {"strategies", "clients"}:
        return parts[1]
    return "flower-facing" if parts[1] in FLOWER_FACING else "pure"


def complaint(importer: str, imported: Import) -> str | None:
    """Return what is wrong with one import of a library module, if anything."""
    here, name, top = ring(importer), imported.name, imported.top
    executed = not (imported.lazy or imported.typing_only)
    needs_torch = "torch" in importer.rpartition(".")[2]

    if top in NEVER_IN_LIBRARY:
        return "the library never imports what is not in the wheel"

    if top == "flower_compress":
        there = ring(name)
        if "torch" in ".".join(name.split(".")[1:]) and executed and not needs_torch:
            return "a module that needs torch is imported inside a function"
        if there in {"strategies", "clients"} and there != here:
            return f"{here} never imports {there}"
        if here == "pure" and there == "flower-facing":
            return "pure modules never import Flower-facing ones"
        return None

    if top in sys.stdlib_module_names or top == "numpy":
        return None
    if top == "flwr":
        if here == "pure":
            return "pure modules never import flwr (see FLOWER_FACING)"
        return None
    if top in LAZY_ONLY:
        if executed and not (top == "torch" and needs_torch):
            return f"{top} is optional: import it inside a function"
        return None
    return f"{top} is no dependency of the library"


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return one line for each import in a library module that breaks a rule."""
    found = []
    for imported in find_imports(source, module, is_package=is_package):
        if imported.top in NEVER_ANYWHERE:
            problem: str | None = f"import flower_compress.{imported.top} instead"
        else:
            problem = complaint(module, imported)
        if problem:
            found.append(f"{module}:{imported.line}: {imported.name}: {problem}")
    return found


def library_files() -> Iterator[tuple[str, Path]]:
    """Every Python file of the library with its import name."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            yield ".".join([package, *parts]), path


def test_the_library_follows_the_rule() -> None:
    files = list(library_files())
    assert len(files) > len(FOLDERS)
    found = [
        line
        for module, path in files
        for line in violations(
            path.read_text(encoding="utf-8"), module, is_package=path.stem == "__init__"
        )
    ]
    assert not found, "\n".join(found)


def test_one_import_root_everywhere() -> None:
    found = []
    for folder in OTHER_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            where = str(path.relative_to(ROOT))
            module = where.removesuffix(".py").replace("/", ".")
            for imported in find_imports(
                path.read_text(encoding="utf-8"),
                module.removesuffix(".__init__"),
                is_package=path.stem == "__init__",
            ):
                if imported.top in NEVER_ANYWHERE:
                    found.append(f"{where}:{imported.line}: {imported.name}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        # The pure ring.
        ("theory", "import flwr", "never import flwr"),
        ("links.memory", "from flwr.app import Message", "never import flwr"),
        ("packet", "def f():\n    import flwr", "never import flwr"),
        ("coding.elias", "from flower_compress.mods import x", "never import Flower-"),
        ("coding.elias", "from ..ledger import x", "never import Flower-facing"),
        ("links", "import scipy", "no dependency of the library"),
        # An outer ring, from every side.
        ("theory", "from flower_compress import strategies", "never imports strategie"),
        ("theory", "from . import clients", "never imports clients"),
        ("mods", "from flower_compress.strategies.mcm import MCM", "never imports"),
        ("strategies.mcm", "import flower_compress.clients", "never imports clients"),
        ("strategies.mcm", "from ..clients import gradient", "never imports clients"),
        ("clients.gossip", "from flower_compress.strategies import x", "never imports"),
        (
            "clients.gossip",
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from flower_compress.strategies import x",
            "never imports strategies",
        ),
        # Optional packages.
        ("theory", "import torch", "inside a function"),
        ("strategies.mcm", "import torch.nn as nn", "inside a function"),
        ("strategies.mcm", "try:\n    import torch\nexcept ImportError: ...", "inside"),
        ("strategies.mcm", "class A:\n    import torch", "inside a function"),
        ("strategies.mcm", "import ray", "no dependency of the library"),
        ("theory", "def f():\n    import torchvision", "no dependency of the library"),
        ("clients.gossip", "from flower_compress.clients import torch_x", "inside"),
        ("clients", "from .torch_x import TorchX", "inside a function"),
        # Outside the wheel.
        ("theory", "import simulations.data", "not in the wheel"),
        ("clients.gossip", "def f():\n    from simulations import x", "not in the wh"),
        ("mods", "import importlib\nimportlib.import_module('simulations')", "not in"),
        # One import root.
        ("strategies.mcm", "import strategies.base", "flower_compress.strategies inst"),
        ("clients.gossip", "from clients import x", "flower_compress.clients instead"),
        ("mods", "__import__('strategies')", "flower_compress.strategies instead"),
    ],
)
def test_a_violation_is_found(module: str, source: str, message: str) -> None:
    packages = {"links", "clients"}
    found = violations(
        source, f"flower_compress.{module}", is_package=module in packages
    )
    assert len(found) == 1, found
    assert message in found[0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("from .strategies import MCM", "never imports strategies"),
        ("from flower_compress import clients", "never imports clients"),
        ("import torch", "inside a function"),
    ],
)
def test_a_violation_in_the_root_is_found(source: str, message: str) -> None:
    found = violations(source, "flower_compress", is_package=True)
    assert len(found) == 1, found
    assert message in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("theory", "import math\nimport numpy as np\nfrom . import errors"),
        ("theory", "from __future__ import annotations\nimport numpy.typing"),
        ("theory", "def f():\n    import torch"),
        ("theory", "import typing\nif typing.TYPE_CHECKING:\n    import torch"),
        ("links.memory", "from flower_compress.compressors.base import Compressor"),
        ("mods", "import flwr\nfrom flower_compress import links, ledger"),
        ("strategies.mcm", "import flwr\nfrom flower_compress.strategies import base"),
        ("strategies.mcm", "from .base import CompressedStrategy"),
        ("clients.gossip", "from flower_compress.mods import mod"),
        ("clients.torch_objective", "import torch\nfrom .objective import Objective"),
        ("clients.torch_x", "from flower_compress.clients.torch_objective import y"),
        ("clients.gossip", "def f():\n    from .torch_objective import TorchObjective"),
    ],
)
def test_what_is_allowed_is_not_found(module: str, source: str) -> None:
    assert violations(source, f"flower_compress.{module}") == []
