"""What a terminal shows of a benchmark: a bar while it runs, tables and one line for programs at its end."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .record import why_unavailable
from .report import SHORT_CLASS_COLUMNS, STAGE_COLUMNS, ReportPaths, short_class_row, stage_rows
from .runner import BenchmarkResult


class FrameProgress:
    """A bar on standard error with rate and time left, drawn between frames, at most five times a second;
    where that is no terminal, a line for each part that begins.

    Rich's own refresh thread would take the processor in the middle of a measured frame.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._lines = not console.is_terminal
        self._phase = "load"
        self._task = self._bar.add_task(self._phase, total=None, rate="")
        self._drawn = 0.0

    def __enter__(self) -> FrameProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase:
            self._phase = phase
            if self._lines:
                click.echo(f"{phase}: {total}", err=True)
            self._bar.reset(self._task, description=phase, total=total, rate="")
        speed = self._bar.tasks[0].speed
        rate = f"{speed:.1f}/s" if speed else ""
        self._bar.update(self._task, completed=done, total=total, rate=rate)
        if time.monotonic() - self._drawn > 0.2:
            self._bar.refresh()
            self._drawn = time.monotonic()


def show(result: BenchmarkResult, paths: ReportPaths) -> None:
    """Tables for people, then the line for programs, on standard output."""
    console, record = Console(), result.record
    console.print(_table("Latency, ms", STAGE_COLUMNS, stage_rows(record)))
    rows = [short_class_row(one) for one in record["classes"]]
    console.print(_table("Per class", SHORT_CLASS_COLUMNS, rows))
    console.print(
        f"first frame {result.samples.first_frame_ms:.1f} ms, then {result.samples.fps:.1f} frames per "
        "second, one after the other"
    )
    for note in result.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    for name in record:
        if reason := why_unavailable(record, name):
            console.print(f"{name}: not measured: {reason}", style="yellow", markup=False)
    click.echo(json.dumps(result.headline() | {"paths": paths.as_dict()}, separators=(",", ":")))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
