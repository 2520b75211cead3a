"""Results as sinks get them, made by hand."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cpsl_deploy.classes import ClassSpace
from cpsl_deploy.segmenter import Prediction
from cpsl_deploy.sources.base import Frame
from cpsl_deploy.streams.result import StreamResult

CLASSES = ClassSpace(names=("road", "sky"), palette=((128, 64, 128), (70, 130, 180)))


def make_result(
    index: int = 0,
    *,
    time_s: float | None = None,
    source: str = "cam",
    name: str | None = None,
    size: tuple[int, int] = (48, 64),
    grey: int | None = None,
    suffix: str = "",
    captured_s: float | None = None,
    noise: bool = False,
) -> StreamResult:
    """A frame of one grey (20 * index, wrapped), its left half road and its right half sky."""
    image = np.full((*size, 3), (20 * index) % 256 if grey is None else grey, np.uint8)
    if noise:
        image = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = np.zeros(size, np.uint8)
    labels[:, size[1] // 2 :] = 1
    frame = Frame(
        source=source,
        index=index,
        name=name or f"{source}-{index:06d}",
        image=image,
        captured_s=time.monotonic() if captured_s is None else captured_s,
        time_s=time_s,
        suffix=suffix,
    )
    timings = {"pre": 1.0, "inference": 6.0, "post": 0.5}
    prediction = Prediction(
        labels=labels, classes=CLASSES, timings_ms=timings, frame=image, colour_order="BGR"
    )
    return StreamResult(frame=frame, prediction=prediction, age_ms=12.5)


def wait_until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Until the condition holds; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.005)


def open_files() -> set[str]:
    """What this process has open, but for pseudo-terminals and the like."""
    found = set()
    for handle in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{handle}:{os.readlink(f'/proc/self/fd/{handle}')}")
        except OSError:  # the folder itself
            continue
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fails if the block leaves a thread or an open file behind."""
    threads, files = set(threading.enumerate()), open_files()
    yield
    wait_until(lambda: set(threading.enumerate()) <= threads)
    wait_until(lambda: open_files() <= files)


def visible(folder: Path) -> list[str]:
    """Names under a folder, the hidden ones too, relative and sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
