"""cpsl-bench report: the pages of a benchmark, made again from its record."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..command_line import Command


@click.command("report", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("record", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Output folder.  [default: that of the record]"
)
@click.option("--overwrite", is_flag=True, help="Replace files of the same name in the output folder.")
@click.option("--no-plot", is_flag=True, help="Leave the charts out; needs no matplotlib.")
def report(record: Path, output: Path | None, overwrite: bool, no_plot: bool) -> None:
    """Make bench.md, bench.html and bench.png of a RECORD, the bench.json of an earlier run.

    The last line on standard output is one JSON document with the paths.
    """
    from .record import read_record
    from .report import render_report

    document = read_record(record)
    folder = output or record.parent
    paths = render_report(
        document, folder, overwrite=overwrite or output is None, plot=not no_plot, origin=str(record)
    )
    click.echo(json.dumps({"paths": paths.as_dict()}, separators=(",", ":")))
