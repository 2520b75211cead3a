"""The ranges of a network's activations, measured on frames by onnxruntime's own calibrators.

onnxruntime's `quantize_static` measures them anew whenever it is called and holds what every frame gave until
the last one has run. Here they are measured once, frame by frame, and serve for every choice of layers.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from cpsl_deploy.errors import InputError, MissingExtraError, ModelFileError
from cpsl_deploy.files import as_output_error

from .float_graph import FloatGraph

try:
    from onnxruntime.quantization import calibrate as ort_calibrate
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "onnxruntime", "export", "quantising a model") from error

_log = logging.getLogger(__name__)

METHODS = ("minmax", "entropy", "percentile")
"""minmax: the smallest and the largest value seen. entropy: the cut that loses the least information,
by Kullback-Leibler divergence (Migacz, GTC 2017). percentile: 99.999 % of the values."""

Ranges = dict[str, tuple[float, float]]
"""Lowest and highest value to represent, by name of an inner value."""
Progress = Callable[[int, int], None]
"""Called with frames done and frames in all."""


def calibrate(
    graph: FloatGraph,
    frames: Sequence[np.ndarray],
    *,
    method: str = "minmax",
    progress: Progress | None = None,
) -> Ranges:
    """The range of every activation of the network, over ``frames``.

    ``frames``: uint8 (H, W, 3) of the file's size and colour order; each is asked for once, so a lazy
    sequence keeps one of them in memory. Memory: the activations of one frame, and a histogram per value.
    Raises InputError for no or unfit frames or an unknown method, ModelFileError if the network gives values
    that are not finite.
    """
    if method not in METHODS:
        raise InputError(f"activations are calibrated by {', '.join(METHODS)}; got {method!r}")
    if not len(frames):
        raise InputError("INT8 is calibrated on one target frame or more; none was given")
    values = {graph.normalised, *(name for node in graph.network() for name in node.output)}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="cpsl-int8-") as folder,
            contextlib.redirect_stdout(io.StringIO()),  # the histogram calibrators print
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", RuntimeWarning)  # of NaN, which is refused below
            calibrator = _calibrator(graph.up_to_logits(), values, method, Path(folder))
            for index in range(len(frames)):
                calibrator.collect_data(_OneFrame(_feed(graph, frames[index])))
                _log.debug("calibrated on frame %d of %d", index + 1, len(frames))
                if progress:
                    progress(index + 1, len(frames))
            measured = calibrator.compute_data()
    except ValueError as error:  # NumPy: a histogram of what is not finite
        raise ModelFileError(_not_finite(graph, str(error))) from error
    except OSError as error:
        raise as_output_error(error, Path(tempfile.gettempdir()) / "calibration") from error
    ranges = {name: _range(data) for name, data in measured.items()}
    for name, (low, high) in ranges.items():
        if not np.isfinite([low, high]).all():
            raise ModelFileError(_not_finite(graph, f"{name} runs from {low} to {high}"))
    return ranges


def _not_finite(graph: FloatGraph, what: str) -> str:
    return (
        f"activations must be finite to be quantised, and those of {graph.origin} are not: {what}. Train the "
        "model again, or keep it in fp32."
    )


class _OneFrame(ort_calibrate.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self._feed: dict[str, np.ndarray] | None = feed

    def get_next(self) -> dict[str, np.ndarray] | None:
        feed, self._feed = self._feed, None
        return feed


def _calibrator(model: ModelProto, values: set[str], method: str, folder: Path) -> Any:
    base = {
        "minmax": ort_calibrate.MinMaxCalibrater,
        "entropy": ort_calibrate.EntropyCalibrater,
        "percentile": ort_calibrate.PercentileCalibrater,
    }[method]

    class OfNetwork(base):  # type: ignore[misc, valid-type]
        """Looks at the network alone: onnxruntime selects by operator, and Add also normalises."""

        def select_tensors_to_calibrate(self, model: ModelProto) -> tuple[set[str], dict[str, Any]]:
            selected, infos = super().select_tensors_to_calibrate(model)
            return selected & values, infos

    onnx.save(model, folder / "float.onnx")
    calibrator = OfNetwork(folder / "float.onnx", augmented_model_path=str(folder / "augmented.onnx"))
    calibrator.augment_graph()
    calibrator.create_inference_session()
    return calibrator


def _feed(graph: FloatGraph, frame: np.ndarray) -> dict[str, np.ndarray]:
    """The frame as the file's input, repeated if that is a fixed batch."""
    given = graph.graph.input[0]
    batch, *wanted = (dim.dim_value for dim in given.type.tensor_type.shape.dim)
    if frame.dtype != np.uint8 or list(frame.shape) != wanted:
        raise InputError(
            f"{graph.origin} takes frames uint8 {tuple(wanted)}; got {frame.dtype} {frame.shape} to "
            "calibrate on. Resize the frames to the file's size."
        )
    return {given.name: np.repeat(frame[None], max(batch, 1), axis=0)}


def _range(data: Any) -> tuple[float, float]:
    low, high = (float(np.ravel(bound)[0]) for bound in data.range_value)
    return low, high
