"""What a run leaves behind: one CSV row per logged round, and a JSON summary.

``rounds.csv`` grows while the run goes on, so an interrupted run keeps its rows.
``settings.json``, with which an experiment begins, and ``summary.json``, with which it
ends, are written whole or not at all.
"""

from .claims import MEASURES, WORDS, Claim, Verdict, Verdicts, judge
from .cutoff import CutOff, cut_off
from .json_file import write_json
from .nodes_csv import write_nodes
from .record import Nodes, RoundRecord
from .rounds_csv import RecordsError, RoundsCsv, read_rounds
from .summary import (
    AlgorithmSummary,
    Spread,
    Summary,
    is_decentralized,
    round_seconds,
    summarise,
)

__all__ = [
    "MEASURES",
    "WORDS",
    "AlgorithmSummary",
    "Claim",
    "CutOff",
    "Nodes",
    "RecordsError",
    "RoundRecord",
    "RoundsCsv",
    "Spread",
    "Summary",
    "Verdict",
    "Verdicts",
    "cut_off",
    "is_decentralized",
    "judge",
    "read_rounds",
    "round_seconds",
    "summarise",
    "write_json",
    "write_nodes",
]
