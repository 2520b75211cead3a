"""cpsl-bench compare: two records held against each other, for people and for automatic checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...command_line import Command

if TYPE_CHECKING:
    from .compare import Comparison

REGRESSION_EXIT = 3
STYLES = {"regression": "red", "undecided": "yellow"}


@click.command("compare", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--max-regression",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="PERCENT",
    help="By how much latency may grow, or IoU shrink, overall or of any class.",
)
@click.option(
    "--max-iou-drop",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="POINTS",
    help="Of IoU and pixel accuracy, which may not shrink by more points than that either.",
)
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Of significance: the chance to find two runs different whose frames differ by chance alone. "
    "Another hour or load is a difference, too: measure A, B, A.",
)
@click.option("--strict", is_flag=True, help="End with code 3 also if a row is undecided.")
@click.option(
    "--allow-different",
    is_flag=True,
    help="Compare even if machine, threads, data, frames or classes differ.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the permutations.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the tables as Markdown."
)
@click.pass_context
def compare(
    ctx: click.Context,
    a: Path,
    b: Path,
    max_regression: float,
    max_iou_drop: float,
    level: float,
    strict: bool,
    allow_different: bool,
    seed: int,
    output: Path | None,
) -> None:
    """Hold record B, the bench.json of a new run, against record A, that of an earlier one.

    A regression is a change that is beyond a limit and significant; exit code 3 tells of one, 2 of records
    that cannot be read or compared. What is beyond a limit and not significant is undecided, and fails with
    --strict. The last line on standard output is one JSON document.
    """
    from ...files import write_text
    from ..record import read_record
    from .compare import compare as compare_records
    from .page import markdown

    found = compare_records(
        read_record(a),
        read_record(b),
        max_regression=max_regression / 100,
        max_iou_drop=max_iou_drop / 100,
        level=level,
        seed=seed,
        allow_different=allow_different,
        names=(str(a), str(b)),
    )
    if output is not None:
        write_text(output, markdown(found))
    _show(found)
    written = {} if output is None else {"paths": {"markdown": str(output)}}
    click.echo(json.dumps(found.headline() | written, separators=(",", ":")))
    if found.regressions or (strict and found.undecided):
        ctx.exit(REGRESSION_EXIT)


def _show(found: Comparison) -> None:
    """What changed, for people."""
    from rich.console import Console
    from rich.table import Table

    from .page import COLUMNS, cells, changed, legend, summary

    console = Console()
    for line in found.differences:
        console.print(f"other conditions: {line}", style="yellow", markup=False)
    if rows := changed(found):
        table = Table(title="What changed", title_justify="left")
        for i, column in enumerate(COLUMNS):
            table.add_column(column, justify="right" if 1 < i < len(COLUMNS) - 1 else "left")
        for row in rows:
            table.add_row(*cells(row), style=STYLES.get(row.verdict))
        console.print(table)
        console.print(legend(found), markup=False)
    for note in found.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    console.print(summary(found), markup=False)
