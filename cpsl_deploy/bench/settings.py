"""What is asked of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InputError

MOST = 10**7
"""Of anything that is counted: a typing error should not fill the memory."""
MOST_BATCH = 1024
MOST_PIXELS = 1 << 27
"""As of images that are read (`cpsl_deploy.sources.base.FILE_LIMITS`)."""
Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What was asked for. Raises InputError if a value breaks its rule."""

    data: str | None = None
    """Dataset reference; None for synthetic frames."""
    split: str | None = None
    """None for synthetic frames."""
    frames: int | None = None
    """Frames to measure, spread evenly over the split; the split is gone round again if it has fewer. Without
    a number every frame of the split is measured once, or a hundred synthetic ones."""
    warm_up: int | None = None
    """Frames run and discarded after the first one; None: until the latency is steady."""
    size: Size | None = None
    """Of synthetic frames; the model's own size without. Files are measured as they are."""
    backend: str = "auto"
    device: str | None = None
    """None is the CPU for an ONNX file and the GPU for an engine."""
    threads: int | None = None
    """Threads of one inference; None leaves the choice to the backend."""
    precision: str | None = None
    """In which OpenVINO computes; None is f32, and the file's own for the other backends."""
    cold_starts: int = 3
    """Fresh processes that load the model; 0 leaves them out."""
    throughput: bool = True
    """Whether the rate with overlapping stages is measured."""
    sweep_sizes: tuple[Size, ...] = ()
    """Of frames; with neither sizes nor batches there is no sweep."""
    sweep_batches: tuple[int, ...] = ()
    stream_fps: float = 25.0
    """Of a source, where ages in streams are measured."""
    stream_seconds: float = 5.0
    """For which one source is played to the model, and each trial of the search for the load; 0 leaves both
    out."""
    max_age_ms: float | None = None
    """The peak age that no more than a hundredth of the results may exceed: with it, how many streams the
    device carries is searched for."""
    boundary_pixels: int | None = 3
    """How far from a boundary still counts as on it; None leaves the boundary scores out."""
    variants: bool = False
    """Whether the model is measured in every library and precision that can be had."""
    roofline: bool = True
    """Whether the time is held against what the machine can do."""
    matrix_tflops: float | None = None
    """The device's rate of matrix products, 10^12 floating-point operations a second, if it is not to be
    measured."""
    copy_gbs: float | None = None
    """The device's rate of memory, 10^9 bytes read and written a second, if it is not to be measured."""
    sustain_minutes: float | None = None
    """Minutes without a pause, with the machine's sensors read."""

    def __post_init__(self) -> None:
        least = {
            "frames": 1,
            "warm_up": 0,
            "cold_starts": 0,
            "boundary_pixels": 1,
            "stream_seconds": 0,
        }
        for name, value in least.items():
            given = getattr(self, name)
            if given is not None and not value <= given < MOST:
                raise InputError(f"{_words(name)} is {value} or more, and below {MOST}; got {given}")
        for name in ("stream_fps", "max_age_ms", "matrix_tflops", "copy_gbs", "sustain_minutes"):
            given = getattr(self, name)
            if given is not None and not 0 < given < float("inf"):
                unit = " of minutes" if name == "sustain_minutes" else ""
                raise InputError(f"{_words(name)} is a number{unit} above 0; got {given}")
        if any(not 1 <= batch <= MOST_BATCH for batch in self.sweep_batches):
            raise InputError(
                f"a batch has 1 to {MOST_BATCH} frames; got {', '.join(map(str, self.sweep_batches))}"
            )
        for size in (*self.sweep_sizes, *([self.size] if self.size else [])):
            if size[0] * size[1] > MOST_PIXELS:
                raise InputError(
                    f"a frame has {MOST_PIXELS} pixels at most; got {size[0]}x{size[1]}. Make it smaller"
                )
        if self.max_age_ms is not None and self.max_age_ms <= 1000 / self.stream_fps:
            raise InputError(
                f"at {self.stream_fps:g} frames/s a result is {1000 / self.stream_fps:g} ms old before "
                f"the next one can come, and a peak age of {self.max_age_ms:g} ms was asked for. Raise "
                "max-age-ms or stream-fps"
            )
        if (self.matrix_tflops is None) != (self.copy_gbs is None):
            raise InputError(
                "matrix_tflops and copy_gbs are given together, or both are measured; got one of them"
            )
        if self.max_age_ms is not None and not self.stream_seconds:
            raise InputError(
                "a limit of the age is searched for in streams, and stream_seconds is 0. Give some seconds"
            )
        if self.split is not None and self.data is None:
            raise InputError(
                f"a split is a part of data, and none is given; got {self.split!r}. Name the data"
            )
        if self.size is not None and self.data is not None:
            raise InputError(
                "a size is for synthetic frames; a dataset's frames are measured as their files hold them. "
                "Give a size or data, not both."
            )


QUICK: dict[str, Any] = {
    "cold_starts": 0,
    "throughput": False,
    "stream_seconds": 0.0,
    "boundary_pixels": None,
    "roofline": False,
}
"""Settings that leave all but latency and accuracy out."""


def _words(name: str) -> str:
    return "sustain" if name == "sustain_minutes" else name.replace("_", "-")
