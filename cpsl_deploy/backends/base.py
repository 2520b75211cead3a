"""What every backend is: a checked `infer` over a small `infer_impl`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError, ModelFileError

INPUT_NAME = "image"
OUTPUT_NAME = "labels"


class Backend(ABC):
    """Runs one opened model file. Use it in a ``with`` block or call `close`.

    An object serves one thread at a time. Subclasses set the attributes below and write `infer_impl`.
    """

    name: ClassVar[str]
    """Of the library, as `open_backend` takes it."""
    device: str
    """What really runs the model: "cpu" or "cuda"."""
    metadata: dict[str, str]
    """Key to text, as written into the file by the export."""
    static_size: tuple[int, int] | None
    """(height, width) in pixels if the file takes no other size."""
    _closed = False

    def infer(self, frame: np.ndarray) -> np.ndarray:
        """Labels uint8 (1, H, W) of a frame uint8 (1, H, W, 3).

        The frame's channels are in the order the file's metadata states. The labels are the caller's: no
        later call writes into them. Raises InputError if the frame breaks a rule or the backend is closed.
        """
        if self._closed:
            raise InputError(f"this {self.name} backend is closed; open the model again")
        if frame.dtype != np.uint8 or frame.ndim != 4 or frame.shape[0] != 1 or frame.shape[3] != 3:
            raise InputError(
                f"a backend takes uint8 frames of shape (1, H, W, 3); got {frame.dtype} {frame.shape}"
            )
        if self.static_size is not None and frame.shape[1:3] != self.static_size:
            raise InputError(
                f"this model takes frames of {_size_text(self.static_size)} only; got "
                f"{_size_text(frame.shape[1:3])}. Resize them, or export the model without a static size"
            )
        labels = self.infer_impl(np.ascontiguousarray(frame))
        if labels.dtype != np.uint8 or labels.shape != frame.shape[:3]:
            raise ModelFileError(
                f"a model's labels are uint8 of the frame's size {frame.shape[:3]}; this one gave "
                f"{labels.dtype} {labels.shape}. Export it again with cpsl-export"
            )
        return labels

    @abstractmethod
    def infer_impl(self, frame: np.ndarray) -> np.ndarray:
        """As `infer`, for a frame that is checked and contiguous."""

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


def check_signature(
    origin: str,
    inputs: dict[str, tuple[str, tuple[Any, ...]]],
    outputs: dict[str, tuple[str, tuple[Any, ...]]],
) -> tuple[int, int] | None:
    """The static (height, width) of a model file, or None if both are free.

    ``inputs`` and ``outputs``: name -> (data type as "uint8", shape with anything but an int for a free
    side). Raises ModelFileError unless there is one input ``image`` uint8 (1, H, W, 3) and one output
    ``labels`` uint8 (1, H, W).
    """
    rule = (
        f"{origin} is not a model of this project: one has an input {INPUT_NAME!r} uint8 (1, H, W, 3) and an "
        f"output {OUTPUT_NAME!r} uint8 (1, H, W). Make one with: cpsl-export RUN"
    )
    if list(inputs) != [INPUT_NAME] or list(outputs) != [OUTPUT_NAME]:
        raise ModelFileError(f"{rule}. This file has inputs {sorted(inputs)} and outputs {sorted(outputs)}")
    input_type, shape = inputs[INPUT_NAME]
    output_type, _ = outputs[OUTPUT_NAME]
    if (input_type, output_type) != ("uint8", "uint8") or len(shape) != 4 or shape[3] != 3:
        raise ModelFileError(f"{rule}. This file takes {input_type} {shape} and gives {output_type}")
    sides = [side if isinstance(side, int) and side > 0 else None for side in shape[1:3]]
    if sides[0] is None and sides[1] is None:
        return None
    if sides[0] is None or sides[1] is None:
        raise ModelFileError(
            f"{origin} has one free side and one fixed: {shape}. Export it again, all fixed or all free"
        )
    return sides[0], sides[1]


def _size_text(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]} (height x width)"
