"""Several inferences at the same time: which runs have them, and that nothing but the speed tells."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from live_feeds import CountingFeed, StandInBackend, stand_in, values

import cpsl_deploy
from cpsl_deploy.run import run
from cpsl_deploy.segmenter import Segmenter
from cpsl_deploy.streams import side_by_side as module
from cpsl_deploy.streams.engine import Engine
from cpsl_deploy.streams.in_order import InOrder
from cpsl_deploy.streams.options import StreamOptions
from cpsl_deploy.streams.side_by_side import side_by_side
from cpsl_deploy.streams.view import View


class Meeting(StandInBackend):
    """Every inference waits until another one is under way, as long as there is one more to come."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self.barrier = barrier

    def infer_impl(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        self.barrier.wait(timeout=20)
        return super().infer_impl(frames)


class Uneven(StandInBackend):
    """Every third frame takes far longer than the others: later ones are ready first."""

    def infer_impl(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        if frames.flat[0] % 3 == 0:
            threading.Event().wait(0.01)
        if frames.flat[0] == self.bad:
            raise RuntimeError("a bad frame")
        return super().infer_impl(frames)

    bad = -1


def results_of(backends: list[StandInBackend], count: int, **options) -> list:
    first, *others = [Segmenter(backend, "stand-in") for backend in backends]
    engine = Engine([CountingFeed(count=count)], View(first), StreamOptions(**options), beside=others)
    try:
        engine.open()
        engine.start()
        return list(engine.results())
    finally:
        engine.close()


def test_inferences_overlap_and_results_keep_their_order() -> None:
    barrier = threading.Barrier(2)
    assert values(results_of([Meeting(barrier), Meeting(barrier)], 40)) == list(range(40))
    results = results_of([Uneven(), Uneven(), Uneven()], 60)
    assert values(results) == list(range(60))
    assert all((r.labels == r.image[..., 0] % 4).all() for r in results), "the labels are those of the frame"


def test_it_ends_where_it_is_asked_to_and_with_what_went_wrong() -> None:
    before = threading.active_count()
    assert values(results_of([Uneven(), Uneven()], 10**6, max_frames=7)) == list(range(7))
    failing = Uneven()
    failing.bad = 30
    with pytest.raises(RuntimeError, match="a bad frame"):
        results_of([failing, failing], 100)
    assert threading.active_count() == before


def test_results_in_order_wait_for_those_before_them_but_not_without_bound() -> None:
    given: list[str] = []

    def hand_on(result: str) -> bool:
        given.append(result)
        return True

    in_order = InOrder(hand_on, ahead=2)
    assert in_order.put(1, "b") and in_order.put(2, "c") and given == []
    blocked = threading.Thread(target=in_order.put, args=(3, "d"))
    blocked.start()
    blocked.join(0.05)
    assert blocked.is_alive(), "three ahead of the next one is too far"
    assert in_order.put(0, "a")
    blocked.join(20)
    assert given == ["a", "b", "c", "d"]
    in_order.close()
    assert not in_order.put(9, "z") and given[-1] == "d"


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "inference_threads", lambda threads: 2)


@pytest.mark.parametrize(
    ("feed", "options", "threads"),
    [
        ({"count": 100, "live": True}, {}, None),
        ({"count": 3}, {}, None),
        ({"count": 100}, {"policy": "latest"}, None),
        ({"count": 100}, {"batch": 2}, None),
        ({"count": 100}, {"tile": "0.25"}, None),
        ({"count": 100}, {}, 2),
    ],
)
def test_one_at_a_time(two_cores: None, tiny_model: Path, feed: dict, options: dict, threads: object) -> None:
    with cpsl_deploy.load(tiny_model) as opened:
        feeds = [CountingFeed(**feed)]
        assert side_by_side(opened, feeds, StreamOptions(**options), threads=threads) == [opened]
        opened.predict(np.zeros((64, 96, 3), np.uint8))


def test_one_at_a_time_on_one_core_of_several_sources_and_of_other_backends(
    two_cores: None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = stand_in()
    assert side_by_side(other, [CountingFeed(count=100)], StreamOptions(), threads=None) == [other]
    with cpsl_deploy.load(tiny_model) as opened:
        feeds = [CountingFeed("a", count=100), CountingFeed("b", count=100)]
        assert side_by_side(opened, feeds, StreamOptions(), threads=None) == [opened]
        monkeypatch.setattr(module, "inference_threads", lambda threads: 1)
        assert side_by_side(opened, feeds[:1], StreamOptions(), threads=None) == [opened]


def test_a_video_has_two_with_half_of_the_cores_each_and_the_same_results(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    random = np.random.default_rng(0)
    for index in range(20):
        small = random.integers(0, 256, (8, 12, 3), np.uint8)
        cv2.imwrite(str(frames / f"{index:02d}.png"), cv2.resize(small, (96, 64)))
    asked = []
    load = module.load

    def counted(path: str, **how: object) -> Segmenter:
        asked.append(how["threads"])
        return load(path, **how)

    monkeypatch.setattr(module, "load", counted)
    shares = []
    for cores in (6, 1):
        monkeypatch.setattr(module, "inference_threads", lambda threads, cores=cores: cores)
        run(tiny_model, frames, tmp_path / str(cores), backend="onnxruntime", labels=True, overlay=False)
        lines = (tmp_path / str(cores) / "areas.jsonl").read_text().splitlines()
        shares.append([(line["frame"], line["areas"]) for line in map(json.loads, lines)])
    assert asked == [3, 3]
    assert shares[0] == shares[1] and len(shares[0]) == 20
    for path in sorted((tmp_path / "1").glob("*.png")):
        assert path.read_bytes() == (tmp_path / "6" / path.name).read_bytes()
