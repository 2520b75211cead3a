"""``cpsl-export``: a trained run becomes the file that is deployed."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cpsl_deploy.command_line import Command, parse_size
from cpsl_deploy.contract import COLOUR_ORDERS, LABELS, LOGITS, OUTPUTS, PRECISIONS, Contract
from cpsl_deploy.errors import InputError, MissingExtraError

from .file_command import build_engine_of, is_finished_file

if TYPE_CHECKING:
    from .request import ExportRequest
    from .result import ExportResult

MAX_BATCH = 1024


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The ONNX file.  [default: model.onnx in RUN]"
)
@click.option(
    "--size",
    metavar="HxW",
    help="Fix the frame size in the file. Without it the file takes any size; the model's own is fixed for "
    "INT8, --auto and --trt.",
)
@click.option("--batch", default="1", show_default=True, metavar="N|free", help="Frames at once.")
@click.option("--colour-order", type=click.Choice(COLOUR_ORDERS), default="BGR", show_default=True)
@click.option("--resize", metavar="HxW", help="Let the file itself resize frames to this for its network.")
@click.option(
    "--outputs",
    default="labels",
    show_default=True,
    metavar="LIST",
    help="Of labels, confidence and logits (at the network's stride), with commas.",
)
@click.option(
    "--output-stride",
    type=click.Choice(["1", "2", "4", "8", "16", "32"]),
    default="1",
    show_default=True,
    help="Pixels of the frame per label, a side: more is faster and coarser.",
)
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True)
@click.option(
    "--int8-for",
    "scheme",
    type=click.Choice(["cpu", "tensorrt"]),
    help="What INT8 is made for: its activations are uint8 for CPUs, symmetric for TensorRT. "
    " [default: tensorrt with --trt, else cpu]",
)
@click.option(
    "--auto", is_flag=True, help="Try all that this machine can run, and keep the fastest within budget."
)
@click.option(
    "--calibration",
    metavar="DATA",
    help="Images of the target for INT8.  [default: those that RUN trained on]",
)
@click.option("--calibration-frames", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--frames",
    metavar="DATA",
    help="Dataset, folder of photos or video on which the file is compared with the model. "
    " [default: the target's labelled images, or else the target]",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="Least share of pixels with the model's label.  [default: 0.999, fp16 0.99, INT8 0.95]",
)
@click.option(
    "--max-iou-drop",
    type=click.FloatRange(0, 100),
    help="Most points of mean IoU that may be lost.  [default: 1 with labels]",
)
@click.option(
    "--max-class-iou-drop",
    type=click.FloatRange(0, 100),
    help="Most points of IoU that any one class may lose.  [default: 2 with labels]",
)
@click.option("--trt", is_flag=True, help="Build a TensorRT engine for this machine's GPU, too.")
@click.option(
    "--profile",
    metavar="BxHxW[,BxHxW,BxHxW]",
    help="Frames that the engine takes: one size, or least, best and most.",
)
@click.option(
    "--workspace-gib",
    type=click.FloatRange(0, 1024, min_open=True),
    metavar="GIB",
    help="GPU memory for the engine's scratch space.",
)
@click.option(
    "--triton",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the file into a model repository of Triton Inference Server, too.",
)
@click.option(
    "--drift/--no-drift",
    default=True,
    show_default=True,
    help="Store what the file sees on the images that RUN trained on, to notice later that it sees others.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that was made from other weights.")
@click.option(
    "--score/--no-score",
    default=True,
    show_default=True,
    help="Score the file on the labelled target images of RUN, if they are still there, in its report.",
)
@click.pass_context
def main(
    context: click.Context, run: Path, output: Path | None, overwrite: bool, score: bool, **wanted: Any
) -> None:
    """Export the model of RUN, a run folder or a .safetensors file, to ONNX, and to TensorRT with --trt.

    RUN may be an exported .onnx file: --trt builds its engine beside it, on the board that will run it and
    without torch, and holds it against the file on --frames.

    The file takes camera frames (uint8) and gives label maps. Before it is put in place it is held against
    the model on the target's images: agreement, IoU of every class, and what is responsible if they fall.
    Exit code 3: it costs more than the budget. Exit code 2: anything else is wrong.
    """
    # Some steps work for minutes: they say on what.
    logging.getLogger("cpsl_deploy.export").setLevel(logging.INFO)
    if is_finished_file(run):
        build_engine_of(run, context, wanted)
        return
    triton = wanted.pop("triton")
    try:
        request = _request(wanted)
        # Imported here: --help and a wrong option need no torch.
        from cpsl_deploy.train.engine.progress import shown_progress

        from .exporter import export
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "export", "exporting a model") from error
    with shown_progress() as watcher:
        result = export(
            run,
            output,
            request=request,
            triton=triton,
            overwrite=overwrite,
            score=score,
            watcher=watcher,
        )
    for line in summary(result):
        click.echo(line)


def _request(wanted: dict[str, Any]) -> ExportRequest:
    """The options' texts as values. Raises InputError for one that breaks its rule."""
    contract = Contract(
        colour_order=wanted.pop("colour_order"),
        outputs=_outputs(wanted.pop("outputs")),
        output_stride=int(wanted.pop("output_stride")),
        network_size=_size(wanted.pop("resize")),
        precision=wanted.pop("precision"),
    )
    batch, size, profile = wanted.pop("batch"), _size(wanted.pop("size")), wanted.pop("profile")
    if batch != "free" and not (re.fullmatch("[0-9]{1,4}", batch) and 0 < int(batch) <= MAX_BATCH):
        raise InputError(f"a batch is a number of frames from 1 to {MAX_BATCH}, or free; got {batch[:80]!r}")
    # The options checked so far need no package but click.
    from .request import ExportRequest
    from .tensorrt.profile import Profile

    return ExportRequest(
        contract=contract,
        size=size,
        batch=None if batch == "free" else int(batch),
        profile=Profile.from_text(profile) if profile else None,
        **wanted,
    )


