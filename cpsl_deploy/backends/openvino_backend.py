"""ONNX files on Intel and other x86 CPUs by OpenVINO (optional extra ``openvino``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, MissingExtraError, ModelFileError, UnavailableError
from .base import Backend, check_signature

PRECISIONS = ("f32", "bf16", "f16")


class OpenVinoBackend(Backend):
    """OpenVINO on the CPU.

    Left to itself OpenVINO computes in bf16 where the CPU has it, which is faster and changes about 1 % of
    the labels. Here f32 is asked for explicitly unless the caller chooses otherwise.
    """

    name = "openvino"

    def __init__(
        self, path: Path, *, device: str = "cpu", threads: int | None = None, precision: str = "f32"
    ) -> None:
        """Open an ONNX file. ``precision``: one of `PRECISIONS`. See `open_backend` for the other arguments
        and errors."""
        if precision not in PRECISIONS:
            raise InputError(f"an OpenVINO precision is {', '.join(PRECISIONS)}; got {precision!r}")
        if device != "cpu":
            raise UnavailableError(
                f"openvino runs on the CPU here; for device {device!r} use --backend onnxruntime"
            )
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", "openvino", f"running {path.name} with OpenVINO") from error

        self.device = device
        self._version = openvino.get_version()
        core = openvino.Core()
        properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(path)
            compiled = core.compile_model(model, "CPU", properties)
        except RuntimeError as error:
            reason = [line for line in str(error).splitlines() if line.strip()][-1]
            raise ModelFileError(
                f"{path} is not a usable ONNX file, or damaged ({reason}). Export it again: cpsl-export RUN"
            ) from error
        self._threads = compiled.get_property("INFERENCE_NUM_THREADS")
        self._precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.metadata = _metadata(model)
        self.static_size = check_signature(str(path), _ports(model.inputs), _ports(model.outputs))
        self._request = compiled.create_infer_request()

    def infer_impl(self, frame: np.ndarray) -> np.ndarray:
        # The frame is read in place; the result is a view of the request's own buffer, hence the copy.
        return self._request.infer([frame], share_inputs=True, share_outputs=True)[0].copy()

    def describe(self) -> dict[str, Any]:
        return {
            "backend": self.name,
            "version": self._version,
            "device": self.device,
            "threads": self._threads,
            "precision": self._precision,
        }

    def close(self) -> None:
        super().close()
        self._request = None


def _metadata(model: Any) -> dict[str, str]:
    """The ONNX file's metadata, which OpenVINO keeps as "framework" in its run-time information."""
    if not model.has_rt_info("framework"):
        return {}
    return {
        key: str(getattr(value, "value", value))
        for key, value in model.get_rt_info("framework").value.items()
    }


def _ports(ports: Any) -> dict[str, tuple[str, tuple[Any, ...]]]:
    described = {}
    for port in ports:
        shape = tuple(side.get_length() if side.is_static else None for side in port.partial_shape)
        data_type = port.element_type.to_dtype().name
        described[port.any_name] = (data_type, shape)
    return described
