"""The machine's rates: a product is a product, the best library counts, bytes are read and written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from cpsl_deploy.errors import InputError, UnavailableError
from cpsl_deploy.machine import copy_rate as copy_module
from cpsl_deploy.machine import matrix_rate as matrix_module
from cpsl_deploy.machine.copy_rate import copy_rate
from cpsl_deploy.machine.matrix_graph import INPUT, matrix_product_graph
from cpsl_deploy.machine.matrix_rate import PRECISIONS, matrix_rate
from cpsl_deploy.machine.rates import measure_rates, stated_rates, usable_threads


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No rate of one test is another one's."""
    matrix_rate.cache_clear()
    copy_rate.cache_clear()
    yield
    matrix_rate.cache_clear()
    copy_rate.cache_clear()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices and arrays, few repetitions."""
    monkeypatch.setattr(matrix_module, "SIDES", (64,))
    monkeypatch.setattr(matrix_module, "TURN_S", 0.0)
    monkeypatch.setattr(copy_module, "LEAST_BYTES", 1 << 20)
    monkeypatch.setattr(copy_module, "CACHES_OVER", 0)
    monkeypatch.setattr(copy_module, "BUDGET_S", 0.0)
    for module in (matrix_module, copy_module):  # whatever else this machine does
        monkeypatch.setattr(module, "PATIENCE_S", 0.0)


def libraries(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, list[float]]) -> None:
    """In place of the libraries: what their products take, one after the other; none are refused."""

    def made(times: list[float]) -> Callable[[str, int, int], matrix_module.Product]:
        def make(precision: str, threads: int, side: int) -> matrix_module.Product:
            if not times:
                raise UnavailableError(f"no {precision}")
            steps = itertools.cycle(times)
            return lambda: next(steps)

        return make

    monkeypatch.setattr(matrix_module, "SIDES", (100,))
    monkeypatch.setattr(matrix_module, "TURN_S", 0.0)
    monkeypatch.setattr(matrix_module, "_LIBRARIES", {name: made(times) for name, times in seconds.items()})


@pytest.mark.parametrize(
    "dtypes", [("float32", "float32"), ("float16", "float16"), ("uint8", "int8")], ids=str
)
def test_a_graph_written_by_hand_multiplies(dtypes: tuple[str, str]) -> None:
    random = np.random.default_rng(0)
    # Sums below 2048, which float16 has exactly.
    left, right = (random.integers(0, 4, (200, 200)).astype(dtype) for dtype in dtypes)
    session = onnxruntime.InferenceSession(
        matrix_product_graph(left, right), providers=["CPUExecutionProvider"]
    )
    (product,) = session.run(None, {INPUT: left})
    assert product.dtype == ("int32" if dtypes[0] == "uint8" else dtypes[0])
    np.testing.assert_array_equal(product, left.astype(np.int64) @ right.astype(np.int64))


def test_the_best_repetition_of_the_best_library_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries(monkeypatch, {"slow": [0.5], "fast": [0.4, 0.3, 0.1, 0.2], "absent": []})
    rate = matrix_rate("f32", 2)
    assert rate.flops_per_s == pytest.approx(2 * 100**3 / 0.1)
    assert rate.how == "fast, 100 x 100 x 100 in f32, 2 threads; slow 0 GFLOP/s"


def test_the_first_product_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries(monkeypatch, {"lucky": [0.001, *[0.1] * 10]})
    assert matrix_rate("f32", 1).flops_per_s == pytest.approx(2 * 100**3 / 0.1)


def test_products_grow_until_one_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that does 10^10 operations a second, and twice that from a side of 200 on."""
    made: list[int] = []

    def make(precision: str, threads: int, side: int) -> matrix_module.Product:
        made.append(side)
        return lambda: 2 * side**3 / (2e10 if side >= 200 else 1e10)

    monkeypatch.setattr(matrix_module, "SIDES", (100, 200, 500, 1000))
    monkeypatch.setattr(matrix_module, "TURN_S", 0.0)
    monkeypatch.setattr(matrix_module, "_LIBRARIES", {"one": make})
    rate = matrix_rate("f32", 1)
    assert made == [100, 200, 500] and rate.flops_per_s == pytest.approx(2e10)


