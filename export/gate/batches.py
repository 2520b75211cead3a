"""A file asked as its users ask it: several different frames at once, where it takes several.

A file that mixes up the frames of a batch gives one frame, repeated, the right labels at every place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cpsl_deploy.backends import Backend
from cpsl_deploy.segmenter import Segmenter

SAME = 0.99
"""Share of a frame's labels that must be the same at every place of a batch: the arithmetic is."""


def frames_at_once(backend: Backend) -> int:
    """The file's fixed batch; of a free one two, or as near to that as the backend takes."""
    if backend.batch is not None:
        return backend.batch
    return max(backend.least_batch, min(2, backend.most_batch or 2))


def in_batches(images: Iterable[np.ndarray], count: int) -> Iterator[list[np.ndarray]]:
    """``images`` uint8 (H, W, 3) in their order, up to ``count`` of one size together."""
    for _, alike in itertools.groupby(images, key=lambda image: image.shape):
        while batch := list(itertools.islice(alike, count)):
            yield batch


def filled(batch: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """A batch that is too small with its frames repeated, in their order."""
    return [batch[place % len(batch)] for place in range(count)]


class Asked:
    """An opened file that is asked for the labels of frames in full batches."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.at_once = frames_at_once(segmenter.backend)
        self.least_same = 1.0
        """Least share of equal labels among the places at which one frame was in a batch, so far."""

    def labels(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """uint8 (H, W) of each image uint8 (H, W, 3) BGR, in their order."""
        for batch in in_batches(images, self.at_once):
            answers = self._segmenter.predict_batch(filled(batch, self.at_once))
            for place, again in enumerate(answers[len(batch) :]):
                first = answers[place % len(batch)]
                self.least_same = min(self.least_same, float((first.labels == again.labels).mean()))
            for answer in answers[: len(batch)]:
                yield answer.labels

    @property
    def broken(self) -> list[str]:
        """Rules that are broken by where a frame is in its batch, as sentences without a full stop."""
        if self.least_same >= SAME:
            return []
        return [
            f"a frame's labels may not depend on its place in a batch of {self.at_once}, and between two "
            f"places {self.least_same:.2%} of them are the same"
        ]
