"""Ways of running a model file, and what a file says of those that it was tried with when it was exported."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

PREFERRED_KEY = "run_with"
PASSED_KEY = "passed_with"
RUNNABLE = ("onnxruntime", "onnxruntime-tensorrt", "openvino")
"""Libraries that a file can name."""
_DEVICES = ("cpu", "cuda")
_PRECISIONS = ("f32", "bf16", "f16")


@dataclass(frozen=True, kw_only=True)
class Way:
    """A library, its device, and for OpenVINO what it computes in."""

    backend: str
    device: str = "cpu"
    precision: str | None = None

    @property
    def words(self) -> str:
        """Three words, for a file's metadata."""
        return f"{self.backend} {self.device} {self.precision or '-'}"

    @property
    def name(self) -> str:
        """For people: ``onnxruntime``, ``openvino bf16``, ``onnxruntime cuda``."""
        device = None if self.device == "cpu" else self.device
        return " ".join(filter(None, (self.backend, device, self.precision)))

    @classmethod
    def of_words(cls, text: str) -> Way | None:
        """None for words that are not known here."""
        words = text.split(" ")
        if len(words) != 3 or words[0] not in RUNNABLE or words[1] not in _DEVICES:
            return None
        precision = None if words[2] == "-" else words[2]
        if precision is not None and (precision not in _PRECISIONS or words[0] != "openvino"):
            return None
        return cls(backend=words[0], device=words[1], precision=precision)


ONNXRUNTIME = Way(backend="onnxruntime")
_OPENVINO = Way(backend="openvino", precision="f32")


def preferred_way(metadata: dict[str, str]) -> Way | None:
    """The way that a file was chosen for. None where it states none, or none that is known here."""
    return Way.of_words(metadata.get(PREFERRED_KEY, ""))


def allowed_ways(metadata: dict[str, str]) -> tuple[Way, ...]:
    """The ways on the CPU that keep the accuracy that the file was exported with, exact ones first.

    They are those that passed the export's gate with the file. Of a float32 file those that compute in
    float32 always are: onnxruntime, and OpenVINO in f32. None for a file that does not say what passed.
    """
    if PASSED_KEY not in metadata:
        return ()
    exact = (ONNXRUNTIME, _OPENVINO) if metadata.get("precision") == "fp32" else ()
    passed = [Way.of_words(text) for text in metadata[PASSED_KEY].split(", ")]
    return tuple(dict.fromkeys((*exact, *(way for way in passed if way is not None and way.device == "cpu"))))


def is_installed(backend: str) -> bool:
    """Whether the library of `RUNNABLE` is there; it is not imported."""
    return importlib.util.find_spec(backend.partition("-")[0]) is not None


def ways_metadata(passed: tuple[Way, ...], preferred: Way | None = None) -> dict[str, str]:
    """What a file is given to say: what passed, and what it was chosen for if it was."""
    said = {PASSED_KEY: ", ".join(way.words for way in passed)}
    return said if preferred is None else {**said, PREFERRED_KEY: preferred.words}
