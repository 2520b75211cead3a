"""A model file opened for use: frames in, label maps out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from .backends import ENGINE_SUFFIXES, Backend, open_backend
from .backends.base import INFERENCE
from .buffers import empty
from .classes import ClassSpace
from .contract import COLOUR_ORDERS, CONFIDENCE, LABELS, LOGITS
from .errors import InputError, ModelFileError
from .overlay import blend, draw_legend, shares
from .spec import ModelSpec

PIXEL_TOLERANCE = 0.03
"""A frame whose number of pixels differs by no more than this from the model's is not resized."""
SIDE_MULTIPLE = 8
"""Sides of resized frames are multiples of this many pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What the model says of one frame."""

    labels: np.ndarray
    """uint8 (H, W) at the frame's size: index into ``classes``."""
    classes: ClassSpace
    timings_ms: dict[str, float]
    """Wall-clock milliseconds. ``pre``: checks, resizing, colour order; ``inference``: the model, with
    normalisation, upsampling and argmax; ``post``: labels back to the frame's size, and before that the
    argmax if the file gives logits alone. In a batch each frame has its share of pre and inference. Where
    `Segmenter.infer` timed them apart, ``host_to_device`` and ``device_to_host`` are not in ``inference``."""
    frame: np.ndarray
    """The frame given, uint8 (H, W, 3). It is not copied: draw the overlay before reusing its memory."""
    colour_order: str
    """"BGR" or "RGB", of ``frame``."""
    confidence: np.ndarray | None = None
    """uint8 (H, W) at the frame's size: probability of each label, 255 for 1. None if the file gives none."""
    logits: np.ndarray | None = None
    """float32 (classes, h, w) at the network's stride. None if the file gives none."""

    @property
    def latency_ms(self) -> float:
        """Sum of the timings."""
        return sum(self.timings_ms.values())

    def areas(self) -> dict[str, float]:
        """Share of the frame's pixels per class, 0..1, for every class of the model."""
        return dict(zip(self.classes.names, shares(self.labels, self.classes).tolist(), strict=True))

    def mask(self, name: str) -> np.ndarray:
        """Where the class is: bool (H, W). Raises InputError for an unknown name."""
        return self.labels == self.classes.index(name)

    def overlay(
        self, opacity: float = 0.5, legend: bool = True, *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """The frame under the classes' colours as a BGR image uint8 (H, W, 3), ``out`` or a new one.

        ``opacity``: 0 shows the frame alone, 1 the colours alone; other values raise InputError.
        ``legend``: names and colours of the classes present, in the top left corner. ``out``: of the frame's
        shape, contiguous and not the frame itself, else InputError is raised; it is returned.
        """
        frame = self.frame
        if self.colour_order != "BGR":
            frame = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR, dst=empty(frame.shape))
        image = blend(frame, self.labels, self.classes, opacity, out=out)
        if legend:
            draw_legend(image, self.labels, self.classes)
        return image


def _no_buffer() -> np.ndarray:
    return np.empty((0, 0, 3), np.uint8)


@dataclass(eq=False)
class FrameBuffers:
    """Memory that `Segmenter.prepare` writes into, uint8 (h, w, 3), and replaces when the size changes."""

    resized: np.ndarray = field(default_factory=_no_buffer)
    swapped: np.ndarray = field(default_factory=_no_buffer)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A frame as the file takes it."""

    frame: np.ndarray
    """As it was given."""
    colour_order: str
    """Of ``frame``."""
    image: np.ndarray
    """uint8 (h, w, 3), of the size and colour order that the file takes; perhaps ``frame`` itself."""
    pre_s: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Inferred:
    """What the file gave for one frame."""

    prepared: Prepared
    outputs: dict[str, np.ndarray]
    """By the names of `contract.OUTPUTS`, without the batch's axis."""
    pre_s: float
    inference_s: float
    """The frame's share of the inference, without ``transfers_s``."""
    transfers_s: dict[str, float] = field(default_factory=dict)
    """The frame's share of ``host_to_device`` and ``device_to_host``, where they were timed apart."""


