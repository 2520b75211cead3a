"""Backends for tests of benchmarks: how long they take, and whether they wait for their work, is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from cpsl_deploy.backends.base import DEVICE_TO_HOST, HOST_TO_DEVICE, Backend
from cpsl_deploy.bench.frames import EncodedFrame
from cpsl_deploy.contract import Contract
from cpsl_deploy.segmenter import Segmenter
from cpsl_deploy.spec import ModelSpec

SIZE = (16, 24)
"""Frames of this size are given to the backends as they are."""

SPEC = ModelSpec(
    architecture="known",
    class_names=("road", "sky", "tree", "car"),
    palette=((128, 64, 128), (70, 130, 180), (107, 142, 35), (0, 0, 142)),
    size=SIZE,
    stride=1,
    provenance={"source": "by hand"},
)


class KnownBackend(Backend):
    """Labels are the frame's first channel modulo the classes, after ``seconds``. What it was given is kept:
    the first value of each batch in ``seen``, the shapes in ``shapes``."""

    name = "known"
    device = "cpu"
    origin = "known.onnx"

    def __init__(self, seconds: float = 0.0, *, batch: int | None = 1) -> None:
        self.spec, self.contract, self.metadata = SPEC, Contract(), {}
        self.static_size, self.batch = None, batch
        self.seconds = seconds
        self.seen: list[int] = []
        self.shapes: list[tuple[int, ...]] = []

    def infer_impl(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        self.seen.append(int(frames[0, 0, 0, 0]))
        self.shapes.append(frames.shape)
        if self.seconds:
            time.sleep(self.seconds)
        return {"labels": self.labels_of(frames)}

    def labels_of(self, frames: np.ndarray) -> np.ndarray:
        return frames[..., 0] % len(self.spec.class_names)

    def describe(self) -> dict[str, object]:
        return {"backend": self.name, "device": self.device}


class DeviceBackend(KnownBackend):
    """A device with memory of its own: the copies take ``copy_s`` each."""

    name = "device"
    copy_s = 0.002

    def infer_timed_impl(self, frames: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        time.sleep(self.copy_s)
        outputs = self.infer_impl(frames)
        time.sleep(2 * self.copy_s)
        return outputs, {HOST_TO_DEVICE: 1e3 * self.copy_s, DEVICE_TO_HOST: 2e3 * self.copy_s}


class LateBackend(KnownBackend):
    """Returns at once and finishes in a thread, ``late_s`` later. ``waits``: whether `synchronise` waits for
    it. ``blank``: whether the labels are wrong until then, or already those that will be written."""

    name = "late"

    def __init__(self, late_s: float, *, waits: bool, blank: bool) -> None:
        super().__init__(batch=1)
        self.late_s, self.waits, self.blank = late_s, waits, blank
        self._work: list[threading.Thread] = []

    def infer_impl(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        labels = super().labels_of(frames)
        given = np.zeros_like(labels) if self.blank else labels.copy()
        self._start(lambda: np.copyto(given, labels))
        return {"labels": given}

    def _start(self, write: Callable[[], None]) -> None:
        thread = threading.Timer(self.late_s, write)
        thread.start()
        self._work.append(thread)

    def synchronise(self) -> None:
        if self.waits:
            self.finish()

    def finish(self) -> None:
        while self._work:
            self._work.pop().join()


class SharingBackend(KnownBackend):
    """Every inference writes into the array that the one before gave."""

    name = "sharing"
    _labels = np.empty(0, np.uint8)

    def labels_of(self, frames: np.ndarray) -> np.ndarray:
        labels = super().labels_of(frames)
        if self._labels.shape != labels.shape:
            self._labels = labels
        np.copyto(self._labels, labels)
        return self._labels


def segmenter_of(backend: Backend) -> Segmenter:
    return Segmenter(backend, backend.origin)


class GreyFrame(EncodedFrame):
    """One byte, which all pixels of the frame get."""

    def decode(self, encoded: bytes) -> np.ndarray:
        return grey(encoded[0])


def grey(value: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def grey_frames(*values: int) -> list[EncodedFrame]:
    return [GreyFrame(name=str(v), read=lambda v=v: bytes([v])) for v in values]
