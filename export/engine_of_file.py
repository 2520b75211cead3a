"""The engine of a finished ONNX file, built on the board that runs it.

There is no run folder on a board, and no torch. So the engine is held against the ONNX file itself, which
was held against its model where it was exported.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import cpsl_deploy
from cpsl_deploy.backends.tensorrt_backend import sidecar_path
from cpsl_deploy.errors import AccuracyError, InputError, MissingExtraError, ModelFileError
from cpsl_deploy.files import as_output_error
from cpsl_deploy.metrics import confusion_matrix
from cpsl_deploy.segmenter import Segmenter

from .gate.agreement import Agreement, confusion_of
from .gate.batches import Asked
from .gate.budget import Budget
from .gate.frames import Frames, open_frames, resized_labels
from .gate.rules import ClassVerdict, broken_rules, class_verdicts
from .tensorrt.engine import ENGINE_SUFFIX, Engine, ensure_engine
from .tensorrt.onnx_input import OnnxInput, read_onnx
from .tensorrt.ownership import check_engine_replaceable
from .tensorrt.profile import Profile, profile_for, workspace_bytes
from .tensorrt.progress import OnProgress
from .together import copy_together

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Told how many frames are compared, of how many."""


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """What an engine of a finished file is to be. Raises InputError for a value that breaks its rule."""

    profile: Profile | None = None
    """Of the frames it takes; None is what the file fixes."""
    workspace_gib: float | None = None
    """GPU memory for its scratch space; None is all."""
    frames: str | Path | None = None
    """Dataset, folder of photos or video on which engine and file are compared; None: they are not."""
    min_agreement: float | None = None
    """0 to 1; this and the next two replace values of `Budget.for_precision`."""
    max_iou_drop: float | None = None
    """Points of mean IoU."""
    max_class_iou_drop: float | None = None
    """Points of IoU of any one class."""

    def __post_init__(self) -> None:
        workspace_bytes(self.workspace_gib)
        given = [name for name, value in self._allowed().items() if value is not None]
        if given and self.frames is None:
            raise InputError(
                f"a budget ({', '.join(given)}) is for comparing the engine with its ONNX file, and no "
                "frames are named to compare them on. Name some: --frames DATA"
            )
        self.budget("fp32", labelled=True)

    def _allowed(self) -> dict[str, float | None]:
        return {
            "min_agreement": self.min_agreement,
            "max_iou_drop": self.max_iou_drop,
            "max_class_iou_drop": self.max_class_iou_drop,
        }

    def budget(self, precision: str, *, labelled: bool) -> Budget:
        """What the engine of a file of this precision may cost against the file."""
        given = {name: value for name, value in self._allowed().items() if value is not None}
        return replace(Budget.for_precision(precision, labelled=labelled), **given)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came of holding an engine's labels against those of its ONNX file."""

    frames: str
    """Which ones, in words."""
    has_truth: bool
    """Whether IoU is against ground truth; else against the ONNX file's own labels."""
    agreement: Agreement
    classes: tuple[ClassVerdict, ...]
    """IoU of the file and of the engine."""
    broken: tuple[str, ...]
    """The rules of the budget that the engine breaks, as sentences without a full stop."""


@dataclass(frozen=True, kw_only=True)
class EngineOfFile:
    """An engine in place."""

    model: OnnxInput
    engine: Engine
    profile: Profile
    comparison: Comparison | None
    """None: no frames were named, so the engine's labels were not looked at."""


