"""``make fuzz``: coverage-guided fuzzing of every decoder, with Atheris.

Installed apart (``pip install atheris``): it has wheels for a few platforms only. An
input that breaks a decoder is written to the corpus folder, and the run stops.
"""

from __future__ import annotations

import argparse
import sys
from hashlib import sha256
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, default=Path("runs/fuzz"))
    arguments = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("Atheris is not installed: pip install atheris")

    with atheris.instrument_imports(include=["flower_compress"]):
        from tests.fuzz import targets

    corpus = arguments.corpus
    corpus.mkdir(parents=True, exist_ok=True)
    for data in targets.seeds():
        (corpus / sha256(data).hexdigest()[:24]).write_bytes(data)

    def one(data: bytes) -> None:
        targets.fuzz_one(data)

    options = {
        "runs": arguments.inputs,
        "seed": arguments.seed,
        "max_len": 1 << 13,
        "timeout": 5,
        "rss_limit_mb": 2048,
        "artifact_prefix": f"{corpus}/crash-",
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
