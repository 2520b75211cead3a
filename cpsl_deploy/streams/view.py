"""How the model is shown a frame and what becomes of its answer: whole, a region, tiles, smoothed in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..segmenter import FrameBuffers, Inferred, Prediction, Prepared, Segmenter
from ..sources.base import Frame, InputLimits
from .batching import batch_that_pays
from .region import Region
from .smoothing import Smoother, Smoothing
from .tiling import InferredTiles, PreparedTiles, Tiler, Tiling


@dataclass(frozen=True, eq=False)
class Shown:
    """A frame as the model will see it."""

    image: np.ndarray
    """The whole frame, uint8 (H, W, 3) BGR."""
    prepared: Prepared | PreparedTiles

    @property
    def size(self) -> tuple[int, ...]:
        """Frames of one size can be inferred together."""
        whole = isinstance(self.prepared, Prepared)
        return self.prepared.image.shape if whole else self.prepared.frame.shape  # type: ignore[union-attr]


@dataclass(frozen=True, eq=False)
class Answer:
    """What the file gave for a frame."""

    image: np.ndarray
    inferred: Inferred | InferredTiles


class View:
    """Raises UnavailableError if the file does not give what tiling or smoothing needs, InputError if the
    region can never be looked at.

    `prepare`, `infer` and `finish` may each have a thread of its own: they share no state. So may several
    `infer`, each with a segmenter of its own.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        region: Region | None = None,
        tiling: Tiling | None = None,
        smoothing: Smoothing | None = None,
        limits: InputLimits | None = None,
    ) -> None:
        self.segmenter = segmenter
        self._limits = limits or InputLimits()
        self._region, self._smoothing = region, smoothing
        self._tiler = Tiler(segmenter, tiling) if tiling is not None else None
        self._smoothers: dict[str, Smoother] = {}
        if region is not None:
            region.check(self._limits)
        if smoothing is not None:
            smoothing.check(segmenter.contract.outputs)

    def batch(self, wanted: int | None, *, sources: int, warm_up: bool) -> int:
        """Frames of one inference at most. ``wanted`` None: as many as sources if a measurement finds that
        faster. ``warm_up``: run the model once even if there is nothing to measure."""
        if self._tiler is not None:
            return 1
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

    def prepare(self, image: np.ndarray, buffers: FrameBuffers) -> Shown:
        """An image uint8 (H, W, 3) BGR as the file takes it.

        Raises InputError for one that cannot be looked at in this way: it is counted and skipped.
        """
        part = image if self._region is None else self._region.view(image, self._limits)
        if self._tiler is not None:
            return Shown(image, self._tiler.prepare(part))
        return Shown(image, self.segmenter.prepare(part, buffers=buffers))

    def infer(self, shown: Sequence[Shown], segmenter: Segmenter) -> list[Answer]:
        """What the file gives for frames of one size. A file that takes more frames at a time than these is
        filled up with the last one, and that answer is thrown away.

        ``segmenter``: the view's, or another one of the same file; tiles are always given to the view's."""
        if self._tiler is not None:
            return [Answer(one.image, self._tiler.infer(one.prepared)) for one in shown]  # type: ignore[arg-type]
        backend = segmenter.backend
        missing = (backend.batch or backend.least_batch) - len(shown)
        prepared: list[Prepared] = [one.prepared for one in shown]  # type: ignore[misc]
        inferred = segmenter.infer([*prepared, *[prepared[-1]] * missing])
        return [Answer(one.image, answer) for one, answer in zip(shown, inferred, strict=False)]

    def finish(self, frame: Frame, answer: Answer) -> Prediction:
        """Labels at the frame's size. Raises DataError for a frame that cannot be looked at in this way."""
        if isinstance(answer.inferred, Inferred):
            prediction = self.segmenter.finish(answer.inferred)
        else:
            assert self._tiler is not None
            prediction = self._tiler.finish(answer.inferred)
        if self._smoothing is not None:
            smoother = self._smoothers.get(frame.source)
            if smoother is None:
                smoother = self._smoothing.start(align_corners=self.segmenter.spec.align_corners)
                self._smoothers[frame.source] = smoother
            prediction = smoother.apply(prediction, frame.index, frame.time_s)
        return prediction if self._region is None else self._region.place(prediction, answer.image)
