"""The engine of an exported file: built aside, held against the file's budget, and only then put in place."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import cpsl_deploy
from cpsl_deploy.backends.tensorrt_backend import sidecar_path
from cpsl_deploy.errors import AccuracyError
from cpsl_deploy.files import as_output_error, write_json, write_text
from cpsl_deploy.segmenter import labels_of
from cpsl_deploy.train.engine.loop import Watcher

from .gate.judge import Verdict
from .gate.report import Gated, gate_report, write_gate_pictures
from .placing import PAGE, REPORT, refused_folder
from .request import ExportRequest
from .result import ExportResult
from .tensorrt.engine import ENGINE_SUFFIX, Engine, ensure_engine
from .tensorrt.ownership import built_from
from .tensorrt.progress import shown_by
from .together import copy_together
from .trials import Tribunal


def with_engine(
    result: ExportResult, request: ExportRequest, tribunal: Tribunal, watcher: Watcher
) -> ExportResult:
    """The result with an engine of the file in place, in its report, too.

    Raises AccuracyError if the engine breaks the budget, and what `ensure_engine` and judging raise. What was
    in place before then stays, an earlier engine, too.
    """
    try:
        place = tempfile.TemporaryDirectory(prefix="cpsl-engine-")
    except OSError as error:
        raise as_output_error(error, Path(tempfile.gettempdir()) / "cpsl-engine") from error
    with place as folder:
        engine = ensure_engine(
            result.path,
            profile=request.profile,
            workspace_gib=request.workspace_gib,
            on_progress=shown_by(watcher),
            staging=Path(folder),
        )
        with cpsl_deploy.load(engine.path) as segmenter:
            verdict = tribunal.judge(segmenter)
            worst, _ = tribunal.reference.frames.read(verdict.worst_frame)
            worst_labels = labels_of(segmenter, worst)
        if verdict.passed:
            return _put_in_place(result, engine, verdict, Path(folder))
        gated = _gated(result, engine, verdict)
        report = Path(folder) / "report"
        report.mkdir()
        write_gate_pictures(report, gated, tribunal.reference, worst_labels)
        raise _refused(result, engine, gated, report)


def _put_in_place(result: ExportResult, engine: Engine, verdict: Verdict, folder: Path) -> ExportResult:
    """Engine, JSON file and the report that tells of them: all or none. ``folder``: for the report."""
    target = result.path.with_suffix(ENGINE_SUFFIX)
    placed = dataclasses.replace(engine, path=target, sidecar=sidecar_path(target))
    result = dataclasses.replace(result, engine=placed, engine_verdict=verdict)
    write_json(folder / REPORT, result.as_dict())
    files = {folder / REPORT: result.report}
    if not engine.reused:
        files |= {engine.path: placed.path, engine.sidecar: placed.sidecar}
    copy_together(files)
    return result


def _gated(result: ExportResult, engine: Engine, verdict: Verdict) -> Gated:
    candidate = dataclasses.replace(
        result.chosen.candidate, backend="tensorrt", device="cuda", backend_precision=None
    )
    return Gated(
        name=candidate.name,
        precision=candidate.precision,
        backend=candidate.backend,
        bytes=engine.path.stat().st_size,
        verdict=verdict,
    )


def _refused(result: ExportResult, engine: Engine, gated: Gated, report: Path) -> AccuracyError:
    """Put the report of a refused engine in place, and give the error that says so. ``report``: a folder that
    has the pictures."""
    target = result.path.with_suffix(ENGINE_SUFFIX)
    held = [result.chosen.gated, gated]
    facts = {
        "onnx_sha256": result.onnx_sha256,
        "chosen": result.chosen.gated.name,
        "candidates": [each.as_dict() for each in held],
    }
    write_json(report / REPORT, facts)
    page = gate_report(held, chosen=result.chosen.gated.name, pictures=True)
    write_text(report / PAGE, f"# {target.name}: over budget\n\n{page}")
    folder = refused_folder(result.path)
    copy_together({file: folder / file.name for file in sorted(report.iterdir())})
    if engine.reused:
        fate = f"It was there before, built for another budget, and stays: {target}"
    elif built_from(target) == result.onnx_sha256:
        fate = f"It was not put in place; the earlier one stays: {target}"
    else:
        fate = "It was not put in place"
    verdict = gated.verdict
    return AccuracyError(
        f"the TensorRT engine of {result.path} breaks the budget that the file itself keeps: "
        f"{'; '.join(verdict.broken[:4])} (compared on {verdict.frames}). {fate}. The ONNX file is in place. "
        "Allow more with --min-agreement and --max-iou-drop, or run the ONNX file. Report: "
        f"{folder / PAGE}."
    )
