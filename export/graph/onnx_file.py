"""A segmenter written as an ONNX file that says what it takes, what it gives and what it was made of."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from google.protobuf.message import DecodeError

from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import MissingExtraError, ModelFileError
from cpsl_deploy.files import atomic_path
from cpsl_deploy.spec import METADATA_KEY, ModelSpec
from cpsl_deploy.train.models.base import Segmenter

from .deploy_graph import DeployGraph
from .limits import check_limits
from .operators import check_operators
from .simplification import simplify
from .tracing import OPSET, trace

try:
    import onnx
except ModuleNotFoundError as error:
    raise MissingExtraError("onnx", "export", "exporting a model") from error

__all__ = ["OPSET", "export_onnx", "onnx_model", "operator_counts", "read_metadata"]


def export_onnx(
    model: Segmenter,
    spec: ModelSpec,
    path: str | os.PathLike[str],
    *,
    contract: Contract | None = None,
    size: tuple[int, int] | None = None,
    batch: int | None = 1,
    free_concats: bool = False,
) -> Path:
    """Write ``model`` as one ONNX file, whole or not at all. Arguments and errors: ``onnx_model``; besides,
    OutputError if the file cannot be written.
    """
    proto = onnx_model(model, spec, contract=contract, size=size, batch=batch, free_concats=free_concats)
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return Path(path)


def onnx_model(
    model: Segmenter,
    spec: ModelSpec,
    *,
    contract: Contract | None = None,
    size: tuple[int, int] | None = None,
    batch: int | None = 1,
    free_concats: bool = False,
) -> onnx.ModelProto:
    """The checked ONNX model of ``model``, in memory.

    It has one input ``image``, uint8 (N, H, W, 3), and the outputs of ``contract`` (by default: BGR frames
    in, labels out, fp32; shapes and types: ``cpsl_deploy.contract``). ``size`` = (height, width) of the
    frames and ``batch`` = N are fixed, or free where None. ``free_concats``: for a runtime that joins
    channels without a copy (`simplification.simplify`). Whatever the outputs, two values inside go by their
    names: ``normalised`` float32 (N, 3, h, w), the image entering the network, and ``logits`` float32
    (N, C, h', w'), what leaves it. The metadata are the spec (key ``cpsl_deploy``), the contract's entries
    and ``weights_sha256``.

    Raises InputError for a size under one stride, a batch below 1, an output stride above the network's, or
    precision int8; ModelFileError if the network cannot be exported, or only with operators that TensorRT or
    OpenVINO do not take.
    """
    contract = contract or Contract()
    check_limits(spec, contract=contract, size=size, batch=batch)
    graph = DeployGraph(model, spec, contract=contract, size=size).cpu()
    proto = simplify(trace(graph, batch), free_concats=free_concats)
    values = {
        METADATA_KEY: spec.to_json(),
        **contract.to_metadata(),
        "weights_sha256": spec.weights_sha256,
    }
    onnx.helper.set_model_props(proto, values)
    onnx.checker.check_model(proto, full_check=True)
    violations = check_operators(proto)
    if violations:
        raise ModelFileError(
            f"an exported file keeps to operators that TensorRT and OpenVINO take, and that of "
            f"{type(model).__name__} does not: {'; '.join(violations[:3])}. Change the network there."
        )
    return proto


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of an ONNX file of this project. Raises ModelFileError if it is not one, or if its spec or
    its contract is damaged."""
    proto = _load(path)
    try:
        metadata = {entry.key: entry.value for entry in proto.metadata_props}
        # A text that is no UTF-8 is an error or, by protobuf's version, given as bytes.
        texts = all(isinstance(text, str) for item in metadata.items() for text in item)
    except UnicodeDecodeError:
        texts = False
    if not texts:
        raise ModelFileError(f"{path} is damaged: its metadata are not text. Export it again.")
    if METADATA_KEY not in metadata:
        raise ModelFileError(f"{path} carries no spec: cpsl-export did not write it. Export the model again.")
    ModelSpec.from_json(metadata[METADATA_KEY], str(path))
    Contract.from_metadata(metadata, str(path))
    return metadata


def operator_counts(path: str | os.PathLike[str]) -> dict[str, int]:
    """How many nodes of each ONNX operator a file has, the most frequent first. Raises ModelFileError if it
    is no ONNX file, or has operators that there are not."""
    nodes = _load(path).graph.node
    unknown = [node.op_type for node in nodes if not _is_operator(node)]
    if unknown:
        raise ModelFileError(f"{path} is damaged: ONNX has no operator {unknown[0]!r}. Export it again.")
    return dict(Counter(node.op_type for node in nodes).most_common())


def _is_operator(node: onnx.NodeProto) -> bool:
    # A text that is no UTF-8 is given as bytes.
    texts = isinstance(node.op_type, str) and isinstance(node.domain, str)
    return texts and bool(onnx.defs.has(node.op_type, node.domain))


def _load(path: str | os.PathLike[str]) -> onnx.ModelProto:
    try:
        return onnx.load(os.fspath(path), load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ModelFileError(f"{path} is not a readable ONNX file: {error}") from error
