"""An ONNX Runtime session run with its transfers apart, through an I/O binding.

`InferenceSession.run` copies to the device, computes and copies back in one call. Here the input is copied
into memory of the device before, the outputs stay there until the computation is over, and each step waits
for the device (https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import DEVICE_TO_HOST, HOST_TO_DEVICE
from .signature import INPUT_NAME


class BoundRun:
    """A session with its input and outputs in the memory of ``device``, "cuda" or "cpu".

    Raises what onnxruntime raises.
    """

    def __init__(self, session: Any, output_names: Sequence[str], device: str) -> None:
        self._session, self._output_names, self._device = session, tuple(output_names), device
        self._binding = session.io_binding()
        self._image: Any = None

    def run(self, frames: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """What the session gives for uint8 (N, H, W, 3), by output name, and the milliseconds of the two
        transfers."""
        started_ns = time.perf_counter_ns()
        self._upload(frames)
        uploaded_ns = time.perf_counter_ns()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        executed_ns = time.perf_counter_ns()
        outputs = self._binding.copy_outputs_to_cpu()
        downloaded_ns = time.perf_counter_ns()
        return dict(zip(self._output_names, outputs, strict=True)), {
            HOST_TO_DEVICE: (uploaded_ns - started_ns) / 1e6,
            DEVICE_TO_HOST: (downloaded_ns - executed_ns) / 1e6,
        }

    def synchronise(self) -> None:
        """Wait for the providers that the session's outputs come from."""
        self._binding.synchronize_outputs()

    def _upload(self, frames: np.ndarray) -> None:
        if self._image is None or tuple(self._image.shape()) != frames.shape:
            self._bind(frames.shape)
        self._image.update_inplace(frames)
        self._binding.synchronize_inputs()

    def _bind(self, shape: tuple[int, ...]) -> None:
        from onnxruntime import OrtValue

        self._image = OrtValue.ortvalue_from_shape_and_type(list(shape), np.uint8, self._device, 0)
        self._binding.bind_ortvalue_input(INPUT_NAME, self._image)
        # Anew, because an output keeps the memory of the first run, which has that run's size.
        for name in self._output_names:
            self._binding.bind_output(name, self._device, 0)
