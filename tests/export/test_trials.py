"""Candidates tried one after another: which are left out, which is chosen, what is timed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gate_files import SIZE, gate_file, model_and_spec

import cpsl_deploy
from cpsl_deploy.bench.interleaved import Speed
from cpsl_deploy.errors import ModelFileError, UnavailableError
from cpsl_deploy.export import trials
from cpsl_deploy.export.candidates import YARDSTICK, Candidate
from cpsl_deploy.export.gate.frames import Frames, generated_frames
from cpsl_deploy.export.gate.reference import make_reference
from cpsl_deploy.export.request import ExportRequest
from cpsl_deploy.export.trials import Trial, Tribunal, chosen, hold_trials
from cpsl_deploy.train.engine.loop import SilentWatcher

FP16, OPENVINO = Candidate(precision="fp16"), Candidate(backend="openvino", backend_precision="f32")
MODEL, SPEC = model_and_spec()
FRAMES = Frames.of(list(generated_frames(SIZE, 2)), described="2 generated frames")


class Shelf:
    """A workshop whose files are there already; one that is an error is raised instead."""

    def __init__(self, folder: Path, files: dict[Candidate, onnx.ModelProto | Exception]) -> None:
        self._folder, self._files = folder, files
        self.opened: list[Candidate] = []

    def file(self, candidate: Candidate) -> Path:
        found = self._files[candidate]
        if isinstance(found, Exception):
            raise found
        path = self._folder / f"{candidate.name}.onnx"
        path.write_bytes(found.SerializeToString())
        return path

    def open(self, candidate: Candidate, *, whole_graph: bool = False) -> Any:
        self.opened.append(candidate)
        return cpsl_deploy.load(self.file(candidate), whole_graph=whole_graph)

    def float_file(self, candidate: Candidate) -> None:
        return None

    def kept(self, candidate: Candidate) -> None:
        return None


class Listening(SilentWatcher):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def hold(tmp_path: Path) -> Callable[..., tuple[list[Trial], list[str]]]:
    def hold(
        files: dict[Candidate, onnx.ModelProto | Exception], **request: Any
    ) -> tuple[list[Trial], list[str]]:
        tribunal = Tribunal(make_reference(MODEL, SPEC, FRAMES), ExportRequest(**request))
        watcher, shelf = Listening(), Shelf(tmp_path, files)
        return hold_trials(list(files), shelf, tribunal, MODEL, watcher), watcher.messages  # type: ignore[arg-type]

    return hold


@pytest.fixture
def plant_speeds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, ...]]]:
    """Ratios by the file's name; returns which files are timed."""

    def plant(**ratios: float) -> list[tuple[str, ...]]:
        timed: list[tuple[str, ...]] = []

        def compare_speed(files: Any, frames: Any, **options: Any) -> dict[str, Speed]:
            timed.append(tuple(files))
            found = {name: ratios.get(name.split()[0], 1.0) for name in files}
            return {
                name: Speed(median_ms=10 / ratio, ratio=ratio, low=ratio, high=ratio)
                for name, ratio in found.items()
            }

        monkeypatch.setattr(trials, "compare_speed", compare_speed)
        return timed

    return plant


def right(**options: Any) -> onnx.ModelProto:
    return gate_file(MODEL, SPEC, **options)


def wrong() -> onnx.ModelProto:
    return gate_file(MODEL, SPEC, noise=1.0)


def test_the_fastest_that_passes_is_chosen(hold: Any, plant_speeds: Any) -> None:
    timed = plant_speeds(fp16=3.0)
    held, _ = hold({YARDSTICK: right(), FP16: right()})
    best = chosen(held)
    assert best is not None and best.candidate == FP16 and best.gated.speed == 3.0
    assert "3.3 ms a frame" in best.gated.remark
    assert timed == [("fp32 onnxruntime", "fp16 onnxruntime")], "the yardstick is first"


def test_one_that_fails_is_neither_chosen_nor_timed(hold: Any, plant_speeds: Any) -> None:
    timed = plant_speeds(fp16=100.0)
    held, _ = hold({YARDSTICK: right(), FP16: wrong()})
    assert [trial.passed for trial in held] == [True, False]
    best = chosen(held)
    assert best is not None and best.candidate == YARDSTICK and timed == [("fp32 onnxruntime",)]
    assert held[1].speed is None and held[1].gated.blame is not None
    assert held[1].gated.blame.responsible is not None


