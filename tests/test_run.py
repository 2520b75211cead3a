"""cpsl-run and run() from files to files."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cpsl_deploy import CpslError, DataError, InputError, ModelFileError, OutputError, UnavailableError
from cpsl_deploy.data.images import read_mask
from cpsl_deploy.run import run
from cpsl_deploy.run_command import main
from cpsl_deploy.sinks.video_file import video_writer
from cpsl_deploy.sources.video import VideoSource

tiny_onnx = pytest.importorskip("tiny_onnx", reason="needs the onnx package", exc_type=ImportError)
pytest.importorskip("onnxruntime")

VIDEO = Path(__file__).parents[1] / "../shared/data/video/highway.mp4"


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("cpsl-")] == []


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("a.png", (96, 160)), ("b.jpg", (120, 200)), ("c.png", (50, 40))):
        cv2.imwrite(str(folder / name), tiny_onnx.street(*size)[..., ::-1])
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "drive.mp4"
    with video_writer(path, size=(96, 160), fps=10) as append:
        for i in range(12):
            append(np.roll(tiny_onnx.street(), 4 * i, axis=1)[..., ::-1].copy())
    return path


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "areas.jsonl").read_text().splitlines()]


def test_folder_of_images(tmp_path: Path, tiny_model: Path, photos: Path) -> None:
    seen = []
    summary = run(
        tiny_model,
        photos,
        tmp_path / "out",
        labels=True,
        threads=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (summary.frames, summary.unreadable, summary.output) == (3, (), tmp_path / "out")
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert sorted(os.listdir(tmp_path / "out")) == [
        "a.labels.png", "a.overlay.png", "areas.jsonl", "b.labels.png", "b.overlay.jpg", "c.labels.png",
        "c.overlay.png",
    ]  # fmt: skip
    np.testing.assert_array_equal(
        read_mask(tmp_path / "out/a.labels.png"), tiny_onnx.nearest_colour(tiny_onnx.street())
    )
    assert cv2.imread(str(tmp_path / "out/b.overlay.jpg")).shape == (120, 200, 3)
    written = lines(tmp_path / "out")
    assert [(line["frame"], line["name"]) for line in written] == [(0, "a"), (1, "b"), (2, "c")]
    assert all("time_s" not in line and line["latency_ms"] > 0 for line in written)
    assert written[0]["areas"] == {"road": 0.4375, "sky": 0.333333, "tree": 0.166667, "car": 0.0625}


def test_video(tmp_path: Path, tiny_model: Path, video: Path) -> None:
    summary = run(tiny_model, video, tmp_path / "out", labels=True, opacity=1, legend=False, threads=1)
    assert summary.frames == 12 and summary.frames_per_second > 0
    assert set(summary.files) == {tmp_path / "out/drive.overlay.mp4", tmp_path / "out/areas.jsonl"}
    info = VideoSource(tmp_path / "out/drive.overlay.mp4").info
    assert (info.size, info.frame_count) == ((96, 160), 12) and info.fps == pytest.approx(10)
    written = lines(tmp_path / "out")
    assert [line["frame"] for line in written] == list(range(12))
    assert [line["time_s"] for line in written] == pytest.approx([i / 10 for i in range(12)])
    # Frames and labels keep their order: the car moves 4 pixels a frame.
    for i in (0, 5, 11):
        car = read_mask(tmp_path / f"out/labels/drive-{i:06d}.png") == 3
        assert np.flatnonzero(car[60]).mean() == pytest.approx(59.5 + 4 * i, abs=1.5)
    capture = cv2.VideoCapture(str(tmp_path / "out/drive.overlay.mp4"))
    _, frame = capture.read()
    capture.release()
    assert np.abs(frame[10, 100].astype(int) - np.array([180, 130, 70])).max() < 12  # sky's colour, BGR


def test_only_what_is_asked_for_is_written(tmp_path: Path, tiny_model: Path, photos: Path) -> None:
    run(tiny_model, photos / "a.png", tmp_path / "1", overlay=False, threads=1)
    assert os.listdir(tmp_path / "1") == ["areas.jsonl"]
    run(tiny_model, photos / "a.png", tmp_path / "2", areas=False, threads=1)
    assert os.listdir(tmp_path / "2") == ["a.overlay.png"]
    with pytest.raises(InputError, match="nothing is asked for"):
        run(tiny_model, photos, tmp_path / "3", overlay=False, areas=False)
    assert not (tmp_path / "3").exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "nothing.onnx"}, ModelFileError),
        ({"input": "nowhere"}, DataError),
        ({"opacity": 2}, InputError),
        ({"codec": "QQQQ"}, UnavailableError),
    ],
)
def test_errors_come_before_the_output_folder(
    tmp_path: Path, tiny_model: Path, video: Path, change: dict, error: type[CpslError]
) -> None:
    arguments = {"model": tiny_model, "input": video, "output": tmp_path / "out", **change}
    with pytest.raises(error):
        run(**arguments)
    assert not (tmp_path / "out").exists()


def test_output_folder_rules(tmp_path: Path, tiny_model: Path, photos: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="not empty"):
        run(tiny_model, photos, out)
    assert os.listdir(out) == ["mine.txt"]
    run(tiny_model, photos, out, overwrite=True, threads=1)
    assert (out / "mine.txt").read_text() == "keep" and (out / "areas.jsonl").is_file()
    with pytest.raises(InputError, match="folder of their own"):
        run(tiny_model, photos, photos, overwrite=True)


def test_default_output_is_named_after_the_input(
    tmp_path: Path, tiny_model: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(tiny_model, video, overlay=False, threads=1).output == Path("drive-segmented")
    assert Path("drive-segmented/areas.jsonl").is_file()


def test_a_writer_that_fails_ends_the_run(
    tmp_path: Path, tiny_model: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpsl_deploy.sinks import label_png

    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(label_png, "write_label_png", full)
    with pytest.raises(OutputError, match="disk is full"):
        run(tiny_model, video, tmp_path / "out", labels=True, threads=1)
    assert os.listdir(tmp_path / "out") == []  # neither half a video nor half an areas file


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def test_command(tmp_path: Path, tiny_model: Path, photos: Path) -> None:
    result = invoke(tiny_model, photos, "-o", tmp_path / "out", "--labels", "--no-overlay", "--threads", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"results: {tmp_path / 'out'}"
    assert "3 frames" in result.stdout
    assert (tmp_path / "out/a.labels.png").is_file() and not (tmp_path / "out/a.overlay.png").exists()


def test_command_names_an_unreadable_image_after_the_rest_is_done(
    tmp_path: Path, tiny_model: Path, photos: Path
) -> None:
    (photos / "b.jpg").write_bytes(b"not a picture")
    result = invoke(tiny_model, photos, "-o", tmp_path / "out", "--threads", 1)
    assert result.exit_code == 2
    assert "1 could not be read" in result.stderr and "b.jpg" in result.stderr
    assert [line["frame"] for line in lines(tmp_path / "out")] == [0, 2]
    assert result.stdout.splitlines()[-1] == f"results: {tmp_path / 'out'}"


def test_command_with_nothing_readable(tmp_path: Path, tiny_model: Path, photos: Path) -> None:
    for image in photos.iterdir():
        image.write_bytes(b"not a picture")
    result = invoke(tiny_model, photos, "-o", tmp_path / "out")
    assert result.exit_code == 2 and "none of the 3 images can be read" in result.stderr
    result = invoke(tiny_model, photos / "a.png", "-o", tmp_path / "out2")
    assert result.exit_code == 2 and "a.png" in result.stderr


def test_a_region_that_fits_no_frame_is_an_error(tmp_path: Path, tiny_model: Path, photos: Path) -> None:
    result = invoke(tiny_model, photos, "-o", tmp_path / "out", "--roi", "0,0,4000,4000")
    assert result.exit_code == 2 and "reaches beyond a frame" in result.stderr


def test_a_region_outside_of_a_video_is_told_at_the_start(
    tmp_path: Path, tiny_model: Path, video: Path
) -> None:
    result = invoke(tiny_model, video, "-o", tmp_path / "out", "--roi", "90,50,100,100")
    assert result.exit_code == 2 and "reaches beyond" in result.stderr and "none of" not in result.stderr


def test_drift_of_a_part_of_the_frame_is_refused(tmp_path: Path, tiny_model: Path, photos: Path) -> None:
    result = invoke(tiny_model, photos, "-o", tmp_path / "out", "--drift", "--roi", "0,0.5,1,0.5")
    assert result.exit_code == 2 and "whole frames" in result.stderr


def test_photos_of_telephones_are_not_too_large(tmp_path: Path, tiny_model: Path) -> None:
    """More than 8K video has, which is the limit of live sources."""
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((4600, 8000), np.uint8))
    assert run(tiny_model, tmp_path / "large.png", tmp_path / "out", overlay=False, threads=1).frames == 1
    result = invoke(
        tiny_model, tmp_path / "large.png", "-o", tmp_path / "2", "--max-pixels", 33177600, "--threads", 1
    )
    assert result.exit_code == 2 and "max_pixels" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--keep", "drift"), "--drift"),
        (("--batch", "3"), "takes 1 frames at a time"),
        (("--raw", "--no-overlay", "--no-areas"), "one source"),
    ],
)
def test_options_that_contradict_each_other(
    tmp_path: Path, tiny_model: Path, photos: Path, options: tuple[str, ...], words: str
) -> None:
    result = invoke(tiny_model, photos, photos, "-o", tmp_path / "out", *options)
    assert result.exit_code == 2 and words in result.stderr


def test_command_errors_are_one_line(tmp_path: Path, photos: Path) -> None:
    result = invoke(tmp_path / "no.onnx", photos, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] != []
    assert "Traceback" not in result.output


def test_ctrl_c_finishes_the_files_and_says_where_they_are(
    tmp_path: Path, tiny_model: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpsl_deploy.segmenter import Segmenter

    finish, calls = Segmenter.finish, []

    def interrupted(self: Segmenter, inferred: object) -> object:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return finish(self, inferred)

    monkeypatch.setattr(Segmenter, "finish", interrupted)
    result = invoke(tiny_model, video, "-o", tmp_path / "out", "--threads", 1)
    assert result.exit_code == 130
    assert "5 of 12 frames are finished" in result.stderr and str(tmp_path / "out") in result.stderr
    assert VideoSource(tmp_path / "out/drive.overlay.mp4").info.frame_count == 5
    assert len(lines(tmp_path / "out")) == 5


@pytest.mark.skipif(not VIDEO.is_file(), reason="needs ../shared/data/video/highway.mp4")
def test_real_video(tmp_path: Path, tiny_model: Path) -> None:
    summary = run(tiny_model, VIDEO, tmp_path / "out", threads=1)
    info = VideoSource(tmp_path / "out/highway.overlay.mp4").info
    assert summary.frames == info.frame_count == 221
    assert (info.size, info.fps) == ((540, 960), 25.0)
    first = lines(tmp_path / "out")[0]["areas"]
    assert first["sky"] > 0.25 and first["road"] > 0.3 and sum(first.values()) == pytest.approx(1, abs=1e-4)
