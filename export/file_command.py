"""``cpsl-export FILE.onnx --trt``: the part of the command that is for a finished file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cpsl_deploy.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from .engine_of_file import EngineOfFile, EngineRequest

_COMPARING = "comparing frames"
_OPTIONS = (
    "trt",
    "profile",
    "workspace_gib",
    "frames",
    "min_agreement",
    "max_iou_drop",
    "max_class_iou_drop",
)


def is_finished_file(path: Path) -> bool:
    """Whether a path names an ONNX file, not a run folder or weights."""
    return path.suffix == ".onnx" and not path.is_dir()


def build_engine_of(path: Path, context: click.Context, given: dict[str, Any]) -> None:
    """Build the engine of an exported file and say what it is. ``given``: the command's options by name.

    Raises InputError for options that are for exporting, and what `engine_of_file` raises.
    """
    _refuse_others(path, context)
    request = _request(given)
    try:
        from cpsl_deploy.train.engine.progress import shown_progress

        from .engine_of_file import engine_of_file
        from .tensorrt.progress import shown_by
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "cv2", "trt", "building an engine of a file") from error
    with shown_progress() as watcher:

        def compared(done: int, total: int) -> None:
            if done == 1:
                watcher.stage(_COMPARING, 0, total)
            watcher.step(_COMPARING, done, {})

        built = engine_of_file(path, request, on_progress=shown_by(watcher), on_compared=compared)
    for line in summary_of_engine(built):
        click.echo(line)


def _refuse_others(path: Path, context: click.Context) -> None:
    options = {parameter.name: parameter for parameter in context.command.params}
    wrong = [
        "/".join((*parameter.opts[-1:], *parameter.secondary_opts))
        for name, parameter in options.items()
        if isinstance(parameter, click.Option)
        and name not in (*_OPTIONS, "help")
        and name is not None
        and context.get_parameter_source(name) not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    ]
    if wrong:
        are = "is" if len(wrong) == 1 else "are"
        raise InputError(
            f"{path} is a finished file, and {', '.join(wrong)} {are} decided when a file is made. Leave it "
            f"out, or make another file where the run is: cpsl-export RUN {wrong[0]} ..."
        )
    if context.get_parameter_source("trt") == ParameterSource.DEFAULT:
        raise InputError(
            f"{path} is a finished file, of which nothing but a TensorRT engine can be made. Give --trt, or "
            "name a run folder or a .safetensors file"
        )


def _request(given: dict[str, Any]) -> EngineRequest:
    from .engine_of_file import EngineRequest
    from .tensorrt.profile import Profile

    profile = given["profile"]
    values = {name: given[name] for name in _OPTIONS if name not in ("trt", "profile")}
    return EngineRequest(profile=Profile.from_text(profile) if profile else None, **values)


def summary_of_engine(result: EngineOfFile) -> list[str]:
    """What was built, for people."""
    from cpsl_deploy.backends.tensorrt_backend import read_sidecar

    from .gate.rules import mean_of

    engine, key = result.engine, read_sidecar(result.engine.path)
    built = "up to date" if engine.reused else f"built in {engine.build_s:.0f} s"
    model = result.model
    lines = [
        f"engine      {engine.path} ({built}), of {model.path.name}, {model.contract.precision}",
        f"runs on     {key.get('gpu')} with TensorRT {key.get('tensorrt_version')}, and nowhere else",
        f"frames      {result.profile} (batch x height x width)",
    ]
    found = result.comparison
    if found is None:
        return [
            *lines,
            "compared    not at all: no frames were named. --frames DATA holds the engine's labels against "
            "those of the ONNX file",
        ]
    name, share = found.agreement.worst_class
    lines += [
        f"agreement   {found.agreement.share:.4%} of {found.agreement.pixels:,} pixels with the ONNX file in "
        f"onnxruntime; least on {name}: {share:.3%}",
        f"compared on {found.frames}",
    ]
    deciding = [one for one in found.classes if one.decides]
    if found.has_truth and deciding:
        before, after = mean_of([one.before for one in deciding]), mean_of([one.after for one in deciding])
        lines.append(f"IoU         mean {100 * after:.1f} %, the ONNX file's {100 * before:.1f} %")
    return lines
