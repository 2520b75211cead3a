"""cpsl-run: segment images and videos with an exported model."""

from __future__ import annotations

from pathlib import Path

import click

from .backends import BACKENDS, DEVICES, OPENVINO_PRECISIONS
from .command_line import Command


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("input", type=str)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder. Default: INPUT-segmented.")
@click.option("--overlay/--no-overlay", default=True, show_default=True, help="Colours over the frames.")
@click.option("--labels", is_flag=True, help="Palette PNG files whose pixel values are the labels.")
@click.option("--areas/--no-areas", default=True, show_default=True, help="Share of each class: areas.jsonl.")
@click.option("--opacity", type=float, default=0.5, show_default=True, help="Of the colours, 0 to 1.")
@click.option("--legend/--no-legend", default=True, show_default=True, help="Names of the classes present.")
@click.option("--codec", help="Four letters; for .mp4 files by default mp4v.")
@click.option(
    "--backend",
    type=click.Choice(["auto", *BACKENDS]),
    default="auto",
    show_default=True,
    help="auto: onnxruntime for .onnx, tensorrt for .engine.",
)
@click.option("--device", type=click.Choice(DEVICES), help="Default: cpu; cuda where TensorRT runs.")
@click.option("--threads", type=int, help="CPU threads of one inference.")
@click.option(
    "--precision",
    type=click.Choice(OPENVINO_PRECISIONS),
    help="In which openvino computes, by default f32; the other backends: as the file says.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace files of the same name in a folder that is not empty."
)
@click.pass_context
def main(ctx: click.Context, model: Path, input: str, output: Path | None, **options) -> None:
    """Segment INPUT with MODEL.

    MODEL is an .onnx or .engine file, or the run folder that holds model.onnx. INPUT is an image, a folder of
    images, a glob in quotes, or a video file.

    Exit code 2 if anything could not be read, the end of a cut-off video too; the rest is done all the same.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .run import run

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("segmenting", total=None, rate="")

        def progress(done: int, total: int | None) -> None:
            speed = bar.tasks[task].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f} frames/s" if speed else "")

        summary = run(model, input, output, progress=progress, **options)
    click.echo(
        f"{summary.frames} frames in {summary.seconds:.1f} s ({summary.frames_per_second:.1f} frames/s); "
        f"mean latency of the model {summary.mean_latency_ms:.1f} ms"
    )
    if summary.unreadable:
        click.secho(f"{len(summary.unreadable)} could not be read:", fg="red", err=True)
        for problem in summary.unreadable:
            click.echo(f"  {problem}", err=True)
    click.echo(f"results: {summary.output}")
    if summary.unreadable:
        ctx.exit(2)
