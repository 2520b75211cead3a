"""A drive as the target of a whole run: what is never trained on, and the comparison on it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch
from drives import FPS, SIZE, drive, scenery, write_video
from tiny_domains import CLASSES, write_domain, write_recipe

from cpsl_deploy.classes import ClassSpace
from cpsl_deploy.data import images, open_dataset
from cpsl_deploy.data.footage import Footage, Sampling, Span
from cpsl_deploy.data.video_file import VideoReader
from cpsl_deploy.errors import DataError, InputError, UnavailableError
from cpsl_deploy.export.gate.frames import open_frames
from cpsl_deploy.sinks import video_codec
from cpsl_deploy.train import RunFolder, adapt, load_model
from cpsl_deploy.train.command import main
from cpsl_deploy.train.engine.loop import SilentWatcher
from cpsl_deploy.train.reporting.clip_frame import ClipFrame
from cpsl_deploy.train.reporting.flicker import Flicker, Movement
from cpsl_deploy.train.reporting.held_out import HeldOut, clip_times
from cpsl_deploy.train.reporting.held_out_section import on_held_out_seconds

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE = ClassSpace(CLASSES)


# ---- a whole run


class Readings(SilentWatcher):
    """Which image files were read up to the last training step."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.messages: list[str] = []
        self.read: set[Path] = set()
        self.trained: set[Path] = set()

    def stage(self, name: str, done: int, total: int) -> None:
        self.stages.append(name)

    def step(self, name: str, iteration: int, losses: dict[str, float]) -> None:
        if name == "distillation_2":
            self.trained = set(self.read)

    def message(self, text: str) -> None:
        self.messages.append(text)


@dataclass(frozen=True)
class Adapted:
    folder: RunFolder
    drive: Path
    source: Path
    recipe: Path
    cache: Path
    watcher: Readings


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapted]:
    """A run to a drive of 12 s with 3 s held out, of at most 20 frames."""
    place = tmp_path_factory.mktemp("own")
    source = write_domain(place / "game", hue=200)
    video = write_video(place / "drive.avi", drive([("moving", 5), ("black", 1), ("moving", 6)]))
    recipe = write_recipe(place)
    watcher = Readings()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CPSL_CACHE", str(place / "cache"))
        read = images.read_image

        def reading(path: Path, *, upright: bool = False) -> np.ndarray:
            watcher.read.add(path)
            return read(path, upright=upright)

        patch.setattr(images, "read_image", reading)
        options = {"recipe": recipe, "device": "cpu", "watcher": watcher}
        folder = adapt(source, video, place / "run", frames=20, hold_out_s=3, **options)
        yield Adapted(folder, video, source, recipe, place / "cache", watcher)


def test_held_out_frames_are_read_only_when_the_training_is_over(adapted: Adapted) -> None:
    train, held_out = (
        open_dataset(adapted.drive, split, frames=20, hold_out_s=3, cache=adapted.cache)
        for split in ("train", "val")
    )
    trained = {item.image for item in train.items}
    shown = {item.image for item in held_out.items}
    assert len(train) == 20 and len(shown) > 3 and not trained & shown
    assert adapted.watcher.trained >= trained and not adapted.watcher.trained & shown
    assert adapted.watcher.read & shown  # the pictures of the report
    assert train.footage is not None
    (span,) = train.footage.held_out
    times = np.array([int(name) / FPS for name in train.names])
    assert np.maximum(span.start_s - times, times - span.end_s).min() >= train.footage.guard_s - 1e-3


