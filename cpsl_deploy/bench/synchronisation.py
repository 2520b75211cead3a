"""Proof that an inference is over when its call returns.

A GPU works beside the program that gives it work: who reads the clock before waiting for it measures how long
it takes to ask. Such a backend is refused before anything is timed, in two ways:

- right after the return, `Backend.synchronise` must have nothing to wait for;
- what was returned must be finished. It is copied right at the return and then overwritten with other values,
  which after `Backend.synchronise` and a pause must still be there. (To compare the copy with the array alone
  would let a backend pass that writes late into memory where the same labels lay from the frame before.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from ..backends import Backend
from ..errors import InputError, UnavailableError
from ..segmenter import Segmenter
from .clock import Stopwatch

CHECKED_FRAMES = 3
PAUSE_S = 0.5
"""Work that is silently left over is seen if it is done within this time."""
MOST_LEFT_MS = 0.2
"""To find out that nothing is left takes a GPU some hundredths of a millisecond."""
MOST_LEFT_SHARE = 0.05
"""Of the inference: more than that left over would be seen in a measurement."""


@dataclass(frozen=True, kw_only=True)
class Synchronisation:
    """What was found of a backend that is not refused."""

    checked_frames: int
    left_after_return_ms: float
    """Median time that waiting for the device took right after an inference had returned."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_synchronised(
    segmenter: Segmenter, frames: Sequence[np.ndarray], *, pause_s: float = PAUSE_S
) -> Synchronisation:
    """Check the backend of a segmenter on frames uint8 (H, W, 3) BGR; `CHECKED_FRAMES` are enough.

    Both ways to run it are checked, `Backend.infer` and, if a backend has its own, `Backend.infer_timed`.
    The first inference after loading should lie before: its time is another one.

    Raises UnavailableError for a backend that returns before its work is over, InputError for no frames.
    """
    if not frames:
        raise InputError("whether a device is synchronised is checked on frames; there are none.")
    backend = segmenter.backend
    count = backend.batch or backend.least_batch
    batches = [np.stack([segmenter.prepare(frame).image] * count) for frame in frames]
    left_ms = _time_left(backend, batches)
    _require_finished(backend, batches, pause_s)
    return Synchronisation(checked_frames=len(frames), left_after_return_ms=left_ms)


def _ways(backend: Backend) -> list[Callable[[np.ndarray], dict[str, np.ndarray]]]:
    own = type(backend).infer_timed_impl is not Backend.infer_timed_impl
    return [backend.infer, *([lambda frames: backend.infer_timed(frames)[0]] if own else [])]


def _time_left(backend: Backend, batches: Sequence[np.ndarray]) -> float:
    """Milliseconds, the median. Raises UnavailableError if they are too many."""
    left, took = [], []
    for infer in _ways(backend):
        for frames in batches:
            backend.synchronise()
            watch = Stopwatch()
            infer(frames)
            took.append(watch.lap())
            backend.synchronise()
            left.append(watch.lap())
    allowed = max(MOST_LEFT_MS, MOST_LEFT_SHARE * median(took))
    if median(left) > allowed:
        raise UnavailableError(
            f"{backend.name} returns before its device is done: an inference returned after "
            f"{median(took):.3f} ms and {median(left):.3f} ms were left to wait for, where {allowed:.3f} ms "
            "are allowed. Its times would be of asking, not of computing; have its infer wait for the device"
        )
    return median(left)


def _require_finished(backend: Backend, batches: Sequence[np.ndarray], pause_s: float) -> None:
    overwritten: list[tuple[str, np.ndarray, bytes]] = []
    for infer in _ways(backend):
        for frames in batches:
            for name, array in infer(frames).items():
                expected = np.ascontiguousarray(array).copy()
                if array.flags.writeable:
                    expected = (~expected.view(np.uint8)).view(array.dtype)  # nowhere what was there
                    np.copyto(array, expected)
                overwritten.append((name, array, expected.tobytes()))
    backend.synchronise()
    time.sleep(pause_s)
    changed = {name for name, array, expected in overwritten if array.tobytes() != expected}
    if changed:
        raise UnavailableError(
            f"{backend.name} still writes {', '.join(sorted(changed))} after its infer has returned: the "
            "device was not waited for, or a later inference writes into what an earlier one gave. Its times "
            "would be of asking, not of computing; have its infer wait for the device and return copies"
        )