def test_without_a_library_the_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries(monkeypatch, {"a": [], "b": []})
    with pytest.raises(UnavailableError, match=r"multiplies matrices in int8 \(a: no int8; b: no int8\)"):
        matrix_rate("int8", 1)


@pytest.mark.usefixtures("hasty")
def test_rates_are_measured_once_and_each_in_its_precision() -> None:
    rates = measure_rates(["f32", "int8"], threads=1)
    assert set(rates.matrix) == {"f32", "int8"} and rates.stated is None
    assert rates.matrix_rate("f32").flops_per_s > 1e6 and rates.copy.bytes_per_s > 1e6
    assert measure_rates(["f32"], threads=1).matrix["f32"] is rates.matrix["f32"]
    assert measure_rates([], threads=1).copy is rates.copy
    with pytest.raises(UnavailableError, match="bf16 was not measured"):
        rates.matrix_rate("bf16")


@pytest.mark.usefixtures("hasty")
def test_openvino_is_asked_for_what_it_really_computes_in() -> None:
    """Without it, or without the instructions for a precision, the reason is told and nothing is measured."""
    pytest.importorskip("openvino")
    for precision in PRECISIONS:
        try:
            product = matrix_module._openvino(precision, 1, 64)
        except UnavailableError as error:
            assert precision in str(error) or "precision" in str(error).lower(), error
        else:
            assert 0 <= product() < 10


def test_a_library_that_computes_in_another_precision_is_left_out() -> None:
    class Request:
        def __init__(self, kernel: str) -> None:
            self.kernel = kernel

        def get_profiling_info(self) -> list[object]:
            return [
                type("Node", (), {"node_type": "FullyConnectedQuantized", "exec_type": self.kernel})(),
            ]

    matrix_module._require_openvino_precision(Request("brgemm_avx512_I8"), "int8")
    matrix_module._require_openvino_precision(Request("brgemm_avx512_bf16"), "bf16")
    for kernel, precision in (("gemm_mlas_f32", "int8"), ("brgemm_avx512_bf16", "f16"), ("jit_f32", "bf16")):
        with pytest.raises(UnavailableError, match=kernel):
            matrix_module._require_openvino_precision(Request(kernel), precision)


def test_a_precision_that_is_not_to_be_had_does_not_spoil_the_others(
    monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    libraries(monkeypatch, {"only": []})
    rates = measure_rates(["f32"], threads=1)
    assert rates.matrix == {} and rates.copy.bytes_per_s > 0
    with pytest.raises(UnavailableError, match="only: no f32"):
        rates.matrix_rate("f32")


def test_a_copy_is_read_and_written(monkeypatch: pytest.MonkeyPatch, hasty: None) -> None:
    """A clock that takes a hundredth of a second between two looks."""
    ticks = itertools.count()
    monkeypatch.setattr(copy_module.time, "perf_counter", lambda: next(ticks) * 0.01)
    assert copy_rate(1).bytes_per_s == pytest.approx(2 * (1 << 20) / 0.01)


def test_arrays_are_larger_than_caches_and_leave_memory_to_others(tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "1024K", "98304K")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
    assert copy_module._last_level_cache(tmp_path) == 96 << 20
    assert copy_module._last_level_cache(tmp_path / "nothing") == 0
    assert copy_module._array_bytes(96 << 20, None) == 384 << 20
    assert copy_module._array_bytes(0, None) == 64 << 20
    assert copy_module._array_bytes(1 << 30, None) == 1 << 30
    assert copy_module._array_bytes(96 << 20, 1 << 30) == 128 << 20


def test_stated_rates_hold_for_every_precision() -> None:
    rates = stated_rates(matrix_flops=2e12, copy_bytes=1e11)
    assert rates.stated is not None and rates.copy.bytes_per_s == 1e11
    assert {rates.matrix_rate(precision).flops_per_s for precision in PRECISIONS} == {2e12}
    assert "stated" in rates.copy.how and "stated" in rates.matrix_rate("f16").how
    for wrong in (
        {"matrix_flops": 0.0, "copy_bytes": 1.0},
        {"matrix_flops": 1.0, "copy_bytes": float("nan")},
    ):
        with pytest.raises(InputError, match="above 0"):
            stated_rates(**wrong)


def test_threads_are_those_of_the_process() -> None:
    assert usable_threads() >= 1
