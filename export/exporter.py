"""From a trained run to the file that is deployed: made, held against a budget, and put in place."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from cpsl_deploy.errors import DataError, InputError, ModelFileError, OutputError
from cpsl_deploy.files import as_output_error
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.domains import Domains
from cpsl_deploy.train.engine.loop import SilentWatcher, Watcher
from cpsl_deploy.train.engine.run_folder import RunFolder
from cpsl_deploy.train.models import load_model
from cpsl_deploy.train.models.base import Segmenter as Network
from cpsl_deploy.train.reporting.figures import require_matplotlib

from .candidates import Candidate
from .drift import store_drift_reference
from .engine_step import with_engine
from .gate.frames import Frames, open_frames
from .gate.reference import Reference, make_reference
from .gate.scoring import compared_scores, scorable, score_exported
from .graph.limits import check_limits
from .placing import check_replaceable, put_in_place, refused
from .request import ExportRequest
from .result import ExportResult
from .tensorrt.engine import ENGINE_SUFFIX
from .tensorrt.ownership import remove_stale_engine
from .trials import Tribunal, chosen, hold_trials
from .triton.repository import write_repository
from .ways import judged_ways, way_of
from .workshop import Workshop

_log = logging.getLogger(__name__)

MODEL_NAME = "model.safetensors"
"""The final model of a run folder."""
_COMPARING = "comparing frames"


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
    ``.refused``) or its engine does (the file is in place, and a report of both in ``.refused``), DataError
    for images that cannot be read, UnavailableError if an engine is asked for without TensorRT or a GPU (the
    ONNX file is put in place before).
    """
    began = time.perf_counter()
    request, watcher = request or ExportRequest(), watcher or SilentWatcher()
    weights = find_weights(run)
    output = Path(output) if output is not None else weights.with_suffix(".onnx")
    if output.suffix != ".onnx":
        raise InputError(f"an exported file is named something.onnx; got {output}")
    require_matplotlib()
    network, spec = load_model(weights)
    size = request.file_size(spec)
    ends = (request.profile.min[1:], request.profile.max[1:]) if request.profile else ()
    for frames in (size, *ends):
        check_limits(spec, contract=request.contract, size=frames, batch=request.batch)
    candidates = request.candidates(served=triton is not None)
    engine = request.trt or any(candidate.backend == "tensorrt" for candidate in candidates)
    check_replaceable(output, spec, overwrite=overwrite, engine=engine)
    folder = RunFolder(Path(run))
    domains = scorable(folder) if score and folder.path.is_dir() else None
    try:
        tribunal = Tribunal(reference_of(network, spec, request, weights.parent, watcher), request)
        result = _made(output, network, spec, request, candidates, tribunal, weights.parent, watcher, began)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"The export was not finished; what was there before is untouched: {output}"
        ) from None
    try:
        if domains is not None:
            result = _with_scores(result, folder, domains)
        if request.trt:
            result = with_engine(result, request, tribunal, watcher)
        if triton is not None:
            result = _with_repository(result, triton, overwrite=overwrite)
    except KeyboardInterrupt as interrupt:
        told = interrupt.args or (f"The exported file {output} and its report are in place.",)
        raise KeyboardInterrupt(*told) from None
    finally:
        # With a new engine in place there is none; without, an earlier file's would pass for this one's.
        remove_stale_engine(
            output.with_suffix(ENGINE_SUFFIX),
            result.onnx_sha256,
            remedy=f"cpsl-export {run} -o {output} --trt",
        )
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


def _made(
    output: Path,
    network: Network,
    spec: ModelSpec,
    request: ExportRequest,
    candidates: list[Candidate],
    tribunal: Tribunal,
    run: Path,
    watcher: Watcher,
    began: float,
) -> ExportResult:
    """Make what is asked for and put the best of it in place."""
    try:
        place = tempfile.TemporaryDirectory(prefix="cpsl-export-")
    except OSError as error:
        raise as_output_error(error, Path(tempfile.gettempdir()) / "cpsl-export") from error
    with place as folder:
        workshop = Workshop(
            Path(folder),
            network,
            spec,
            request,
            calibration=lambda: calibration_frames(spec, request, run, tribunal.reference.frames),
            judge=tribunal.judge_file,
        )
        trials = hold_trials(candidates, workshop, tribunal, network, watcher)
        best = chosen(trials)
        if best is None:
            raise refused(output, trials, workshop)
        drift = store_drift_reference(best, workshop, spec, request, run, watcher)
        ways = judged_ways(best, trials, workshop, tribunal, watcher)
        return put_in_place(output, trials, best, ways, workshop, began, drift=drift)


def reference_of(
    network: Network, spec: ModelSpec, request: ExportRequest, run: Path, watcher: Watcher
) -> Reference:
    """The torch model's labels at the frame's own size, whatever the file gives: what a coarser output costs
    is then seen, and what resizing in the file costs, because the model sees frames at its own size there."""
    resizes = request.contract.network_size is not None
    frames = open_frames(request.frames, spec, request.file_size(spec), run=run, native=resizes)
    if request.auto or request.contract.precision == "int8":
        _real(frames, "judged", "--frames")
        _calibration(spec, request, run, frames)  # said now rather than when minutes have gone
    elif frames.generated:
        _log.warning("the file is compared with the model on %s", frames.described)
    contract = dataclasses.replace(request.contract, output_stride=1)
    watcher.stage(_COMPARING, 0, len(frames))
    return make_reference(
        network,
        spec,
        frames,
        contract=contract,
        own_size=resizes,
        progress=lambda done, total: watcher.step(_COMPARING, done, {}),
    )


def calibration_frames(
    spec: ModelSpec, request: ExportRequest, run: Path, judged: Frames
) -> list[np.ndarray]:
    """Frames uint8 (H, W, 3) BGR for INT8, of the target, none of which is among the ``judged`` ones.

    Raises DataError if there are none.
    """
    frames = _calibration(spec, request, run, judged)
    _log.info("INT8 is calibrated on %s", frames.described)
    return list(frames.images())


def _calibration(spec: ModelSpec, request: ExportRequest, run: Path, judged: Frames) -> Frames:
    frames = open_frames(
        request.calibration,
        spec,
        request.file_size(spec),
        run=run,
        count=request.calibration_frames,
        labelled_count=request.calibration_frames,
        trained=True,
        option="--calibration",
        apart_from=judged,
    )
    return _real(frames, "calibrated", "--calibration")


def _real(frames: Frames, done: str, option: str) -> Frames:
    if frames.generated:
        raise DataError(
            f"INT8 is {done} on real frames of the camera; these are {frames.described}. Name a dataset, "
            f"a folder of photos or a video: {option} DATA. Where the target cannot be read INT8 needs both, "
            "--frames and --calibration"
        )
    return frames


def _with_scores(result: ExportResult, folder: RunFolder, domains: Domains) -> ExportResult:
    _log.info("scoring %s on the run's labelled target images", result.path)
    try:
        score_exported(folder, domains, result.path, way=way_of(result.chosen.candidate))
    except (DataError, OutputError) as error:
        raise type(error)(
            f"{error} The exported file {result.path} is in place; --no-score leaves its scoring out."
        ) from error
    return dataclasses.replace(result, scores=compared_scores(folder))


def _with_repository(result: ExportResult, place: str | os.PathLike[str], *, overwrite: bool) -> ExportResult:
    served = result.engine.path if result.engine else result.path
    try:
        repository = write_repository(place, served, overwrite=overwrite)
    except InputError as error:
        raise type(error)(f"{error} The exported file {result.path} is in place.") from error
    return dataclasses.replace(result, repository=repository)