def test_if_none_passes_none_is_chosen_and_nothing_timed(hold: Any, plant_speeds: Any) -> None:
    timed = plant_speeds()
    held, messages = hold({YARDSTICK: wrong(), FP16: wrong()})
    assert chosen(held) is None and timed == [] and "timing" not in " ".join(messages)
    assert held[0].worst_labels.shape == SIZE and held[0].worst_labels.dtype == np.uint8


@pytest.mark.parametrize("error", [UnavailableError("no such GPU"), ModelFileError("it takes no Resize")])
def test_what_does_not_run_here_is_left_out_with_a_message(
    hold: Any, plant_speeds: Any, error: Exception
) -> None:
    plant_speeds()
    held, messages = hold({YARDSTICK: right(), FP16: error})
    assert [trial.candidate for trial in held] == [YARDSTICK]
    assert f"fp16 onnxruntime is left out: {error}" in messages


@pytest.mark.parametrize("error", [UnavailableError("no such GPU"), ModelFileError("it takes no Resize")])
def test_a_single_one_and_the_yardstick_are_not_left_out(hold: Any, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        hold({FP16: error})
    with pytest.raises(type(error), match=str(error)):
        hold({YARDSTICK: error, FP16: right()})


def test_if_nothing_runs_that_is_said(hold: Any) -> None:
    with pytest.raises(UnavailableError, match="none of the candidates runs"):
        hold({FP16: UnavailableError("a"), OPENVINO: UnavailableError("b")})


def test_a_single_float32_file_is_not_timed(hold: Any, plant_speeds: Any) -> None:
    timed = plant_speeds()
    (held,), _ = hold({YARDSTICK: right()})
    assert held.passed and held.speed is None and timed == [] and not held.at_half_size


def test_files_of_a_fixed_batch_are_timed_by_the_frame(hold: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    real = trials.compare_speed

    def watched(*arguments: Any, at_once: int, **options: Any) -> Any:
        given.append(at_once)
        return real(*arguments, at_once=at_once, rounds=1, warm_up=0, **options)

    monkeypatch.setattr(trials, "compare_speed", watched)
    held, _ = hold({YARDSTICK: right(batch=3), FP16: right(batch=3)}, batch=3)
    assert given == [3] and all(trial.passed and trial.speed for trial in held)


@pytest.mark.parametrize(
    ("computed_in", "least"), [(None, 0.999), ("f32", 0.999), ("f16", 0.99), ("bf16", 0.95)]
)
def test_the_budget_is_that_of_the_precision_in_which_it_computes(
    tmp_path: Path, computed_in: str | None, least: float
) -> None:
    """Of the file, or less where the library computes in less."""
    tribunal = Tribunal(make_reference(MODEL, SPEC, FRAMES), ExportRequest())
    with Shelf(tmp_path, {YARDSTICK: right()}).open(YARDSTICK) as segmenter:
        assert tribunal.judge(segmenter, computed_in).budget.min_agreement == least


def test_a_file_of_free_sizes_is_compared_at_half_the_size_too(tmp_path: Path) -> None:
    """It is right at its own size, and nothing of this is seen by the runtime, which resizes."""
    seen: list[tuple[int, ...]] = []

    class AnySize(trials.Probe):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.takes_any_size = True

        def labels(self, frame: np.ndarray) -> np.ndarray:
            seen.append(frame.shape)
            return np.zeros(frame.shape[:2], np.uint8)

    shelf = Shelf(tmp_path, {YARDSTICK: right()})
    tribunal = Tribunal(make_reference(MODEL, SPEC, FRAMES), ExportRequest())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "Probe", AnySize)
        patch.setattr(trials, "find_blame", lambda *arguments, **options: None)
        (held,) = hold_trials([YARDSTICK], shelf, tribunal, MODEL, SilentWatcher())  # type: ignore[arg-type]
    assert seen == [(33, 49, 3)] and held.at_half_size and not held.passed
    assert held.gated.verdict.frames == "the first of 2 generated frames, at 33x49"
    assert held.worst_labels.shape == (33, 49) == held.reference.labels[0].shape
