"""``cpsl-export``: a trained run becomes the file that is deployed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cpsl_deploy.command_line import Command, parse_size

if TYPE_CHECKING:
    from .exporter import ExportResult


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The ONNX file.  [default: model.onnx in RUN]"
)
@click.option(
    "--size",
    metavar="HxW",
    help="Fix the frame size in the file. Without it the file takes any size, or the model's own with --trt.",
)
@click.option("--trt", is_flag=True, help="Build a TensorRT engine for this machine's GPU, too.")
@click.option(
    "--frames",
    metavar="DATA",
    help="Dataset, folder of photos or video on which the file is compared with the model. "
    " [default: the target the model was adapted to]",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    default=0.999,
    show_default=True,
    help="Share of pixels that must get the same label from the file and from the model.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that was made from other weights.")
@click.option(
    "--score/--no-score",
    default=True,
    show_default=True,
    help="Score the file on the labelled target images of RUN, if they are still there, in its report.",
)
def main(
    run: Path,
    output: Path | None,
    size: str | None,
    trt: bool,
    frames: str | None,
    min_agreement: float,
    overwrite: bool,
    score: bool,
) -> None:
    """Export the model of RUN, a run folder or a .safetensors file, to ONNX, and to TensorRT with --trt.

    The file takes camera frames (uint8, BGR) and gives label maps; it is compared with the model before it
    is put in place, and then scored on the target's labelled images, if the run had some. Exit code 3: file
    and model disagree. Exit code 2: anything else is wrong.
    """
    fixed = parse_size(size) if size else None
    # Imported here: --help and a wrong --size need no torch.
    from cpsl_deploy.errors import MissingExtraError

    try:
        from .exporter import export
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "export", "exporting a model") from error
    # Some steps work for minutes: they say on what.
    logging.getLogger("cpsl_deploy.export").setLevel(logging.INFO)
    click.echo(f"exporting {run} and comparing the file with the model ...")
    result = export(
        run,
        output,
        size=fixed,
        trt=trt,
        frames=frames,
        min_agreement=min_agreement,
        overwrite=overwrite,
        score=score,
    )
    for line in summary(result):
        click.echo(line)


def summary(result: ExportResult) -> list[str]:
    """What an export made, for people."""
    height, width = result.size or ("any height", "any width")
    name, share = result.agreement.worst_class
    operators = ", ".join(f"{count} {kind}" for kind, count in list(result.operators.items())[:5])
    lines = [
        f"model       {result.path} ({result.bytes / 2**20:.1f} MiB, {result.spec.architecture}, "
        f"{len(result.spec.class_names)} classes)",
        f"input       image uint8 (1, {height}, {width}, 3), BGR",
        f"output      labels uint8 (1, {height}, {width})",
        f"operators   {sum(result.operators.values())}: {operators}, ...",
        f"agreement   {result.agreement.share:.4%} of {result.agreement.pixels:,} pixels with the torch "
        f"model; least on {name}: {share:.3%}",
        f"compared on {result.frames}",
        f"took        {result.export_s:.1f} s to export, {result.verify_s:.1f} s to compare",
        f"report      {result.report}",
    ]
    if result.scores:
        lines.append(f"mIoU        {_scores(result)}")
    if result.engine:
        lines.append(f"engine      {result.engine.path} (built in {result.engine.build_s:.0f} s)")
    return lines


def _scores(result: ExportResult) -> str:
    titles = {"source_only": "source-only", "distillation_2": "adapted", "exported": "this file"}
    scores = [f"{titles[key]} {100 * value:.1f} %" for key, value in result.scores.items()]
    return f"{', '.join(scores)} on the target's labelled images; see report.md in the run folder"
