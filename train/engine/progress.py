"""What a terminal, or a log file, shows of an adaptation: one bar, or some lines, per stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

if TYPE_CHECKING:  # it loads torch, and building an engine on a board shows progress, too
    from .loop import Watcher

_RATE_WINDOW_S = 600.0
"""Rates are means over so many seconds: a step of a large network on a CPU takes several."""
_LINES_PER_STAGE = 10
_LEAST_PAUSE_S = 5.0
"""Between two lines of a stage."""


@contextlib.contextmanager
def shown_progress() -> Iterator[Watcher]:
    """A watcher that shows bars if standard output is a terminal, and prints plain lines otherwise."""
    console = Console()
    if not console.is_terminal:
        yield LineWatcher()
        return
    watcher = BarWatcher(console)
    with watcher.progress:
        yield watcher
        watcher.finish()


class BarWatcher:
    """One bar per stage, with rate, time left and loss terms; finished bars stay."""

    def __init__(self, console: Console) -> None:
        last_column = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[losses]}", table_column=last_column),
            console=console,
            speed_estimate_period=_RATE_WINDOW_S,
            expand=True,
        )
        self._task: TaskID | None = None

    def stage(self, name: str, done: int, total: int) -> None:
        self.finish()
        self._task = self.progress.add_task(escape(name), completed=done, total=total, rate="", losses="")

    def step(self, name: str, iteration: int, losses: dict[str, float]) -> None:
        if self._task is None:
            return
        speed = self.progress.tasks[self._task].speed
        rate = f"{speed:.2f}/s" if speed else ""
        self.progress.update(self._task, completed=iteration, rate=rate, losses=escape(loss_terms(losses)))

    def message(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """The stage under way is done."""
        if self._task is not None:
            self.progress.update(self._task, completed=self.progress.tasks[self._task].total)
        self._task = None


class LineWatcher:
    """About ten lines per stage, for log files and pipes."""

    def __init__(self) -> None:
        self._start = self._total = self._printed = 0
        self._began = self._last = 0.0

    def stage(self, name: str, done: int, total: int) -> None:
        self._start, self._total, self._printed = done, total, done
        self._began = self._last = time.monotonic()
        click.echo(f"{name}: {f'from {done} of ' if done else ''}{total}")

    def step(self, name: str, iteration: int, losses: dict[str, float]) -> None:
        now = time.monotonic()
        is_due = (iteration - self._printed) * _LINES_PER_STAGE >= self._total
        if iteration < self._total and not (is_due and now - self._last >= _LEAST_PAUSE_S):
            return
        self._printed, self._last = iteration, now
        elapsed = max(now - self._began, 1e-9)
        rate = (iteration - self._start) / elapsed
        left = f"{duration((self._total - iteration) / rate)} left" if rate > 0 else ""
        when = f"took {duration(elapsed)}" if iteration >= self._total else left
        words = [f"{name}: {iteration}/{self._total}", f"{rate:.2f}/s", when, loss_terms(losses)]
        click.echo("  ".join(word for word in words if word))

    def message(self, text: str) -> None:
        click.echo(text)


def loss_terms(losses: dict[str, float]) -> str:
    """``source 0.512  target 0.034``."""
    return "  ".join(f"{name} {value:.3g}" for name, value in losses.items())


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
