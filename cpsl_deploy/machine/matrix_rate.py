"""How fast the CPU multiplies matrices, in each precision: the best of what the installed libraries reach.

Every library is given square products again and again, with as many threads as the model has; a rate is a
capability, so the best of its repetitions counts. They take turns, so that other work on the machine, which
comes and goes, does not fall on one of them alone. A library that computes in another precision than it was
asked for, as OpenVINO may, is left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UnavailableError
from .matrix_graph import INPUT, matrix_product_graph
from .processor_share import PATIENCE_S, UNDISTURBED, ProcessorShare, remember_undisturbed

PRECISIONS = ("f32", "bf16", "f16", "int8")
SIDES = (512, 1024, 2048, 4096)
"""Small products suit few cores, and one of them is likelier to be left alone by other work; many cores need
large ones."""
LONG_S = 0.01
"""What takes longer is large enough: a board's patience is short."""
TURNS, TURN_S = 4, 0.06
"""Of each library and size, and seconds of each: one product at least."""

Product = Callable[[], float]
"""Multiplies once; gives the seconds that the product took."""


@dataclass(frozen=True, kw_only=True)
class MatrixRate:
    """Of one precision."""

    flops_per_s: float
    """Operations a second, a multiplication and an addition being two, of integers as of floats."""
    how: str
    """One sentence for a report: whose product it was."""
    disturbed: bool = False
    """Other work had the cores in every one of its trials: the rate is too low."""


@remember_undisturbed
def matrix_rate(precision: str, threads: int) -> MatrixRate:
    """Measure the rate of one of `PRECISIONS`, once in a process for each number of threads.

    Raises UnavailableError if no library that is installed computes in that precision here.
    """
    trials: list[_Trial] = []
    reasons = []
    for library in _LIBRARIES:
        try:
            trials += _trials(library, precision, threads)
        except UnavailableError as error:
            reasons.append(f"{library}: {error}")
    if not trials:
        raise UnavailableError(f"no library here multiplies matrices in {precision} ({'; '.join(reasons)})")
    began, turns = time.perf_counter(), 0
    # A rate counts once a turn of the fastest had the processor for itself.
    while turns < TURNS or (
        max(trials, key=lambda trial: trial.rate).share < UNDISTURBED
        and time.perf_counter() - began < PATIENCE_S
    ):
        for trial in trials:
            trial.take_turn(threads)
        turns += 1
    best = max(trials, key=lambda trial: trial.rate)
    others = {library: 0.0 for library in _LIBRARIES if library != best.library}
    for trial in trials:
        if trial.library in others:
            others[trial.library] = max(others[trial.library], trial.rate)
    also = ", ".join(f"{library} {rate / 1e9:.0f}" for library, rate in others.items() if rate)
    sides = " x ".join([str(best.side)] * 3)
    how = f"{best.library}, {sides} in {precision}, {threads} thread{'s' * (threads > 1)}"
    return MatrixRate(
        flops_per_s=best.rate,
        how=f"{how}; {also} GFLOP/s" if also else how,
        disturbed=best.share < UNDISTURBED,
    )


@dataclass(kw_only=True)
class _Trial:
    """A library's product of one size."""

    library: str
    side: int
    product: Product
    best_s: float = float("inf")
    share: float = 0.0
    """Of the processor, in the turn that had most of it."""

    @property
    def rate(self) -> float:
        return 2 * self.side**3 / self.best_s

    def take_turn(self, threads: int) -> None:
        began, once, processor = time.perf_counter(), False, ProcessorShare(threads)
        while not once or time.perf_counter() - began < TURN_S:
            self.best_s, once = min(self.best_s, self.product()), True
        self.share = max(self.share, processor.value())


def _trials(library: str, precision: str, threads: int) -> list[_Trial]:
    """Larger and larger products, until one takes long. Raises UnavailableError if the library has none."""
    trials: list[_Trial] = []
    for side in SIDES:
        product = _LIBRARIES[library](precision, threads, side)
        trials.append(_Trial(library=library, side=side, product=product))
        product()  # not counted: it pays for memory and for the choice of a kernel
        if product() > LONG_S:
            break
    return trials


def _timed(multiply: Callable[[], object]) -> Product:
    def product() -> float:
        start = time.perf_counter()
        multiply()
        return time.perf_counter() - start

    return product


def _operand(dtype: str, side: int) -> np.ndarray:
    random = np.random.default_rng(0)
    if dtype in ("uint8", "int8"):
        return random.integers(0, 100, (side, side)).astype(dtype)
    return random.random((side, side), np.float32).astype(dtype)


def _numpy(precision: str, threads: int, side: int) -> Product:
    """NumPy takes no number of threads: it has the one with which its library was loaded."""
    if precision != "f32":
        raise UnavailableError(f"no library for {precision}")
    if threads != (os.cpu_count() or 1):
        raise UnavailableError(f"its threads are not {threads}")
    left, right = _operand("float32", side), _operand("float32", side)
    result = np.empty_like(left)
    return _timed(lambda: np.matmul(left, right, out=result))


def _onnxruntime(precision: str, threads: int, side: int) -> Product:
    dtypes = {"f32": ("float32",) * 2, "f16": ("float16",) * 2, "int8": ("uint8", "int8")}
    if precision not in dtypes:
        raise UnavailableError(f"no CPU kernel for {precision}")
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError("not installed") from error
    left, right = (_operand(dtype, side) for dtype in dtypes[precision])
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


def _openvino(precision: str, threads: int, side: int) -> Product:
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
        compiled = openvino.Core().compile_model(_openvino_product(precision, side), "CPU", properties)
        request = compiled.create_infer_request()
        request.infer([_operand("float32", side)])
    except RuntimeError as error:
        raise UnavailableError(str(error).strip().splitlines()[-1][:200]) from error
    _require_openvino_precision(request, precision)

    def product() -> float:
        request.infer()
        # Without what makes integers of the left matrix, which is another node.
        return float(_product_node(request).real_time.total_seconds())

    return product


def _openvino_product(precision: str, side: int) -> Any:
    import openvino
    import openvino.opset13 as operators

    left = operators.parameter([side, side], np.float32)
    factors = [left, operators.constant(_operand("float32", side) - 0.5)]
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


_LIBRARIES: dict[str, Callable[[str, int, int], Product]] = {
    "NumPy": _numpy,
    "onnxruntime": _onnxruntime,
    "OpenVINO": _openvino,
}
