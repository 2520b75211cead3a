"""How the model is shown a frame and what becomes of its answer: whole, a region, tiles, smoothed in time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..segmenter import FrameBuffers, Inferred, Prediction, Prepared, Segmenter
from ..sources.base import Frame
from .batching import batch_that_pays


class View:
    """Whole frames, each for itself.

    ``prepare`` and ``infer`` run in the engine's threads, ``finish`` in the caller's: they share no state.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def batch(self, wanted: int | None, *, sources: int, warm_up: bool) -> int:
        """Frames of one inference at most. ``wanted`` None: as many as sources if a measurement finds that
        faster. ``warm_up``: run the model once even if there is nothing to measure."""
        backend = self.segmenter.backend
        if backend.batch is not None:
            least = most = backend.batch
        else:
            least, most = max(1, backend.least_batch), backend.most_batch or 64
        candidate = max(least, min(sources if wanted is None else wanted, most))
        if wanted is not None:
            return candidate
        if candidate > least or warm_up:
            return batch_that_pays(self.segmenter, candidate)
        return least

    def prepare(self, image: np.ndarray, buffers: FrameBuffers) -> Prepared:
        """An image uint8 (H, W, 3) BGR as the file takes it.

        Raises InputError for one that cannot be looked at in this way: it is counted and skipped.
        """
        return self.segmenter.prepare(image, buffers=buffers)

    def infer(self, prepared: Sequence[Prepared]) -> Sequence[Inferred]:
        """What the file gives for frames of one size. A file that takes more frames at a time than these is
        filled up with the last one, and that answer is thrown away."""
        backend = self.segmenter.backend
        missing = (backend.batch or backend.least_batch) - len(prepared)
        return self.segmenter.infer([*prepared, *[prepared[-1]] * missing])[: len(prepared)]

    def finish(self, frame: Frame, inferred: Inferred) -> Prediction:
        """Labels at the frame's size."""
        return self.segmenter.finish(inferred)
