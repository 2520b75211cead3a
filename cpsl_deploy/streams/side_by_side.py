"""Two inferences at the same time, each with half of the cores: more frames a second of a file.

The threads of one inference wait for the slowest of them at every layer, and one is always late where decoder
and encoder take a core from it; two inferences wait for nobody. On two cores in ONNX Runtime the inference
alone gives 1.1 times the frames a second in fp32 and 1.6 times in INT8, and a whole run 1.2 and 1.5 times,
with the same labels. Each frame takes longer and the memory of an inference is needed twice: that is for
files, which are in no hurry, and not for cameras, where the newest frame counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..backends.cpu_threads import inference_threads, physical_cores
from ..segmenter import Segmenter, load
from ..sources.base import Feed
from .options import StreamOptions

AT_ONCE = 2
"""More would gain little and need their memory each."""
_LEAST_FRAMES = 16
"""A run that is known to have fewer is over before a model is opened again."""


def side_by_side(
    opened: Segmenter, feeds: Sequence[Feed], options: StreamOptions, *, threads: int | None
) -> list[Segmenter]:
    """``opened`` alone; or in its place, and it is closed, several of the same file with fewer threads each.

    Several for one source that is no live one, in ONNX Runtime on the CPU. One if ``threads``, tiles, batches
    or the policy ``latest`` were asked for. Raises what `load` raises.
    """
    cores = inference_threads(None) or physical_cores()
    backend = opened.backend
    suited = (backend.name, backend.device, backend.batch or 1) == ("onnxruntime", "cpu", 1)
    asked_otherwise = threads or options.tile or options.batch or options.policy == "latest"
    if not suited or asked_otherwise or cores < AT_ONCE or not _has_many_frames(feeds):
        return [opened]
    opened.close()
    several: list[Segmenter] = []
    try:
        for _ in range(AT_ONCE):
            several.append(load(backend.origin, backend=backend.name, device="cpu", threads=cores // AT_ONCE))
    except BaseException:
        for segmenter in several:
            segmenter.close()
        raise
    return several


def _has_many_frames(feeds: Sequence[Feed]) -> bool:
    if len(feeds) != 1 or feeds[0].live:
        return False
    return feeds[0].count is None or feeds[0].count >= _LEAST_FRAMES
