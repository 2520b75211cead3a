"""An exported file and its report put in place together, or the report alone of one that is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import onnx

import cpsl_deploy
from cpsl_deploy.backends.tensorrt_backend import sidecar_path
from cpsl_deploy.backends.ways import ways_metadata
from cpsl_deploy.errors import AccuracyError, ModelFileError, OutputError
from cpsl_deploy.files import sha256, write_json, write_text
from cpsl_deploy.spec import ModelSpec

from .gate.parity import Parity, measure_parity
from .gate.report import Gated, gate_report, write_gate_pictures
from .graph.onnx_file import operator_counts, read_metadata
from .result import ExportResult, layers_section, parity_section, title
from .tensorrt.engine import ENGINE_SUFFIX
from .tensorrt.ownership import check_engine_replaceable
from .together import copy_together
from .trials import Trial
from .ways import JudgedWay, passed_ways, way_of
from .workshop import Workshop

REPORT, PAGE = "export.json", "export.md"
PARITY_IMAGES = 4


def report_folder(model: Path) -> Path:
    """Where the report of an exported file is: beside it, named as it is."""
    return model.with_suffix(".export")


def refused_folder(model: Path) -> Path:
    """Where the report of a file that was not put in place is."""
    return model.with_suffix(".refused")


def check_replaceable(output: Path, spec: ModelSpec, *, overwrite: bool, engine: bool) -> None:
    """Raises OutputError if something is in the way that no export wrote, or the export of other weights and
    ``overwrite`` is not given. ``engine``: whether one may be written, too."""
    if engine:
        check_engine_replaceable(output.with_suffix(ENGINE_SUFFIX))
    for folder in (report_folder(output), refused_folder(output)):
        if folder.is_file() or (
            folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT).is_file()
        ):
            raise OutputError(
                f"{folder}, where the report goes, is something else. Give another name with -o."
            )
    if output.is_dir():
        raise OutputError(
            f"an ONNX file is to be written, and {output} is a folder. Give another name with -o."
        )
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


def refused(output: Path, trials: list[Trial], workshop: Workshop) -> AccuracyError:
    """Write the report of an export that nothing came of, and give the error that says so."""
    best = max(trials, key=lambda trial: trial.gated.verdict.agreement.share)
    folder = refused_folder(output)
    gated = [trial.gated for trial in trials]
    head = f"# {output.name}: not put in place\n"
    facts = {"chosen": None, "candidates": [each.as_dict() for each in gated]}
    pages = _pages(head, facts, gated, None, best, workshop)
    copy_together({page: folder / page.name for page in pages})
    try:
        best.gated.verdict.require(best.gated.blame)
    except AccuracyError as error:
        remedy = " At its own size it keeps the budget: fix that with --size." if best.at_half_size else ""
        return AccuracyError(f"{error}{remedy} Report: {folder / PAGE}.")
    raise AssertionError("a refused file has broken a rule")


def put_in_place(
    output: Path,
    trials: list[Trial],
    best: Trial,
    ways: tuple[JudgedWay, ...],
    workshop: Workshop,
    began: float,
    *,
    drift: str = "",
) -> ExportResult:
    """The file and its report: each whole or not at all, the report's hash says whether they belong
    together. ``ways``: in which the file was judged. ``began``: of the clock `time.perf_counter`. ``drift``:
    in words, what its reference was made of."""
    folder = report_folder(output)
    best = dataclasses.replace(best, path=_with_ways(best, ways, workshop, chosen=len(trials) > 1))
    parity = _parity(best, workshop)
    with cpsl_deploy.load(best.path, backend="onnxruntime", device="cpu") as opened:
        backend = opened.backend
    files, engine = {best.path: output}, None
    if best.candidate.backend == "tensorrt":
        built, place = workshop.engine(best.candidate), output.with_suffix(ENGINE_SUFFIX)
        engine = dataclasses.replace(built, path=place, sidecar=sidecar_path(place))
        files |= {built.path: engine.path, built.sidecar: engine.sidecar}
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
        ways=ways,
        kept=workshop.kept(best.candidate),
        operators=operator_counts(best.path),
        onnx_sha256=sha256(best.path),
        bytes=best.path.stat().st_size,
        seconds=time.perf_counter() - began,
        engine=engine,
        engine_verdict=best.gated.verdict if engine else None,
        parity=parity,
        drift=drift,
    )
    gated = [trial.gated for trial in trials]
    pages = _pages(title(result), result.as_dict(), gated, best.gated.name, best, workshop, parity)
    copy_together(files | {page: folder / page.name for page in pages})
    _forget_refused(output, [page.name for page in pages])
    return result


def _with_ways(best: Trial, ways: tuple[JudgedWay, ...], workshop: Workshop, *, chosen: bool) -> Path:
    """The file with a word on the ways that it may be run in, and, if it was ``chosen`` among several, on the
    one that it was chosen for. An engine is a file of its own, and knows its ONNX file by its hash."""
    own = way_of(best.candidate)
    if own is None:
        return best.path
    model = onnx.load(best.path)
    for key, value in ways_metadata(passed_ways(ways), own if chosen else None).items():
        model.metadata_props.add(key=key, value=value)
    path = workshop.new_folder("chosen") / best.path.name
    path.write_bytes(model.SerializeToString())
    return path


def _parity(best: Trial, workshop: Workshop) -> Parity | None:
    """Training's images against the file's, from image files to the network, on some of the frames; None for
    frames that are no files. Raises AccuracyError if they differ where they must not."""
    files = [path for path in best.reference.frames.files[:PARITY_IMAGES] if path.is_file()]
    if not files:
        return None
    parity = measure_parity(best.path, workshop.network, files)
    parity.require()
    return parity


def _pages(
    head: str,
    facts: dict[str, Any],
    gated: list[Gated],
    chosen_name: str | None,
    shown: Trial,
    workshop: Workshop,
    parity: Parity | None = None,
) -> list[Path]:
    """The report's files, in a folder of the workshop; ``shown`` is the trial that has pictures."""
    folder = workshop.new_folder("report")
    gate = gate_report(gated, chosen=chosen_name, pictures=True)
    write_text(
        folder / PAGE,
        f"{head}\n{gate}{layers_section(workshop.kept(shown.candidate))}{parity_section(parity)}",
    )
    write_json(folder / REPORT, facts)
    write_gate_pictures(folder, shown.gated, shown.reference, shown.worst_labels)
    return sorted(folder.iterdir())


def _forget_refused(output: Path, names: list[str]) -> None:
    """It told of a file that is not the one in place now. What an export did not write stays."""
    folder = refused_folder(output)
    with contextlib.suppress(OSError):
        for name in names:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
