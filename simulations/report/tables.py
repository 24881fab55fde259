"""The numbers of a comparison as tables of text, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from rich.table import Table

from ..records import (
    WORDS,
    CutOff,
    RoundRecord,
    Spread,
    Summary,
    Verdict,
    Verdicts,
    is_decentralized,
)

__all__ = [
    "TextTable",
    "claim_lines",
    "claim_table",
    "edge_tables_of",
    "summary_tables",
    "tables_of",
]

_COLUMNS: Final = (
    "algorithm",
    "final loss",
    "log10 excess loss",
    "accuracy",
    "up",
    "down",
    "bits of SGD's",
)
_NODE_COLUMNS: Final = (
    "algorithm",
    "own accuracy",
    "least",
    "consensus distance",
    "zeros in the model",
    "sent by a node",
    "over an edge",
)
_CUTOFF_COLUMNS: Final = (
    "algorithm",
    "rounds",
    "Gbit",
    "of {}'s",
    "the paper's GB",
    "of error-free's",
)
_CLAIM_COLUMNS: Final = (
    "claim",
    "verdict",
    "measure",
    "here",
    "needed",
    "paper",
    "in seeds",
)


class TextTable(NamedTuple):
    """A table whose cells are ready to be shown; the first column has the names."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]


def summary_tables(summary: Summary) -> list[Table]:
    """Return the summary for the terminal, one algorithm a row.

    Claims are not among them: sentences are no columns, see :func:`claim_lines`.
    """
    return [_for_terminal(table) for table in _tables(summary)]


def claim_lines(summary: Summary) -> list[str]:
    """Return each claim with its verdict and the numbers, and what differs."""
    if "claims" not in summary:
        return []
    claims = summary["claims"]
    lines = [_title_of(claims)]
    for verdict in claims["verdicts"]:
        here = f"{_measure_text(verdict)} is {_value_text(verdict)}"
        numbers = f"{here}, {_bounds_text(verdict)} needed"
        if verdict["paper"] is not None:
            numbers += f", the paper's {verdict['paper']:.4g}"
        word = WORDS[verdict["holds"]]
        lines.append(f"  {word:<13}  {verdict['claim']}: {numbers}")
    if claims["differs"]:
        lines.append(f"Not as in the source: {'; '.join(claims['differs'])}.")
    return lines


def tables_of(summary: Summary) -> list[TextTable]:
    """Return the comparison, and what there is of nodes, cut-off and claims."""
    tables = _tables(summary)
    coding = _of_coding(summary)
    if coding.rows:
        tables.append(coding)
    if "claims" in summary:
        tables.append(claim_table(summary["claims"]))
    return tables


def edge_tables_of(records: Sequence[RoundRecord]) -> list[TextTable]:
    """Return a matrix of megabytes for each algorithm, of its first seed's last round.

    Senders in the rows, receivers in the columns; its title is the algorithm.
    """
    tables, seen = [], set()
    for record in records:
        if record.nodes is None or not record.nodes.edges:
            continue
        if record.algorithm in seen:
            continue
        seen.add(record.algorithm)
        size = {(row[0], row[1]): row[2] for row in record.nodes.edge_rows()}
        names = sorted({node for pair in size for node in pair})
        rows = [
            [
                f"from {sender}",
                *(
                    f"{size[sender, receiver] / 1e6:.4g}"
                    if (sender, receiver) in size
                    else ""
                    for receiver in names
                ),
            ]
            for sender in names
        ]
        columns = ["", *(f"to {n}" for n in names)]
        tables.append(TextTable(record.algorithm, columns, rows))
    return tables


def _tables(summary: Summary) -> list[TextTable]:
    tables = [_comparison(summary)]
    of_nodes = _of_nodes(summary)
    if of_nodes.rows:
        tables.append(of_nodes)
    if "cutoff" in summary:
        tables.append(_of_cutoff(summary["cutoff"]))
    if times := summary.get("round_seconds"):
        rows = [[name, _spread_text(each, "{:.4g}")] for name, each in times.items()]
        columns = ("algorithm", "seconds")
        tables.append(TextTable("Processor time of a round", columns, rows))
    return tables


def _for_terminal(content: TextTable) -> Table:
    longest = max((len(row[0]) for row in content.rows), default=0)
    table = Table(title=content.title)
    for i, name in enumerate(content.columns):
        # In a narrow terminal numbers may wrap, a name may not be cut.
        table.add_column(
            name,
            justify="left" if i == 0 else "right",
            no_wrap=i == 0,
            min_width=longest if i == 0 else None,
            overflow="fold",
        )
    for row in content.rows:
        table.add_row(*row)
    return table


def _comparison(summary: Summary) -> TextTable:
    columns, rows = list(_COLUMNS), []
    for algorithm, entry in summary["algorithms"].items():
        fraction = entry["bits_fraction_of_sgd"]
        rows.append(
            [
                algorithm,
                _spread_text(entry["final_loss"], "{:.5g}"),
                _spread_text(entry["log10_excess_loss"], "{:.2f}"),
                _spread_text(entry["accuracy"], "{:.4f}"),
                _bytes_text(entry["uplink_bytes"]["mean"]),
                _bytes_text(entry["downlink_bytes"]["mean"]),
                "–" if fraction is None else f"{100.0 * fraction:.3g} %",
            ]
        )
    if is_decentralized(summary):
        down = columns.index("down")
        columns[down - 1] = "on the edges"
        columns[-1] = "bits of DPSGD's"
        del columns[down]
        for row in rows:
            del row[down]
    if paper := summary.get("paper"):
        place = columns.index("accuracy")
        columns.insert(place, "the paper's")
        for row in rows:
            row.insert(place, f"{paper[row[0]]:g}" if row[0] in paper else "–")
    title = "Comparison, mean ± standard deviation over seeds"
    return TextTable(title, columns, rows)


