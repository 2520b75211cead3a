"""Benchmarks of exported models: latency by stage and by class, accuracy on labelled data."""

from .accuracy import ClassAccuracy, evaluate
from .benchmark import BenchmarkResult, BenchmarkSettings, benchmark
from .report import ReportPaths, write_report

__all__ = [
    "BenchmarkResult",
    "BenchmarkSettings",
    "ClassAccuracy",
    "ReportPaths",
    "benchmark",
    "evaluate",
    "write_report",
]
