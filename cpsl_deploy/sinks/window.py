"""A window with the overlays, where the installed OpenCV can open one."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

import cv2

from ..errors import UnavailableError
from ..streams.result import StreamResult
from .base import Sink


def window_available() -> bool:
    """Whether OpenCV was built with windows, and there is a screen to show them on."""
    found = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    if found is None or found[1].upper() == "NONE":
        return False
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


class WindowSink(Sink):
    """One window for each source, with its overlay. Keys q and Escape, or closing it, call ``on_quit``.

    ``opacity``, ``legend``: see `Prediction.overlay`.
    """

    name = "window"

    def __init__(
        self, *, opacity: float = 0.5, legend: bool = True, on_quit: Callable[[], object] = lambda: None
    ) -> None:
        self._opacity, self._legend, self._on_quit = opacity, legend, on_quit
        self._titles: set[str] = set()

    def check(self) -> None:
        """Raise UnavailableError without windows."""
        if not window_available():
            raise UnavailableError(
                "the installed OpenCV has no windows, or there is no screen. Install opencv-python in place "
                "of opencv-python-headless, or look at the preview: --preview 127.0.0.1:8080"
            )

    def write(self, result: StreamResult) -> None:
        title = f"cpsl: {result.source}"
        if title in self._titles and cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1:
            self._on_quit()
            return
        if title not in self._titles:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            self._titles.add(title)
        cv2.imshow(title, result.overlay(self._opacity, self._legend))
        if cv2.waitKey(1) & 0xFF in (ord("q"), 27):
            self._on_quit()

    def close(self) -> None:
        if self._titles:
            cv2.destroyAllWindows()
            self._titles.clear()

    def abort(self) -> None:
        self.close()