def engine_of_file(
    path: str | Path,
    request: EngineRequest | None = None,
    *,
    on_progress: OnProgress | None = None,
    on_compared: Progress | None = None,
) -> EngineOfFile:
    """Build the engine of an exported ONNX file beside it, for this machine's GPU, without torch or onnx.

    If the request names frames, the engine is put in place only if its labels on them keep the budget against
    the file's own, which onnxruntime computes on the CPU. Raises ModelFileError if the file is missing,
    damaged or not of this project, MissingExtraError if onnxruntime is needed and missing, DataError for
    frames that cannot be read, AccuracyError if the budget is broken, OutputError if something else lies
    where the engine belongs, and what `ensure_engine` raises. What was in place before then stays.
    """
    path, request = Path(path), request or EngineRequest()
    if not path.is_file():
        raise ModelFileError(f"an exported ONNX file is wanted and {path} does not exist. Check the path")
    target = path.with_suffix(ENGINE_SUFFIX)
    check_engine_replaceable(target)
    model = read_onnx(path)
    profile = request.profile or profile_for(model.shape, model.spec.size)
    profile.require_fit(model.shape, str(path))

    def build(staging: Path | None) -> Engine:
        return ensure_engine(
            path,
            profile=request.profile,
            workspace_gib=request.workspace_gib,
            on_progress=on_progress,
            staging=staging,
        )

    frames = _frames(model, profile, request)
    if frames is None:
        return EngineOfFile(model=model, engine=build(None), profile=profile, comparison=None)
    try:
        place = tempfile.TemporaryDirectory(prefix="cpsl-engine-")
    except OSError as error:
        raise as_output_error(error, Path(tempfile.gettempdir()) / "cpsl-engine") from error
    with place as folder:
        engine = build(Path(folder))
        comparison = compare_with_file(engine.path, model, frames, request, on_compared)
        if comparison.broken:
            raise _refused(path, engine, comparison)
        if not engine.reused:
            copy_together({engine.path: target, engine.sidecar: sidecar_path(target)})
            engine = replace(engine, path=target, sidecar=sidecar_path(target))
    return EngineOfFile(model=model, engine=engine, profile=profile, comparison=comparison)


def _frames(model: OnnxInput, profile: Profile, request: EngineRequest) -> Frames | None:
    """Opened before the build, which takes minutes. Of the size that the engine is tuned for."""
    if request.frames is None:
        return None
    if importlib.util.find_spec("onnxruntime") is None:
        purpose = "comparing an engine with its ONNX file (--frames; without it the engine is built alone)"
        raise MissingExtraError("onnxruntime", "cpu", purpose)
    return open_frames(request.frames, model.spec, profile.opt[1:], in_memory=False)


def compare_with_file(
    engine: Path,
    model: OnnxInput,
    frames: Frames,
    request: EngineRequest,
    on_compared: Progress | None = None,
) -> Comparison:
    """Labels of an engine against those of its ONNX file, frame by frame. Classes without ground truth enough
    do not decide, as where a file is exported (`gate.rules`)."""
    with (
        cpsl_deploy.load(model.path, backend="onnxruntime", device="cpu", whole_graph=True) as original,
        cpsl_deploy.load(engine) as built,
    ):
        return _compared(original, built, model, frames, request, on_compared)


def _compared(
    original: Segmenter,
    built: Segmenter,
    model: OnnxInput,
    frames: Frames,
    request: EngineRequest,
    on_compared: Progress | None,
) -> Comparison:
    names = model.spec.class_names
    between, before, after = (np.zeros((len(names), len(names)), np.int64) for _ in range(3))
    asked = Asked(built)
    pairs = zip(Asked(original).labels(frames.images()), asked.labels(frames.images()), strict=True)
    for done, (said, got) in enumerate(pairs):
        between += confusion_of(said, got, len(names))
        known = frames.read(done)[1] if frames.has_truth else said
        assert known is not None  # frames with truth have it for each
        truth = resized_labels(known, (said.shape[0], said.shape[1]))
        before += confusion_matrix(truth, said, len(names))
        after += confusion_matrix(truth, got, len(names))
        if on_compared is not None:
            on_compared(done + 1, len(frames))
    agreement = Agreement.from_confusion(names, between, len(frames))
    classes = class_verdicts(names, before, after)
    budget = request.budget(model.contract.precision, labelled=frames.has_truth)
    broken = broken_rules(budget, agreement, classes, original="the ONNX file")
    return Comparison(
        frames=frames.described,
        has_truth=frames.has_truth,
        agreement=agreement,
        classes=classes,
        broken=(*broken, *asked.broken),
    )


def _refused(path: Path, engine: Engine, comparison: Comparison) -> AccuracyError:
    target = path.with_suffix(ENGINE_SUFFIX)
    if engine.reused:
        fate = f"It was there before, built for another budget or without one, and stays: {target}"
    else:
        fate = "It was not put in place" + (f"; the earlier one stays: {target}" if target.exists() else "")
    return AccuracyError(
        f"the TensorRT engine of {path} breaks its budget against that file: "
        f"{'; '.join(comparison.broken[:4])} (compared on {comparison.frames}). {fate}. Allow more with "
        "--min-agreement and --max-iou-drop, or run the ONNX file"
    )