class Segmenter:
    """An opened model. Use it in a ``with`` block or call `close`; one thread at a time."""

    def __init__(self, backend: Backend, origin: str) -> None:
        """Take over an opened backend. ``origin`` names the file in errors."""
        self.spec = backend.spec
        self.classes = self.spec.classes
        self.contract = backend.contract
        self.backend = backend
        self.origin = origin
        self._buffers = FrameBuffers()

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels at which a frame of the given size is given to the file.

        A static file's own size; the frame's size itself for a file that resizes inside; else `runtime_size`.
        Each side is brought into what an engine's profile allows.
        """
        if self.backend.static_size is not None:
            return self.backend.static_size
        resizes = self.contract.network_size is not None
        size = (height, width) if resizes else runtime_size(self.spec, height, width)
        if self.backend.size_limits is None:
            return size
        least, most = self.backend.size_limits
        return min(max(size[0], least[0]), most[0]), min(max(size[1], least[1]), most[1])

    def predict(self, frame: np.ndarray, *, colour_order: str = "BGR") -> Prediction:
        """Segment one frame, uint8 (H, W, 3) of any size.

        ``colour_order``: of the frame, "BGR" (as OpenCV reads) or "RGB".
        Raises InputError if the frame or the colour order breaks a rule.
        """
        prepared = self.prepare(frame, colour_order=colour_order, buffers=self._buffers)
        return self.finish(*self.infer([prepared]))

    def predict_batch(self, frames: Sequence[np.ndarray], *, colour_order: str = "BGR") -> list[Prediction]:
        """Segment frames, uint8 (H, W, 3) all of one size, in their order.

        A file with a free batch runs them in one inference, one for single frames one by one; another file
        takes as many frames as its batch says. ``colour_order``: as of `predict`.
        Raises InputError if the frames, their number or the colour order break a rule.
        """
        for frame in frames:
            _check_frame(frame, colour_order)
        sizes = {frame.shape[:2] for frame in frames}
        if len(sizes) > 1:
            raise InputError(f"the frames of a batch have one size; got {', '.join(map(str, sorted(sizes)))}")
        wanted = self.backend.batch
        if wanted not in (None, 1, len(frames)):
            raise InputError(
                f"{self.origin} takes {wanted} frames at a time, no more and no less; got {len(frames)}. "
                "Give that many, or export the model with a free batch"
            )
        if wanted == 1 or len(frames) < 2:
            return [self.predict(frame, colour_order=colour_order) for frame in frames]
        prepared = [self.prepare(f, colour_order=colour_order, buffers=FrameBuffers()) for f in frames]
        return [self.finish(one) for one in self.infer(prepared)]

    def prepare(
        self, frame: np.ndarray, *, colour_order: str = "BGR", buffers: FrameBuffers | None = None
    ) -> Prepared:
        """The first of the three steps of `predict`, for those who run the steps side by side.

        `prepare`, `infer` and `finish` may each have a thread of its own. ``buffers`` are written into and
        must not be given to another `prepare` before `infer` returned; without them memory is allocated.
        Arguments and errors are those of `predict`.
        """
        started = time.perf_counter()
        _check_frame(frame, colour_order)
        size = self.input_size(*frame.shape[:2])
        image = self._as_input(frame, size, colour_order, buffers or FrameBuffers())
        return Prepared(
            frame=frame, colour_order=colour_order, image=image, pre_s=time.perf_counter() - started
        )

    def infer(self, prepared: Sequence[Prepared], *, timed: bool = False) -> list[Inferred]:
        """The second step: what the file gives for one or more frames prepared to one size, in one inference.

        ``timed``: for benchmarks, with the transfers to and from a device timed apart from the inference,
        which costs a little; see `Backend.infer_timed`.
        Raises InputError if the file does not take so many frames, or they differ in size.
        """
        if self.backend.batch not in (None, len(prepared)):
            raise InputError(
                f"{self.origin} takes {self.backend.batch} frames at a time; give them to predict_batch, or "
                "export the model with a batch of one"
            )
        started = time.perf_counter()
        # One frame is a view: nothing is copied.
        batch = prepared[0].image[None] if len(prepared) == 1 else _stacked([p.image for p in prepared])
        stacked = time.perf_counter()
        transfers_ms: dict[str, float] = {}
        if timed:
            outputs, transfers_ms = self.backend.infer_timed(batch)
            transfers_ms = {part: ms for part, ms in transfers_ms.items() if part != INFERENCE}
        else:
            outputs = self.backend.infer(batch)
        whole_s = time.perf_counter() - stacked
        transfers_s = {part: ms / 1e3 / len(prepared) for part, ms in transfers_ms.items()}
        stack_s = (stacked - started) / len(prepared)
        return [
            Inferred(
                prepared=one,
                outputs={name: array[index] for name, array in outputs.items()},
                pre_s=one.pre_s + stack_s,
                inference_s=whole_s / len(prepared) - sum(transfers_s.values()),
                transfers_s=transfers_s,
            )
            for index, one in enumerate(prepared)
        ]

    def finish(self, inferred: Inferred) -> Prediction:
        """The last step: labels at the frame's size from what the file gave."""
        started = time.perf_counter()
        one, frame = dict(inferred.outputs), inferred.prepared.frame
        size = inferred.prepared.image.shape[:2]
        if LABELS not in one:
            one[LABELS] = self.backend.labels_of(one[LOGITS], size)
        for name in (LABELS, CONFIDENCE):
            if name in one and one[name].shape != frame.shape[:2]:
                one[name] = self._at_frame_size(one[name], size, frame.shape[:2])
        timings = {
            "pre": 1e3 * inferred.pre_s,
            **{part: 1e3 * seconds for part, seconds in inferred.transfers_s.items()},
            "inference": 1e3 * inferred.inference_s,
            "post": 1e3 * (time.perf_counter() - started),
        }
        return Prediction(
            labels=one[LABELS],
            classes=self.classes,
            timings_ms=timings,
            frame=frame,
            colour_order=inferred.prepared.colour_order,
            confidence=one.get(CONFIDENCE),
            logits=one.get(LOGITS),
        )

    def _at_frame_size(
        self, values: np.ndarray, size: tuple[int, int], frame_size: tuple[int, int]
    ) -> np.ndarray:
        """Labels or confidence, given for an image of ``size``, for the pixels of the frame: the nearest."""
        if not self.spec.align_corners or values.shape == size:
            resized = empty(frame_size, values.dtype)
            return cv2.resize(values, frame_size[::-1], dst=resized, interpolation=cv2.INTER_NEAREST_EXACT)
        # The first and the last value lie on the first and the last pixel of the image, not a half in.
        rows, columns = (
            _nearest_aligned(few, side, wanted)
            for few, side, wanted in zip(values.shape, size, frame_size, strict=True)
        )
        return values[rows[:, None], columns]

    def _as_input(
        self, frame: np.ndarray, size: tuple[int, int], colour_order: str, buffers: FrameBuffers
    ) -> np.ndarray:
        """The frame as the file takes it: the frame itself if nothing is to do, else one of the buffers."""
        if frame.shape[:2] != size:
            shrinks = size[0] * size[1] < frame.shape[0] * frame.shape[1]
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            buffers.resized = _buffer_of(buffers.resized, size)
            frame = cv2.resize(frame, size[::-1], dst=buffers.resized, interpolation=method)
        if colour_order != self.contract.colour_order:
            buffers.swapped = _buffer_of(buffers.swapped, size)
            frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=buffers.swapped)
        return frame

    def describe(self) -> dict[str, Any]:
        """The backend's description and the model's, ready for JSON."""
        return {
            **self.backend.describe(),
            "choice": self.backend.choice,
            "model": self.origin,
            "architecture": self.spec.architecture,
            "size": list(self.backend.static_size or self.contract.network_size or self.spec.size),
            "static": self.backend.static_size is not None,
            "outputs": list(self.contract.outputs),
            "output_stride": self.contract.output_stride,
            "classes": len(self.classes),
        }

    def close(self) -> None:
        """Free what the backend holds. Closing twice is fine."""
        self.backend.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def load(
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    whole_graph: bool = False,
) -> Segmenter:
    """Open a model file (``.onnx``, ``.engine``, ``.plan``) or the run folder that holds one ``model.onnx``.

    ``backend``: "onnxruntime", "onnxruntime-tensorrt", "openvino", "tensorrt", or "auto": tensorrt for
    engines; for ONNX files the fastest on this machine of the ways that passed the export's accuracy gate,
    measured at the first start and remembered, and onnxruntime if the file names none, or if a ``device`` or
    ``precision`` is given. Of a run folder it may take ``model.NAME.onnx`` beside ``model.onnx``, such as
    INT8 of the same weights; what is opened is told in the log and by `Segmenter.describe`. ``device``: "cpu"
    or "cuda"; None is the GPU for an engine and for onnxruntime-tensorrt, else the CPU. ``threads``: CPU
    threads of one inference; None leaves it to the library. ``precision``: in which OpenVINO computes, "f32"
    (None), "bf16" or "f16"; the other backends compute in the precision of the file. ``whole_graph``: labels
    are those of the file's own graph, as in other runtimes ("auto" is onnxruntime then); on a CPU they are
    otherwise made of its logits outside the graph: the same but for ties, and faster.

    Raises ModelFileError if the file is missing, damaged or not one of this project, UnavailableError if the
    device or the precision cannot really be used, MissingExtraError (it names the pip command) if the library
    is not installed, InputError for other values of the arguments.
    """
    model = find_model(path)
    others = sorted(model.parent.glob("model.*.onnx")) if Path(path).is_dir() else ()
    opened = open_backend(
        model,
        backend=backend,
        device=device,
        threads=threads,
        precision=precision,
        others=others,
        whole_graph=whole_graph,
    )
    return Segmenter(opened, opened.origin)


