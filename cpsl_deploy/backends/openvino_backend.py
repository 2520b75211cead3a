"""ONNX files on Intel and other x86 CPUs by OpenVINO (optional extra ``openvino``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..buffers import empty
from ..contract import LOGITS
from ..errors import InputError, MissingExtraError, ModelFileError, UnavailableError
from . import OPENVINO_PRECISIONS
from .base import Backend
from .cpu_threads import inference_threads
from .onnx_file import read_onnx_metadata
from .signature import Ports


class OpenVinoBackend(Backend):
    """OpenVINO on the CPU.

    Left to itself OpenVINO computes in bf16 where the CPU has it, which is faster and changes about 1 % of
    the labels. Here f32 is asked for explicitly unless the caller chooses otherwise, and a precision that
    OpenVINO replaces by another one, as it does with f16 on CPUs without it, is an error.
    """

    name = "openvino"

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: str = "f32",
        whole_graph: bool = False,
    ) -> None:
        """Open an ONNX file. ``precision``: one of `OPENVINO_PRECISIONS`. See `open_backend` for the other
        arguments and errors."""
        if precision not in OPENVINO_PRECISIONS:
            raise InputError(f"an OpenVINO precision is {', '.join(OPENVINO_PRECISIONS)}; got {precision!r}")
        if device != "cpu":
            raise UnavailableError(
                f"openvino runs on the CPU here; for device {device!r} use --backend onnxruntime"
            )
        self.describe_file(str(path), read_onnx_metadata(path))
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", "openvino", f"running {path.name} with OpenVINO") from error

        self.device = device
        self._version = openvino.get_version()
        core = openvino.Core()
        properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        if (count := inference_threads(threads)) is not None:
            properties["INFERENCE_NUM_THREADS"] = count
        try:
            model = core.read_model(self.prefer_labels_outside(path, allowed=not whole_graph) or path)
            inputs, outputs = _ports(model.inputs), _ports(model.outputs)
            self.check_ports(inputs, outputs)
            compiled = core.compile_model(model, "CPU", properties)
        # What OpenVINO throws comes as RuntimeError, and names that are not UTF-8 as ValueError.
        except (RuntimeError, ValueError, TypeError, MemoryError, OverflowError) as error:
            raise ModelFileError(
                f"{path} is not a usable ONNX file, or damaged ({_last_line(error)}). Export it again: "
                "cpsl-export RUN"
            ) from error
        self._threads = compiled.get_property("INFERENCE_NUM_THREADS")
        self._precision = _require_really(compiled, precision)
        wanted = (LOGITS,) if self.labels_outside else self.contract.outputs
        self._order = [(name, list(outputs).index(name)) for name in wanted]
        self._request = compiled.create_infer_request()

    def infer_impl(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        try:
            results = self._request.infer([frames], share_inputs=True, share_outputs=True)
        except (RuntimeError, MemoryError) as error:
            raise ModelFileError(
                f"{self.origin} cannot be run on frames {frames.shape} ({_last_line(error)}). The file is "
                "damaged or not for this size; export it again: cpsl-export RUN"
            ) from error
        # The frames are read in place; the results are views of the request's own buffers, hence the copies.
        outputs = {name: empty(results[index].shape, results[index].dtype) for name, index in self._order}
        for name, index in self._order:
            np.copyto(outputs[name], results[index])
        return outputs

    def describe(self) -> dict[str, Any]:
        return {
            "backend": self.name,
            "version": self._version,
            "device": self.device,
            "threads": self._threads,
            "precision": self._precision,
            "labels_outside": self.labels_outside,
        }

    def close(self) -> None:
        super().close()
        self._request = None


def _require_really(compiled: Any, precision: str) -> str:
    """The precision in which a compiled model computes. Raises UnavailableError if it, or the device, is
    another one than was asked for."""
    devices = list(compiled.get_property("EXECUTION_DEVICES"))
    got = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if devices != ["CPU"] or got != precision:
        raise UnavailableError(
            f"OpenVINO was asked for {precision} on the CPU and would compute in {got} on "
            f"{', '.join(devices)}: this machine does not have what was asked for. Use --precision "
            f"{got if got in OPENVINO_PRECISIONS else 'f32'}"
        )
    return got


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _ports(ports: Any) -> Ports:
    described: Ports = {}
    for port in ports:
        shape = tuple(side.get_length() if side.is_static else None for side in port.partial_shape)
        described[port.any_name] = (port.element_type.to_dtype().name, shape)
    return described
