"""Inner rings never import outer ones (DESIGN.md, section 2), read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cases import in_one_test

ROOT = Path(__file__).resolve().parents[2]

# Where each part of the library lies in the checkout.
FOLDERS = {
    "flower_compress": ROOT / "flower_compress",
    "flower_compress.strategies": ROOT / "strategies",
    "flower_compress.clients": ROOT / "clients",
}
# Everything else that has Python files: one import root holds there too.
OTHER_FOLDERS = ("simulations", "tests", "benchmarks", "docs", "examples")

# What each room may import, the ladder of the design: a room is a folder, or a module
# that lies beside the folders. Up to links/ nothing knows flwr.
_LINKS = (
    "compiled",
    "errors",
    "arguments",
    "streams",
    "theory",
    "coding",
    "compressors",
    "links",
)
_WIRE = (*_LINKS, "wire")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "compiled": (),
    "arguments": ("errors",),
    "streams": ("errors", "compiled"),
    "theory": ("errors", "arguments"),
    "formula_bits": ("errors", "arguments"),
    "stability": ("errors",),
    "coding": ("errors", "compiled", "streams"),
    "compressors": ("errors", "compiled", "streams", "coding"),
    "links": ("errors", "arguments", "streams", "theory", "coding", "compressors"),
    "optim": ("errors", "streams", "coding", "compressors"),
    "wire": (*_LINKS, "formula_bits"),
    "torch_arrays": ("errors", "wire"),
    "mods": _WIRE,
    "testing": _WIRE,
    "flower_compress": (*_WIRE, "mods"),
    "strategies.callbacks": _WIRE,
    "strategies.run": (*_WIRE, "strategies.callbacks"),
    "strategies.topology": ("errors",),
    "strategies.server": (
        *_WIRE,
        "stability",
        "strategies.callbacks",
        "strategies.run",
    ),
    "strategies.relay": (
        *_WIRE,
        "strategies.callbacks",
        "strategies.run",
        "strategies.topology",
    ),
    "strategies": (
        *_WIRE,
        "strategies.callbacks",
        "strategies.run",
        "strategies.topology",
        "strategies.server",
        "strategies.relay",
    ),
    "clients.gossip": (*_WIRE, "mods"),
    "clients": (*_WIRE, "mods", "clients.gossip"),
}
KNOWS_FLOWER = (
    "wire",
    "torch_arrays",
    "mods",
    "testing",
    "flower_compress",
    "strategies",
    "clients",
)

# Never executed by an import of the library: a device may lack them.
LAZY_ONLY = {"torch", "constriction", "networkx", "tensorboardX", "mlflow"}
# What these modules import, and so are only ever imported by a long vector.
COMPILER = {"numba", "llvmlite"}
COMPILED = "flower_compress.compiled"
NEVER_IN_LIBRARY = {"simulations", "tests", "benchmarks"}
NEVER_ANYWHERE = {"strategies", "clients"}


_MODULES_OF_COMPILER = {
    path.stem for path in (ROOT / "flower_compress" / "compiled").glob("[a-z]*.py")
}


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


def room(name: str) -> str:
    """Return the room of a module of the library, or of what is imported from one."""
    parts = name.split(".")
    if len(parts) == 1:
        return "flower_compress"
    wing = ".".join(parts[1:3])
    if wing in MAY_IMPORT:
        return wing
    return parts[1]


def complaint(importer: str, imported: Import) -> str | None:
    """Return what is wrong with one import of a library module, if anything."""
    here, name, top = room(importer), imported.name, imported.top
    executed = not (imported.lazy or imported.typing_only)
    needs_torch = "torch" in importer.rpartition(".")[2]

    if top in NEVER_IN_LIBRARY:
        return "the library never imports what is not in the wheel"

    if top == "flower_compress":
        there = room(name)
        if there not in (here, *MAY_IMPORT[here]):
            return f"{here} never imports {there}"
        if "torch" in ".".join(name.split(".")[1:]) and executed and not needs_torch:
            return "a module that needs torch is imported inside a function"
        part = name.removeprefix(f"{COMPILED}.").partition(".")[0]
        if here != "compiled" and part in _MODULES_OF_COMPILER:
            return f"{COMPILED}.compiled says whether there is a compiler"
        return None

    if top in sys.stdlib_module_names or top == "numpy":
        return None
    if top == "flwr":
        if here.partition(".")[0] not in KNOWS_FLOWER:
            return f"{here} never imports flwr (see KNOWS_FLOWER)"
        return None
    if top in COMPILER:
        if here != "compiled" or importer == COMPILED:
            return f"{top} is optional: it belongs into a module of {COMPILED}"
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


def test_every_room_is_in_the_ladder() -> None:
    rooms = {room(module) for module, _ in library_files()}
    assert rooms == set(MAY_IMPORT)


def test_the_ladder_has_no_cycle() -> None:
    # Each room's list may name only rooms that stand before it: then none is a loop.
    seen: set[str] = set()
    for name, below in MAY_IMPORT.items():
        assert set(below) <= seen, name
        seen.add(name)


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


@in_one_test(
    ("module", "source", "message"),
    [
        # Up to links/.
        ("theory", "import flwr", "never imports flwr"),
        ("links.memory", "from flwr.app import Message", "never imports flwr"),
        ("coding.bits", "def f():\n    import flwr", "never imports flwr"),
        ("coding.elias", "from flower_compress.mods import x", "never imports mods"),
        ("coding.elias", "from ..wire.ledger import x", "never imports wire"),
        ("coding.elias", "from ..links import x", "coding never imports links"),
        ("compressors.top_k", "from ..links.base import x", "never imports links"),
        ("links", "import scipy", "no dependency of the library"),
        # The wings above.
        ("wire.packet", "from ..mods.state_store import x", "wire never imports mods"),
        ("testing.faults", "from ..mods import x", "testing never imports mods"),
        ("mods.client_state", "from ..testing import x", "mods never imports testing"),
        ("theory", "from flower_compress import Memory", "theory never imports Memory"),
        ("strategies.run.rounds", "from ..server import x", "never imports strategies"),
        ("strategies.run.saving", "from ..relay.relay import x", "never imports"),
        ("strategies.run.saving", "from .. import MCM", "never imports strategies"),
        ("strategies.server.uplink", "from ..relay import x", "never imports"),
        ("strategies.relay.relay", "from ..server import x", "never imports"),
        ("strategies.relay.relay", "from ..mcm import MCM", "never imports strategies"),
        ("strategies.topology.graphs", "from ..run import x", "never imports"),
        ("strategies.mcm", "from flower_compress.mods import x", "never imports mods"),
        ("clients.gossip.mod", "from ..app import make_app", "never imports clients"),
        # An outer ring, from every side.
        ("theory", "from flower_compress import strategies", "never imports strategie"),
        ("theory", "from . import clients", "never imports clients"),
        ("mods", "from flower_compress.strategies.mcm import MCM", "never imports"),
        ("strategies.mcm", "import flower_compress.clients", "never imports clients"),
        ("strategies.mcm", "from ..clients import gradient", "never imports clients"),
        ("clients.app", "from flower_compress.strategies import x", "never imports"),
        (
            "clients.app",
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
        ("clients.app", "from flower_compress.clients import torch_x", "inside"),
        ("clients", "from .torch_x import TorchX", "inside a function"),
        # Outside the wheel.
        ("theory", "import simulations.tasks", "not in the wheel"),
        ("clients.app", "def f():\n    from simulations import x", "not in the wh"),
        ("mods", "import importlib\nimportlib.import_module('simulations')", "not in"),
        # One import root.
        ("strategies.mcm", "import strategies.run", "flower_compress.strategies inst"),
        ("clients.app", "from clients import x", "flower_compress.clients instead"),
        ("mods", "__import__('strategies')", "flower_compress.strategies instead"),
    ],
)
def test_a_violation_is_found(module: str, source: str, message: str) -> None:
    packages = {"links", "clients", "mods"}
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


@in_one_test(
    ("module", "source"),
    [
        ("theory", "import math\nimport numpy as np\nfrom . import errors"),
        ("theory", "from __future__ import annotations\nimport numpy.typing"),
        ("theory", "def f():\n    import torch"),
        ("theory", "import typing\nif typing.TYPE_CHECKING:\n    import torch"),
        ("links.memory", "from flower_compress.compressors.base import Compressor"),
        ("mods.state_file", "import flwr\nfrom flower_compress import links, wire"),
        ("mods.state_file", "from .client_state import ClientState"),
        ("strategies.mcm", "import flwr\nfrom flower_compress.strategies import run"),
        ("strategies.mcm", "from .server import CompressedStrategy"),
        ("strategies.relay.relay", "from ..run.rounds import x\nimport flwr"),
        ("strategies.relay.relay", "from ..topology import ring"),
        ("clients.app", "from flower_compress.mods import mod"),
        ("clients.app", "from .gossip import GossipMod"),
        ("clients.torch_objective", "import torch\nfrom .objective import Objective"),
        ("clients.torch_x", "from flower_compress.clients.torch_objective import y"),
        ("clients.app", "def f():\n    from .torch_objective import TorchObjective"),
    ],
)
def test_what_is_allowed_is_not_found(module: str, source: str) -> None:
    assert violations(source, f"flower_compress.{module}") == []