def find_model(path: str | os.PathLike[str]) -> Path:
    """The model file itself, or the one ``model.onnx`` in a run folder or in one of its folders.

    Raises ModelFileError if a folder has none or several. A path that is no folder is returned as it is.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = sorted([*path.glob("model.onnx"), *path.glob("*/model.onnx")])
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelFileError(
            f"the folder {path} has several models; name one of them: {', '.join(str(f) for f in found)}"
        )
    engines = [str(f) for f in sorted(path.iterdir()) if f.suffix in ENGINE_SUFFIXES]
    hint = f"It has {', '.join(engines)}: name that file. " if engines else ""
    raise ModelFileError(f"the folder {path} has no model.onnx. {hint}Make one with: cpsl-export {path}")


def labels_of(segmenter: Segmenter, frame: np.ndarray, *, colour_order: str = "BGR") -> np.ndarray:
    """Labels uint8 (H, W) of one frame uint8 (H, W, 3), whatever number of frames the file takes: one that
    takes several gets the frame as often. Raises InputError as `Segmenter.predict`."""
    count = segmenter.backend.batch or segmenter.backend.least_batch
    if count == 1:
        return segmenter.predict(frame, colour_order=colour_order).labels
    frames = [frame] * count
    return segmenter.predict_batch(frames, colour_order=colour_order)[0].labels


def runtime_size(spec: ModelSpec, height: int, width: int) -> tuple[int, int]:
    """(height, width) in pixels at which a frame of the given size is given to a file with free sizes.

    The frame's shape with as many pixels as ``spec.size`` and sides that are multiples of `SIDE_MULTIPLE`, or
    the frame's size itself within `PIXEL_TOLERANCE` of that.
    """
    ratio = spec.size[0] * spec.size[1] / (height * width)
    if abs(ratio - 1) <= PIXEL_TOLERANCE:
        return height, width
    scale = math.sqrt(ratio)
    least = math.ceil(max(spec.stride, SIDE_MULTIPLE) / SIDE_MULTIPLE)
    rows, columns = (max(least, round(side * scale / SIDE_MULTIPLE)) for side in (height, width))
    return rows * SIDE_MULTIPLE, columns * SIDE_MULTIPLE


def _buffer_of(buffer: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return buffer if buffer.shape[:2] == size else np.empty((*size, 3), np.uint8)


def _stacked(images: list[np.ndarray]) -> np.ndarray:
    """(N, h, w, 3). Raises InputError if they differ in size."""
    if len({image.shape for image in images}) > 1:
        raise InputError(
            f"frames of one inference have one size; got {', '.join(str(one.shape) for one in images)}. "
            "Infer those of each size together"
        )
    return np.stack(images, out=empty((len(images), *images[0].shape)))


def _nearest_aligned(few: int, side: int, wanted: int) -> np.ndarray:
    """int64 (wanted,): which of ``few`` values, aligned with the corners of an image ``side`` pixels long, is
    nearest to each pixel of a frame ``wanted`` pixels long that was resized to that image."""
    at = (np.arange(wanted) + 0.5) * (side / wanted) - 0.5
    scale = (few - 1) / (side - 1) if side > 1 else 0.0
    return np.clip(np.rint(at * scale), 0, few - 1).astype(np.int64)


def _check_frame(frame: np.ndarray, colour_order: str) -> None:
    if colour_order not in COLOUR_ORDERS:
        raise InputError(f"a colour order is {' or '.join(COLOUR_ORDERS)}; got {colour_order!r}")
    if not isinstance(frame, np.ndarray):
        raise InputError(f"a frame is a NumPy array uint8 (H, W, 3); got {type(frame).__name__}")
    if frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.size:
        return
    remedy = ""
    if frame.dtype != np.uint8:
        remedy = " Convert it: for values from 0 to 1, (255 * frame).round().astype(np.uint8)"
    elif frame.ndim == 2:
        remedy = " Convert it: cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)"
    elif frame.ndim == 3 and frame.shape[2] == 4:
        remedy = " Drop the alpha channel: frame[..., :3]"
    raise InputError(f"a frame is uint8 (H, W, 3) and not empty; got {frame.dtype} {frame.shape}.{remedy}")
