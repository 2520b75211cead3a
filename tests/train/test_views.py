"""Geometry of views: what is at a point of the image is where the composed map says, in every kind of map."""

# ruff: noqa: E402
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import cv2
from tiny_training import coordinates

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.train.views import (
    Geometric,
    Photometric,
    change_colours,
    crop_matrix,
    inside,
    jitter_matrix,
    lies_inside,
    warp_image,
    warp_labels,
    warp_maps,
)

IMAGE, CROP = (120, 176), (96, 128)
STRONG = Geometric(scale=(0.8, 1.25), flip=True, rotation=25, translation=0.15, shear=12)
SHIFTED = np.array([[1, 0, 5.3], [0, 1, -2.6], [0, 0, 1]])


def blob(point: np.ndarray, size: tuple[int, int], sigma: float) -> np.ndarray:
    ys, xs = np.mgrid[: size[0], : size[1]]
    return np.exp(-((xs - point[0]) ** 2 + (ys - point[1]) ** 2) / (2 * sigma**2))


def centre_of(weight: np.ndarray) -> np.ndarray:
    ys, xs = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()


def random_map(seed: int) -> np.ndarray:
    """A crop, then one to three changes of its geometry."""
    rng = np.random.default_rng(seed)
    matrix = crop_matrix(rng, IMAGE, CROP, Geometric(scale=(0.5, 1.5)))
    for _ in range(rng.integers(1, 4)):
        matrix = matrix @ jitter_matrix(rng, CROP, STRONG)
    return matrix


