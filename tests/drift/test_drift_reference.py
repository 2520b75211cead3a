"""The reference: made, stored, read again, and refused when it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drift_roads import road_reference, road_statistics

import cpsl_deploy
from cpsl_deploy.drift.reference import KEY, MAX_TEXT, DriftReference, names_of, predictions
from cpsl_deploy.drift.statistics import statistic_names
from cpsl_deploy.errors import InputError, ModelFileError


@pytest.fixture(scope="module")
def reference() -> DriftReference:
    return road_reference()


def tiny_frames(count: int, size: tuple[int, int] = (96, 160)) -> list[np.ndarray]:
    from tiny_onnx import street

    rng = np.random.default_rng(0)
    frame = street(*size)[..., ::-1].astype(np.int64)
    return [
        np.clip(frame + rng.integers(-40, 40, (1, size[1], 3)), 0, 255).astype(np.uint8) for _ in range(count)
    ]


def window(start: int = 0, **options: float) -> np.ndarray:
    return np.mean([road_statistics(i, **options).values for i in range(start, start + 10)], axis=0)


def test_own_roads_score_low_and_others_high(reference: DriftReference) -> None:
    assert reference.score(window(300)).value < 1
    scored = reference.score(window(300, gain=0.4))
    assert scored.value > 1 and scored.parts["look"] == scored.value > scored.parts["answers"]


def test_round_trip(reference: DriftReference) -> None:
    text = reference.to_json()
    again = DriftReference.from_json(text, "x")
    assert len(text) < 10_000 and again.to_json() == text and again.frames == 120
    for gain in (1.0, 0.5):
        assert again.score(window(200, gain=gain)).value == pytest.approx(
            reference.score(window(200, gain=gain)).value, abs=5e-3, rel=2e-3
        )
    assert again.mean == pytest.approx(reference.mean, abs=1e-3)


def test_many_classes_stay_below_the_limit() -> None:
    names = statistic_names([f"class {i}" for i in range(255)], ("labels", "confidence", "logits"))
    values = np.random.default_rng(0).normal(size=(200, len(names)))
    text = DriftReference.of_statistics(names, values).to_json()
    assert len(text) < MAX_TEXT and DriftReference.from_json(text, "x").names == names


def test_look_alone_is_a_reference() -> None:
    names = tuple(name for name in statistic_names(("road",), ()) if name.startswith("image:"))
    values = np.random.default_rng(0).normal(size=(80, len(names)))
    made = DriftReference.of_statistics(names, values)
    assert set(made.score(values[0]).parts) == {"look"}
    assert DriftReference.from_json(made.to_json(), "x").score(values[0]).value >= 0


@pytest.mark.parametrize("count", [0, 59])
def test_too_few_frames(count: int) -> None:
    with pytest.raises(InputError, match=f"60 to 2000 frames .* got {count}"):
        DriftReference.of_statistics(statistic_names(("a",), ()), np.zeros((count, 7)))


def test_a_rate_that_is_none() -> None:
    with pytest.raises(InputError, match="rate of false alarms"):
        DriftReference.of_statistics(statistic_names(("a",), ()), np.random.rand(80, 7), false_alarms=0.0)


def test_a_lower_rate_has_a_higher_threshold() -> None:
    values = np.random.default_rng(0).normal(size=(160, 7))
    often, seldom = (
        DriftReference.of_statistics(statistic_names(("a",), ()), values, false_alarms=rate)
        for rate in (0.05, 0.001)
    )
    assert all(seldom.thresholds[part] > 1.2 * often.thresholds[part] for part in seldom.thresholds)


def damaged(values: dict[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    """Paths into the JSON and what is put there."""
    wide = [0.0] * 5000
    of_look: dict[str, list[Any]] = {
        "threshold": [0, -1, None],
        "mean": [[1.0], wide, "x", ["1"] * 6, [1e30] * 6],
        "spread": [[0.0] * 6, [-1.0] * 6],
        "correlation": [[0.0], [-1.0] * 21, [0.0] * 21],
        "windows": [[], [[]], [[1.0]], [[0.0] * 6] * 500, [[[1.0]] * 6]],
    }
    top: dict[str, list[Any]] = {
        "version": [2, None],
        "names": ["abc", [], [7], ["plain"] * 9, values["names"] * 2, [f"share:{i}" for i in range(700)]],
        "frames": [-1, True, 1e300],
        "false_alarms": [0, "x", 1e300],
        "parts": [{}, [], {"other": {}}, {"look": values["parts"]["look"]}],
    }
    found = [((key,), value) for key, several in top.items() for value in several]
    return found + [(("parts", "look", key), value) for key, several in of_look.items() for value in several]


def test_damaged_references_are_refused(reference: DriftReference) -> None:
    text = reference.to_json()
    for path, value in damaged(json.loads(text)):
        values = json.loads(text)
        at = values
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        with pytest.raises(ModelFileError, match=r"drift reference of here is not usable .*cpsl-drift"):
            DriftReference.from_json(json.dumps(values), "here")
            pytest.fail(f"{path} = {str(value)[:50]} was taken")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        "NaN",
        "x" * (MAX_TEXT + 1),
        '{"version": NaN}',
        "\0",
        '{"version": 1e999}',
    ],
)
def test_texts_that_are_no_reference(text: str) -> None:
    with pytest.raises(ModelFileError, match="not usable"):
        DriftReference.from_json(text, "here")


def test_any_change_of_a_character_is_read_or_refused(reference: DriftReference) -> None:
    """Never another error, and whatever is read can be used."""
    text, rng = reference.to_json(), np.random.default_rng(0)
    for _ in range(300):
        at = int(rng.integers(len(text)))
        changed = text[:at] + str(rng.choice(list('0-9e."[]{},x'))) + text[at + int(rng.integers(1, 4)) :]
        try:
            read = DriftReference.from_json(changed, "x")
        except ModelFileError:
            continue
        assert np.isfinite(read.score(window()).value)


# ---- of a model file


def test_of_a_model_file(tiny_model: Path) -> None:
    frames = tiny_frames(80)
    with cpsl_deploy.load(tiny_model, threads=1) as segmenter:
        assert DriftReference.stored_in(segmenter) is None
        made = DriftReference.of(segmenter, iter(frames))
        assert made.names == names_of(segmenter) == statistic_names(segmenter.classes.names, ("labels",))
        assert made.frames == 80


@pytest.mark.parametrize("batch", [3, None])
def test_files_that_take_several_frames_see_the_same(tmp_path: Path, batch: int | None) -> None:
    tiny_onnx = pytest.importorskip("tiny_onnx")
    frames = [*tiny_frames(4), *tiny_frames(2, (48, 80))]
    one, several = (
        tiny_onnx.write_tiny_onnx(tmp_path / f"{count}.onnx", size=(48, 80), batch=count)
        for count in (1, batch)
    )
    with cpsl_deploy.load(one, threads=1) as a, cpsl_deploy.load(several, threads=1) as b:
        for first, second in zip(predictions(a, frames), predictions(b, frames), strict=True):
            assert np.array_equal(first.labels, second.labels) and np.array_equal(first.frame, second.frame)


def test_stored_in_a_model_file(tmp_path: Path) -> None:
    tiny_onnx = pytest.importorskip("tiny_onnx")
    path = tiny_onnx.write_tiny_onnx(tmp_path / "m.onnx")
    with cpsl_deploy.load(path, threads=1) as segmenter:
        made = DriftReference.of(segmenter, tiny_frames(60))

    def stored(text: str, **options: Any) -> DriftReference | None:
        contract = {"outputs": ",".join(options.get("outputs", ("labels",)))}
        metadata = {**tiny_onnx.tiny_metadata(**contract), KEY: text}
        tiny_onnx.write_tiny_onnx(path, metadata=metadata, **options)
        with cpsl_deploy.load(path, threads=1) as segmenter:
            return DriftReference.stored_in(segmenter)

    found = stored(made.to_json())
    assert found is not None and found.to_json() == made.to_json()
    with pytest.raises(ModelFileError, match=r"m\.onnx is not usable"):
        stored("{")
    with pytest.raises(ModelFileError, match="other outputs"):
        stored(made.to_json(), outputs=("labels", "confidence"))


def test_a_frame_of_another_model_is_refused(reference: DriftReference) -> None:
    with pytest.raises(InputError, match=r"of another: .* differ"):
        reference.require_fits(statistic_names(("road", "sky"), ("labels",)))
