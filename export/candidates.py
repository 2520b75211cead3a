"""Which kinds of file, and which library to run them with, an export chooses from."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from cpsl_deploy.backends.gpu import nvidia_gpu_count
from cpsl_deploy.bench.variant_files import variant_name


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A kind of file and what runs it."""

    precision: str = "fp32"
    """Of the file, as in its contract."""
    scheme: str = "cpu"
    """Of an INT8 file: "cpu" (uint8 activations) or "tensorrt" (symmetric int8). In files for TensorRT, of
    every precision, channels stay joined."""
    backend: str = "onnxruntime"
    device: str = "cpu"
    backend_precision: str | None = None
    """What OpenVINO computes in; None elsewhere, where the file says it."""

    @property
    def name(self) -> str:
        """For tables: ``int8 onnxruntime``, ``fp32 openvino bf16``."""
        symmetric = self.precision == "int8" and self.scheme == "tensorrt"
        kind = "int8 symmetric" if symmetric else self.precision
        return variant_name(kind, self.backend, self.device, self.backend_precision)

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
    openvino = importlib.util.find_spec("openvino") is not None
    gpu = nvidia_gpu_count() > 0
    tensorrt = gpu and importlib.util.find_spec("tensorrt") is not None
    return [
        candidate
        for candidate in every_candidate()
        if (openvino or candidate.backend != "openvino")
        and (gpu or candidate.device == "cpu")
        and (tensorrt or candidate.backend != "tensorrt")
    ]


def every_candidate() -> list[Candidate]:
    """What some machine can run, in the order of `candidates_here`."""
    return [
        *(Candidate(precision=precision) for precision in ("fp32", "int8")),
        *(
            Candidate(precision=precision, backend="openvino", backend_precision=hint)
            for precision, hint in (("fp32", "f32"), ("int8", "f32"), ("fp32", "bf16"), ("int8", "bf16"))
        ),
        *(
            Candidate(precision=precision, backend=backend, device="cuda")
            for backend in ("onnxruntime", "onnxruntime-tensorrt")
            for precision in ("fp32", "fp16")
        ),
        *(
            Candidate(precision=precision, scheme="tensorrt", backend="tensorrt", device="cuda")
            for precision in ("fp32", "fp16", "int8")
        ),
    ]
