"""Benchmarks of exported models: latency, accuracy and limits, in one record that can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

_HOME = {
    "BenchmarkResult": "runner",
    "BenchmarkSettings": "settings",
    "ClassAccuracy": "accuracy",
    "QUICK": "settings",
    "Record": "record",
    "ReportPaths": "report",
    "Comparison": "comparison.compare",
    "benchmark": "runner",
    "compare": "comparison.compare",
    "evaluate": "accuracy",
    "read_record": "record",
    "write_report": "report",
}
"""Public name -> the submodule it lives in."""

__all__ = [
    "QUICK",
    "BenchmarkResult",
    "BenchmarkSettings",
    "ClassAccuracy",
    "Comparison",
    "Record",
    "ReportPaths",
    "benchmark",
    "compare",
    "evaluate",
    "read_record",
    "write_report",
]

if TYPE_CHECKING:
    from .accuracy import ClassAccuracy, evaluate
    from .comparison.compare import Comparison, compare
    from .record import Record, read_record
    from .report import ReportPaths, write_report
    from .runner import BenchmarkResult, benchmark
    from .settings import QUICK, BenchmarkSettings

__getattr__, __dir__ = lazy_names(__name__, _HOME)
