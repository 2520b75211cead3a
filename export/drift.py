"""What the exported file sees on the roads it was adapted to, stored in it to notice other roads later."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from cpsl_deploy.backends.engine_key import ONNX_SHA256
from cpsl_deploy.backends.tensorrt_backend import read_sidecar
from cpsl_deploy.drift.reference import KEY, LEAST_FRAMES, DriftReference
from cpsl_deploy.errors import DataError
from cpsl_deploy.files import sha256, write_bytes, write_json
from cpsl_deploy.segmenter import Segmenter
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.engine.loop import Watcher

from .gate.frames import Frames, open_frames
from .request import ExportRequest
from .trials import Trial
from .workshop import Workshop

_log = logging.getLogger(__name__)

MOST_FRAMES = 200
"""Of the images that the run trained on, spread over all of them."""
MOST_SECONDS = 60.0
"""Of a large network on a CPU: fewer frames are then taken, not fewer than a reference needs."""
_STAGE = "drift reference"
_REMEDY = "Make one with: cpsl-drift MODEL --calibrate PHOTOS"


def store_drift_reference(
    best: Trial, workshop: Workshop, spec: ModelSpec, request: ExportRequest, run: Path, watcher: Watcher
) -> str:
    """Write a drift reference into the metadata of the chosen file, and into those of its engine if that was
    chosen. Returns in words what it was made of, or why there is none: an export is not refused for it."""
    if not request.drift:
        return "no reference: it was not asked for"
    try:
        frames = _target_frames(spec, request, run)
        if frames.generated or len(frames) < LEAST_FRAMES:
            why = frames.described if frames.generated else f"the target has {len(frames)} images"
            return _without(f"{why}, and {LEAST_FRAMES} real ones are needed")
        began = time.monotonic()
        with workshop.open(best.candidate) as segmenter:
            reference = DriftReference.of(segmenter, _spread(segmenter, frames, watcher))
    except DataError as error:
        return _without(str(error).rstrip("."))
    _add(best, workshop, reference.to_json())
    seconds = time.monotonic() - began
    which = frames.described.replace(" with labels", "")
    fewer = f"{reference.frames} of " if reference.frames < len(frames) else ""
    return f"reference of {fewer}{which}, {seconds:.0f} s"


def _without(why: str) -> str:
    told = f"{why}. {_REMEDY}"
    _log.warning("the file has no drift reference: %s", told)
    return f"no reference: {told}"


def _target_frames(spec: ModelSpec, request: ExportRequest, run: Path) -> Frames:
    """The images that the run trained on; if those are gone or too few, the first that are enough of those
    that INT8 is calibrated on and those that the file is compared on: of a dataset, its training images."""
    opened = partial(
        open_frames,
        spec=spec,
        size=None,
        count=MOST_FRAMES,
        labelled_count=MOST_FRAMES,
        trained=True,
        native=True,
        in_memory=False,
    )
    frames = opened(None, run=run)
    for reference in (request.calibration, request.frames):
        if not frames.generated and len(frames) >= LEAST_FRAMES:
            break
        if reference is not None:
            named = opened(reference)
            frames = named if frames.generated or len(named) > len(frames) else frames
    return frames


def _spread(segmenter: Segmenter, frames: Frames, watcher: Watcher) -> Iterator[np.ndarray]:
    """The camera's own frames uint8 (H, W, 3) BGR, in their order, as many as there is time for."""
    read = frames.original or (lambda i: frames.read(i)[0])
    times = []
    for _ in range(2):  # the first one warms up
        started = time.monotonic()
        segmenter.backend.infer(_blank(segmenter, read(0)))
        times.append(time.monotonic() - started)
    count = min(len(frames), max(LEAST_FRAMES, int(MOST_SECONDS / max(times[-1], 1e-6))))
    watcher.stage(_STAGE, 0, count)
    for done, i in enumerate(np.linspace(0, len(frames) - 1, count).round().astype(int).tolist(), 1):
        yield read(i)
        watcher.step(_STAGE, done, {})


def _blank(segmenter: Segmenter, frame: np.ndarray) -> np.ndarray:
    batch = segmenter.backend.batch or max(1, segmenter.backend.least_batch)
    return np.zeros((batch, *segmenter.input_size(*frame.shape[:2]), 3), np.uint8)


def _add(best: Trial, workshop: Workshop, text: str) -> None:
    engine = workshop.engine(best.candidate) if best.candidate.backend == "tensorrt" else None
    model = onnx.load(best.path)
    model.metadata_props.add(key=KEY, value=text)
    write_bytes(best.path, model.SerializeToString())
    if engine is not None:  # an engine is that of its ONNX file, known by its hash
        described = {**read_sidecar(engine.path), KEY: text, ONNX_SHA256: sha256(best.path)}
        write_json(engine.sidecar, described)
