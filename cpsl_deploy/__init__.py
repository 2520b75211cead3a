"""Adapt a road segmenter to your own camera without labels, and run it fast.

    import cpsl_deploy

    with cpsl_deploy.load("model.onnx") as segmenter:
        prediction = segmenter.predict(frame)  # uint8 (H, W, 3), BGR as OpenCV reads it
        prediction.labels  # uint8 (H, W)

    with cpsl_deploy.stream("rtsp://camera/road", "model.onnx") as results:
        for result in results:
            result.labels, result.age_ms

Public names are imported when first used, so that ``import cpsl_deploy`` costs next to nothing. Training
(`cpsl_deploy.train`) and export (`cpsl_deploy.export`) need the extras of these names; nothing else here
ever imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazy_names

__version__ = "0.1.0"

_HOME = {
    "AccuracyError": "errors",
    "ClassSpace": "classes",
    "CpslError": "errors",
    "DataError": "errors",
    "IGNORE": "classes",
    "InputError": "errors",
    "MissingExtraError": "errors",
    "ModelFileError": "errors",
    "ModelSpec": "spec",
    "OutputError": "errors",
    "Prediction": "segmenter",
    "RecipeError": "errors",
    "Segmenter": "segmenter",
    "TrainingError": "errors",
    "UnavailableError": "errors",
    "Stream": "streams.stream",
    "StreamOptions": "streams.options",
    "StreamResult": "streams.result",
    "load": "segmenter",
    "stream": "streams.stream",
}
"""Public name -> the submodule it lives in."""

__all__ = [
    "IGNORE",
    "AccuracyError",
    "ClassSpace",
    "CpslError",
    "DataError",
    "InputError",
    "MissingExtraError",
    "ModelFileError",
    "ModelSpec",
    "OutputError",
    "Prediction",
    "RecipeError",
    "Segmenter",
    "Stream",
    "StreamOptions",
    "StreamResult",
    "TrainingError",
    "UnavailableError",
    "__version__",
    "load",
    "stream",
]

if TYPE_CHECKING:
    from .classes import IGNORE, ClassSpace
    from .errors import (
        AccuracyError,
        CpslError,
        DataError,
        InputError,
        MissingExtraError,
        ModelFileError,
        OutputError,
        RecipeError,
        TrainingError,
        UnavailableError,
    )
    from .segmenter import Prediction, Segmenter, load
    from .spec import ModelSpec
    from .streams.options import StreamOptions
    from .streams.result import StreamResult
    from .streams.stream import Stream, stream

__getattr__, __dir__ = lazy_names(__name__, _HOME)
