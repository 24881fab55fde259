"""An example app, run in this process."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import unified_diff
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from flwr.app import Context, Message, RecordDict, UserConfig

from flower_compress.testing import InProcessGrid
from flower_compress.wire.records import array_bytes

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGES = {
    "pytorch": "digits_torch",
    "sklearn": "digits_sklearn",
    "own-strategy": "digits_heads",
}


class Outcome(NamedTuple):
    """What a run of an example came to.

    Attributes
    ----------
    accuracies : list[float]
        Of the clients that evaluated, in each round, weighted by their examples.
    num_bytes : int
        Of all arrays in messages of training, both ways.
    """

    accuracies: list[float]
    num_bytes: int


def run(example: str, variant: str, num_clients: int = 10, **config: Any) -> Outcome:
    """Run the server app on as many client apps, with a run config of its own."""
    folder = EXAMPLES / example / variant
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    run_config = UserConfig(project["tool"]["flwr"]["app"]["config"] | config)
    evaluated: list[tuple[float, float]] = []
    rounds: list[list[tuple[float, float]]] = []
    num_bytes = 0

    def note(message: Message, reply: Message) -> None:
        nonlocal num_bytes
        assert reply.has_content(), reply.error
        if message.metadata.message_type == "train":
            num_bytes += array_bytes(message.content) + array_bytes(reply.content)
            if evaluated:
                rounds.append(evaluated.copy())
                evaluated.clear()
            return
        (metrics,) = reply.content.metric_records.values()
        count, accuracy = metrics["num-examples"], metrics["accuracy"]
        evaluated.append((float(count), float(accuracy)))  # type: ignore[arg-type]

    with _imported(folder, PACKAGES[example]) as (server_app, client_app):
        grid = InProcessGrid(client_app, num_clients, run_config, note)
        context = Context(1, 1, UserConfig(), RecordDict(), run_config)
        server_app(grid, context)
    rounds.append(evaluated)
    accuracies = [
        sum(count * accuracy for count, accuracy in each) / sum(n for n, _ in each)
        for each in rounds
    ]
    return Outcome(accuracies, num_bytes)


def changes(example: str) -> dict[str, list[str]]:
    """Return the lines that the compressed variant adds, takes or changes, by file."""
    plain, compressed = (EXAMPLES / example / name for name in ("plain", "compressed"))
    found = {}
    for path in sorted(compressed.rglob("*")):
        name = path.relative_to(compressed)
        if path.suffix not in (".py", ".toml"):
            continue
        lines = [
            line
            for line in unified_diff(
                (plain / name).read_text().splitlines(),
                path.read_text().splitlines(),
                n=0,
                lineterm="",
            )
            if line[0] in "+-" and line[:3] not in ("+++", "---")
        ]
        if lines:
            found[str(name)] = lines
    return found


@contextmanager
def _imported(folder: Path, package: str) -> Iterator[tuple[Any, Any]]:
    """Import an app's parts; plain and compressed ones have the same names."""
    sys.path.insert(0, str(folder))
    try:
        yield (
            import_module(f"{package}.server_app").app,
            import_module(f"{package}.client_app").app,
        )
    finally:
        sys.path.remove(str(folder))
        for name in [n for n in sys.modules if n.partition(".")[0] == package]:
            del sys.modules[name]
