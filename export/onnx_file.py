"""A segmenter written as an ONNX file that carries its spec."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from cpsl_deploy.errors import InputError, MissingExtraError, ModelFileError
from cpsl_deploy.files import atomic_path
from cpsl_deploy.spec import METADATA_KEY, ModelSpec
from cpsl_deploy.train.models.base import Segmenter

from .deploy_graph import COLOUR_ORDER, DeployGraph

try:
    import onnx
    import onnxscript  # noqa: F401  the exporter needs it and would say so late
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "onnx", "export", "exporting a model") from error

OPSET = 18
"""What torch's exporter writes whatever is asked for below it, and TensorRT 10 and OpenVINO read."""

SMALLEST_SIDE, LARGEST_SIDE = 16, 16384
"""Pixels per side that a file with dynamic sizes promises to take."""


def export_onnx(
    model: Segmenter,
    spec: ModelSpec,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
) -> Path:
    """Write ``model`` as one ONNX file, whole or not at all.

    The file has one input ``image``, uint8 (1, H, W, 3) BGR, and one output ``labels``, uint8 (1, H, W).
    ``size`` = (height, width) fixes them; None leaves both free. Its metadata are the spec (key
    ``cpsl_deploy``), ``colour_order`` and ``weights_sha256``.

    Raises InputError for a size under one stride, ModelFileError if the network cannot be exported,
    OutputError if the file cannot be written.
    """
    proto = onnx_model(model, spec, size=size)
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return Path(path)


def onnx_model(model: Segmenter, spec: ModelSpec, *, size: tuple[int, int] | None = None) -> onnx.ModelProto:
    """``export_onnx`` without the file: the checked ONNX model in memory."""
    if size is not None and min(size) < max(SMALLEST_SIDE, spec.stride):
        raise InputError(
            f"an exported size is at least {max(SMALLEST_SIDE, spec.stride)} pixels a side; "
            f"got {size[0]}x{size[1]}"
        )
    proto = _trace(DeployGraph(model.cpu(), spec), size or _example_size(spec), dynamic=size is None)
    _drop_traces(proto)
    values = {
        METADATA_KEY: spec.to_json(),
        "colour_order": COLOUR_ORDER,
        "weights_sha256": spec.weights_sha256,
    }
    onnx.helper.set_model_props(proto, values)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def read_spec(path: str | os.PathLike[str]) -> ModelSpec:
    """The spec inside an ONNX file of this project. Raises ModelFileError if it has none."""
    try:
        proto = onnx.load(os.fspath(path), load_external_data=False)
    except Exception as error:  # protobuf's own error class is not public
        raise ModelFileError(
            f"{path} is not a readable ONNX file ({type(error).__name__}: {error})"
        ) from error
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if METADATA_KEY not in metadata:
        raise ModelFileError(
            f"{path} carries no spec: it was not written by cpsl-export. Export the model again."
        )
    return ModelSpec.from_json(metadata[METADATA_KEY], str(path))


def operator_counts(path: str | os.PathLike[str]) -> dict[str, int]:
    """How many nodes of each ONNX operator a file has, the most frequent first."""
    proto = onnx.load(os.fspath(path), load_external_data=False)
    return dict(Counter(node.op_type for node in proto.graph.node).most_common())


def _example_size(spec: ModelSpec) -> tuple[int, int]:
    """An image to trace with: odd sides, so that no even size is taken for a rule, and different ones."""
    side = max(64, 4 * spec.stride)
    return side + 1, 2 * side + 3


@torch.no_grad()
def _trace(graph: DeployGraph, size: tuple[int, int], *, dynamic: bool) -> onnx.ModelProto:
    height = torch.export.Dim("height", min=SMALLEST_SIDE, max=LARGEST_SIDE)
    width = torch.export.Dim("width", min=SMALLEST_SIDE, max=LARGEST_SIDE)
    fixed = torch.export.Dim.STATIC
    shapes = {0: fixed, 1: height, 2: width, 3: fixed} if dynamic else None
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                (torch.zeros(1, *size, 3, dtype=torch.uint8),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["labels"],
                external_data=False,
                verbose=False,
                dynamic_shapes={"image": shapes},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        hint = " with free sizes; try a fixed one (--size HxW)" if dynamic else ""
        reason = str(error).splitlines()[0]
        raise ModelFileError(f"{type(graph.network).__name__} cannot be exported{hint}: {reason}") from error
    return program.model_proto


def _drop_traces(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes on every node: Python stack traces, which name the exporter's folders."""
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    proto.graph.ClearField("metadata_props")
    proto.graph.ClearField("doc_string")
    for tensor in proto.graph.initializer:
        tensor.ClearField("metadata_props")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter talks on stdout, in warnings and in three loggers about its own inner steps."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
