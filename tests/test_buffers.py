"""Memory is used again once nobody holds it, and never before."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import numpy as np
import pytest

from cpsl_deploy.buffers import FREE_OF_A_SIZE, LEAST_BYTES, SIZES, ArrayPool

SHAPE = (300, 400)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_an_array_like_any_other(dtype: type) -> None:
    array = ArrayPool().empty((3, *SHAPE), dtype)
    assert array.shape == (3, *SHAPE) and array.dtype == dtype
    assert array.flags.writeable and array.flags.c_contiguous and array.flags.aligned
    array[...] = 7
    assert (array == 7).all()


def test_memory_comes_back_when_the_array_is_gone() -> None:
    pool = ArrayPool()
    first = pool.empty(SHAPE)
    where = address(first)
    assert address(pool.empty(SHAPE)) != where
    del first
    # Of the same number of bytes, whatever their shape and type.
    assert where in (address(pool.empty((100, 300), np.float32)), address(pool.empty(SHAPE)))


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array[10:, ::2],
        lambda array: array[None].reshape(-1)[5:].reshape(5, -1)[0],
        lambda array: array.T.view(np.int8),
        lambda array: memoryview(array),
        lambda array: np.frombuffer(array, np.uint8, 10, 50),
        lambda array: array.view(np.recarray),
        lambda array: np.lib.stride_tricks.sliding_window_view(array, (2, 2)),
        lambda array: [{"mask": array[3]}],
    ],
)
def test_memory_stays_while_anything_of_the_array_is_held(hold: Callable[[np.ndarray], object]) -> None:
    pool = ArrayPool()
    array = pool.empty(SHAPE)
    where = address(array)
    held = hold(array)
    del array
    gc.collect()
    others = [pool.empty(SHAPE) for _ in range(3)]
    assert where not in map(address, others)
    del held, others
    gc.collect()
    assert where in map(address, [pool.empty(SHAPE) for _ in range(4)])


def test_memory_in_a_cycle_comes_back_by_the_collector() -> None:
    pool = ArrayPool()
    cycle: list[object] = [pool.empty(SHAPE)]
    where = address(cycle[0])  # type: ignore[arg-type]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert address(pool.empty(SHAPE)) == where


def test_what_waits_is_bounded() -> None:
    pool = ArrayPool()
    many = [pool.empty(SHAPE) for _ in range(3 * FREE_OF_A_SIZE)]
    del many
    assert sum(map(len, pool._free.values())) == FREE_OF_A_SIZE
    for side in range(2 * SIZES):
        pool.empty((LEAST_BYTES, side + 1))
    assert len(pool._free) == SIZES
    assert pool.empty((4, 4)).flags.owndata, "small ones are NumPy's own"


def test_no_two_threads_hold_the_same_memory() -> None:
    pool, wrong, go = ArrayPool(), [], threading.Barrier(4)

    def work(mark: int) -> None:
        go.wait()
        kept: list[np.ndarray] = []
        for i in range(300):
            array = pool.empty(SHAPE)
            array[::50] = mark
            kept.append(array[::50])
            if len(kept) > i % 5:
                wrong.extend(mark for one in kept if (one != mark).any())
                kept.clear()

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
