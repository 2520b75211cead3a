"""What a model file says it is best run with, on the machine that it was chosen for."""

from __future__ import annotations

from dataclasses import dataclass

METADATA_KEY = "run_with"
RUNNABLE = ("onnxruntime", "onnxruntime-tensorrt", "openvino")
"""Libraries that a file can prefer."""
_DEVICES = ("cpu", "cuda")
_PRECISIONS = ("-", "f32", "bf16", "f16")


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A library, its device, and for OpenVINO what it computes in."""

    backend: str
    device: str
    precision: str | None

    def to_metadata(self) -> dict[str, str]:
        """Under one key, three words."""
        return {METADATA_KEY: f"{self.backend} {self.device} {self.precision or '-'}"}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> Preference | None:
        """None where the file states none, or none that is known here: then there is nothing to prefer."""
        words = metadata.get(METADATA_KEY, "").split(" ")
        if len(words) != 3 or words[0] not in RUNNABLE or words[1] not in _DEVICES:
            return None
        if words[2] not in _PRECISIONS:
            return None
        return cls(backend=words[0], device=words[1], precision=None if words[2] == "-" else words[2])
