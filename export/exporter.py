"""From a trained run to the file that is deployed: made, held against a budget, and put in place."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import cpsl_deploy
from cpsl_deploy.backends.tensorrt_backend import sidecar_path
from cpsl_deploy.errors import AccuracyError, DataError, InputError, ModelFileError, OutputError
from cpsl_deploy.files import as_output_error, atomic_paths, sha256, write_json, write_text
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.domains import Domains
from cpsl_deploy.train.engine.loop import SilentWatcher, Watcher
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.models import load_model
from cpsl_deploy.train.models.base import Segmenter as Network
from cpsl_deploy.train.reporting.figures import require_matplotlib

from .gate.budget import Budget
from .gate.frames import Frames, half_size, open_frames
from .gate.judge import judge
from .gate.probe import Probe
from .gate.reference import Reference, make_reference
from .gate.report import Gated, gate_report, write_gate_pictures
from .gate.scoring import compared_scores, scorable, score_exported
from .graph.onnx_file import operator_counts, read_metadata
from .request import ExportRequest
from .result import ExportResult, layers_section, title
from .tensorrt.engine import ENGINE_SUFFIX, ensure_engine
from .trials import Trial, Tribunal, chosen, hold_trials, labels_of
from .triton.repository import write_repository
from .workshop import Workshop

_log = logging.getLogger(__name__)

MODEL_NAME = "model.safetensors"
"""The final model of a run folder."""
REPORT, PAGE = "export.json", "export.md"
_COMPARING, _BUILDING = "comparing frames", "TensorRT engine, percent"


def export(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    request: ExportRequest | None = None,
    triton: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    score: bool = True,
    watcher: Watcher | None = None,
) -> ExportResult:
    """Export a model to ONNX, hold the file against the model, and put it in place if it is within budget.

    ``run``: a run folder of ``cpsl-adapt`` (its ``model.safetensors``) or a ``.safetensors`` file.
    ``output``: the ONNX file; by default ``model.onnx`` beside the weights, named as they are. The report
    goes into the folder beside it that is named as it is with ``.export``. ``request``: what is wanted.
    ``triton``: a folder in which the file becomes a model of a Triton model repository, too. ``overwrite``:
    replace a file made from other weights; one made from the same weights always is. ``score``: if ``run`` is
    a run folder whose target has labelled images that can still be opened, score the file on them, too, and
    write the run's report again with that column.

    Raises ModelFileError for a missing or damaged model, OutputError if the output may not be replaced or
    written, AccuracyError if the file breaks its budget (nothing is put in place but a report in
    ``.refused``), DataError for images that cannot be read, UnavailableError if an engine is asked for
    without TensorRT or a GPU (the ONNX file is put in place before).
    """
    began = time.perf_counter()
    request, watcher = request or ExportRequest(), watcher or SilentWatcher()
    weights = find_weights(run)
    output = Path(output) if output is not None else weights.with_suffix(".onnx")
    if output.suffix != ".onnx":
        raise InputError(f"an exported file is named something.onnx; got {output}")
    require_matplotlib()
    network, spec = load_model(weights)
    _check_replaceable(output, spec, overwrite=overwrite)
    folder = RunFolder(Path(run))
    domains = scorable(folder) if score and folder.path.is_dir() else None
    tribunal = Tribunal(reference_of(network, spec, request, weights.parent, watcher), request)
    try:
        with tempfile.TemporaryDirectory(prefix="cpsl-export-") as place:
            workshop = Workshop(
                Path(place),
                network,
                spec,
                request,
                calibration=lambda: calibration_frames(spec, request, weights.parent),
                judge=tribunal.judge_file,
            )
            trials = hold_trials(request.candidates(), workshop, tribunal, network, watcher)
            best = chosen(trials)
            if best is None:
                raise _refused(output, trials, workshop, tribunal)
            _check_half_size(best, network, tribunal)
            result = _put_in_place(output, trials, best, workshop, tribunal, began)
    except OSError as error:  # of the temporary folder: the disk is full
        raise as_output_error(error, Path(tempfile.gettempdir()) / "cpsl-export") from error
    if domains is not None:
        result = _with_scores(result, folder, domains)
    if request.trt:
        result = _with_engine(result, request, tribunal, watcher)
    if triton is not None:
        served = result.engine.path if result.engine else result.path
        repository = write_repository(triton, served, overwrite=overwrite)
        result = dataclasses.replace(result, repository=repository)
    return result


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


def report_folder(model: Path) -> Path:
    """Where the report of an exported file is: beside it, named as it is."""
    return model.with_suffix(".export")


def _check_replaceable(output: Path, spec: ModelSpec, *, overwrite: bool) -> None:
    """A file is replaced if asked for, or if it can only be an earlier export of the same weights."""
    folder = report_folder(output)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT).is_file()):
        raise OutputError(f"{folder}, where the report goes, is something else. Give another name with -o.")
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


def reference_of(
    network: Network, spec: ModelSpec, request: ExportRequest, run: Path, watcher: Watcher
) -> Reference:
    """The torch model's labels at the frame's own size, whatever the file gives: what a coarser output or
    resizing in the file costs is then seen."""
    frames = open_frames(request.frames, spec, request.file_size(spec), run=run)
    contract = dataclasses.replace(request.contract, output_stride=1)
    watcher.stage(_COMPARING, 0, len(frames))
    return make_reference(
        network,
        spec,
        frames,
        contract=contract,
        progress=lambda done, total: watcher.step(_COMPARING, done, {}),
    )


def calibration_frames(spec: ModelSpec, request: ExportRequest, run: Path) -> list[np.ndarray]:
    """Frames uint8 (H, W, 3) BGR for INT8, of the target."""
    frames = open_frames(
        request.calibration,
        spec,
        request.file_size(spec),
        run=run,
        count=request.calibration_frames,
        labelled_count=request.calibration_frames,
        trained=True,
    )
    _log.info("INT8 is calibrated on %s", frames.described)
    return list(frames.images())


def _check_half_size(best: Trial, network: Network, tribunal: Tribunal) -> None:
    """A file with free sizes must be right at other sizes than the one it was compared at."""
    probe = Probe(best.path)
    if not probe.takes_any_size:
        return
    frame = half_size(next(tribunal.reference.frames.images()))
    frames = Frames.of([frame], described="a frame at about half its size")
    reference = make_reference(network, probe.spec, frames, contract=probe.contract)
    least = tribunal.budget(probe.contract.precision).min_agreement
    budget = Budget(min_agreement=least, max_iou_drop=100, max_class_iou_drop=100)
    judge([probe.labels(frame)], reference, budget).require()


def _refused(output: Path, trials: list[Trial], workshop: Workshop, tribunal: Tribunal) -> AccuracyError:
    """Write the report of an export that nothing came of, and give the error that says so."""
    best = max(trials, key=lambda trial: trial.gated.verdict.agreement.share)
    folder = output.with_suffix(".refused")
    gated = [trial.gated for trial in trials]
    head = f"# {output.name}: not put in place\n"
    facts = {"chosen": None, "candidates": [each.as_dict() for each in gated]}
    pages = _pages(head, facts, gated, None, best, workshop, tribunal)
    _place({page: folder / page.name for page in pages})
    try:
        best.gated.verdict.require(best.gated.blame)
    except AccuracyError as error:
        return AccuracyError(f"{error} Report: {folder / PAGE}.")
    raise AssertionError("a refused file has broken a rule")


def _put_in_place(
    output: Path,
    trials: list[Trial],
    best: Trial,
    workshop: Workshop,
    tribunal: Tribunal,
    began: float,
) -> ExportResult:
    """The file and its report: each whole or not at all, the report's hash says whether they belong
    together."""
    folder = report_folder(output)
    with cpsl_deploy.load(best.path, device="cpu") as opened:
        backend = opened.backend
    result = ExportResult(
        path=output,
        report=folder / REPORT,
        page=folder / PAGE,
        spec=backend.spec,
        contract=backend.contract,
        size=backend.static_size,
        batch=backend.batch,
        trials=tuple(trials),
        chosen=best,
        kept=workshop.kept(best.candidate),
        operators=operator_counts(best.path),
        onnx_sha256=sha256(best.path),
        bytes=best.path.stat().st_size,
        seconds=time.perf_counter() - began,
    )
    gated = [trial.gated for trial in trials]
    pages = _pages(title(result), result.as_dict(), gated, best.gated.name, best, workshop, tribunal)
    files = {best.path: output} | {page: folder / page.name for page in pages}
    if best.candidate.backend == "tensorrt":
        engine = workshop.engine(best.candidate)
        place = output.with_suffix(ENGINE_SUFFIX)
        files |= {engine.path: place, engine.sidecar: sidecar_path(place)}
    _place(files)
    shutil.rmtree(output.with_suffix(".refused"), ignore_errors=True)
    return result


def _pages(
    head: str,
    facts: dict[str, Any],
    gated: list[Gated],
    chosen_name: str | None,
    shown: Trial,
    workshop: Workshop,
    tribunal: Tribunal,
) -> list[Path]:
    """The report's files, in a folder of the workshop; ``shown`` is the trial that has pictures."""
    folder = workshop.new_folder("report")
    gate = gate_report(gated, chosen=chosen_name, pictures=True)
    write_text(folder / PAGE, f"{head}\n{gate}{layers_section(workshop.kept(shown.candidate))}")
    write_json(folder / REPORT, facts)
    frame, _ = tribunal.reference.frames.read(shown.gated.verdict.worst_frame)
    with workshop.open(shown.candidate) as segmenter:
        labels = labels_of(segmenter, frame)
    write_gate_pictures(folder, shown.gated, tribunal.reference, labels)
    return sorted(folder.iterdir())


