"""What one frame costs, layer by layer: operations, bytes and parameters, counted from an ONNX graph.

The graph is run once, not optimised, under onnxruntime's profiler, which tells the shapes of everything that
a node takes and gives; so no ONNX package is needed, and free frame sizes are known. Counted are the layers
of the file, not the kernels that a library makes of them.

The rule for bytes: convolutions, matrix products, pooling, reductions, Resize, Softmax and whatever is not
known here read what they are given and their parameters once, and write what they give once. Elementwise
layers, normalisation, and what only moves or converts values (Cast, Concat, Slice, Transpose, Pad, Reshape,
Quantize- and DequantizeLinear, the arithmetic of shapes) count as done by their neighbour on the way: they
have no bytes of their own.

A profile has no edges. What a tensor is stored as is therefore told from shapes: weights that a node makes of
the file's (DequantizeLinear of int8, Cast of float16) have the data type of the file's, and an activation is
quantised if a DequantizeLinear takes one of its shape. Where one layer of a shape is quantised and another of
the same shape is not, the latter's bytes come out too low.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .node_profile import ITEM_BYTES, NodeRun, Tensor, profile_file
from .operator_flops import ELEMENTWISE, MOVES, NORMALISATION, WEIGHTED, flops

FUSED = ELEMENTWISE | NORMALISATION | MOVES
"""Operators without bytes of their own."""
_HALVES = ("float16", "bfloat16")
_PRECISION = {1: "int8", 2: "f16", 4: "f32", 8: "f32"}


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One node, per frame."""

    name: str
    operator: str
    output_shape: tuple[int, ...]
    """Of the run, with its batch."""
    flops: int
    """Floating-point operations, of integers in a quantised layer; a multiply-add is two."""
    bytes: int
    """Read and written, parameters among them; 0 for a layer that counts as fused."""
    parameters: int
    """Trained numbers."""
    parameter_bytes: int
    """Of them as they are stored in the file."""
    precision: str
    """In which the file holds it: "f32", "f16" or "int8"."""


@dataclass(frozen=True, kw_only=True)
class GraphCost:
    """Of one frame through a file."""

    layers: tuple[LayerCost, ...]
    """Those that have work or bytes, in the order in which they run."""
    frame_size: tuple[int, int]
    """(height, width) of the frame that the file was given."""
    frame_bytes: int
    """Of the frame, uint8, and of everything the file gives for it."""

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def parameter_bytes(self) -> int:
        return sum(layer.parameter_bytes for layer in self.layers)

    def precisions(self) -> tuple[str, ...]:
        """Those of the layers, the one with the most operations first."""
        work: dict[str, int] = {}
        for layer in self.layers:
            work[layer.precision] = work.get(layer.precision, 0) + layer.flops
        return tuple(sorted(work, key=work.__getitem__, reverse=True))


def graph_cost(path: str | os.PathLike[str], frame_size: tuple[int, int]) -> GraphCost:
    """Count the cost of an ONNX file at a frame size, (height, width), where the file leaves it free.

    Done once in a process for each file and size. Raises ModelFileError for a file that cannot be run,
    MissingExtraError without onnxruntime.
    """
    resolved = Path(path).resolve()
    try:
        status = resolved.stat()
    except OSError:
        return _graph_cost(resolved, frame_size, (0, 0))
    return _graph_cost(resolved, frame_size, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=32)
def _graph_cost(path: Path, frame_size: tuple[int, int], _version: tuple[int, int]) -> GraphCost:
    run = profile_file(path, frame_size, optimised=False)
    batch, height, width, channels = run.frame_shape
    return GraphCost(
        layers=tuple(layer_costs(run.nodes, batch)),
        frame_size=(height, width),
        frame_bytes=height * width * channels + run.output_bytes // batch,
    )


def layer_costs(nodes: Sequence[NodeRun], batch: int = 1) -> Iterator[LayerCost]:
    """The cost per frame of each node that has any, of one run on ``batch`` frames."""
    stored = _Stored(nodes)
    for node in nodes:
        parameters = _parameters(node, stored)
        moved = stored.moved(node) if node.operator not in FUSED else 0
        work = flops(node)
        if work or moved:
            yield LayerCost(
                name=node.name,
                operator=node.operator,
                output_shape=node.outputs[0].shape,
                flops=work // batch,
                bytes=moved // batch,
                parameters=sum(tensor.elements for tensor in parameters),
                parameter_bytes=sum(stored.parameter_bytes(node, tensor) for tensor in parameters),
                precision=stored.precision(node),
            )


