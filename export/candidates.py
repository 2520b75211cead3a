"""Which kinds of file, and which library to run them with, an export chooses from."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from cpsl_deploy.backends.gpu import nvidia_gpu_count


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A kind of file and what runs it."""

    precision: str = "fp32"
    """Of the file, as in its contract."""
    scheme: str = "cpu"
    """Of an INT8 file: "cpu" (uint8 activations) or "tensorrt" (symmetric int8)."""
    backend: str = "onnxruntime"
    device: str = "cpu"
    backend_precision: str | None = None
    """What OpenVINO computes in; None elsewhere, where the file says it."""

    @property
    def name(self) -> str:
        """For tables: ``int8 onnxruntime``, ``fp32 openvino bf16``."""
        parts = (
            self.precision,
            "symmetric" if self.precision == "int8" and self.scheme == "tensorrt" else "",
            self.backend,
            "" if self.device == "cpu" else self.device,
            self.backend_precision or "",
        )
        return " ".join(part for part in parts if part)

    @property
    def arguments(self) -> str:
        """What makes ``cpsl-run`` and ``cpsl-bench`` run the file this way; empty for their own choice."""
        options = {
            # An engine is a file of its own, which says by itself what runs it.
            "backend": self.backend if self.backend not in ("onnxruntime", "tensorrt") else None,
            "device": self.device if self.backend == "onnxruntime" and self.device != "cpu" else None,
            "precision": self.backend_precision,
        }
        return " ".join(f"--{key} {value}" for key, value in options.items() if value)


YARDSTICK = Candidate()
"""What speeds are told as a ratio to: the float32 file in onnxruntime on the CPU."""


def candidates_here() -> list[Candidate]:
    """What this machine can run, the yardstick first and what needs more after what needs less.

    fp16 is for GPUs: onnxruntime on a CPU computes it by way of float32.
    """
    found = [Candidate(precision=precision) for precision in ("fp32", "int8")]
    if importlib.util.find_spec("openvino"):
        found += [
            Candidate(precision=precision, backend="openvino", backend_precision=hint)
            for precision, hint in (("fp32", "f32"), ("int8", "f32"), ("fp32", "bf16"), ("int8", "bf16"))
        ]
    if nvidia_gpu_count():
        found += [Candidate(precision=precision, device="cuda") for precision in ("fp32", "fp16")]
        found += [
            Candidate(precision=precision, backend="onnxruntime-tensorrt", device="cuda")
            for precision in ("fp32", "fp16")
        ]
        if importlib.util.find_spec("tensorrt"):
            found += [
                Candidate(precision=precision, scheme="tensorrt", backend="tensorrt", device="cuda")
                for precision in ("fp32", "fp16", "int8")
            ]
    return found
