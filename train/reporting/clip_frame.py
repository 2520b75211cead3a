"""One frame of the before/after clip: two pictures side by side, captions above, the classes below."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from cpsl_deploy.classes import ClassSpace
from cpsl_deploy.overlay import blend

from .figures import DPI, new_figure, plain

_NARROWEST, _WIDEST = 320, 960
"""Pixels of one picture: below, captions do not fit; above, players shrink the clip again."""
_GAP = 6
_OPACITY = 0.55
_GROUND, _INK, _DIM = "#181818", "#f2f2f2", "#a8a8a8"


class ClipFrame:
    """Draws frames of one size. ``size``: (height, width) in pixels of the footage."""

    def __init__(self, size: tuple[int, int], titles: tuple[str, str], classes: ClassSpace) -> None:
        width = min(max(size[1], _NARROWEST), _WIDEST) // 2 * 2
        self.picture_size = (round(size[0] * width / size[1]) // 2 * 2, width)
        """(height, width) in pixels of one of the two pictures: both even, as video codecs want it."""
        self._titles, self._classes = titles, classes
        self._letter = max(11.0, width / 48)
        self._width = 2 * width + _GAP
        self._bar = round(2.2 * self._letter) // 2 * 2
        self._legend = self._draw_legend()
        self._caption = lru_cache(maxsize=4)(self._draw_caption)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of a drawn frame."""
        return self._bar + self.picture_size[0] + self._legend.shape[0], self._width

    def draw(self, image: np.ndarray, labels: tuple[np.ndarray, np.ndarray], when: str) -> np.ndarray:
        """A BGR frame (*size, 3) uint8, of one of the footage (H, W, 3) and labels (*picture_size) uint8
        before and after. ``when``: what the caption says of the time.
        """
        height, width = self.picture_size
        method = cv2.INTER_AREA if image.shape[1] > width else cv2.INTER_LINEAR
        fitted = cv2.resize(image, (width, height), interpolation=method)
        frame = np.full((*self.size, 3), 24, np.uint8)
        frame[: self._bar] = self._caption(when)
        for left, found in zip((0, width + _GAP), labels, strict=True):
            frame[self._bar : self._bar + height, left : left + width] = blend(
                fitted, found, self._classes, _OPACITY
            )
        frame[self._bar + height :] = self._legend
        return frame

    def _draw_caption(self, when: str) -> np.ndarray:
        right = self.picture_size[1] + _GAP
        margin, y = 0.6 * self._letter, self._bar / 2
        texts = [
            _Text(margin, y, self._titles[0], weight="bold"),
            _Text(right - _GAP - margin, y, when, align="right", colour=_DIM),
            _Text(right + margin, y, self._titles[1], weight="bold"),
            _Text(self._width - margin, y, "never trained on", align="right", colour=_DIM),
        ]
        return _text_bar((self._bar, self._width), texts, self._letter)

    def _draw_legend(self) -> np.ndarray:
        """Swatches and names in as many rows as they need."""
        letter, line = 0.9 * self._letter, 1.9 * self._letter
        x, y = 0.6 * letter, 0.7 * line
        texts: list[_Text] = []
        swatches: list[tuple[int, int, tuple[int, int, int]]] = []
        for name, colour in zip(self._classes.names, self._classes.palette, strict=True):
            wide = 1.6 * letter + 0.66 * letter * len(name) + 1.2 * letter
            if x + wide > self._width and texts:
                x, y = 0.6 * letter, y + line
            swatches.append((round(x), round(y), colour))
            texts.append(_Text(x + 1.7 * letter, y, name))
            x += wide
        bar = _text_bar((round(y + 0.7 * line) // 2 * 2, self._width), texts, letter)
        half = round(0.5 * letter)
        for left, middle, (red, green, blue) in swatches:
            corners = (left, middle - half), (left + round(1.25 * letter), middle + half)
            cv2.rectangle(bar, *corners, (blue, green, red), cv2.FILLED)
            cv2.rectangle(bar, *corners, (150, 150, 150), 1)
        return bar


@dataclass(frozen=True)
class _Text:
    """A word on a bar; x and y in pixels from the top left."""

    x: float
    y: float
    text: str
    align: Literal["left", "right"] = "left"
    colour: str = _INK
    weight: str = "normal"


def _text_bar(size: tuple[int, int], texts: list[_Text], letter: float) -> np.ndarray:
    """A BGR picture (*size, 3) uint8 of texts whose letters are ``letter`` pixels high."""
    height, width = size
    figure = new_figure(width / DPI, height / DPI)
    figure.set_facecolor(_GROUND)
    for text in texts:
        figure.text(
            text.x / width,
            1 - text.y / height,
            plain(text.text),
            ha=text.align,
            va="center_baseline",
            color=text.colour,
            fontweight=text.weight,
            fontsize=letter * 72 / DPI,
        )
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[:height, :width, 2::-1]  # type: ignore[attr-defined]
    bar = np.full((height, width, 3), 24, np.uint8)
    bar[: drawn.shape[0], : drawn.shape[1]] = drawn
    return bar
