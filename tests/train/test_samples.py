"""Samples: made from their position alone, showing what their labels and maps say."""

# ruff: noqa: E402
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_training import CROP, SIZE, Pictures, coordinates, source_views, streets, target_views

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.train.samples import (
    Batch,
    Sampler,
    SourceBatch,
    TargetBatch,
    WorkingImages,
    class_shares,
    working_size,
)
from cpsl_deploy.train.views import UNCHANGED, Geometric, Photometric, warp_labels

SEED = [3, 1]


def shuffled_positions(count: int) -> list[int]:
    return np.random.default_rng(0).permutation(count).tolist()


@pytest.mark.parametrize("length", [1, 5, 12])
def test_every_image_is_shown_once_an_epoch(length: int):
    sampler = Sampler(length, seed=4)
    epochs = [[sampler.index(e * length + i) for i in range(length)] for e in range(6)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    if length > 4:
        assert len({tuple(epoch) for epoch in epochs}) == 6, "the order changes"


def test_an_image_s_turn_does_not_depend_on_what_was_asked_before():
    in_order = [Sampler(7, seed=4).index(p) for p in range(40)]
    sampler = Sampler(7, seed=4)
    asked = {p: sampler.index(p) for p in shuffled_positions(40)}
    assert [asked[p] for p in range(40)] == in_order
    assert in_order != [Sampler(7, seed=5).index(p) for p in range(40)]


def test_rare_classes_are_preferred_as_the_temperature_says():
    """Images 0..8 show class 0 alone, image 9 has some of class 1; class 2 never covers 50 pixels."""
    pixels = np.array([[1000, 0, 0]] * 9 + [[500, 400, 49]], float)
    share = pixels.sum(axis=0) / pixels.sum()
    for temperature in (0.1, 1.0):
        sampler = Sampler(10, seed=0, pixels=pixels, temperature=temperature)
        shown = np.bincount([sampler.index(p) for p in range(4000)], minlength=10) / 4000
        weight = np.exp((1 - share[:2]) / temperature)
        of_common, of_rare = weight / weight.sum()
        assert shown[9] == pytest.approx(of_rare + of_common / 10, abs=0.03)
        assert np.allclose(shown[:9], of_common / 10, atol=0.03)
    evenly = Sampler(10, seed=0, pixels=pixels, temperature=0)
    assert sorted(evenly.index(p) for p in range(10)) == list(range(10))


def test_rare_class_draws_do_not_depend_on_their_order():
    pixels = np.random.default_rng(0).integers(0, 200, (6, 3)).astype(float)
    in_order = [Sampler(6, 1, pixels=pixels, temperature=0.5).index(p) for p in range(30)]
    sampler = Sampler(6, 1, pixels=pixels, temperature=0.5)
    asked = {p: sampler.index(p) for p in shuffled_positions(30)}
    assert [asked[p] for p in range(30)] == in_order


def test_working_size_keeps_the_shape_and_meets_the_pixel_count():
    assert working_size((1080, 1920), (512, 1024)) == (543, 965)
    assert working_size((512, 1024), (512, 1024)) == (512, 1024)


def test_working_images_are_resized_and_labels_never_mixed():
    image = np.zeros((128, 192, 3), np.uint8)
    image[:, 96:] = 200
    label = np.full((128, 192), 4, np.uint8)
    label[:, 96:] = IGNORE
    images = WorkingImages(Pictures([image], [label]), SIZE)
    assert images.image(0).shape == (*SIZE, 3) and images.label(0).shape == SIZE
    assert np.array_equal(images.label(0) == IGNORE, images.image(0)[:, :, 0] == 200)
    assert set(np.unique(images.label(0))) == {4, IGNORE}


class Counting(Pictures):
    """Counts reads, and lets two threads meet inside one."""

    def __init__(self, pictures: Pictures, meeting: threading.Barrier | None = None) -> None:
        super().__init__(pictures._images, pictures._labels)
        self.reads, self.meeting = 0, meeting

    def image(self, index: int) -> np.ndarray:
        self.reads += 1
        if self.meeting is not None:
            self.meeting.wait(timeout=10)
        return super().image(index)


def test_images_are_kept_up_to_the_limit():
    dataset = Counting(streets(4))
    all_kept = WorkingImages(dataset, SIZE, cache_mib=1)
    for index in [0, 1, 2, 3] * 3:
        all_kept.image(index)
    assert dataset.reads == 4
    dataset = Counting(streets(4))
    none_kept = WorkingImages(dataset, SIZE)
    for _ in range(3):
        none_kept.image(0)
    assert dataset.reads == 3


def test_of_a_set_that_fits_by_half_half_is_not_read_again():
    """In every epoch, whatever its order: what was read last is no more likely to come than the rest."""
    one = streets(1).image(0).nbytes
    dataset = Counting(streets(4 * (2**20 // one // 2)))  # room for half of them would be 2 MiB
    images, sampler = WorkingImages(dataset, SIZE, cache_mib=1), Sampler(len(dataset), seed=2)
    fitting = 2**20 // one
    for epoch in range(1, 4):
        for position in range((epoch - 1) * len(dataset), epoch * len(dataset)):
            images.image(sampler.index(position))
        assert dataset.reads == len(dataset) + (epoch - 1) * (len(dataset) - fitting)


def test_an_image_that_two_threads_read_at_once_counts_once():
    dataset = Counting(streets(1), threading.Barrier(2))
    images = WorkingImages(dataset, SIZE, cache_mib=1)
    threads = [threading.Thread(target=images.image, args=(0,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dataset.reads == 2
    assert images._bytes == images.image(0).nbytes


def test_class_shares_count_pixels_and_leave_out_ignored_ones():
    label = np.full(SIZE, IGNORE, np.uint8)
    label[:2, :10], label[5, :7] = 1, 2
    images = WorkingImages(Pictures([np.zeros((*SIZE, 3), np.uint8)], [label]), SIZE)
    assert class_shares(images, 3).tolist() == [[0, 20, 7]]


def joined(parts: list[SourceBatch] | list[TargetBatch], name: str) -> torch.Tensor:
    return torch.cat([getattr(part, name) for part in parts])


@pytest.mark.parametrize("make", [source_views, target_views])
def test_samples_of_a_position_are_equal_however_they_are_asked_for(make):
    whole = make(streets()).batch(SEED, range(6))
    views = make(streets())
    later, sooner = views.batch(SEED, range(3, 6)), views.batch(SEED, range(3))
    one_by_one = {p: make(streets()).batch(SEED, range(p, p + 1)) for p in shuffled_positions(6)}
    for name, value in vars(whole).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(joined([sooner, later], name), value), name
            assert torch.equal(joined([one_by_one[p] for p in range(6)], name), value), name
    other = make(streets()).batch([3, 2], range(6))
    first = next(iter(vars(whole)))
    assert not torch.equal(getattr(other, first), getattr(whole, first)), "another stage sees other samples"


def test_source_labels_lie_on_what_they_name():
    """The image's red is 60 times its label, so the crop's must be too, but for the classes' borders."""
    labels = [np.kron(np.random.default_rng(s).integers(0, 4, (4, 6)), np.ones((16, 16))) for s in range(3)]
    labels = [label.astype(np.uint8) for label in labels]
    images = [np.repeat(60 * label[:, :, None], 3, axis=2) for label in labels]
    views = source_views(Pictures(images, labels), geometric=Geometric(scale=(0.7, 1.4)))
    batch = views.batch(SEED, range(6))
    assert batch.images.dtype == torch.uint8 and batch.images.shape == (6, 3, *CROP)
    assert batch.labels.dtype == torch.int64 and batch.labels.shape == (6, *CROP)
    labelled = batch.labels != IGNORE
    agree = (batch.images[:, 0].long() - 60 * batch.labels).abs() <= 1
    assert labelled.float().mean() > 0.7
    assert agree[labelled].float().mean() > 0.85


def test_restyling_changes_half_of_the_source_crops_and_no_label():
    plain = source_views(streets()).batch(SEED, range(40))
    styled = source_views(streets(), restyle=lambda image, rng: 255 - image).batch(SEED, range(40))
    assert torch.equal(styled.labels, plain.labels)
    inverted = (styled.images == 255 - plain.images).flatten(1).all(dim=1)
    assert ((styled.images == plain.images).flatten(1).all(dim=1) | inverted).all()
    assert 10 <= inverted.sum() <= 30


def test_target_views_show_what_their_maps_say():
    """Images that hold their own coordinates: red and green of a view's pixel are where its map leads."""
    pictures = Pictures([coordinates()] * 2, [np.zeros((120, 160), np.uint8)] * 2)
    views = target_views(
        pictures, images=WorkingImages(pictures, (120, 160)), strong_photometric=Photometric(), crop=(64, 80)
    )
    batch = views.batch(SEED, range(10))
    ys, xs = torch.meshgrid(torch.arange(64.0), torch.arange(80.0), indexing="ij")
    points = torch.stack([xs, ys, torch.ones_like(xs)]).double().flatten(1)
    for n in range(10):
        in_weak = batch.strong_to_weak[n] @ points
        in_image = batch.weak_to_image[n] @ in_weak
        limits = torch.tensor([79.0, 63.0])[:, None], torch.tensor([159.0, 119.0])[:, None]
        margins = [
            torch.minimum(where[:2] + 0.5, limit + 0.5 - where[:2]).amin(dim=0)
            for where, limit in zip((in_weak, in_image), limits, strict=True)
        ]
        margin = torch.minimum(*margins)
        valid = batch.valid[n].flatten()
        assert valid[margin > 0.1].all() and not valid[margin < -0.1].any()
        well_inside = margin > 2
        assert well_inside.float().mean() > 0.3
        shown = batch.strong[n, :2].flatten(1).double()
        assert (shown - in_image[:2])[:, well_inside].abs().max() < 1.6
        weak = (batch.weak_to_image[n] @ points)[:2]
        inside = (weak > 2).all(dim=0) & (weak[0] < 157) & (weak[1] < 117)
        assert (batch.weak[n, :2].flatten(1).double() - weak)[:, inside].abs().max() < 1.6
    assert batch.sizes == ((120, 160),) * 10 and batch.indices.dtype == torch.int64


def test_where_a_weak_view_leaves_its_image_is_known():
    """A small zoom shows more than the image; what is beyond it is its mirror image."""
    pictures = Pictures([coordinates()] * 2, [np.zeros((120, 160), np.uint8)] * 2)
    images = WorkingImages(pictures, (120, 160))
    views = target_views(pictures, images=images, weak=Geometric(scale=(0.3, 0.45)), crop=(64, 80))
    batch = views.batch(SEED, range(4))
    for out in ((64, 80), (8, 10)):
        stride = 64 // out[0]
        rows, columns = np.mgrid[: out[0], : out[1]] * stride + (stride - 1) / 2
        points = np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)])
        for matrix, inside in zip(batch.weak_to_image.numpy(), batch.weak_inside(out), strict=True):
            x, y, _ = matrix @ points
            wanted = (x >= -0.5) & (x <= 159.5) & (y >= -0.5) & (y <= 119.5)
            assert 0.2 < wanted.mean() < 1
            np.testing.assert_array_equal(inside.flatten().numpy(), wanted)


def test_a_batch_moves_whole_and_keeps_its_maps_exact():
    target = target_views(streets()).batch(SEED, range(2))
    moved = Batch(None, target).to(torch.device("cpu"))
    assert moved.source is None
    for name, value in vars(target).items():
        kept = getattr(moved.target, name)
        assert torch.equal(kept, value) if isinstance(value, torch.Tensor) else kept == value, name
    assert moved.target.weak_to_image.dtype == torch.float64


def test_crops_are_made_in_the_layout_that_networks_work_in():
    source, target = (
        source_views(streets()).batch(SEED, range(3)),
        target_views(streets()).batch(SEED, range(3)),
    )
    for images in (source.images, target.weak, target.strong):
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_valid_pixels_are_those_of_both_whole_warps():
    """Weak views that leave the image and some that do not; none of both is warped for nothing."""
    views = target_views(streets(), weak=Geometric(scale=(0.6, 2)))
    batch = views.batch(SEED, range(20))
    for n in range(20):
        to_image, to_weak = batch.weak_to_image[n].numpy(), batch.strong_to_weak[n].numpy()
        in_image = warp_labels(np.zeros(SIZE, np.uint8), to_image @ to_weak, CROP) != IGNORE
        in_weak = warp_labels(np.zeros(CROP, np.uint8), to_weak, CROP) != IGNORE
        assert np.array_equal(batch.valid[n].numpy(), in_image & in_weak)
    assert not batch.valid.all()


def test_a_strong_view_without_changes_is_the_weak_one():
    views = target_views(streets(), strong_geometric=UNCHANGED, strong_photometric=Photometric())
    batch = views.batch(SEED, range(4))
    assert torch.equal(batch.strong, batch.weak)
    assert torch.equal(batch.strong_to_weak, torch.eye(3).double().expand(4, 3, 3))


def test_all_that_a_step_sees_is_pinned(monkeypatch: pytest.MonkeyPatch):
    """What a GPU copies from: without one, pages cannot be locked, so the call is counted."""
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor + 0

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = Batch(
        source_views(streets()).batch(SEED, range(2)), target_views(streets()).batch(SEED, range(2))
    )
    moved = batch.pinned()
    for before, after in ((batch.source, moved.source), (batch.target, moved.target)):
        for name, value in vars(before).items():
            if isinstance(value, torch.Tensor):
                assert any(value is one for one in pinned), name
                assert getattr(after, name) is not value and torch.equal(getattr(after, name), value)
            else:
                assert getattr(after, name) == value
    assert Batch(batch.source, None).pinned().target is None
