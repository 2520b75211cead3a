"""INT8 by Q/DQ: a float export becomes one whose network computes in 8-bit integers.

Normalisation, resizing, upsampling and argmax stay float32; layers whose quantisation costs accuracy can, too
(`sensitivity.search` finds them).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Collection, Sequence

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, helper

from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import InputError, ModelFileError
from cpsl_deploy.files import write_bytes

from ..graph.operators import check_operators
from .calibration import Progress, Ranges, calibrate
from .float_graph import FloatGraph
from .insertion import SCHEMES, insert, saturates

_log = logging.getLogger(__name__)

CALIBRATION_KEY = "calibration"
"""Metadata key of an INT8 file: JSON with frames, method, scheme, weight_bits and kept layers."""


class Quantiser:
    """A float export with the ranges of its activations: calibrated once, quantised as often as wanted.

    ``float_model``: an fp32 export of fixed size, a path or the model. ``frames``: uint8 (H, W, 3) of its
    size and colour order, of the target, and not those it is scored on. ``scheme``: "cpu" or "tensorrt"
    (`SCHEMES`). ``method``: of `calibration.METHODS`; None takes the scheme's. ``reduce_range``: weights of
    seven bits, for x86 processors without VNNI; None asks this machine's, and is False for TensorRT.

    Raises InputError for unfit frames, scheme or method, ModelFileError for a model that cannot be quantised.
    """

    def __init__(
        self,
        float_model: str | os.PathLike[str] | ModelProto,
        frames: Sequence[np.ndarray],
        *,
        scheme: str = "cpu",
        method: str | None = None,
        reduce_range: bool | None = None,
        progress: Progress | None = None,
    ) -> None:
        if scheme not in SCHEMES:
            raise InputError(f"INT8 is made for {' or '.join(SCHEMES)}; got {scheme!r}")
        self.scheme = scheme
        self.method = method or SCHEMES[scheme].method
        self.frames = len(frames)
        self.reduce_range = (scheme == "cpu" and saturates()) if reduce_range is None else reduce_range
        self.graph = prepared(float_model, scheme)
        self.layers = tuple(node.name for node in self.graph.layers())
        _log.info(
            "calibrating %d layers on %d frame%s by %s",
            len(self.layers),
            self.frames,
            "s" * (self.frames != 1),
            self.method,
        )
        self.ranges: Ranges = calibrate(self.graph, frames, method=self.method, progress=progress)

    def model(self, keep: Collection[str] = ()) -> ModelProto:
        """The quantised file in memory, checked. Raises InputError if ``keep`` names what is no layer,
        ModelFileError for operators that TensorRT or OpenVINO do not take."""
        unknown = sorted(set(keep) - set(self.layers))
        if unknown:
            raise InputError(
                f"only layers of the network can be kept in float, and {self.graph.origin} has no "
                f"{', '.join(unknown)}. They are {', '.join(self.layers)}"
            )
        kept = [name for name in self.layers if name in set(keep)]
        layers = [name for name in self.layers if name not in set(keep)]
        model = insert(
            self.graph, self.ranges, SCHEMES[self.scheme], layers=layers, reduce_range=self.reduce_range
        )
        _describe(model, self._description(kept))
        onnx.checker.check_model(model, full_check=True)
        if violations := check_operators(model):
            raise ModelFileError(
                f"an INT8 file keeps to operators that TensorRT and OpenVINO take, and that of "
                f"{self.graph.origin} does not: {'; '.join(violations[:3])}. Keep it in fp32 or fp16."
            )
        return model

    def only(self, layer: str) -> ModelProto:
        """The network alone, frame in and logits out, with one layer in integers: what it costs by itself."""
        graph, scheme = self.graph, SCHEMES[self.scheme]
        single = insert(graph, self.ranges, scheme, layers=[layer], reduce_range=self.reduce_range)
        return FloatGraph(single, graph.origin).up_to_logits()

    def write(self, output: str | os.PathLike[str], keep: Collection[str] = ()) -> None:
        """Write the quantised file, whole or not at all. Raises also OutputError if it cannot be written."""
        write_bytes(output, self.model(keep).SerializeToString())

    def _description(self, kept: list[str]) -> dict[str, object]:
        return {
            "frames": self.frames,
            "method": self.method,
            "scheme": self.scheme,
            "weight_bits": 7 if self.reduce_range else 8,
            "kept": kept,
        }


def quantise(
    float_model: str | os.PathLike[str] | ModelProto,
    output: str | os.PathLike[str],
    frames: Sequence[np.ndarray],
    *,
    scheme: str = "cpu",
    keep: Collection[str] = (),
    method: str | None = None,
    reduce_range: bool | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the INT8 version of an fp32 export, whole or not at all; arguments and errors as `Quantiser`'s.

    ``keep``: names of layers, of `layers`, that stay float. The file has the float one's inputs, outputs,
    opset and metadata, with ``precision`` int8 and a description under ``calibration``.
    """
    quantiser = Quantiser(
        float_model, frames, scheme=scheme, method=method, reduce_range=reduce_range, progress=progress
    )
    quantiser.write(output, keep)


def layers(float_model: str | os.PathLike[str] | ModelProto, scheme: str = "cpu") -> list[str]:
    """Names of the layers that are quantised, in graph order: Conv and Gemm nodes, and for CPUs the batch
    norms that no convolution can take up. Raises as `Quantiser`."""
    if scheme not in SCHEMES:
        raise InputError(f"INT8 is made for {' or '.join(SCHEMES)}; got {scheme!r}")
    return [node.name for node in prepared(float_model, scheme).layers()]


def prepared(float_model: str | os.PathLike[str] | ModelProto, scheme: str) -> FloatGraph:
    """An fp32 export, checked and rewritten for a scheme of `SCHEMES`."""
    model, origin = _load(float_model)
    precision = {entry.key: entry.value for entry in model.metadata_props}.get("precision", "fp32")
    if precision != "fp32":
        raise ModelFileError(
            f"INT8 is made from an fp32 file, and {origin} is {precision}. Give the fp32 one."
        )
    try:
        onnx.checker.check_model(model)
        graph = FloatGraph(model, origin)
        graph.prepare(integers=SCHEMES[scheme].integers)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelFileError(
            f"{origin} is damaged: {reason[:300]}. Export it again: cpsl-export RUN"
        ) from error
    return graph


def _load(float_model: str | os.PathLike[str] | ModelProto) -> tuple[ModelProto, str]:
    if isinstance(float_model, ModelProto):
        return float_model, "the model"
    try:
        return onnx.load(os.fspath(float_model), load_external_data=False), str(float_model)
    except (OSError, DecodeError) as error:
        raise ModelFileError(f"{float_model} is not a readable ONNX file: {error}") from error


def _describe(model: ModelProto, description: dict[str, object]) -> None:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    contract = Contract.from_metadata(metadata, "the float file")
    metadata |= dataclasses.replace(contract, precision="int8").to_metadata()
    metadata[CALIBRATION_KEY] = json.dumps(description)
    del model.metadata_props[:]
    helper.set_model_props(model, metadata)
