"""Which kinds of file, and which library to run them with, an export chooses from."""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass

from cpsl_deploy.backends.gpu import nvidia_gpu_count
from cpsl_deploy.contract import LABELS, LOGITS, Contract


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A kind of file and what runs it."""

    precision: str = "fp32"
    """Of the file, as in its contract."""
    scheme: str = "cpu"
    """Of an INT8 file: "cpu" (uint8 activations) or "tensorrt" (symmetric int8)."""
    logits_only: bool = False
    """The file ends with logits, and the runtime makes the labels of them."""
    backend: str = "onnxruntime"
    device: str = "cpu"
    backend_precision: str | None = None
    """What OpenVINO computes in; None elsewhere, where the file says it."""

    @property
    def name(self) -> str:
        """For tables: ``int8 onnxruntime``, ``fp32 openvino bf16``, ``fp32 logits onnxruntime``."""
        parts = (
            self.precision,
            "symmetric" if self.precision == "int8" and self.scheme == "tensorrt" else "",
            "logits" if self.logits_only else "",
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
            "backend": self.backend if self.backend == "openvino" else None,
            "device": self.device if self.backend == "onnxruntime" and self.device != "cpu" else None,
            "precision": self.backend_precision,
        }
        return " ".join(f"--{key} {value}" for key, value in options.items() if value)


YARDSTICK = Candidate()
"""What speeds are told as a ratio to: the float32 file in onnxruntime on the CPU."""


def candidates_here(contract: Contract) -> list[Candidate]:
    """What this machine can run of a file with the wanted contract, the yardstick first.

    fp16 is for GPUs: onnxruntime on a CPU computes it by way of float32.
    """
    logits = (False, True) if contract.outputs == (LABELS,) and contract.output_stride == 1 else (False,)
    found = [Candidate(logits_only=only, precision=p) for p in ("fp32", "int8") for only in logits]
    if importlib.util.find_spec("openvino"):
        found += [
            Candidate(logits_only=only, precision=p, backend="openvino", backend_precision=hint)
            for p, hint in (("fp32", "f32"), ("fp32", "bf16"), ("int8", "f32"), ("int8", "bf16"))
            for only in logits
        ]
    if nvidia_gpu_count():
        found += [Candidate(precision=p, device="cuda") for p in ("fp32", "fp16")]
        if importlib.util.find_spec("tensorrt"):
            found += [
                Candidate(precision=p, scheme="tensorrt", backend="tensorrt", device="cuda")
                for p in ("fp32", "fp16", "int8")
            ]
    return found


def contract_of(candidate: Candidate, wanted: Contract) -> Contract:
    """The contract of the candidate's file, where ``wanted`` leaves it the choice."""
    outputs = (LOGITS,) if candidate.logits_only else wanted.outputs
    return dataclasses.replace(wanted, outputs=outputs, precision=candidate.precision)
