"""Which image of a set is shown at which position of a run."""

from __future__ import annotations

import threading

import numpy as np


class Sampler:
    """Which image is shown at a position of the run.

    Evenly: a new permutation every epoch. With ``pixels`` (n, C) and a temperature above 0, a class first
    (see ``recipe.Data.rare_class_temperature``), then one of the images that have at least 50 pixels of it.
    """

    def __init__(
        self, length: int, seed: int, *, pixels: np.ndarray | None = None, temperature: float = 0.0
    ) -> None:
        self.length, self.seed = length, seed
        self._of_class: list[np.ndarray] = []
        if pixels is not None and temperature > 0:
            share = pixels.sum(axis=0) / pixels.sum()
            members = [np.flatnonzero(column >= 50) for column in pixels.T]
            weight = np.exp((1 - share) / temperature) * [len(m) > 0 for m in members]
            self._of_class, self._probability = members, weight / weight.sum()
        self._epoch, self._order = -1, np.empty(0, int)
        self._lock = threading.Lock()

    def index(self, position: int) -> int:
        if self._of_class:
            rng = np.random.default_rng([self.seed, 7, position])
            return int(rng.choice(self._of_class[rng.choice(len(self._of_class), p=self._probability)]))
        epoch, place = divmod(position, self.length)
        with self._lock:
            if epoch != self._epoch:
                self._epoch, self._order = (
                    epoch,
                    np.random.default_rng([self.seed, 3, epoch]).permutation(self.length),
                )
            return int(self._order[place])
