"""From a trained run to the file that is deployed."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

import cpsl_deploy
from cpsl_deploy.errors import DataError, InputError, ModelFileError, OutputError
from cpsl_deploy.files import atomic_paths, sha256, write_json
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.domains import Domains
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.models import load_model

from .gate.agreement import MIN_AGREEMENT, Agreement, verify
from .gate.frames import check_frames, half_size
from .gate.scoring import compared_scores, scorable, score_exported
from .graph.onnx_file import OPSET, export_onnx, operator_counts, read_metadata
from .tensorrt.engine import Engine, build_engine

_log = logging.getLogger(__name__)

MODEL_NAME = "model.safetensors"
"""The final model of a run folder."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What an export made."""

    path: Path
    """The ONNX file."""
    report: Path
    """JSON with everything below, the versions and the hashes."""
    spec: ModelSpec
    size: tuple[int, int] | None
    """(height, width) in pixels if fixed; None if the file takes any size."""
    agreement: Agreement
    frames: str
    """Which frames it was compared on, in words."""
    operators: dict[str, int]
    """ONNX operators and how many there are of each."""
    bytes: int
    export_s: float
    verify_s: float
    scores: dict[str, float] = field(default_factory=dict)
    """Mean IoU, 0..1, on the run's labelled target images: ``source_only``, ``distillation_2`` (the adapted
    network) and ``exported`` (this file). Empty if the file was not scored."""
    engine: Engine | None = None


def export(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    size: tuple[int, int] | None = None,
    trt: bool = False,
    frames: str | Path | None = None,
    min_agreement: float = MIN_AGREEMENT,
    overwrite: bool = False,
    score: bool = True,
) -> ExportResult:
    """Export a model to ONNX, compare the file with the model, and put it in place if they agree.

    ``run``: a run folder of ``cpsl-adapt`` (its ``model.safetensors``) or a ``.safetensors`` file.
    ``output``: the ONNX file; by default ``model.onnx`` beside the weights, named as they are.
    ``size``: (height, width) in pixels, fixed in the file; None leaves it free.
    ``trt``: build a TensorRT engine, too; without ``size`` the spec's size is then fixed, in both files.
    ``frames``: dataset, folder of photos or video to compare on; see ``check_frames`` for the default.
    ``min_agreement``: share of pixels, 0 to 1, on which file and model must give the same label.
    ``overwrite``: replace a file made from other weights; one made from the same weights always is.
    ``score``: if ``run`` is a run folder whose target has labelled images that can still be opened, score the
    file on them, too, and write the run's report again with that column.

    Raises ModelFileError for a missing or damaged model, OutputError if the output may not be replaced or
    written, AccuracyError if file and model disagree (nothing is put in place), DataError for images that
    cannot be read, UnavailableError if ``trt`` is asked for without TensorRT or a GPU (the ONNX file is put
    in place before).
    """
    if not 0 <= min_agreement <= 1:
        raise InputError(
            f"the least agreement is a share from 0 to 1, for example 0.999; got {min_agreement}"
        )
    weights = find_weights(run)
    output = Path(output) if output is not None else weights.with_suffix(".onnx")
    if output.suffix != ".onnx":
        raise InputError(f"an exported file is named something.onnx; got {output}")
    model, spec = load_model(weights)
    _check_replaceable(output, spec, overwrite=overwrite)
    if trt and size is None:
        size = spec.size
    folder = RunFolder(Path(run))
    domains = scorable(folder) if score and folder.path.is_dir() else None

    pictures, described = check_frames(frames, spec, size or spec.size, run=weights.parent)
    if size is None:
        pictures.append(half_size(pictures[0]))
        described += "; the first at half its size, too"
    report = output.with_name("export.json" if output.name == "model.onnx" else f"{output.stem}.export.json")
    with atomic_paths(output, report) as (unverified, unreported):
        started = time.perf_counter()
        export_onnx(model, spec, unverified, size=size)
        exported = time.perf_counter()
        agreement = verify(unverified, model, spec, pictures)
        verified = time.perf_counter()
        agreement.require(min_agreement)
        result = ExportResult(
            path=output,
            report=report,
            spec=spec,
            size=size,
            agreement=agreement,
            frames=described,
            operators=operator_counts(unverified),
            bytes=unverified.stat().st_size,
            export_s=exported - started,
            verify_s=verified - exported,
        )
        write_json(unreported, _report(result, sha256(unverified)))
    if domains is not None:
        result = _with_scores(result, folder, domains)
    return _with_engine(result) if trt else result


def find_weights(run: str | os.PathLike[str]) -> Path:
    """The weights file of a run folder, or the file itself. Raises ModelFileError if there is none."""
    path = Path(run)
    if path.is_dir():
        if (path / MODEL_NAME).is_file():
            return path / MODEL_NAME
        stages = sorted(file.name for file in path.glob("*.safetensors"))
        raise ModelFileError(
            f"a finished run folder has a {MODEL_NAME}, and {path} has none. "
            + (
                f"Its stages so far are {', '.join(stages)}: name one of them, or finish the run."
                if stages
                else "Name a folder that cpsl-adapt wrote, or a .safetensors file."
            )
        )
    if not path.is_file():
        raise ModelFileError(
            f"a run folder or a .safetensors file is wanted and {path} does not exist. Check the path."
        )
    return path


def _check_replaceable(output: Path, spec: ModelSpec, *, overwrite: bool) -> None:
    """A file is replaced if asked for, or if it can only be an earlier export of the same weights."""
    if overwrite or not output.exists():
        return
    try:
        same = read_metadata(output).get("weights_sha256") == spec.weights_sha256
    except ModelFileError:
        same = False
    if not same:
        raise OutputError(
            f"{output} exists and was not made from these weights. Give --overwrite to replace it, or "
            "another name with -o."
        )


def _report(result: ExportResult, onnx_sha256: str) -> dict[str, Any]:
    packages = {"cpsl_deploy": cpsl_deploy, "torch": torch, "onnx": onnx, "onnxruntime": onnxruntime}
    height, width = result.size or ("height", "width")
    return {
        "model": result.path.name,
        "architecture": result.spec.architecture,
        "weights_sha256": result.spec.weights_sha256,
        "onnx_sha256": onnx_sha256,
        "bytes": result.bytes,
        "input": {"name": "image", "dtype": "uint8", "shape": [1, height, width, 3]},
        "output": {"name": "labels", "dtype": "uint8", "shape": [1, height, width]},
        "opset": OPSET,
        "operators": result.operators,
        "compared_on": result.frames,
        **result.agreement.as_dict(),
        "export_s": round(result.export_s, 2),
        "verify_s": round(result.verify_s, 2),
        "versions": {
            "python": platform.python_version(),
            **{name: package.__version__ for name, package in packages.items()},
        },
    }


def _with_scores(result: ExportResult, folder: RunFolder, domains: Domains) -> ExportResult:
    _log.info("scoring %s on the run's labelled target images", result.path)
    try:
        score_exported(folder, domains, result.path)
    except (DataError, OutputError) as error:
        raise type(error)(
            f"{error} The exported file {result.path} is in place; --no-score leaves its scoring out."
        ) from error
    return dataclasses.replace(result, scores=compared_scores(folder))


def _with_engine(result: ExportResult) -> ExportResult:
    return dataclasses.replace(result, engine=build_engine(result.path))