def _parameters(node: NodeRun, stored: _Stored) -> tuple[Tensor, ...]:
    """The inputs that training made. Running means and variances are statistics; a matrix that is multiplied
    from the left is an interpolation."""
    if node.operator in ("Conv", "ConvTranspose", "Gemm"):
        return node.inputs[1:]
    if node.operator == "BatchNormalization":
        return node.inputs[1:3]
    if node.operator in ("InstanceNormalization", "LayerNormalization", "PRelu"):
        return node.inputs[1:]
    if node.operator == "MatMul" and stored.in_file(node, node.inputs[1]):
        return node.inputs[1:]
    return ()


class _Stored:
    """What the tensors of a graph are stored as, told from their shapes."""

    def __init__(self, nodes: Sequence[NodeRun]) -> None:
        self.made_of: dict[tuple[int, ...], str] = {}
        """Shape of weights that are made in the run -> data type of the file's."""
        self.quantised: dict[tuple[int, ...], str] = {}
        """Shape of activations -> data type in which they lie in memory: int8, or float16."""
        for node in nodes:
            if node.operator == "DequantizeLinear" or (
                node.operator == "Cast" and node.inputs[0].dtype in _HALVES
            ):
                source = node.inputs[0]
                in_file = node.initialiser_bytes >= source.bytes
                (self.made_of if in_file else self.quantised)[source.shape] = source.dtype
        for node in nodes:
            # Between two layers without a float16 kernel onnxruntime casts neither there nor back.
            weights = node.inputs[1].shape if node.operator in WEIGHTED else ()
            if not self._keeps_floats(node) and self.made_of.get(weights) in _HALVES:
                self.quantised.setdefault(node.outputs[0].shape, self.made_of[weights])

    def in_file(self, node: NodeRun, tensor: Tensor) -> bool:
        """Whether an input of a matrix product lies in the file, as it is or in another data type."""
        whole = sum(one.bytes for one in node.inputs)
        return node.initialiser_bytes in (tensor.bytes, whole) or tensor.shape in self.made_of

    def parameter_bytes(self, node: NodeRun, tensor: Tensor) -> int:
        if node.initialiser_bytes >= tensor.bytes:
            return tensor.bytes
        return tensor.elements * ITEM_BYTES.get(self.made_of.get(tensor.shape, tensor.dtype), 0)

    def activation_bytes(self, tensor: Tensor) -> int:
        return tensor.elements * ITEM_BYTES.get(self.quantised.get(tensor.shape, tensor.dtype), 0)

    def moved(self, node: NodeRun) -> int:
        """Bytes that a layer reads and writes."""
        if node.operator not in WEIGHTED:
            # Where to cut, how large to become: a few numbers in the file, not moved to speak of.
            return sum(map(self.activation_bytes, (*node.inputs[:1], *node.outputs)))
        factors = node.inputs[:2]
        given = [tensor for tensor in factors if not self._is_weight(node, tensor)]
        weights = [tensor for tensor in node.inputs if tensor not in given]
        of_file = self._keeps_floats(node)
        activations = (*given, *node.outputs)
        moved = sum(tensor.bytes if of_file else self.activation_bytes(tensor) for tensor in activations)
        return moved + sum(self.parameter_bytes(node, tensor) for tensor in weights)

    def _is_weight(self, node: NodeRun, tensor: Tensor) -> bool:
        if node.operator != "MatMul":
            return tensor is not node.inputs[0]
        return self.in_file(node, tensor)

    def _keeps_floats(self, node: NodeRun) -> bool:
        """Whether a layer was left in floating point, its weights lying in the file as they are used."""
        return len(node.inputs) > 1 and node.initialiser_bytes >= node.inputs[1].bytes > 0

    def precision(self, node: NodeRun) -> str:
        if node.operator in WEIGHTED:
            weights = node.inputs[1]
            dtype = weights.dtype if self._keeps_floats(node) else self.made_of.get(weights.shape)
            return _PRECISION[ITEM_BYTES.get(dtype or weights.dtype, 4)]
        first = node.inputs[0]
        return _PRECISION[ITEM_BYTES.get(self.quantised.get(first.shape, first.dtype), 4)]
