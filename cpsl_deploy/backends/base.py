"""What every backend is: a checked `infer` over a small `infer_impl`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np

from ..buffers import empty
from ..contract import CONFIDENCE, LABELS, LOGITS, Contract
from ..dense_argmax import labels_from_logits
from ..errors import InputError, ModelFileError
from ..spec import ModelSpec
from .graph_cut import up_to_logits
from .signature import INPUT_NAME, Description, Ports, check_class_count, check_signature

__all__ = ["DEVICE_TO_HOST", "HOST_TO_DEVICE", "INFERENCE", "INPUT_NAME", "Backend"]

HOST_TO_DEVICE, INFERENCE, DEVICE_TO_HOST = "host_to_device", "inference", "device_to_host"
"""The parts of an inference that `Backend.infer_timed` tells apart."""


class Backend(ABC):
    """Runs one opened model file. Use it in a ``with`` block or call `close`.

    An object serves one thread at a time. Subclasses call `describe_file` before they give the file to their
    library and `check_ports` after, set ``device``, and write `infer_impl`.
    """

    name: ClassVar[str]
    """Of the library, as `open_backend` takes it."""
    device: str
    """What really runs the model: "cpu" or "cuda"."""
    origin: str
    """The file, for errors."""
    metadata: dict[str, str]
    """Key to text, as written into the file by the export."""
    spec: ModelSpec
    contract: Contract
    static_size: tuple[int, int] | None
    """(height, width) in pixels if the file takes no other size."""
    batch: int | None
    """Frames that one inference takes; None if any number."""
    size_limits: tuple[tuple[int, int], tuple[int, int]] | None = None
    """Least and largest (height, width) in pixels that the file takes; None if any."""
    least_batch: int = 1
    """Fewest frames that one inference takes, where ``batch`` leaves their number free."""
    most_batch: int | None = None
    """Most frames that one inference takes, where ``batch`` leaves their number free; None if any."""
    labels_outside = False
    """Whether the library gives logits where the file gives labels, which are then made of them here."""
    choice: str | None = None
    """Why it was chosen, in words, where it was chosen by measuring; see `fastest`."""
    _closed = False

    def describe_file(self, origin: str, metadata: dict[str, str]) -> None:
        """Take over a file's metadata. Raises ModelFileError if they miss something or are damaged."""
        described = Description.from_metadata(metadata, origin)
        self.origin, self.metadata = origin, metadata
        self.spec, self.contract = described.spec, described.contract

    def check_ports(self, inputs: Ports, outputs: Ports) -> None:
        """Take over what sizes the file takes. Raises ModelFileError if it is not what its metadata say."""
        given = replace(self.contract, outputs=(LOGITS,)) if self.labels_outside else self.contract
        described = Description(spec=self.spec, contract=given)
        signature = check_signature(self.origin, described, inputs, outputs)
        self.static_size, self.batch = signature.size, signature.batch

    def infer(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """What the model gives for frames uint8 (N, H, W, 3), by the names of `contract.OUTPUTS`.

        The channels are in the order the file's metadata state. ``labels`` and ``confidence`` are uint8
        (N, ceil(H/s), ceil(W/s)) for the contract's output stride s, ``logits`` float32 (N, classes, h, w).
        The arrays are the caller's: no later call writes into them.

        Raises InputError if the frames break a rule or the backend is closed, ModelFileError if what comes
        out is not what the file's metadata promise.
        """
        self._check_frames(frames)
        outputs = self.infer_impl(np.ascontiguousarray(frames))
        self._check_outputs(outputs, frames.shape)
        return self._with_labels(outputs, frames.shape) if self.labels_outside else outputs

    def infer_timed(self, frames: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """`infer`, and the wall-clock milliseconds of its parts.

        A device with memory of its own is synchronised between ``host_to_device``, ``inference`` and
        ``device_to_host``, so that each has its own time: a little slower than `infer`, which waits once, at
        the end. One that computes in the host's memory has ``inference`` alone. The parts add up to the
        whole: the checks of frames and outputs are in ``inference``. Raises what `infer` does.
        """
        started_ns = time.perf_counter_ns()
        self._check_frames(frames)
        outputs, transfers_ms = self.infer_timed_impl(np.ascontiguousarray(frames))
        self._check_outputs(outputs, frames.shape)
        if self.labels_outside:
            outputs = self._with_labels(outputs, frames.shape)
        whole_ms = (time.perf_counter_ns() - started_ns) / 1e6
        return outputs, {**transfers_ms, INFERENCE: whole_ms - sum(transfers_ms.values())}

    def _check_frames(self, frames: np.ndarray) -> None:
        if self._closed:
            raise InputError(f"this {self.name} backend is closed; open the model again")
        if frames.dtype != np.uint8 or frames.ndim != 4 or not frames.size or frames.shape[3] != 3:
            raise InputError(
                f"a backend takes uint8 frames of shape (N, H, W, 3), not empty; got {frames.dtype} "
                f"{frames.shape}"
            )
        if self.static_size is not None and frames.shape[1:3] != self.static_size:
            raise InputError(
                f"this model takes frames of {_size_text(self.static_size)} only; got "
                f"{_size_text(frames.shape[1:3])}. Resize them, or export the model without a static size"
            )
        if self.batch is not None and len(frames) != self.batch:
            raise InputError(
                f"this model takes {self.batch} frames at a time, no more and no less; got {len(frames)}. "
                "Give that many, or export the model with a free batch"
            )

    def _check_outputs(self, outputs: dict[str, np.ndarray], shape: tuple[int, ...]) -> None:
        stride, classes = self.contract.output_stride, len(self.spec.class_names)
        dense = (shape[0], -(-shape[1] // stride), -(-shape[2] // stride))
        for name in (LABELS, CONFIDENCE):
            array = outputs.get(name)
            if array is not None and (array.dtype != np.uint8 or array.shape != dense):
                raise ModelFileError(
                    f"{self.origin}: {name} of frames {shape} are uint8 {dense}; this file gave "
                    f"{array.dtype} {array.shape}. Export it again: cpsl-export RUN"
                )
        labels = outputs.get(LABELS)
        if labels is not None and (highest := int(labels.max())) >= classes:
            raise ModelFileError(
                f"{self.origin} gave the label {highest} and its spec names {classes} classes, 0 to "
                f"{classes - 1}. The two are not of one model; export it again: cpsl-export RUN"
            )
        logits = outputs.get(LOGITS)
        if logits is not None:
            if logits.dtype != np.float32 or logits.ndim != 4 or len(logits) != shape[0] or not logits.size:
                raise ModelFileError(
                    f"{self.origin}: logits are float32 (N, classes, h, w); this file gave {logits.dtype} "
                    f"{logits.shape} for {shape[0]} frames. Export it again: cpsl-export RUN"
                )
            check_class_count(self.origin, logits.shape[1], self.spec)

    def prefer_labels_outside(self, path: Path, allowed: bool) -> bytes | None:
        """The model to open instead of the ONNX file ``path``, which ends at the logits; None to open the
        file itself, as always where this is not ``allowed``. For backends on the CPU; call it after
        `describe_file`.

        Labels are made in the graph where they are of the logits' size, and for a file that gives
        confidence, which needs every logit of the frame.
        """
        wanted = self.contract.outputs
        has_dense_labels = LABELS in wanted and self.contract.output_stride < self.spec.stride
        if not allowed or not has_dense_labels or CONFIDENCE in wanted:
            return None
        model = up_to_logits(path)
        self.labels_outside = model is not None
        return model

    def labels_of(self, logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Labels uint8 of logits float32 (classes, h, w), for frames of ``size`` = (height, width) as the
        file takes them, at the contract's output stride. Raises ModelFileError for logits that are not
        finite."""
        stride = self.contract.output_stride
        dense = -(-size[0] // stride), -(-size[1] // stride)
        try:
            return labels_from_logits(logits, dense, align_corners=self.spec.align_corners)
        except InputError as error:
            raise ModelFileError(f"{self.origin}: {error}. Export it again: cpsl-export RUN") from error

    def _with_labels(self, outputs: dict[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """As the contract has them, of frames of a shape (N, H, W, 3)."""
        each = [self.labels_of(logits, (shape[1], shape[2])) for logits in outputs[LOGITS]]
        labels = each[0][None] if len(each) == 1 else np.stack(each, out=empty((len(each), *each[0].shape)))
        return {LABELS: labels, **(outputs if LOGITS in self.contract.outputs else {})}

    @abstractmethod
    def infer_impl(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """As `infer`, for frames that are checked and contiguous; logits alone if ``labels_outside``."""

    def infer_timed_impl(self, frames: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """As `infer_impl`, and the milliseconds of the two transfers; none without a memory of its own."""
        return self.infer_impl(frames), {}

    def synchronise(self) -> None:  # noqa: B027  # most devices have nothing to wait for
        """Wait until the device has done all that it was given. Nothing is left after `infer`, so that this
        returns at once; it is there to prove that."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Backend, version, device, precision and settings, ready for JSON."""

    def close(self) -> None:
        """Free what the backend holds. Closing twice is fine."""
        self._closed = True

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _size_text(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]} (height x width)"
