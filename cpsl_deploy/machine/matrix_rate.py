"""How fast the CPU multiplies matrices, in each precision: the best of what the installed libraries reach.

Every library is given one square product again and again, with as many threads as the model has; a rate is a
capability, so the best of its repetitions counts. They take turns, so that other work on the machine, which
comes and goes, does not fall on one of them alone. A library that computes in another precision than it was
asked for, as OpenVINO may, is left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ..errors import UnavailableError
from .matrix_graph import INPUT, matrix_product_graph

PRECISIONS = ("f32", "bf16", "f16", "int8")
SIDE = 1024
"""Large enough to keep all of a core's arithmetic units busy, small enough for a board's patience."""
TURNS, TURN_S = 4, 0.12
"""Of each library, and seconds of each: one product at least."""

Product = Callable[[], float]
"""Multiplies once; gives the seconds that the product took."""


@dataclass(frozen=True, kw_only=True)
class MatrixRate:
    """Of one precision."""

    flops_per_s: float
    """Operations a second, a multiplication and an addition being two, of integers as of floats."""
    how: str
    """One sentence for a report: whose product it was."""


@cache
def matrix_rate(precision: str, threads: int) -> MatrixRate:
    """Measure the rate of one of `PRECISIONS`, once in a process for each number of threads.

    Raises UnavailableError if no library that is installed computes in that precision here.
    """
    products: dict[str, Product] = {}
    reasons = []
    for library, make in _LIBRARIES.items():
        try:
            products[library] = make(precision, threads)
        except UnavailableError as error:
            reasons.append(f"{library}: {error}")
    if not products:
        raise UnavailableError(f"no library here multiplies matrices in {precision} ({'; '.join(reasons)})")
    rates = {library: 2 * SIDE**3 / seconds for library, seconds in _best_seconds(products).items()}
    best = max(rates, key=rates.__getitem__)
    others = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items() if name != best)
    how = f"{best}, {SIDE} x {SIDE} x {SIDE} in {precision}, {threads} thread{'s' * (threads > 1)}"
    how += f"; {others} GFLOP/s" if others else ""
    return MatrixRate(flops_per_s=rates[best], how=how)


def _best_seconds(products: dict[str, Product]) -> dict[str, float]:
    """By library; the first product of each is not counted."""
    for product in products.values():
        product()
    best = dict.fromkeys(products, float("inf"))
    for _ in range(TURNS):
        for library, product in products.items():
            began, once = time.perf_counter(), False
            while not once or time.perf_counter() - began < TURN_S:
                best[library], once = min(best[library], product()), True
    return best


def _timed(multiply: Callable[[], object]) -> Product:
    def product() -> float:
        start = time.perf_counter()
        multiply()
        return time.perf_counter() - start

    return product


def _operand(dtype: str) -> np.ndarray:
    random = np.random.default_rng(0)
    if dtype in ("uint8", "int8"):
        return random.integers(0, 100, (SIDE, SIDE)).astype(dtype)
    return random.random((SIDE, SIDE), np.float32).astype(dtype)


def _numpy(precision: str, threads: int) -> Product:
    """NumPy takes no number of threads: it has the one with which its library was loaded."""
    if precision != "f32":
        raise UnavailableError(f"no library for {precision}")
    if threads != (os.cpu_count() or 1):
        raise UnavailableError(f"its threads are not {threads}")
    left, right = _operand("float32"), _operand("float32")
    result = np.empty_like(left)
    return _timed(lambda: np.matmul(left, right, out=result))


def _onnxruntime(precision: str, threads: int) -> Product:
    dtypes = {"f32": ("float32",) * 2, "f16": ("float16",) * 2, "int8": ("uint8", "int8")}
    if precision not in dtypes:
        raise UnavailableError(f"no CPU kernel for {precision}")
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError("not installed") from error
    left, right = (_operand(dtype) for dtype in dtypes[precision])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            matrix_product_graph(left, right), options, providers=["CPUExecutionProvider"]
        )
        session.run(None, {INPUT: left})
    except Exception as error:  # its errors have no base class of their own
        raise UnavailableError(str(error).splitlines()[0][:200]) from error
    return _timed(lambda: session.run(None, {INPUT: left}))


def _openvino(precision: str, threads: int) -> Product:
    try:
        import openvino
    except ImportError as error:
        raise UnavailableError("not installed") from error
    hint = "f32" if precision == "int8" else precision
    properties = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": True,
    }
    try:
        compiled = openvino.Core().compile_model(_openvino_product(precision), "CPU", properties)
        request = compiled.create_infer_request()
        request.infer([_operand("float32")])
    except RuntimeError as error:
        raise UnavailableError(str(error).strip().splitlines()[-1][:200]) from error
    _require_openvino_precision(request, precision)

    def product() -> float:
        request.infer()
        # Without what makes integers of the left matrix, which is another node.
        return float(_product_node(request).real_time.total_seconds())

    return product


def _openvino_product(precision: str) -> Any:
    import openvino
    import openvino.opset13 as operators

    left = operators.parameter([SIDE, SIDE], np.float32)
    factors = [left, operators.constant(_operand("float32") - 0.5)]
    if precision == "int8":
        # As a quantised network says it: which values the 256 steps stand for.
        ends = [(0.0, 1.0), (-0.5, 0.5)]
        for i, ((low, high), steps) in enumerate(zip(ends, (256, 255), strict=True)):
            limits = [operators.constant(np.float32(end)) for end in (low, high)]
            factors[i] = operators.fake_quantize(factors[i], *limits, *limits, steps)
    product = operators.matmul(*factors, False, False)
    return openvino.Model([operators.result(product)], [left], "matrix_product")


def _require_openvino_precision(request: Any, precision: str) -> None:
    """Its kernels' names end in what they compute in: ``brgemm_avx512_I8``."""
    kernel = _product_node(request).exec_type
    endings = ("i8", "u8", "s8") if precision == "int8" else (precision,)
    if not kernel.lower().endswith(tuple(f"_{ending}" for ending in endings)):
        raise UnavailableError(f"it computes with {kernel}, which is not {precision}")


def _product_node(request: Any) -> Any:
    """The profile of the node that multiplies: a FullyConnected, of whichever kind, or a MatMul."""
    for node in request.get_profiling_info():
        if node.node_type.startswith(("FullyConnected", "MatMul")):
            return node
    raise UnavailableError("its profile names no matrix product")


_LIBRARIES: dict[str, Callable[[str, int], Product]] = {
    "NumPy": _numpy,
    "onnxruntime": _onnxruntime,
    "OpenVINO": _openvino,
}
