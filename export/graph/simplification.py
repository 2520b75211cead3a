"""A traced graph made cheaper to run without changing what it computes, up to rounding.

In the small network, whose encoder has batch norms behind joined activations, a sixth of onnxruntime's time
was spent on norms, activations and copies that need not be there (``benchmarks/network_profile.py``).
"""

from __future__ import annotations

import logging

import numpy as np
import onnx
from onnx import ModelProto

from cpsl_deploy.errors import MissingExtraError

from .batch_norm_folding import fold_batch_norms
from .concat_splitting import move_activations, split_concats
from .convolution_merging import merge_convolutions
from .editing import LOGITS, NORMALISED, GraphEditor

_log = logging.getLogger(__name__)

_TOLERANCE = {np.dtype(np.float32): 1e-3, np.dtype(np.float16): 3e-2}
"""Of the largest logit. Float rounding in a deep network stays below a tenth of it."""
_FREE_SIDE = 128
"""Of the probe, where a file takes any size."""


def simplify(model: ModelProto, *, free_concats: bool = False) -> ModelProto:
    """A copy of an exported model whose network has fewer and cheaper nodes, or the model itself.

    Batch norms move into the convolutions behind them, activations in front of a Concat, two convolutions
    without anything between them become one, and Concats are taken apart, unless they are free
    (``free_concats``: TensorRT writes each part to its place at once). The values ``normalised`` and
    ``logits`` stay. Both are run once on noise: where logits differ by more than rounding, the model is left
    as it is, which the log tells.
    """
    simpler = ModelProto()
    simpler.CopyFrom(model)
    graph = GraphEditor(simpler)
    steps = [merge_convolutions, fold_batch_norms, move_activations]
    if not free_concats:
        steps.append(split_concats)
    counts = {step.__name__: step(graph, graph.between(NORMALISED, LOGITS)) for step in steps}
    if not any(counts.values()):
        return model
    graph.tidy()
    deviation = _deviation(model, simpler)
    if deviation > 1:
        _log.warning(
            "the file keeps its graph as it was traced: a simpler one gives other logits (%.3g of what "
            "rounding may change). It is slower than it could be, and as good",
            deviation,
        )
        return model
    _log.info("simpler graph: %s", ", ".join(f"{name} {count}" for name, count in counts.items()))
    return simpler


def _deviation(model: ModelProto, simpler: ModelProto) -> float:
    """Largest difference of the logits, as a share of what rounding may change; infinite for no numbers."""
    sides = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    shape = [sides[0] or 1, sides[1] or _FREE_SIDE, sides[2] or _FREE_SIDE, sides[3]]
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected, got = (_logits(one, image) for one in (model, simpler))
    weights = {onnx.helper.tensor_dtype_to_np_dtype(t.data_type) for t in model.graph.initializer}
    tolerance = max(_TOLERANCE[dtype] for dtype in weights & _TOLERANCE.keys())
    allowed = tolerance * float(np.abs(expected).max())
    different = float(np.abs(got - expected).max())
    return different / max(allowed, 1e-30) if np.isfinite(different) else float("inf")


def _logits(model: ModelProto, image: np.ndarray) -> np.ndarray:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnxruntime", "export", "exporting a model") from error
    up_to = GraphEditor(ModelProto())
    up_to.model.CopyFrom(model)
    nodes = up_to.until(LOGITS)
    del up_to.graph.node[:], up_to.graph.output[:]
    up_to.graph.node.extend(nodes)
    up_to.graph.output.append(onnx.ValueInfoProto(name=LOGITS))
    up_to.tidy()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        up_to.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    logits: np.ndarray = session.run([LOGITS], {"image": image})[0]
    return logits.astype(np.float64)