def tracked_points() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Random maps, points of the image and where the inverse puts these in the view, well inside both."""
    found = []
    for seed in range(60):
        matrix = random_map(seed)
        rng = np.random.default_rng(1000 + seed)
        point = rng.uniform((20, 20), (IMAGE[1] - 20, IMAGE[0] - 20))
        expected = np.linalg.solve(matrix, [*point, 1.0])[:2]
        if (expected > 26).all() and (expected < np.array(CROP[::-1]) - 26).all():
            found.append((matrix, point, expected))
    return found


def test_a_known_point_is_found_within_a_pixel_in_image_labels_and_maps():
    points = tracked_points()
    assert len(points) >= 15
    for matrix, point, expected in points:
        image = np.repeat((250 * blob(point, IMAGE, 4))[:, :, None], 3, axis=2).astype(np.uint8)
        inside = (
            warp_labels(np.zeros(IMAGE, np.uint8), matrix, CROP) != IGNORE
        )  # beyond it the image is mirrored
        in_image = centre_of(warp_image(image, matrix, CROP)[:, :, 0] * inside)
        disc = (blob(point, IMAGE, 1) > np.exp(-(6**2) / 2)).astype(np.uint8)
        in_labels = centre_of((warp_labels(disc, matrix, CROP) == 1).astype(float))
        quarter = blob((point + 0.5) / 4 - 0.5, (IMAGE[0] // 4, IMAGE[1] // 4), 1.3)
        maps = torch.from_numpy(quarter)[None, None]
        cut, _ = warp_maps(maps, torch.from_numpy(matrix)[None], IMAGE, CROP, CROP)
        in_maps = centre_of(cut[0, 0].numpy() * inside)
        for where in (in_image, in_labels, in_maps):
            assert np.abs(where - expected).max() < 1, (matrix, where, expected)


def test_two_warps_one_after_the_other_are_the_warp_of_the_product():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (*IMAGE, 3)).astype(np.uint8), (0, 0), 3)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        first = crop_matrix(rng, IMAGE, CROP, Geometric(scale=(1, 1.3)))
        second = jitter_matrix(rng, CROP, STRONG)
        at_once = warp_image(image, first @ second, CROP).astype(int)
        in_turn = warp_image(warp_image(image, first, CROP), second, CROP).astype(int)
        inside = warp_labels(np.zeros(CROP, np.uint8), second, CROP) != IGNORE
        inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5))) > 0
        assert inside.mean() > 0.4
        assert np.abs(at_once - in_turn)[inside].max() <= 4


def test_crops_lie_inside_the_image_and_reach_its_corners():
    corners = np.array([[0, 0, 1], [47, 0, 1], [0, 31, 1], [47, 31, 1]]).T
    seen = []
    for seed in range(300):
        matrix = crop_matrix(np.random.default_rng(seed), (60, 90), (32, 48), Geometric(scale=(0.6, 2)))
        seen.append((matrix @ corners)[:2])
    x, y = np.stack(seen)[:, 0], np.stack(seen)[:, 1]
    assert x.min() > -0.5 and x.max() < 89.5 and y.min() > -0.5 and y.max() < 59.5
    assert x.min() < 3 and x.max() > 86 and y.min() < 3 and y.max() > 56


def test_zoom_two_shows_things_twice_as_large():
    matrix = crop_matrix(np.random.default_rng(0), (60, 90), (32, 48), Geometric(scale=(2, 2), flip=False))
    assert np.allclose(matrix[:2, :2], np.diag([0.5, 0.5]))


def test_half_of_the_crops_are_mirrored_unless_flips_are_off():
    def mirrored(flip: bool) -> float:
        geometry = Geometric(scale=(1, 1), flip=flip)
        return np.mean(
            [crop_matrix(np.random.default_rng(s), IMAGE, CROP, geometry)[0, 0] < 0 for s in range(400)]
        )

    assert 0.4 < mirrored(True) < 0.6
    assert mirrored(False) == 0


def test_a_shift_is_measured_by_its_own_side():
    geometry = Geometric(scale=(1, 1), flip=False, translation=0.2)
    shifts = np.array(
        [jitter_matrix(np.random.default_rng(s), (50, 200), geometry)[:2, 2] for s in range(400)]
    )
    largest = np.abs(shifts).max(axis=0)
    assert 36 < largest[0] <= 40 and 9 < largest[1] <= 10


def test_rotation_is_about_the_centre_and_in_degrees():
    geometry = Geometric(scale=(1, 1), flip=False, rotation=30)
    centre = np.array([63.5, 47.5, 1])
    angles = []
    for seed in range(100):
        matrix = jitter_matrix(np.random.default_rng(seed), CROP, geometry)
        assert np.allclose(matrix @ centre, centre)
        assert np.allclose(matrix[:2, :2] @ matrix[:2, :2].T, np.eye(2))
        angles.append(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])))
    assert 27 < np.max(np.abs(angles)) <= 30


def test_the_identity_changes_nothing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*CROP, 3)).astype(np.uint8)
    labels = rng.integers(0, 19, CROP).astype(np.uint8)
    maps = torch.from_numpy(rng.random((1, 3, 12, 16), np.float32))
    assert np.array_equal(warp_image(image, np.eye(3), CROP), image)
    assert np.array_equal(warp_labels(labels, np.eye(3), CROP), labels)
    cut, valid = warp_maps(maps, torch.eye(3)[None], CROP, CROP)
    assert torch.allclose(cut, maps, atol=1e-5) and valid.all()


def test_labels_are_never_mixed_and_the_outside_is_ignored():
    labels = np.random.default_rng(0).choice(np.array([3, 17], np.uint8), IMAGE)
    for seed in range(10):
        matrix = random_map(seed)
        view = warp_labels(labels, matrix, CROP)
        assert set(np.unique(view)) <= {3, 17, IGNORE}
        ys, xs = np.mgrid[: CROP[0], : CROP[1]]
        x, y, _ = matrix @ np.stack([xs.ravel(), ys.ravel(), np.ones(xs.size)])
        outside = (x < -1.5) | (y < -1.5) | (x > IMAGE[1] + 0.5) | (y > IMAGE[0] + 0.5)
        inside = (x > 0) & (y > 0) & (x < IMAGE[1] - 1) & (y < IMAGE[0] - 1)
        assert (view.ravel()[outside] == IGNORE).all()
        assert (view.ravel()[inside] != IGNORE).all()


def test_soft_labels_and_labels_go_the_same_way():
    labels = np.zeros(IMAGE, np.uint8)
    labels[40:, :60], labels[:70, 90:] = 1, 2
    one_hot = torch.from_numpy(np.eye(3, dtype=np.float32)[labels]).permute(2, 0, 1)[None]
    for seed in range(8):
        matrix = random_map(seed)
        cut, valid = warp_maps(one_hot, torch.from_numpy(matrix)[None], IMAGE, CROP, CROP)
        hard = warp_labels(labels, matrix, CROP)
        both = valid[0].numpy() & (hard != IGNORE)
        assert (valid[0].numpy() == (hard != IGNORE)).mean() > 0.99
        assert (cut[0].argmax(dim=0).numpy() == hard)[both].mean() > 0.98


def test_coarse_maps_are_read_at_the_coordinates_of_the_full_image():
    """A map at stride 8 that holds its own full-resolution coordinates comes out as the matrix says."""
    x = torch.arange(22) * 8 + 3.5
    y = torch.arange(15) * 8 + 3.5
    maps = torch.stack(torch.meshgrid(y, x, indexing="ij")).flip(0)[None]
    matrix = random_map(3)
    cut, valid = warp_maps(maps, torch.from_numpy(matrix)[None], IMAGE, CROP, (24, 32))
    rows, columns = np.mgrid[:24, :32] * 4 + 1.5
    wanted = (matrix @ np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)]))[:2]
    found = cut[0].flatten(1).numpy()
    between_centres = (wanted > 4).all(axis=0) & (wanted[0] < 171) & (wanted[1] < 115)
    assert between_centres.sum() > 200 and valid.flatten().numpy()[between_centres].all()
    assert np.abs(found - wanted)[:, between_centres].max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_move_a_map(dtype: torch.dtype):
    maps = torch.rand(1, 2, 64, 128, generator=torch.Generator().manual_seed(0))
    matrix = torch.from_numpy(SHIFTED)[None]
    plain, _ = warp_maps(maps, matrix, (512, 1024), (512, 1024))
    with torch.autocast("cpu", dtype=dtype):
        cast, _ = warp_maps(maps, matrix @ torch.eye(3).double(), (512, 1024), (512, 1024))
    assert torch.allclose(cast, plain, atol=1e-5)


def test_a_view_that_shrinks_does_not_alias():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 200
    view = warp_image(stripes, np.diag([4.0, 4.0, 1]), (32, 32))
    assert np.abs(view[2:-2, 2:-2].astype(int) - 100).max() < 12


def test_no_strength_leaves_colours_exactly_as_they_are():
    bright = np.random.default_rng(0).integers(0, 256, (37, 53, 3)).astype(np.uint8)
    for image in (bright, bright // 6, bright**2 // 255):
        changed = change_colours(np.random.default_rng(0), image, Photometric())
        assert np.array_equal(changed, image)


def test_colour_changes_follow_their_generator_and_leave_the_input_alone():
    image = coordinates((40, 50))
    kept = image.copy()
    everything = Photometric(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=1, cutout=2, noise=8)
    first, again, other = (change_colours(np.random.default_rng(s), image, everything) for s in (1, 1, 2))
    assert first.dtype == np.uint8 and first.shape == image.shape
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(image, kept)


def test_brightness_scales_and_rounds_to_the_nearest():
    image = np.random.default_rng(0).integers(0, 190, (40, 40, 3)).astype(np.uint8)
    for seed in range(5):
        changed = change_colours(np.random.default_rng(seed), image, Photometric(brightness=0.3))
        factor = float((changed.astype(float) * image).sum() / (image.astype(float) ** 2).sum())
        assert 0.7 <= factor <= 1.3
        residual = changed - factor * image
        assert np.abs(residual).max() < 0.6 and abs(residual.mean()) < 0.05


def test_hue_and_saturation_keep_grey_grey():
    grey = np.repeat(np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10, 1), 3, axis=2)
    for seed in range(10):
        changed = change_colours(np.random.default_rng(seed), grey, Photometric(saturation=0.9, hue=0.5))
        assert np.abs(changed.astype(int) - grey).max() <= 1


def test_cutout_greys_small_rectangles():
    black = np.zeros((100, 100, 3), np.uint8)
    shares = []
    for seed in range(50):
        changed = change_colours(np.random.default_rng(seed), black, Photometric(cutout=1))
        grey = (changed == 127).all(axis=2)
        assert ((changed == 0).all(axis=2) | grey).all()
        rows, columns = np.flatnonzero(grey.any(axis=1)), np.flatnonzero(grey.any(axis=0))
        assert grey.sum() == len(rows) * len(columns) and max(len(rows), len(columns)) <= 20
        shares.append(grey.mean())
    assert max(shares) > 0.02


def colours_one_by_one(rng: np.random.Generator, image: np.ndarray, strength: Photometric) -> np.ndarray:
    """What ``change_colours`` documents, a change after the other, in float64."""
    out = image * (1 + rng.uniform(-1, 1) * strength.brightness)
    out = (out - out.mean()) * (1 + rng.uniform(-1, 1) * strength.contrast) + out.mean()
    angle, stretch = (
        rng.uniform(-1, 1) * strength.hue * 2 * np.pi,
        1 + rng.uniform(-1, 1) * strength.saturation,
    )
    axis = np.ones(3) / np.sqrt(3)
    grey = out.mean(axis=2, keepdims=True)
    colour = out - grey
    turned = colour * np.cos(angle) + np.cross(axis, colour) * np.sin(angle)
    out = grey + stretch * turned
    if rng.random() < strength.blur:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.1, 1.5))
    if strength.noise:
        out = out + rng.standard_normal(out.shape, np.float32) * rng.uniform(0, strength.noise)
    return np.clip(np.rint(out), 0, 255)


@pytest.mark.parametrize("blur", [0.0, 1.0])
@pytest.mark.parametrize("noise", [0.0, 12.0])
def test_colours_are_those_of_the_changes_one_after_the_other(blur: float, noise: float):
    """To a level, and mostly exactly: with values that leave 0..255 on the way, too."""
    image = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8), (0, 0), 1
    )
    image = np.clip(2.5 * (image - 127.0) + 127, 0, 255).astype(np.uint8)
    strength = Photometric(brightness=0.5, contrast=0.5, saturation=1, hue=0.15, blur=blur, noise=noise)
    for seed in range(6):
        wanted = colours_one_by_one(np.random.default_rng(seed), image, strength)
        written = np.empty_like(image)
        found = change_colours(np.random.default_rng(seed), image, strength, out=written)
        assert found is written
        wrong = np.abs(written - wanted)
        assert wrong.max() <= 1 and (wrong > 0).mean() < (0.001 if blur == 1 or noise else 0.2)


def test_views_are_written_where_they_are_asked_for():
    image = coordinates(IMAGE)
    labels = np.random.default_rng(0).integers(0, 9, IMAGE).astype(np.uint8)
    for seed in range(6):
        matrix = random_map(seed) @ np.diag([1 + seed % 2, 1 + seed % 2, 1])  # some shrink
        shown, named = np.zeros((2, *CROP, 3), np.uint8), np.zeros((2, *CROP), np.uint8)
        warp_image(image, matrix, CROP, out=shown[1])
        warp_labels(labels, matrix, CROP, out=named[1])
        assert np.array_equal(shown[1], warp_image(image, matrix, CROP)) and not shown[0].any()
        assert np.array_equal(named[1], warp_labels(labels, matrix, CROP)) and not named[0].any()


def test_a_view_that_lies_inside_has_no_pixel_outside_nor_has_what_is_cut_from_it():
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        to_image = crop_matrix(rng, IMAGE, CROP, Geometric(scale=(0.7, 2)))
        to_image[:2, 2] += rng.uniform(-3, 3, 2)
        found.append(lies_inside(to_image, CROP, IMAGE))
        if found[-1]:
            to_weak = jitter_matrix(rng, CROP, STRONG)
            assert inside(to_image, CROP, IMAGE).all()
            assert inside(to_image @ to_weak, CROP, IMAGE)[inside(to_weak, CROP, CROP)].all()
    assert 0.2 < np.mean(found) < 0.9
