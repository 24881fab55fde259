"""What is built: one top-level name, all of the library, nothing else, no torch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Folder in the checkout, folder in the wheel.
FOLDERS = {
    "flower_compress": "flower_compress",
    "strategies": "flower_compress/strategies",
    "clients": "flower_compress/clients",
}
BLOCKED = (
    "jinja2",
    "matplotlib",
    "networkx",
    "ray",
    "scipy",
    "sklearn",
    "torch",
    "torchvision",
)

# Imports each module named on standard input from the folder in argv[1], with the
# packages in argv[2:] out of reach, and prints what went wrong by module.
IMPORT_ALL = """
import importlib, json, sys, traceback

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2:]:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
failures = {}
for name in json.load(sys.stdin):
    try:
        module = importlib.import_module(name)
        if not module.__file__.startswith(sys.argv[1]):
            failures[name] = f"imported from {module.__file__}"
    except Exception:
        failures[name] = traceback.format_exc()
print(json.dumps(failures))
"""


def expected_files() -> set[str]:
    """Every Python file of the library, by its path in the wheel."""
    return {
        f"{target}/{path.relative_to(ROOT / source).as_posix()}"
        for source, target in FOLDERS.items()
        for path in (ROOT / source).rglob("*.py")
    }


def import_all(folder: Path, modules: list[str]) -> dict[str, str]:
    """Import `modules` from `folder` in a new interpreter; return the failures."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT_ALL, str(folder), *BLOCKED],
        input=json.dumps(modules),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    failures: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return failures


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: building leaves files behind."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name in {*FOLDERS, "simulations", "tests"}:
            shutil.copytree(
                path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__")
            )
        elif path.is_file():
            shutil.copy2(path, copy)
    return copy


@pytest.fixture(scope="module")
def built(checkout: Path) -> Path:
    """The folder with the sdist and the wheel built from that sdist, offline."""
    out = checkout / "dist"
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, checkout],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The wheel."""
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_every_folder_of_the_library_is_listed() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = config["tool"]["setuptools"]["packages"]
    needed = {str(Path(name).parent).replace("/", ".") for name in expected_files()}
    assert set(listed) == needed, "mend [tool.setuptools] packages in pyproject.toml"


def test_every_listed_folder_is_a_package() -> None:
    # Without __init__.py it would be a namespace that mypy and users miss.
    folders = {Path(name).parent.as_posix() for name in expected_files()}
    assert {f"{folder}/__init__.py" for folder in folders} <= expected_files()


def test_wheel_has_one_top_level_name(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir()}
    (info,) = (name for name in names if name.endswith(".dist-info"))
    assert names == {"flower_compress", info}
    assert (unpacked / info / "licenses" / "LICENSE").is_file()


def test_wheel_has_every_file_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected_files() | {"flower_compress/py.typed"}


def test_sdist_has_every_file_and_no_simulation(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    in_checkout = {
        f"{source}/{path.relative_to(ROOT / source).as_posix()}"
        for source in FOLDERS
        for path in (ROOT / source).rglob("*.py")
    }
    assert in_checkout | {"flower_compress/py.typed", "pyproject.toml"} <= names
    assert not {name for name in names if name.startswith(("simulations", "tests"))}


def test_core_dependencies_are_flower_and_numpy(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    required = {
        re.split(r"[^\w-]", line.removeprefix("Requires-Dist: "))[0]
        for line in metadata.read_text(encoding="utf-8").splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    }
    assert required == {"flwr", "numpy"}


def test_wheel_imports_without_torch_and_ray(unpacked: Path) -> None:
    modules = sorted(
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for name in expected_files()
    )
    modules = [name for name in modules if "torch" not in name]
    failures = import_all(unpacked, modules)
    assert not failures, "\n".join(failures.values())


def test_an_import_of_torch_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "innocent.py").write_text("import json\n", encoding="utf-8")
    (tmp_path / "guilty.py").write_text("import torch.nn\n", encoding="utf-8")
    failures = import_all(tmp_path, ["innocent", "guilty", "json"])
    assert set(failures) == {"guilty", "json"}
    assert "torch is blocked" in failures["guilty"]
    assert "imported from" in failures["json"]


# flwr names its ignore patterns in a way that pathspec deprecates.
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_app_bundle_has_simulations_only(checkout: Path) -> None:
    build = pytest.importorskip("flwr.cli.build")
    bundle = checkout / "bundle.zip"
    bundle.write_bytes(build.build_fab_from_disk(checkout))
    with zipfile.ZipFile(bundle) as archive:
        names = set(archive.namelist())
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "simulations").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    # Beside modules the app reads experiments and the page of a report; Flower leaves
    # out what has not one of its suffixes, without a word.
    assert {Path(name).suffix for name in files} == {".md", ".py", ".toml"}
    assert files == {name for name in names if name.startswith("simulations/")}
    rest = {name for name in names if not name.startswith("simulations/")}
    assert rest == {"pyproject.toml", ".info/CONTENT"}
