"""How near a model's time is to what its machine can do: the roofline, layer by layer.

A layer takes at least its operations by the rate of matrix products, and at least its bytes by the rate of
memory; the greater of the two is its limit (S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful
visual performance model for multicore architectures", Communications of the ACM 52(4), 2009). Two limits of
a frame follow:

- ``layer_limit_ms``: the sum over the layers, each reading its input from memory and writing its output
  there. ``fraction`` is this by the time that was measured.
- ``compulsory_limit_ms``: all operations, or the bytes that nothing can spare (the frame, the labels, the
  parameters), whichever takes longer. ``compulsory_fraction`` is this by the time that was measured.

Neither is a law of nature, and a fraction can be above 1: what one layer wrote may still be in a cache when
the next one reads it, a library may fuse layers that are counted apart here (an upsampling and its argmax),
and Winograd's algorithm takes fewer multiplications for a convolution of 3x3 than are counted. Far above 1,
the rates are wrong: stated for another device, or measured while the machine had other work.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends import ENGINE_SUFFIXES
from ..backends.engine_key import ONNX_SHA256
from ..backends.tensorrt_backend import read_sidecar
from ..errors import CpslError, InputError, UnavailableError
from ..files import sha256
from ..machine.device_rates import device_rates
from ..machine.rates import Rates, measure_rates
from .graph_cost import FUSED, GraphCost, LayerCost, graph_cost
from .latency import Progress, no_progress
from .layer_profile import LayerProfile, profile_layers

_log = logging.getLogger(__name__)

PLAUSIBLE = 1.2
"""A fraction above it needs a word."""
_WIDTH = {"f32": 4, "bf16": 2, "f16": 2, "int8": 1}
_COMPUTES_IN = {"fp32": "f32", "f32": "f32", "fp16": "f16", "f16": "f16", "bf16": "bf16"}
"""A backend's word for its precision -> ours. "int8" is a file's, whose layers have each their own."""


@dataclass(frozen=True, kw_only=True)
class LayerLimit:
    """The least time of one layer."""

    layer: LayerCost
    precision: str
    """In which it is computed."""
    bytes: int
    """As of `LayerCost`, at the width of that precision."""
    limit_ms: float
    bound: str
    """By what: "compute", "memory", or "fused": done by a neighbour on the way, at no time of its own."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The least time of one frame."""

    layers: tuple[LayerLimit, ...]
    layer_limit_ms: float
    compulsory_limit_ms: float
    precision: str
    """In which most operations are done."""


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """A model's time, held against the limits."""

    graph: str
    """File name of the ONNX file that was counted."""
    cost: GraphCost
    limits: Limits
    rates: Rates
    measured_ms: float
    """Of the inference of one frame, the median."""
    profile: LayerProfile | None
    """None where the backend tells no times of layers."""

    @property
    def fraction(self) -> float:
        return self.limits.layer_limit_ms / self.measured_ms

    @property
    def compulsory_fraction(self) -> float:
        return self.limits.compulsory_limit_ms / self.measured_ms

    def notes(self) -> list[str]:
        """What a reader must know before believing a fraction."""
        if self.rates.disturbed:
            return [
                "The machine was busy while its rates were measured: they are too low, and what is said of "
                "the roofline cannot be relied on. Measure again on an idle machine."
            ]
        if self.fraction <= PLAUSIBLE:
            return []
        share = 1 / self.fraction
        return [
            f"The inference takes {share:.2f} of the time that the roofline allows it: the rates, which "
            "other work on the machine may have slowed down, are too low, or caches spare most of the memory "
            "traffic that is counted."
        ]

    def to_json(self) -> dict[str, Any]:
        """A record's section "roofline"."""
        matrix = self.rates.matrix_rate(self.limits.precision)
        layers = self.limits.layers
        return {
            "graph": self.graph,
            "parameters": self.cost.parameters,
            "parameter_bytes": self.cost.parameter_bytes,
            "flops": self.cost.flops,
            "bytes": sum(layer.bytes for layer in layers),
            "layers": [_layer_json(layer) for layer in layers],
            "rates": {
                "matrix_flops": matrix.flops_per_s,
                "matrix_precision": self.limits.precision,
                "matrix_how": matrix.how,
                "copy_bytes": self.rates.copy.bytes_per_s,
                "copy_how": self.rates.copy.how,
                "stated": self.rates.stated is not None,
                "disturbed": self.rates.disturbed,
            },
            "compulsory_limit_ms": self.limits.compulsory_limit_ms,
            "layer_limit_ms": self.limits.layer_limit_ms,
            "measured_ms": self.measured_ms,
            "fraction": self.fraction,
            "compulsory_fraction": self.compulsory_fraction,
            **(self.profile.to_json() if self.profile else {"slowest": [], "profile_ms": None}),
        }


def measure_roofline(
    model_path: str | os.PathLike[str],
    runtime: Mapping[str, Any],
    frame_size: tuple[int, int],
    measured_ms: float,
    *,
    threads: int | None = None,
    rates: Rates | None = None,
    progress: Progress = no_progress,
) -> Roofline:
    """Hold the time of a model's inference against the limits of the machine.

    ``model_path``: the ONNX file, or an engine with the ONNX file that it was built from beside it.
    ``runtime``: the backend's ``describe()``: backend, device, threads, precision.
    ``frame_size``: (height, width) of what the file is given, `Segmenter.input_size`.
    ``measured_ms``: of the inference of one frame, the median.
    ``threads``: of the rates; None: those of ``runtime``, or all.
    ``rates``: None measures them, which takes some seconds once in a process, a GPU's where torch is at hand
    (`cpsl_deploy.machine.device_rates`).

    Raises UnavailableError where there is nothing to hold the time against, with the reason: for the
    section, ``{"unavailable": str(error)}``. InputError for a time that is not above 0.
    """
    if not 0 < measured_ms < float("inf"):
        raise InputError(f"the time of a frame is above 0 ms; got {measured_ms}")
    progress("roofline", 0, 3)
    graph, cost = _cost(Path(model_path), frame_size)
    progress("roofline", 1, 3)
    rates = _rates(cost, runtime, threads) if rates is None else rates
    found = limits(cost, rates, runtime["precision"])
    progress("roofline", 2, 3)
    profile = None
    try:
        profile = profile_layers(Path(model_path), runtime, cost.frame_size)
    except CpslError as error:
        _log.info("no profile of layers: %s", error)
    progress("roofline", 3, 3)
    return Roofline(
        graph=graph.name, cost=cost, limits=found, rates=rates, measured_ms=measured_ms, profile=profile
    )


