"""A deployed graph as an ONNX model: traced by torch's exporter, and tidied."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from cpsl_deploy.errors import MissingExtraError, ModelFileError

from .deploy_graph import DeployGraph
from .operators import OPSET

try:
    import onnx
    import onnxscript  # noqa: F401  the exporter needs it and would say so late
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "onnx", "export", "exporting a model") from error

IMAGE, NORMALISED, LOGITS = "image", "normalised", "logits"
"""Names that every file has: its input, the image entering the network, and what leaves the network."""

_EXAMPLE_SIZE = (1025, 1539)
"""What a file with free sizes is traced with. Different and odd sides, so that nothing is taken for a rule;
and large, because a feature map of one pixel (stride 64, pooled by 8) would be taken for a constant."""
_EXAMPLE_BATCH = 2
"""Of a file with a free batch. One would be taken for a constant."""


def trace(graph: DeployGraph, batch: int | None) -> onnx.ModelProto:
    """The ONNX model of ``graph``, its outputs those of the graph's contract, without metadata.

    ``batch``: frames at a time; None leaves it free. Raises ModelFileError if the network cannot be traced.
    """
    traced = _Traced(graph)
    proto = _export(traced, batch)
    _drop_notes(proto)
    _cast_first(proto.graph)
    _give_axes(proto.graph)
    _name_free_sides(proto, graph, batch)
    _keep_outputs(proto.graph, graph.contract.outputs)
    return proto


class _Traced(nn.Module):
    """A deployed graph that returns what it computes and nothing for the rest."""

    def __init__(self, graph: DeployGraph) -> None:
        super().__init__()
        self.deployed = graph

    @property
    def outputs(self) -> list[str]:
        """Names of what ``forward`` returns."""
        from_logits = [name for name in self.deployed.contract.outputs if name != LOGITS]
        return [*from_logits, NORMALISED, LOGITS]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(value for value in self.deployed(image) if value is not None)


@torch.no_grad()
def _export(traced: _Traced, batch: int | None) -> onnx.ModelProto:
    static, free = torch.export.Dim.STATIC, torch.export.Dim.DYNAMIC
    size = traced.deployed.size
    image = torch.zeros(batch or _EXAMPLE_BATCH, *(size or _EXAMPLE_SIZE), 3, dtype=torch.uint8)
    sides = (static, static) if size else (free, free)
    try:
        with _quiet():
            program = torch.onnx.export(
                traced,
                (image,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[IMAGE],
                output_names=traced.outputs,
                external_data=False,
                verbose=False,
                dynamic_shapes={"image": dict(enumerate((static if batch else free, *sides, static)))},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        hint = "" if size and batch else "; try a fixed size and batch (--size HxW)"
        reason = str(error.__cause__ or error).splitlines()[0]
        name = type(traced.deployed.network).__name__
        raise ModelFileError(f"{name} cannot be exported{hint}: {reason}") from error
    assert program is not None  # it is for the legacy exporter alone
    return program.model_proto


def _name_free_sides(proto: onnx.ModelProto, graph: DeployGraph, batch: int | None) -> None:
    """Call what is free ``batch``, ``height`` and ``width``; the exporter numbers them."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    wanted = {0: "batch"} if batch is None else {}
    wanted |= {1: "height", 2: "width"} if graph.size is None else {}
    names = {dims[axis].dim_param: name for axis, name in wanted.items()}
    if "" in names or len(names) < len(wanted):
        got = " x ".join(dim.dim_param or str(dim.dim_value) for dim in dims)
        raise ModelFileError(
            f"an exported file must take any {', '.join(wanted.values())}, and "
            f"{type(graph.network).__name__} only exports for {got}. Export it with a fixed size and batch "
            "(--size HxW)."
        )
    if not names:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda match: names[match[1]], dim.dim_param)


def _keep_outputs(graph: onnx.GraphProto, wanted: tuple[str, ...]) -> None:
    """Leave the outputs of the contract; the others stay in the graph as values with a name and a shape."""
    given = {value.name: value for value in graph.output}
    del graph.output[:]
    graph.output.extend(given[name] for name in wanted)
    graph.value_info.extend(value for name, value in given.items() if name not in wanted)


def _cast_first(graph: onnx.GraphProto) -> None:
    """Put the Cast of the image first, and ask its result for shapes: TensorRT has no Shape of uint8."""
    (cast,) = (node for node in graph.node if node.op_type == "Cast" and IMAGE in node.input)
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] == IMAGE:
            node.input[0] = cast.output[0]
    nodes = [cast, *(node for node in graph.node if node is not cast)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _give_axes(graph: onnx.GraphProto) -> None:
    """Name the axis of each Squeeze that makes a side of a shape a number; TensorRT before 11.5 wants it."""
    sides = {node.output[0] for node in graph.node if node.op_type == "Shape"}
    bare = [n for n in graph.node if n.op_type == "Squeeze" and len(n.input) == 1 and n.input[0] in sides]
    if bare:
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), "first_axis"))
    for node in bare:
        node.input.append("first_axis")


def _drop_notes(proto: onnx.ModelProto) -> None:
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
