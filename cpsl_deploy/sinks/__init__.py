"""Where results go: videos, label images, JSON lines, standard output, a preview, a window, a function.

    from cpsl_deploy.sinks import OverlaySink

    pieces = OverlaySink("recordings", piece_s=600)
    with cpsl_deploy.stream("rtsp://camera/road", "model.onnx", sinks=[pieces]) as results:
        for result in results:
            ...

Sinks of your own are subclasses of `Sink`. Names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

_HOME = {
    "AreasSink": "json_lines",
    "CallbackSink": "callback",
    "LabelSink": "label_png",
    "OverlaySink": "overlay_video",
    "PreviewSink": "preview",
    "RawLabelsSink": "raw_labels",
    "Sink": "base",
    "WindowSink": "window",
}
"""Public name -> the submodule it lives in."""

__all__ = [
    "AreasSink",
    "CallbackSink",
    "LabelSink",
    "OverlaySink",
    "PreviewSink",
    "RawLabelsSink",
    "Sink",
    "WindowSink",
]

if TYPE_CHECKING:
    from .base import Sink
    from .callback import CallbackSink
    from .json_lines import AreasSink
    from .label_png import LabelSink
    from .overlay_video import OverlaySink
    from .preview import PreviewSink
    from .raw_labels import RawLabelsSink
    from .window import WindowSink

__getattr__, __dir__ = lazy_names(__name__, _HOME)