def test_the_clip_shows_the_held_out_seconds_before_and_after(adapted: Adapted) -> None:
    with VideoReader(adapted.folder.path / "before_after.mp4") as reader:
        frames = []
        while reader.grab():
            image = reader.image()
            assert image is not None
            frames.append(image.copy())
        assert reader.header.fps == pytest.approx(FPS)
    painter = ClipFrame(SIZE, ("a", "b"), SPACE)
    assert len(frames) == 30 and frames[0].shape[:2] == painter.size
    # Below the captions, both halves show the footage; the clip moves as it does.
    height, width = painter.picture_size
    top = painter.size[0] - height
    assert np.abs(frames[0][top // 2 : top].astype(int) - frames[9][top // 2 : top]).mean() > 4
    assert frames[0][:, : width // 2].std() > 10 and frames[0][:, -width // 2 :].std() > 10


def test_the_report_says_which_seconds_and_gives_figures_that_need_no_labels(adapted: Adapted) -> None:
    report = adapted.folder.report.read_text()
    found = HeldOut.from_json(adapted.folder.results()["held_out"], SPACE)
    assert found.frames == 30 and found.fps == FPS and found.guard_s == pytest.approx(1.5)
    assert f"{found.seconds}: kept out of training" in report and "0:0" in found.seconds
    assert "[The clip](before_after.mp4) shows 3.0 s" in report.replace("**", "")
    assert "| **all** | 100.0 | 100.0 |" in report
    assert "never trained on: " in report and "dark or blank" in report
    assert "before and after" in report and "drive (val, " in report
    for area in found.area:
        assert sum(area) == pytest.approx(1) and min(area) >= 0
    for share in (*found.flicker_of_all, found.changed):
        assert share is not None and 0 <= share <= 1
    assert any("moments looked at, 20 frames to train on" in m for m in adapted.watcher.messages)
    assert adapted.watcher.stages[0] == "frames of drive.avi"
    assert adapted.watcher.stages[-1] == "before_after.mp4"


def test_areas_are_those_of_the_two_networks(adapted: Adapted) -> None:
    """Counted again, on the frames sampled of the held-out seconds, which are some of the clip's."""
    from cpsl_deploy.train.evaluation.network_score import label_map
    from cpsl_deploy.train.samples import WorkingImages

    dataset = open_dataset(adapted.drive, "val", frames=20, hold_out_s=3, cache=adapted.cache)
    found = HeldOut.from_json(adapted.folder.results()["held_out"], SPACE)
    pictures = WorkingImages(dataset, (96, 128))
    for stage, area in zip(("source_only", "distillation_2"), found.area, strict=True):
        network = load_model(adapted.folder.stage_model(stage))[0].eval()
        labels = [
            label_map(network, pictures.image(i), SIZE, torch.device("cpu")) for i in range(len(dataset))
        ]
        again = np.bincount(np.stack(labels).ravel(), minlength=len(CLASSES)) / np.stack(labels).size
        assert again == pytest.approx(area, abs=0.12)


def test_the_run_remembers_how_the_drive_was_sampled(adapted: Adapted) -> None:
    target = json.loads(adapted.folder.domains_file.read_text())["target"]
    assert (target["frames"], target["hold_out_s"], target["count"]) == (20, 3, 20)
    sampled = sorted((adapted.cache / "video_frames").iterdir())
    _, spec = load_model(adapted.folder.model)
    frames = open_frames(None, spec, (96, 128), run=adapted.folder.path)
    assert len(frames) == 4 and "drive.avi (train)" in frames.described
    assert sorted((adapted.cache / "video_frames").iterdir()) == sampled
    with pytest.raises(DataError, match="the target differs: then 20 images of drive"):
        options = {"recipe": adapted.recipe, "device": "cpu", "resume": True}
        adapt(adapted.source, adapted.drive, adapted.folder.path, frames=15, hold_out_s=3, **options)


# ---- what is refused before a run


def test_sampling_options_are_for_videos(adapted: Adapted, tmp_path: Path) -> None:
    given = ["--source", str(adapted.source), "--target", str(adapted.source), "-o", str(tmp_path / "run")]
    result = CliRunner().invoke(main, [*given, "--recipe", str(adapted.recipe), "--hold-out", "3"])
    assert result.exit_code == 2 and "domain.yaml is none" in " ".join(result.output.split())
    result = CliRunner().invoke(
        main, [*given[:2], "--target", str(adapted.drive), *given[4:], "--hold-out", "9"]
    )
    assert result.exit_code == 2 and "at most half of a recording" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_without_a_codec_for_the_clip_nothing_is_begun(
    adapted: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_codec, "_works", lambda *_: False)
    with pytest.raises(UnavailableError, match="cannot be written into"):
        adapt(adapted.source, adapted.drive, tmp_path / "run", recipe=adapted.recipe, device="cpu")
    assert not (tmp_path / "run").exists()


# ---- the figures


def test_labels_that_move_with_the_picture_do_not_flicker() -> None:
    scene = np.ascontiguousarray(cv2.GaussianBlur(scenery(3), (0, 0), 1.5))
    truth = np.ascontiguousarray(scene[..., 0] > 110).astype(np.uint8)
    views = [scene[:, at : at + 160] for at in (0, 4, 8)]
    moving, standing, random = (Flicker(2) for _ in range(3))
    rng, movement = np.random.default_rng(0), Movement()
    noise = [rng.integers(0, 2, SIZE, np.uint8) for _ in views]
    for i in (1, 2):
        between = movement.between(views[i - 1], views[i])
        assert between[2].mean() > 0.85  # all but what came in at the right edge
        inner = between[0][10:-10, 10:-20] - np.mgrid[:96, :160][1][10:-10, 10:-20]
        assert np.median(inner) == pytest.approx(4, abs=0.3)
        at = 4 * i
        moving.add(truth[:, at - 4 : at + 156], truth[:, at : at + 160], between)
        standing.add(truth[:, :160], truth[:, :160], between)
        random.add(noise[i - 1], noise[i], between)
    assert moving.of_all is not None and standing.of_all is not None
    assert moving.of_all < 0.03 < 0.1 < standing.of_all
    assert random.of_classes == pytest.approx([0.5, 0.5], abs=0.03)


def test_flicker_is_counted_per_class_of_the_frame_before() -> None:
    ys, xs = np.mgrid[:40, :40].astype(np.float32)
    still = (xs, ys, np.ones((40, 40), bool))
    before, now = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    before[:20] = 1
    now[:5], before[39, :10], now[39, :10] = 1, 2, 2
    flicker = Flicker(4)
    flicker.add(before, now, still)
    assert flicker.of_classes == [0.0, 0.75, None, None]  # 15 of 20 rows; ten pixels are too few
    assert flicker.of_all == pytest.approx(600 / 1600)
    hidden = (xs, ys, np.zeros((40, 40), bool))
    assert Flicker(2).of_all is None
    flicker.add(before, now, hidden)
    assert flicker.of_all == pytest.approx(600 / 1600)


def footage(*spans: tuple[float, float], fps: float = 25.0) -> Footage:
    held_out = tuple(Span(video=Path("drive.mp4"), start_s=start, end_s=end) for start, end in spans)
    counts = {"train": 100, "val": 10}
    sampling = Sampling()
    return Footage(
        videos=(Path("drive.mp4"),), seconds=3600, fps=fps, moments=110, frames=counts, dropped={},
        held_out=held_out, guard_s=2, sampling=sampling, manifest=Path("frames.json"),
    )  # fmt: skip


def test_the_clip_is_short_at_its_own_speed() -> None:
    shown, fps = clip_times(footage((450, 465), (1350, 1365), (2250, 2265), (3150, 3165)))
    assert fps == 12.5 and [len(times) for _, times in shown] == [62] * 4
    for span, times in shown:
        assert times[0] == pytest.approx(span.start_s + 5) and times[-1] <= span.end_s - 5
        assert np.diff(times) == pytest.approx(0.08)
    shown, fps = clip_times(footage((7, 8.76)))
    assert fps == 25 and len(shown[0][1]) == 44
    _, fps = clip_times(footage((7, 8), fps=120))
    assert fps == 30


def test_a_frame_has_both_label_maps_in_their_colours_and_the_captions_fit() -> None:
    painter = ClipFrame((1080, 1920), ("source-only", "adapted"), SPACE)
    height, width = painter.picture_size
    assert (height, width) == (540, 960) and all(side % 2 == 0 for side in painter.size)
    grey = np.full((1080, 1920, 3), 128, np.uint8)
    road, sky = (np.full((height, width), k, np.uint8) for k in (0, 1))
    drawn = painter.draw(grey, (road, sky), "drive.mp4  0:07.1")
    middle = painter.size[0] // 2
    for x, colour in ((width // 2, SPACE.palette[0]), (drawn.shape[1] - width // 2, SPACE.palette[1])):
        expected = 0.45 * 128 + 0.55 * np.array(colour[::-1])
        assert drawn[middle, x] == pytest.approx(expected, abs=1.5)
    other = painter.draw(grey, (road, sky), "drive.mp4  0:09.9")
    changed = np.argwhere((drawn != other).any(axis=-1))
    assert len(changed) and changed[:, 0].max() < 60 and 700 < changed[:, 1].min() < changed[:, 1].max() < 960
    narrow = ClipFrame(
        (48, 64), ("source-only", "adapted"), ClassSpace(tuple(f"class {k}" for k in range(19)))
    )
    assert narrow.picture_size == (240, 320) and narrow.size[0] > 240 + 60  # its legend has several rows


def comparison(**changes: object) -> HeldOut:
    values = HeldOut(
        seconds="0:07.1-0:08.8", guard_s=0.9, titles=("source-only", "adapted"), frames=44, fps=25.0,
        area=([0.5, 0.45, 0.05], [0.6, 0.397, 0.003]), flicker=([0.01, 0.02, 0.3], [0.01, 0.015, None]),
        flicker_of_all=(0.03, 0.02), changed=0.1, changes=[("sky", "road", 0.08), ("car", "road", 0.02)],
    )  # fmt: skip
    return dataclasses.replace(values, **changes)


def test_the_report_names_classes_that_vanish_and_what_changed_most() -> None:
    text = "\n".join(on_held_out_seconds(comparison(), SPACE))
    assert "**Nearly gone after the adaptation: car.**" in text
    assert "10.0 % of the pixels have another label after than before, most of all sky → road 8.0 %" in text
    assert "| car | 5.0 | 0.3 | 30.0 | n/a |" in text
    kept = comparison(area=([0.5, 0.45, 0.05], [0.5, 0.45, 0.05]), changed=0.0, changes=[])
    assert "gone" not in "\n".join(on_held_out_seconds(kept, SPACE))


def test_a_damaged_comparison_is_named() -> None:
    whole = dataclasses.asdict(comparison())
    assert HeldOut.from_json(whole, SPACE).frames == 44
    for damaged in ({**whole, "area": [[1.0], [1.0]]}, {k: whole[k] for k in list(whole)[1:]}):
        with pytest.raises(InputError, match=r"'held_out' of results\.json is damaged"):
            HeldOut.from_json(damaged, SPACE)
