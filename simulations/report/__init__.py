"""A comparison as a picture, as one self-contained web page and as a table.

``report.png`` and ``report.html`` show the loss and the accuracy against rounds,
payload bits (up, down, both) and, given a network, estimated time. The page has no
external resource and no script: it can be mailed, archived and opened off line. So can
the page that joins several comparisons; its one script is its own.
"""

from .merged import merge_reports
from .results import Result, read_result
from .tables import claim_lines, summary_tables
from .write import write_report

__all__ = [
    "Result",
    "claim_lines",
    "merge_reports",
    "read_result",
    "summary_tables",
    "write_report",
]