def _of_nodes(summary: Summary) -> TextTable:
    rows = [
        [
            algorithm,
            _spread_text(entry["nodes"]["accuracy"], "{:.4f}"),
            _spread_text(entry["nodes"]["least_accuracy"], "{:.4f}"),
            _spread_text(entry["nodes"]["consensus_distance"], "{:.3g}"),
            _spread_text(entry["nodes"]["zeros"], "{:.3f}"),
            _bits_text(entry["nodes"]["bits_a_node"]["mean"]),
            _bits_text(entry["nodes"]["bits_an_edge"]["mean"]),
        ]
        for algorithm, entry in summary["algorithms"].items()
        if "nodes" in entry
    ]
    return TextTable("Nodes, after the last round", _NODE_COLUMNS, rows)


def _of_coding(summary: Summary) -> TextTable:
    """Return the bits sent over those of the symbols' entropy and of the formulas."""
    rows = []
    directions = ("uplink",) if is_decentralized(summary) else ("uplink", "downlink")
    for algorithm, entry in summary["algorithms"].items():
        row = [algorithm]
        for direction in directions:
            sent = entry[f"{direction}_bits"]["mean"]  # type: ignore[literal-required]
            row.append(_bits_text(sent))
            for kind in ("entropy", "formula"):
                bits = entry.get(f"{direction}_{kind}_bits", {"mean": None})["mean"]  # type: ignore[index]
                row.append(f"{sent / bits:.3f}" if sent and bits else "–")
        if any("." in cell for cell in row[2::3]):
            rows.append(row)
    columns = ["algorithm"]
    for way in ("on the edges",) if len(directions) == 1 else ("up", "down"):
        columns += [way, "over entropy", "over formula"]
    title = "Payloads, over the entropy of their symbols and the papers' formulas"
    return TextTable(title, columns, rows)


def _of_cutoff(cutoff: CutOff) -> TextTable:
    rows_of = cutoff["rows"]
    name = next((name for name in ("dpsgd", "sgd") if name in rows_of), "")
    base = rows_of.get(name, {})

    def text(row: Mapping[str, float | None], name: str, form: str) -> str:
        value = row.get(name)
        return "–" if value is None else form.format(value)

    def share(row: Mapping[str, float | None], name: str) -> str:
        value, reference = row.get(name), base.get(name)
        if value is None or not reference:
            return "–"
        return f"{100.0 * value / reference:.3g} %"

    rows = [
        [
            algorithm,
            text(row, "rounds", "{:.0f}"),
            text(row, "gigabits", "{:.4g}"),
            share(row, "gigabits"),
            text(row, "paper", "{:.5g}"),
            share(row, "paper"),
        ]
        for algorithm, row in cutoff["rows"].items()
    ]
    columns = [each.format(name.upper()) for each in _CUTOFF_COLUMNS]
    if all(row["paper"] is None for row in rows_of.values()):
        columns, rows = columns[:-2], [row[:-2] for row in rows]
    if not name:  # Nobody to be a share of.
        kept = [place for place in (0, 1, 2, 4) if place < len(columns)]
        columns = [columns[place] for place in kept]
        rows = [[row[place] for place in kept] for row in rows]
    title = f"Until the model had an accuracy of {cutoff['accuracy']:g}"
    return TextTable(title, columns, rows)


def claim_table(claims: Verdicts) -> TextTable:
    """Return the claims with their verdicts, one a row."""
    rows = [
        [
            verdict["claim"],
            WORDS[verdict["holds"]],
            _measure_text(verdict),
            _value_text(verdict),
            _bounds_text(verdict),
            "–" if verdict["paper"] is None else f"{verdict['paper']:.4g}",
            verdict["seeds"],
        ]
        for verdict in claims["verdicts"]
    ]
    return TextTable(_title_of(claims), _CLAIM_COLUMNS, rows)


def _title_of(claims: Verdicts) -> str:
    known = [verdict["holds"] for verdict in claims["verdicts"]]
    return f"Claims of the source: {known.count(True)} of {len(known)} hold here"


def _measure_text(verdict: Verdict) -> str:
    text = f"{verdict['measure']} of {verdict['run']}"
    return f"{text} against {verdict['against']}" if verdict["against"] else text


def _value_text(verdict: Verdict) -> str:
    if verdict["value"] is None:
        return "–" if verdict["holds"] is None else "infinite"
    text = f"{verdict['value']:.4g}"
    deviation = verdict["deviation"]
    return text if deviation is None else f"{text} ± {deviation:.2g}"


def _bounds_text(verdict: Verdict) -> str:
    bounds = (("at least", verdict["at_least"]), ("at most", verdict["at_most"]))
    return ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


def _bits_text(bits: float | None) -> str:
    return "–" if bits is None else _bytes_text(bits / 8.0)


def _spread_text(spread: Spread, form: str) -> str:
    if spread["mean"] is None:
        return "–"
    mean = form.format(spread["mean"])
    return mean if spread["std"] is None else f"{mean} ± {spread['std']:.2g}"


def _bytes_text(count: float | None) -> str:
    if count is None:
        return "–"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g} B"
