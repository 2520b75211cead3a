"""An ONNX Runtime session on the CPU whose outputs land in memory that is used again.

`InferenceSession.run` makes new arrays for what it gives, every time. Through an I/O binding it writes where
it is told to (https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..buffers import empty
from .signature import INPUT_NAME


class PooledRun:
    """A session that reads frames where they lie and writes into arrays of `buffers`.

    One thread at a time. Raises what onnxruntime raises.
    """

    def __init__(self, session: Any, output_names: Sequence[str]) -> None:
        self._session, self._output_names = session, list(output_names)
        self._binding = session.io_binding()
        self._shape: tuple[int, ...] | None = None
        self._outputs: list[tuple[tuple[int, ...], np.dtype[Any]]] = []
        """Shape and type of each output for frames of that shape."""

    def run(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """What the session gives for contiguous frames uint8 (N, H, W, 3), by output name."""
        if frames.shape != self._shape:
            # How large the outputs are, the first run of a size tells.
            outputs = self._session.run(self._output_names, {INPUT_NAME: frames})
            self._shape, self._outputs = frames.shape, [(one.shape, one.dtype) for one in outputs]
        else:
            outputs = [empty(shape, dtype) for shape, dtype in self._outputs]
            self._bind(frames, outputs)
            self._session.run_with_iobinding(self._binding)
        return dict(zip(self._output_names, outputs, strict=True))

    def _bind(self, frames: np.ndarray, outputs: list[np.ndarray]) -> None:
        bind_input, bind_output = self._binding.bind_input, self._binding.bind_output
        bind_input(INPUT_NAME, "cpu", 0, frames.dtype, frames.shape, frames.ctypes.data)
        for name, array in zip(self._output_names, outputs, strict=True):
            bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
