"""The window: told before a run begins whether there can be one."""

from __future__ import annotations

import cv2
import pytest

from cpsl_deploy.errors import UnavailableError
from cpsl_deploy.sinks.window import WindowSink, window_available


@pytest.mark.parametrize(
    ("built", "screen", "expected"),
    [("QT5", ":0", True), ("GTK3", "", False), ("NONE", ":0", False), (None, ":0", False)],
)
def test_a_window_needs_opencv_with_windows_and_a_screen(
    monkeypatch: pytest.MonkeyPatch, built: str | None, screen: str, expected: bool
) -> None:
    text = "General:\n  GUI:                         " + built + "\n  Media:\n" if built else "General:\n"
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: text)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert window_available() is expected
    if not expected:
        with pytest.raises(UnavailableError, match="--preview"):
            WindowSink().check()


def test_what_is_said_of_the_installed_opencv_is_true() -> None:
    if window_available():
        pytest.skip("needs an OpenCV without windows")
    WindowSink().close()
    if "headless" in cv2.__file__ or "GUI:                           NONE" in cv2.getBuildInformation():
        with pytest.raises(cv2.error):
            cv2.namedWindow("a")