def _outputs(text: str) -> tuple[str, ...]:
    """In the contract's order, whatever order they are given in."""
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) != len(names) or not set(names) <= set(OUTPUTS) or not {LABELS, LOGITS} & set(names):
        raise InputError(
            f"--outputs are some of {', '.join(OUTPUTS)}, with commas, and labels or logits among them; got "
            f"{text[:80]!r}"
        )
    return tuple(name for name in OUTPUTS if name in names)


def _size(text: str | None) -> tuple[int, int] | None:
    return parse_size(text) if text else None


def summary(result: ExportResult) -> list[str]:
    """What an export made, for people."""
    from .gate.report import gate_table
    from .gate.rules import points
    from .result import operator_words, shape_words

    verdict, worst = result.verdict, result.verdict.worst_class
    name, share = verdict.agreement.worst_class
    lines = [
        f"model       {result.path} ({result.bytes / 2**20:.1f} MiB, {result.spec.architecture}, "
        f"{len(result.spec.class_names)} classes, {result.contract.precision})",
        f"input       image uint8 {shape_words(result.input_shape())}, {result.contract.colour_order}",
        f"outputs     {', '.join(result.contract.outputs)}",
        f"operators   {sum(result.operators.values())}: {operator_words(result.operators, 5)}",
        f"agreement   {verdict.agreement.share:.4%} of {verdict.agreement.pixels:,} pixels with the torch "
        f"model; least on {name}: {share:.3%}",
        f"compared on {verdict.frames}",
    ]
    if verdict.has_truth and worst is not None:
        lines.append(
            f"IoU         mean {100 * verdict.mean_after:.1f} %, the torch model's "
            f"{100 * verdict.mean_before:.1f} %; worst class {worst.name} {points(-worst.drop)} points"
        )
    if len(result.trials) > 1:
        lines += ["", gate_table([trial.gated for trial in result.trials], result.chosen.gated.name), ""]
        lines.append(f"chosen      {result.chosen.candidate.name}: the fastest within budget")
        if options := result.chosen.candidate.arguments:
            lines.append(f"run with    {options}: what cpsl-run, cpsl-bench and load() do of themselves here")
    elif result.chosen.speed:
        lines.append(
            f"speed       {result.chosen.speed.ratio:.2f} times the float32 file's in onnxruntime here"
        )
    if result.kept and result.kept.layers:
        lines.append(f"in float    {len(result.kept.layers)} layers, see the report")
    if result.advice:
        lines.append(f"note        {result.advice}")
    lines.append(f"auto takes  {_ways(result)}")
    lines.append(f"drift       {result.drift}")
    lines += [f"took        {result.seconds:.1f} s", f"report      {result.page}"]
    if result.scores:
        lines.append(f"mIoU        {_scores(result)}")
    if result.engine:
        built = "up to date" if result.engine.reused else f"built in {result.engine.build_s:.0f} s"
        agreement = result.engine_verdict.agreement.share if result.engine_verdict else 1.0
        lines.append(f"engine      {result.engine.path} ({built}), agreement {agreement:.4%}")
    if result.repository:
        lines.append(f"triton      tritonserver --model-repository={result.repository.path}")
    return lines


def _ways(result: ExportResult) -> str:
    """What `cpsl-run` may choose from."""
    told = [
        f"{each.way.name} ({each.verdict.agreement.share:.3%}"
        + (")" if each.verdict.passed else ", not within budget: never taken)")
        for each in result.ways
    ]
    return f"the fastest, where it runs, of {', '.join(told)}" if told else "the engine"


def _scores(result: ExportResult) -> str:
    titles = {"source_only": "source-only", "distillation_2": "adapted", "exported": "this file"}
    scores = [f"{titles[key]} {100 * value:.1f} %" for key, value in result.scores.items()]
    return f"{', '.join(scores)} on the target's labelled images; see report.md in the run folder"
