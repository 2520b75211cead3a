"""The demo's generator: reproducible, labelled exactly as drawn, and different in its two domains."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from cpsl_deploy.data import demo, open_dataset
from cpsl_deploy.data.demo import DEMO_CLASSES, DemoSettings, generate_demo, open_demo
from cpsl_deploy.data.scenes import DOMAINS, Scene, demo_video, render_scene
from cpsl_deploy.data.scenes.geometry import Camera, Faces, Paint, Side, Solid, paint_faces
from cpsl_deploy.data.scenes.layout import in_crossing, street_items
from cpsl_deploy.errors import DataError, InputError, OutputError

TINY = DemoSettings(train=3, val=2, size=(64, 128), video_seconds=0.2)


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Forty pictures of each domain."""
    return {domain: [render_scene(seed, domain) for seed in range(40)] for domain in DOMAINS}


def label(name: str) -> int:
    return DEMO_CLASSES.index(name)


# What is drawn


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_seed_gives_the_same_bytes_in_another_process(domain):
    image, labels = render_scene(11, domain)
    code = (
        "import sys, hashlib; from cpsl_deploy.data.scenes import render_scene; "
        f"image, labels = render_scene(11, {domain!r}); "
        "print(hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest()
    other_image, other_labels = render_scene(12, domain)
    assert (other_image != image).mean() > 0.5
    assert (other_labels != labels).mean() > 0.1


@pytest.mark.parametrize("domain", DOMAINS)
def test_shapes_types_and_label_values(domain, scenes):
    for image, labels in scenes[domain][:10]:
        assert image.shape == (128, 256, 3) and image.dtype == np.uint8
        assert labels.shape == (128, 256) and labels.dtype == np.uint8
        assert labels.max() < len(DEMO_CLASSES)
    image, labels = render_scene(0, domain, size=(96, 160))
    assert image.shape == (96, 160, 3) and labels.shape == (96, 160)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_real_long_tail_that_can_be_learnt(domain, scenes):
    labels = np.stack([labels for _, labels in scenes[domain]])
    shares = np.bincount(labels.ravel(), minlength=len(DEMO_CLASSES)) / labels.size
    rare = [name for name, share in zip(DEMO_CLASSES.names, shares, strict=True) if share < 0.005]
    assert {"sign", "rider"} <= set(rare)
    assert shares[label("road")] > 0.2 and shares.min() > 0.001
    for number, name in enumerate(DEMO_CLASSES.names):
        tall = [np.ptp(np.flatnonzero((one == number).any(1))) + 1 for one in labels if (one == number).any()]
        assert sum(height >= 8 for height in tall) >= len(labels) / 3, name


@pytest.mark.parametrize("domain", DOMAINS)
def test_labels_lie_where_a_street_has_them(domain, scenes):
    for _, labels in scenes[domain]:
        rows = {name: np.flatnonzero((labels == label(name)).any(1)) for name in ("road", "sky")}
        if len(rows["sky"]):
            assert rows["sky"].max() <= rows["road"].min() + 12
        assert (labels[:8] != label("road")).all()
        assert (labels[-1] == label("road")).mean() > 0.15
        assert np.isin(labels[-1], [label("sky")]).sum() == 0


def test_labels_follow_the_pictures_edges(scenes):
    """Colour changes far more across a label boundary than inside a label: both come from one drawing."""
    for image, labels in scenes["rendered"][:20]:
        step = np.abs(np.diff(image.astype(int), axis=1)).sum(2)
        edge = labels[:, 1:] != labels[:, :-1]
        assert step[edge].mean() > 5 * step[~edge].mean()


def test_the_domains_differ_in_colour_noise_and_contrast(scenes):
    means, saturations, noises = {}, {}, {}
    for domain in DOMAINS:
        images = np.stack([image for image, _ in scenes[domain]]).astype(np.float32)
        labels = np.stack([labels for _, labels in scenes[domain]])
        means[domain] = np.array([images[labels == k].mean(0) for k in range(len(DEMO_CLASSES))])
        saturations[domain] = (images.max(-1) - images.min(-1)).mean()
        road = labels[:, :, 1:] == label("road")
        road &= labels[:, :, :-1] == label("road")
        noises[domain] = np.median(np.abs(np.diff(images, axis=2)).mean(-1)[road])
    assert np.abs(means["rendered"] - means["camera"]).mean() > 12
    assert saturations["rendered"] > 1.3 * saturations["camera"]
    assert noises["camera"] > 2 * noises["rendered"]


def test_haze_hides_what_is_far():
    distances = []
    for density in (0.0, 0.05):
        scene = Scene(3, "camera")
        light = replace(scene.setting.light, haze_density=density, haze=(0.5, 0.5, 0.5))
        scene.setting = replace(scene.setting, sensor=None, light=light)
        image, labels = scene.frame()
        far = image[40:72][labels[40:72] == label("building")]
        distances.append(np.abs(far - 127.5).mean())
    assert distances[1] < 0.6 * distances[0]


# Geometry, against values worked out by hand


def _camera() -> Camera:
    return Camera(position=(0, 1.5, 0), yaw=0, pitch=0, roll=0, focal=100.0, size=(101, 201))


def test_points_fall_where_a_pinhole_camera_puts_them():
    camera = _camera()
    x, y, z = camera.from_world(np.array([[2.0, 0.5, 10.0]]))[0]
    assert (x, y, z) == pytest.approx((2, 1, 10))
    turned = Camera(position=(0, 0, 0), yaw=np.pi / 2, pitch=0, roll=0, focal=1, size=(64, 64))
    assert turned.from_world(np.array([[5.0, 0, 0]]))[0] == pytest.approx((0, 0, 5))
    down = Camera(position=(0, 0, 0), yaw=0, pitch=np.pi / 6, roll=0, focal=1, size=(64, 64))
    assert down.from_world(np.array([[0, -np.sin(np.pi / 6), np.cos(np.pi / 6)]]))[0] == pytest.approx(
        (0, 0, 1)
    )


def test_faces_hide_what_is_behind_them_and_know_their_distance():
    camera = _camera()
    faces = Faces(camera)
    square = Solid([Side((0, 1, 2, 3), "front"), Side((3, 2, 1, 0), "back")])
    paints = {"front": Paint(1, 0, (1, 0, 0)), "back": Paint(2, 0, (0, 1, 0))}
    corners = np.array([[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0]], float)
    faces.add_solid(square, corners + np.array([0, 0, 20]), paints)
    faces.add_solid(square, (corners + np.array([0, 0, 5]))[[1, 0, 3, 2]], paints)
    buffer = paint_faces(faces, [], Paint(8, 1, (0, 0, 0)), Paint(7, 2, (0, 0, 0)))
    labels = buffer.labels[buffer.ids]
    assert labels[50, 100] == 2, "the nearer square shows its back and hides the farther"
    assert labels[0, 100] == 8 and labels[100, 0] == 7
    # A square 2 m wide at 5 m is 40 pixels wide with a focal length of 100.
    assert (labels[50] == 2).sum() == pytest.approx(41, abs=1)
    homography = buffer.homographies[buffer.ids[50, 100]].reshape(3, 3)
    assert 1 / (homography @ (100, 50, 1))[2] == pytest.approx(5, rel=1e-5)


def test_a_wall_reaching_behind_the_camera_is_cut_and_not_folded_over():
    camera = _camera()
    faces = Faces(camera)
    wall = Solid([Side((0, 1, 2, 3), "wall")])
    # Along the left side, from behind the camera to 30 m ahead, seen from the right.
    corners = np.array([[-3, 1.5, -5], [-3, 1.5, 30], [-3, -3, 30], [-3, -3, -5]], float)
    faces.add_solid(wall, corners, {"wall": Paint(1, 0, (1, 1, 1))})
    buffer = paint_faces(faces, [], Paint(8, 1, (0, 0, 0)), Paint(7, 2, (0, 0, 0)))
    labels = buffer.labels[buffer.ids]
    assert (labels[45:55, :85] == 1).all() and not (labels[:, 101:] == 1).any()


def test_ground_labels_are_those_of_the_street_plan():
    scene = Scene(5, "rendered")
    street = scene.setting.street
    image_labels = scene.frame()[1]
    camera = scene.camera(0.0)
    checked = 0
    for z in np.arange(6, 30, 1.0):
        z += camera.position[2]
        if in_crossing(street, z, margin=street.sidewalk_width + 1):
            continue
        x, z_world, _ = street.place(0.3, z)
        point = camera.from_world(np.array([[x, 0.0, z_world]])) @ camera.intrinsics.T
        column, row = point[0, :2] / point[0, 2] / 2
        if 0 <= row < 128 and 0 <= column < 256:
            checked += image_labels[int(row), int(column)] in (label("road"), label("car"), label("rider"))
    assert checked >= 10


# The drive


def test_a_drive_is_continuous_and_moves():
    scene = Scene(2, "camera")
    frames = [scene.frame(k / 12)[1] for k in range(8)]
    for before, after in itertools.pairwise(frames):
        assert (before == after).mean() > 0.8
    assert (frames[0] == frames[-1]).mean() < 0.95
    again = Scene(2, "camera").frame(3 / 12)
    assert np.array_equal(again[1], frames[3])
    assert not np.array_equal(again[0], Scene(2, "camera").frame(4 / 12)[0])


def test_what_stands_comes_nearer():
    street = Scene(4, "camera").setting.street
    z = street.start
    for kind, moves in (("house", False), ("tree", False), ("car", True)):
        places = [
            {
                (item.x, item.rolls): item.z
                for item in street_items(street, z, z + 120, t)
                if item.kind == kind
            }
            for t in (0.0, 0.5)
        ]
        common = places[0].keys() & places[1].keys()
        shifts = {round(places[1][key] - places[0][key], 6) for key in common}
        assert common and ((shifts != {0.0}) if moves else (shifts == {0.0}))


def test_the_video_holds_the_frames(tmp_path):
    steps = []
    demo_video(
        tmp_path / "d.mp4", seconds=0.5, seed=1, fps=10, size=(64, 128), progress=lambda *s: steps.append(s)
    )
    video = cv2.VideoCapture(str(tmp_path / "d.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    assert len(frames) == 5 and steps == [(k, 5) for k in range(1, 6)]
    wanted = Scene(1, "camera", (64, 128)).frame(0.2)[0][..., ::-1].astype(int)
    assert np.abs(frames[2].astype(int) - wanted).mean() < 12
    assert [path.name for path in tmp_path.iterdir()] == ["d.mp4"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Scene(0, "photo"), "rendered, camera"),
        (lambda: Scene(-1, "camera"), "from 0"),
        (lambda: Scene(0, "camera", (8, 8)), "32 pixels"),
        (lambda: demo_video("x.mp4", seconds=0), "one frame"),
        (lambda: DemoSettings(train=0), "train"),
        (lambda: DemoSettings(seed=-1), "seed"),
        (lambda: open_demo("both", "train"), "source or target"),
    ],
)
def test_wrong_values_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()


# The dataset on disk


def _listing(folder) -> dict[str, tuple[int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) for p in files}


def test_the_folder_opens_as_any_other_dataset(tmp_path):
    folder = generate_demo(tmp_path / "demo", settings=TINY)
    source = open_dataset(folder / "rendered.yaml", "train")
    target = open_dataset(folder / "camera.yaml", "train")
    val = open_dataset(folder / "camera.yaml", "val", need_labels=True)
    assert (len(source), len(target), len(val)) == (3, 3, 2)
    assert source.classes == DEMO_CLASSES and val.classes == DEMO_CLASSES
    assert source.has_labels and not target.has_labels
    image, labels = render_scene(1, "rendered", size=TINY.size)
    assert np.array_equal(source.image(1), image) and np.array_equal(source.label(1), labels)
    assert not (folder / "camera/labels/train").exists()
    assert cv2.VideoCapture(str(folder / "drive.mp4")).read()[0]


def test_oracle_labels_only_when_asked_for(tmp_path):
    folder = generate_demo(tmp_path / "demo", settings=replace(TINY, oracle_labels=True, video_seconds=0))
    train = open_dataset(folder / "camera.yaml", "train")
    assert train.has_labels and np.array_equal(train.label(2), render_scene(2, "camera", size=TINY.size)[1])
    assert not (folder / "drive.mp4").exists()


def test_generating_again_touches_nothing(tmp_path):
    generate_demo(tmp_path / "demo", settings=TINY)
    before = _listing(tmp_path)
    steps = []
    generate_demo(tmp_path / "demo", settings=TINY, progress=lambda *step: steps.append(step))
    assert _listing(tmp_path) == before and steps == []


def test_an_interrupted_folder_is_completed_and_not_taken_for_finished(tmp_path, monkeypatch):
    calls = []

    def stop_at_fourth(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return render_scene(*args, **kwargs)

    monkeypatch.setattr(demo, "render_scene", stop_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        open_demo("source", "train", tmp_path, settings=TINY)
    folder = next(tmp_path.iterdir())
    assert json.loads((folder / "demo.json").read_text())["complete"] is False
    monkeypatch.undo()
    kept = _listing(folder / "rendered/images/train")
    assert len(open_demo("source", "train", tmp_path, settings=TINY)) == 3
    assert _listing(folder / "rendered/images/train").items() >= kept.items(), (
        "finished pictures are not redone"
    )

    (folder / "camera/labels/val/000001.png").unlink()
    assert len(open_demo("target", "val", tmp_path, settings=TINY)) == 2, "a picture lost later is made again"
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name]


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        generate_demo(tmp_path, settings=TINY)
    generate_demo(tmp_path / "demo", settings=TINY)
    before = _listing(tmp_path)
    with pytest.raises(OutputError, match="other settings"):
        generate_demo(tmp_path / "demo", settings=replace(TINY, seed=1))
    assert _listing(tmp_path) == before
    (tmp_path / "demo" / "demo.json").write_text("{")
    with pytest.raises(OutputError, match="damaged"):
        generate_demo(tmp_path / "demo", settings=TINY)


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("CPSL_CACHE", raising=False)
    assert demo.cache_folder() == tmp_path / "xdg" / "cpsl_deploy"
    monkeypatch.setenv("CPSL_CACHE", str(tmp_path / "own"))
    assert demo.cache_folder() == tmp_path / "own"
    monkeypatch.setattr(demo, "DemoSettings", lambda: TINY)
    assert len(open_dataset("demo-target", "val")) == 2
    assert len(open_dataset("demo", "train", role="source")) == 3
    assert os.listdir(tmp_path / "own") and not (tmp_path / "xdg").exists()
    with pytest.raises(DataError, match="splits"):
        open_demo("source", "test")


def test_drawing_needs_no_torch():
    code = (
        "import sys; from cpsl_deploy.data import demo; demo.render_scene(0, 'camera'); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
