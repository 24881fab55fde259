"""The tables of docs/, from results/*.json.

A table stands between ``<!-- results: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from .measure import Row
from .throughput import CODES

DOCS = Path(__file__).parents[1] / "docs"
_SLOT = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write(results: Path, docs: Path = DOCS) -> list[Path]:
    """Fill every slot of every page; return the pages that changed."""
    changed = []
    for page in sorted(docs.glob("*.md")):
        text = page.read_text()
        filled = fill(text, results)
        if filled != text:
            page.write_text(filled)
            changed.append(page)
    return changed


def fill(text: str, results: Path) -> str:
    """Return the page with its slots filled; one without results stays as it is."""

    def slot(match: re.Match[str]) -> str:
        path = results / f"{match[2]}.json"
        if not path.exists():
            return match[0]
        result = json.loads(path.read_text())
        table = _TABLES[match[2]](result["rows"])
        return f"{match[1]}{table}\n{_machine(result)}\n{match[3]}"

    return _SLOT.sub(slot, text)


def _machine(result: Row) -> str:
    machine = result["machine"]
    parts = [machine.get("gpu", ""), f"{machine['processor']}, one core"]
    parts += [
        f"{name} {machine[name]}"
        for name in ("python", "numpy", "zlib", "torch")
        if name in machine
    ]
    about = ", ".join(part for part in parts if part)
    repeats = result["repeats"]
    runs = "One run" if repeats == 1 else f"Median of {repeats} runs"
    return f"{runs}. {about}."


def _table(head: Iterable[str], rows: Iterable[Iterable[object]], text: int) -> str:
    """A Markdown table; all columns but the first `text` are numbers."""
    names = list(head)
    lines = ["| " + " | ".join(names) + " |"]
    lines.append("|" + "---|" * text + "---:|" * (len(names) - text))
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _throughput(rows: list[Row]) -> str:
    return _table(
        (
            "operator",
            "code",
            "d",
            "bits/entry",
            "quantize, ms",
            "encode, MB/s",
            "decode, MB/s",
            "encode / copy",
            "decode / copy",
        ),
        (
            (
                row["operator"],
                row["code"],
                f"{row['dim']:,}",
                f"{row['bits_per_entry']:.3f}",
                f"{row['quantize_ms']:.1f}",
                f"{row['encode_mb_per_s']:.0f}",
                f"{row['decode_mb_per_s']:.0f}",
                f"{row['encode_over_copy']:.1f}",
                f"{row['decode_over_copy']:.1f}",
            )
            for row in rows
        ),
        2,
    )


def _small(rows: list[Row]) -> str:
    return _table(
        ("operator", "d", "packet, bytes", "encode, us", "decode, us"),
        (
            (
                row["operator"],
                row["dim"],
                row["packet_bytes"],
                f"{row['encode_us']:.0f}",
                f"{row['decode_us']:.0f}",
            )
            for row in rows
        ),
        1,
    )


def _lengths(rows: list[Row]) -> str:
    return _table(
        (
            "operator",
            "buckets",
            "vector",
            "d",
            "levels",
            "entropy",
            *CODES,
            "auto takes",
        ),
        (
            (
                row["operator"],
                row["bucket_size"] or "whole",
                row["vector"],
                f"{row['dim']:,}",
                row["levels_that_occur"],
                f"{row['entropy_bits_per_entry']:.4f}",
                *(f"{row[code]:.3f}" for code in CODES),
                row["auto_takes"],
            )
            for row in rows
        ),
        3,
    )


def _baselines(rows: list[Row]) -> str:
    return _table(
        ("task", "way", "d", "ms", "times ours"),
        (
            (
                row["task"],
                row["way"],
                f"{row['dim']:,}",
                f"{row['ms']:.1f}",
                f"{row['times_ours']:.2f}",
            )
            for row in rows
        ),
        2,
    )


def _operators(rows: list[Row]) -> str:
    vectors = list(dict.fromkeys(row["vector"] for row in rows))
    by_operator: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_operator.setdefault(_name(row["operator"]), {})[row["vector"]] = row
    head = ["operator", "unbiased"]
    for vector in vectors:
        head += [f"{vector}: bits", "error", "bound"]
    lines = []
    for name, found in by_operator.items():
        cells = [name, "yes" if next(iter(found.values()))["unbiased"] else "no"]
        for vector in vectors:
            row = found[vector]
            cells += [
                f"{row['bits_per_entry']:.3f}",
                f"{row['normalised_error']:.4g}",
                f"{row['bound']:.4g}",
            ]
        lines.append(cells)
    return _table(head, lines, 2)


def _name(config: Row) -> str:
    parameters = [f"{key}={value}" for key, value in config.items() if key != "name"]
    return " ".join([str(config["name"]), *parameters])


def _device(rows: list[Row]) -> str:
    return _table(
        ("operator", "d", "NumPy, ms", "CUDA, ms", "times faster"),
        (
            (
                row["operator"],
                f"{row['dim']:,}",
                f"{row['numpy_ms']:.1f}",
                f"{row['cuda_ms']:.2f}",
                f"{row['times_faster']:.0f}",
            )
            for row in rows
        ),
        1,
    )


def _optimizer(rows: list[Row]) -> str:
    return _table(
        ("one step", "d", "k/d", "ms", "times ours"),
        (
            (
                row["way"],
                f"{row['dim']:,}",
                f"{100 * row['fraction']:g} %",
                f"{row['ms']:.1f}",
                f"{row['times_ours']:.2f}",
            )
            for row in rows
        ),
        1,
    )


def _server_memory(rows: list[Row]) -> str:
    def name(row: Row) -> str:
        options = [f"{key}={value}" for key, value in row["options"].items()]
        return " ".join([row["algorithm"], *options])

    return _table(
        (
            "strategy",
            "budget, MiB",
            "clients heard of",
            "their memories, MiB",
            "process before, MiB",
            "at most, MiB",
            "s a round",
        ),
        (
            (
                name(row),
                "none" if row["budget_mib"] is None else f"{row['budget_mib']:.0f}",
                f"{row['heard_of']:,}",
                f"{row['memories_mib']:,.0f}",
                f"{row['before_mib']:.0f}",
                f"{row['peak_mib']:,.0f}",
                f"{row['seconds_a_round']:.2f}",
            )
            for row in rows
        ),
        1,
    )


_TABLES: dict[str, Callable[[list[Row]], str]] = {
    "throughput": _throughput,
    "small": _small,
    "lengths": _lengths,
    "baselines": _baselines,
    "operators": _operators,
    "device": _device,
    "optimizer": _optimizer,
    "server-memory": _server_memory,
}


if __name__ == "__main__":
    for page in write(Path(__file__).parent / "results"):
        print(page)
