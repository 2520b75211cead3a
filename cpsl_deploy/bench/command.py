"""cpsl-bench: latency, accuracy and per-class figures of an exported model."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ..backends import BACKENDS, DEVICES, OPENVINO_PRECISIONS
from ..command_line import Command, parse_size
from ..files import new_output_folder
from .benchmark import BenchmarkResult, benchmark, model_file
from .report import (
    SHORT_CLASS_COLUMNS,
    STAGE_COLUMNS,
    ReportPaths,
    require_matplotlib,
    short_class_row,
    stage_rows,
    write_report,
)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data", metavar="TARGET", help="Dataset: a name, a folder, a YAML file. Synthetic frames without."
)
@click.option("--split", help="Which part of the data.  [default: val, or the only one]")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where the data's files are.")
@click.option("--frames", type=int, help="Frames to measure.  [default: all of the split; 100 synthetic]")
@click.option("--warm-up", type=int, default=10, show_default=True, help="Frames run before and discarded.")
@click.option("--size", metavar="HxW", help="Size of synthetic frames.  [default: the model's]")
@click.option("--backend", type=click.Choice(["auto", *BACKENDS]), default="auto", show_default=True)
@click.option("--device", type=click.Choice(DEVICES), help="[default: cuda where TensorRT runs, else cpu]")
@click.option("--threads", type=int, help="Inference threads.  [default: the backend's choice]")
@click.option(
    "--precision", type=click.Choice(OPENVINO_PRECISIONS), help="Of openvino alone.  [default: f32]"
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Output folder.  [default: bench-MODEL]"
)
@click.option("--overwrite", is_flag=True, help="Replace files of the same name in the output folder.")
@click.option("--no-plot", is_flag=True, help="Leave the charts out; needs no matplotlib.")
def main(
    model: Path,
    data: str | None,
    split: str | None,
    data_root: Path | None,
    frames: int | None,
    warm_up: int,
    size: str | None,
    backend: str,
    device: str | None,
    threads: int | None,
    precision: str | None,
    output: Path | None,
    overwrite: bool,
    no_plot: bool,
) -> None:
    """Measure an exported MODEL: latency by stage and class, and accuracy where --data has labels.

    Writes bench.json (every sample), bench.md, bench.html and bench.png into the output folder. The last
    line on standard output is one JSON document with the headline figures.
    """
    model = model_file(model)
    wanted_size = parse_size(size) if size else None
    if not no_plot:
        require_matplotlib()
    folder = new_output_folder(output or Path(f"bench-{model.stem}"), overwrite=overwrite)
    with _FrameProgress() as progress:
        result = benchmark(
            model,
            data,
            split=split,
            data_root=data_root,
            frames=frames,
            warm_up=warm_up,
            size=wanted_size,
            backend=backend,
            device=device,
            threads=threads,
            precision=precision,
            progress=progress,
        )
    paths = write_report(result, folder, overwrite=True, plot=not no_plot)
    _show(result, paths)


class _FrameProgress:
    """A bar on standard error, drawn between frames and at most five times a second.

    Rich's own refresh thread would take the processor in the middle of a measured frame.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(
            *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
        )
        self._task = self._bar.add_task("load", total=None)
        self._drawn = 0.0

    def __enter__(self) -> _FrameProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=phase, completed=done, total=total)
        if time.monotonic() - self._drawn > 0.2:
            self._bar.refresh()
            self._drawn = time.monotonic()


def _show(result: BenchmarkResult, paths: ReportPaths) -> None:
    """Tables for people, then the line for programs."""
    console = Console()
    record = result.to_json()
    console.print(_table("Latency, ms", STAGE_COLUMNS, stage_rows(record)))
    console.print(_table("Per class", SHORT_CLASS_COLUMNS, [short_class_row(c) for c in record["classes"]]))
    console.print(
        f"load {result.load_ms:.0f} ms, first frame {result.samples.first_frame_ms:.1f} ms, "
        f"{result.samples.fps:.1f} frames per second"
    )
    for note in result.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    click.echo(json.dumps(result.headline() | {"paths": paths.as_dict()}, separators=(",", ":")))


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