def _place(files: dict[Path, Path]) -> None:
    """Copy files to where they belong: all of them or none."""
    with atomic_paths(*files.values()) as temporaries:
        for source, temporary in zip(files, temporaries, strict=True):
            shutil.copyfile(source, temporary)


def _with_scores(result: ExportResult, folder: RunFolder, domains: Domains) -> ExportResult:
    _log.info("scoring %s on the run's labelled target images", result.path)
    try:
        score_exported(folder, domains, result.path)
    except (DataError, OutputError) as error:
        raise type(error)(
            f"{error} The exported file {result.path} is in place; --no-score leaves its scoring out."
        ) from error
    return dataclasses.replace(result, scores=compared_scores(folder))


def _with_engine(
    result: ExportResult, request: ExportRequest, tribunal: Tribunal, watcher: Watcher
) -> ExportResult:
    """An engine of the file in place, held against the same budget; one that breaks it is removed."""
    watcher.stage(_BUILDING, 0, 100)
    engine = ensure_engine(
        result.path,
        profile=request.profile,
        workspace_gib=request.workspace_gib,
        on_progress=lambda phases, share: watcher.step(_BUILDING, round(100 * share), {}),
    )
    with cpsl_deploy.load(engine.path) as segmenter:
        verdict = tribunal.judge(segmenter)
    if not verdict.passed:
        engine.path.unlink()
        engine.sidecar.unlink()
    verdict.require()
    return dataclasses.replace(result, engine=engine, engine_verdict=verdict)
