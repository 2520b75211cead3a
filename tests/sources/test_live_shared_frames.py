"""Frames cross between processes without a copy too many, and buffers are used again only when let go of."""

from __future__ import annotations

import os

import numpy as np
import pytest

from cpsl_deploy.sources.shared_frames import BufferPool, SharedFrames, new_memory, slot_bytes_for


def test_two_sides_see_the_same_memory_and_slots_do_not_touch() -> None:
    size = slot_bytes_for(48 * 64)
    assert size >= 48 * 64 * 3
    memory = new_memory(3, size)
    ours, theirs = SharedFrames(memory, 3, size), SharedFrames(memory, 3, size)
    os.close(memory)
    for slot in range(3):
        theirs.image(slot, 48, 64)[:] = slot + 1
    assert [int(ours.image(slot, 48, 64).min()) for slot in range(3)] == [1, 2, 3]
    assert [int(ours.image(slot, 64, 48).max()) for slot in range(3)] == [1, 2, 3]
    ours.close()
    theirs.close()


@pytest.mark.parametrize("wrong", [(-1, 48, 64), (3, 48, 64), (0, 0, 64), (0, 4800, 6400), (0, -48, -64)])
def test_what_does_not_fit_is_refused(wrong: tuple[int, int, int]) -> None:
    size = slot_bytes_for(48 * 64)
    memory = new_memory(3, size)
    frames = SharedFrames(memory, 3, size)
    os.close(memory)
    with pytest.raises(ValueError, match="no frame"):
        frames.image(*wrong)
    frames.close()


def test_memory_is_only_taken_where_something_is_written() -> None:
    memory = new_memory(8, slot_bytes_for(7680 * 4320))
    try:
        assert os.fstat(memory).st_size > 700e6 and os.fstat(memory).st_blocks * 512 < 1e6
    finally:
        os.close(memory)


def address(image: np.ndarray) -> int:
    return image.__array_interface__["data"][0]


def test_a_buffer_is_used_again_when_nobody_holds_it() -> None:
    pool = BufferPool()
    image = pool.take(10, 20)
    first = address(image)
    assert image.shape == (10, 20, 3) and image.dtype == np.uint8 and image.flags.writeable
    del image
    assert address(pool.take(10, 20)) == first
    assert address(pool.take(20, 10)) == first  # the same number of bytes


@pytest.mark.parametrize(
    "hold",
    [
        lambda image: image[2:5],
        lambda image: image[..., ::-1][3:],
        lambda image: image.reshape(-1)[5:].view(np.int8),
        lambda image: memoryview(image),
        lambda image: np.asarray(image).T,
        lambda image: iter(image.flat),
    ],
)
def test_a_buffer_that_is_held_in_any_way_is_left_alone(hold) -> None:
    pool = BufferPool()
    image = pool.take(10, 20)
    first = address(image)
    image[:] = 7
    held = hold(image)
    del image
    others = [pool.take(10, 20) for _ in range(3)]
    assert first not in {address(other) for other in others}
    for other in others:
        other[:] = 9
    del held
    assert first in {address(image) for image in [pool.take(10, 20)]}


def test_the_pool_is_bounded_and_forgets_other_sizes() -> None:
    pool = BufferPool(keep=3)
    held = [pool.take(10, 20) for _ in range(10)]
    assert len({address(image) for image in held}) == 10 and len(pool._buffers) == 3
    pool.take(30, 30)
    assert len(pool._buffers) == 1
