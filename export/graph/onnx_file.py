"""A segmenter written as an ONNX file that carries its spec."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from google.protobuf.message import DecodeError

from cpsl_deploy.contract import Contract
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

_SMALLEST_SIDE = 16

_EXAMPLE_SIZE = (1025, 1539)
"""What a file with free sizes is traced with. Different and odd sides, so that nothing is taken for a rule;
and large, because a feature map of one pixel (stride 64, pooled by 8) would be taken for a constant."""


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
    if size is not None and min(size) < max(_SMALLEST_SIDE, spec.stride):
        raise InputError(
            f"an exported size is at least {max(_SMALLEST_SIDE, spec.stride)} pixels a side; "
            f"got {size[0]}x{size[1]}"
        )
    proto = _trace(DeployGraph(model, spec).cpu(), size)
    _drop_traces(proto)
    if size is None:
        _name_sides(proto)
    values = {
        METADATA_KEY: spec.to_json(),
        **Contract(colour_order=COLOUR_ORDER).to_metadata(),
        "weights_sha256": spec.weights_sha256,
    }
    onnx.helper.set_model_props(proto, values)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of an ONNX file of this project. Raises ModelFileError if it is not one."""
    try:
        proto = onnx.load(os.fspath(path), load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ModelFileError(f"{path} is not a readable ONNX file: {error}") from error
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if METADATA_KEY not in metadata:
        raise ModelFileError(f"{path} carries no spec: cpsl-export did not write it. Export the model again.")
    return metadata


def operator_counts(path: str | os.PathLike[str]) -> dict[str, int]:
    """How many nodes of each ONNX operator a file has, the most frequent first."""
    proto = onnx.load(os.fspath(path), load_external_data=False)
    return dict(Counter(node.op_type for node in proto.graph.node).most_common())


@torch.no_grad()
def _trace(graph: DeployGraph, size: tuple[int, int] | None) -> onnx.ModelProto:
    static, free = torch.export.Dim.STATIC, torch.export.Dim.DYNAMIC
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                (torch.zeros(1, *(size or _EXAMPLE_SIZE), 3, dtype=torch.uint8),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["labels"],
                external_data=False,
                verbose=False,
                dynamic_shapes={"image": None if size else {0: static, 1: free, 2: free, 3: static}},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        hint = "" if size else " with free sizes; try a fixed one (--size HxW)"
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ModelFileError(f"{type(graph.network).__name__} cannot be exported{hint}: {reason}") from error
    assert program is not None  # it is for the legacy exporter alone
    return program.model_proto


def _name_sides(proto: onnx.ModelProto) -> None:
    """Call the free sides ``height`` and ``width``; the exporter numbers them."""
    _, height, width, _ = (dim.dim_param for dim in proto.graph.input[0].type.tensor_type.shape.dim)
    if not height or not width or height == width:
        raise ModelFileError(
            "an exported file must take any size, and this network only exports for "
            f"{height or 'one'} x {width or 'one'}. Export it with a fixed size (--size HxW)."
        )
    names = {height: "height", width: "width"}
    pattern = re.compile(rf"\b({height}|{width})\b")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda match: names[match[1]], dim.dim_param)


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
    """torch's exporter talks on stdout, in warnings and in many loggers about its own inner steps."""
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
