"""The report of a benchmark. Everything in it is made of the record, the JSON document of a run."""

from .canvas import require_matplotlib
from .tables import SHORT_CLASS_COLUMNS, STAGE_COLUMNS, Table, short_class_row, stage_rows
from .write import ReportPaths, record_text, render_report, write_report

__all__ = [
    "SHORT_CLASS_COLUMNS",
    "STAGE_COLUMNS",
    "ReportPaths",
    "Table",
    "record_text",
    "render_report",
    "require_matplotlib",
    "short_class_row",
    "stage_rows",
    "write_report",
]