def roofline_fraction(
    model_path: str | os.PathLike[str],
    runtime: Mapping[str, Any],
    frame_size: tuple[int, int],
    measured_ms: float,
    *,
    threads: int | None = None,
    rates: Rates | None = None,
) -> float | None:
    """`Roofline.fraction` alone, without a profile; None where there is nothing to hold the time against.

    Arguments as of `measure_roofline`. The counts of a file and the rates of a precision are made once in a
    process, so that this costs nothing for a second variant of the same.
    """
    try:
        _, cost = _cost(Path(model_path), frame_size)
        rates = _rates(cost, runtime, threads) if rates is None else rates
        if rates.disturbed:
            raise UnavailableError("the machine was busy while its rates were measured")
        return limits(cost, rates, runtime["precision"]).layer_limit_ms / measured_ms
    except CpslError as error:
        _log.info("%s: no roofline: %s", model_path, error)
        return None


def limits(cost: GraphCost, rates: Rates, precision: str) -> Limits:
    """The least time of a frame.

    ``precision``: a backend's word for what it computes in. Layers of int8 are computed in int8 whatever it
    is, the others in it; "int8" leaves to each layer what the file holds it in.
    Raises UnavailableError for an unknown word, or where the rate of a layer's precision is not to be had.
    """
    layers = tuple(
        _layer_limit(layer, rates, _computed_in(layer.precision, precision)) for layer in cost.layers
    )
    # Each operation at its own precision's rate; what is fused is no matrix product.
    compute_ms = sum(
        1e3 * limit.layer.flops / rates.matrix_rate(limit.precision).flops_per_s
        for limit in layers
        if limit.bound != "fused"
    )
    memory_ms = 1e3 * (cost.frame_bytes + cost.parameter_bytes) / rates.copy.bytes_per_s
    work: dict[str, int] = {}
    for limit in layers:
        work[limit.precision] = work.get(limit.precision, 0) + limit.layer.flops
    return Limits(
        layers=layers,
        layer_limit_ms=sum(limit.limit_ms for limit in layers),
        compulsory_limit_ms=max(compute_ms, memory_ms),
        precision=max(work, key=work.__getitem__) if work else "f32",
    )


def _layer_limit(layer: LayerCost, rates: Rates, precision: str) -> LayerLimit:
    moved = layer.bytes * _WIDTH[precision] // _WIDTH[layer.precision]
    compute_ms = 1e3 * layer.flops / rates.matrix_rate(precision).flops_per_s
    memory_ms = 1e3 * moved / rates.copy.bytes_per_s
    fused = layer.operator in FUSED
    return LayerLimit(
        layer=layer,
        precision=precision,
        bytes=moved,
        limit_ms=0.0 if fused else max(compute_ms, memory_ms),
        bound="fused" if fused else "compute" if compute_ms >= memory_ms else "memory",
    )


def _layer_json(limit: LayerLimit) -> dict[str, Any]:
    return {
        "name": limit.layer.name,
        "operator": limit.layer.operator,
        "output_shape": list(limit.layer.output_shape),
        "flops": limit.layer.flops,
        "bytes": limit.bytes,
        "parameters": limit.layer.parameters,
        "limit_ms": limit.limit_ms,
        "bound": limit.bound,
    }


def _computed_in(stored: str, runtime_precision: str) -> str:
    if stored == "int8" or runtime_precision == "int8":
        return stored
    if runtime_precision not in _COMPUTES_IN:
        raise UnavailableError(f"no rate is known for the precision {runtime_precision!r}")
    return _COMPUTES_IN[runtime_precision]


def _cost(path: Path, frame_size: tuple[int, int]) -> tuple[Path, GraphCost]:
    graph = _onnx_of_engine(path) if path.suffix in ENGINE_SUFFIXES else path
    try:
        return graph, graph_cost(graph, frame_size)
    except InputError as error:
        raise UnavailableError(f"the layers of {graph.name} cannot be counted: {error}") from error


def _onnx_of_engine(engine: Path) -> Path:
    """The ONNX file from which an engine was built, by the hash that the engine's JSON file records."""
    graph = engine.with_suffix(".onnx")
    recorded = read_sidecar(engine).get(ONNX_SHA256)
    if not graph.is_file():
        raise UnavailableError(
            f"an engine's layers are counted from {graph.name} beside it, which is missing"
        )
    if recorded != sha256(graph):
        raise UnavailableError(f"{graph.name} is not the file from which {engine.name} was built")
    return graph


def _rates(cost: GraphCost, runtime: Mapping[str, Any], threads: int | None) -> Rates:
    needed = sorted({_computed_in(stored, runtime["precision"]) for stored in cost.precisions()})
    if runtime["device"] != "cpu":
        return device_rates(needed, device=runtime["device"])
    return measure_rates(needed, threads=threads or runtime.get("threads"))
