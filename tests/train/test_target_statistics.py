"""What stage 1 starts from: soft labels, prototypes and prior, in one pass over the target."""

# ruff: noqa: E402
import threading
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_training import SIZE, Pictures, coordinates, street, streets, target_views, tiny_network

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.errors import OutputError
from cpsl_deploy.train.samples import WorkingImages
from cpsl_deploy.train.soft_labels import SoftLabels, remove_soft_labels
from cpsl_deploy.train.stage import predict
from cpsl_deploy.train.target_statistics import prototype_shares, source_prototypes, summarise_target
from cpsl_deploy.train.views import Geometric

CPU = torch.device("cpu")


@pytest.fixture
def soft_labels(tmp_path: Path) -> SoftLabels:
    return SoftLabels(tmp_path / "soft_labels")


@pytest.fixture
def network() -> torch.nn.Module:
    """In training mode, with dropout, and a head whose classes all occur."""
    made = tiny_network(3, dropout=0.5)
    torch.nn.init.normal_(made.classifier.weight, std=2)
    return made.train()


def outputs(network: torch.nn.Module, images: WorkingImages, mirrored: bool = False) -> list:
    network.eval()
    with torch.no_grad():
        pictures = (torch.from_numpy(images.image(i)).permute(2, 0, 1)[None] for i in range(len(images)))
        return [predict(network, picture.flip(3) if mirrored else picture) for picture in pictures]


def test_soft_labels_are_the_whole_image_s_softmax_in_eval_mode(network, soft_labels):
    images = WorkingImages(streets(3), SIZE)
    summarise_target(network, images, soft_labels, CPU)
    for index, output in enumerate(outputs(network, images)):
        found = soft_labels.read(index)
        assert found.dtype == torch.float32 and found.shape == (3, 8, 12)
        assert torch.allclose(found, output.logits.softmax(dim=1)[0], atol=1e-3)


def test_prototypes_and_prior_are_those_of_all_images(network, soft_labels):
    """Re-derived in NumPy: the mean over images of each class's mean feature, the share of pixels."""
    images = WorkingImages(streets(4), SIZE)
    summary = summarise_target(network, images, soft_labels, CPU)
    means: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    counts = np.zeros(3)
    for output in outputs(network, images):
        features = output.features[0].flatten(1).double().numpy()
        labels = output.logits[0].argmax(dim=0).flatten().numpy()
        for k in range(3):
            counts[k] += (labels == k).sum()
            if (labels == k).sum() >= 10:
                means[k].append(features[:, labels == k].mean(axis=1))
    seen = [k for k in means if means[k]]
    assert len(seen) >= 2
    for k in seen:
        np.testing.assert_allclose(summary.prototypes[k], np.mean(means[k], axis=0), atol=1e-5)
    np.testing.assert_allclose(summary.prior, counts / counts.sum(), atol=1e-6)


def test_mean_probabilities_are_counted_whatever_the_prior_is(network, soft_labels):
    images = WorkingImages(streets(3), SIZE)
    hard = summarise_target(network, images, soft_labels, CPU)
    soft = summarise_target(network, images, soft_labels, CPU, soft_prior=True, prior_smoothing=0.3)
    mean = np.mean(
        [o.logits.softmax(dim=1)[0].flatten(1).mean(dim=1) for o in outputs(network, images)], axis=0
    )
    for summary in (hard, soft):
        np.testing.assert_allclose(summary.predicted, mean, atol=1e-6)
    np.testing.assert_allclose(soft.prior, 0.7 * mean + 0.1, atol=1e-6)
    assert np.abs(hard.prior.numpy() - mean).max() > 0.01


def test_prototype_shares_are_the_mean_softmax_of_cosines_over_all_pixels(network):
    images = WorkingImages(streets(3), SIZE)
    prototypes = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    rows = np.concatenate([o.features[0].flatten(1).T.numpy() for o in outputs(network, images)])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    unit = prototypes.numpy() / np.linalg.norm(prototypes.numpy(), axis=1, keepdims=True)
    likely = np.exp(rows @ unit.T / 0.08)
    expected = (likely / likely.sum(axis=1, keepdims=True)).mean(axis=0)
    found = prototype_shares(network.train(), images, prototypes, CPU)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_a_class_that_is_never_predicted_takes_the_fallback_and_the_smoothing(network, soft_labels):
    with torch.no_grad():
        network.classifier.bias[2] = -1000
    fallback = torch.full((3, 8), 9.0)
    images = WorkingImages(streets(2), SIZE)
    summary = summarise_target(network, images, soft_labels, CPU, fallback=fallback, prior_smoothing=0.3)
    assert torch.equal(summary.prototypes[2], fallback[2])
    assert not torch.equal(summary.prototypes[0], fallback[0])
    assert float(summary.prior[2]) == pytest.approx(0.1)


def test_mirrored_soft_labels_are_the_mean_over_image_and_mirror_image(network, soft_labels):
    images = WorkingImages(streets(2), SIZE)
    plain = summarise_target(network, images, soft_labels, CPU)
    summary = summarise_target(network, images, soft_labels, CPU, mirrored=True)
    for index, (output, mirror) in enumerate(
        zip(outputs(network, images), outputs(network, images, mirrored=True), strict=True)
    ):
        back = mirror.logits.softmax(dim=1).numpy()[..., ::-1]
        wanted = (output.logits.softmax(dim=1).numpy() + back) / 2
        np.testing.assert_allclose(soft_labels.read(index)[None], wanted, atol=1e-3)
    assert torch.equal(summary.prior, plain.prior)


def test_each_image_is_read_once_and_goes_through_the_network_once(network, soft_labels):
    """Twice with its mirror image: whatever is estimated on the way, the network's work is all there is."""
    pictures, read, calls = streets(5), [], []
    reading, pictures.image = pictures.image, lambda index: read.append(index) or reading(index)
    network.register_forward_hook(lambda *_: calls.append(torch.is_inference_mode_enabled()))
    for mirrored in (False, True):
        read.clear(), calls.clear()
        summarise_target(network, WorkingImages(pictures, SIZE), soft_labels, CPU, mirrored=mirrored)
        assert sorted(read) == [0, 1, 2, 3, 4]
        assert calls == [True] * (5 + 5 * mirrored)


def test_what_a_pass_leaves_can_be_trained_with(network, soft_labels):
    summary = summarise_target(network, WorkingImages(streets(2), SIZE), soft_labels, CPU)
    for found in vars(summary).values():
        assert not found.is_inference()


def test_a_file_that_cannot_be_written_ends_the_pass(network, tmp_path: Path):
    (tmp_path / "taken").write_text("a file, where a folder should be")
    blocked = SoftLabels(tmp_path / "taken" / "soft_labels")
    with pytest.raises(OutputError, match="cannot write"):
        summarise_target(network, WorkingImages(streets(2), SIZE), blocked, CPU)


def test_ctrl_c_ends_the_pass(network, soft_labels):
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        summarise_target(network, WorkingImages(streets(40), SIZE), soft_labels, CPU, progress=interrupt)
    assert threading.active_count() == before
    assert len(list(soft_labels.folder.glob("*.npy"))) <= 2


def test_progress_is_told_of_every_image(network, soft_labels):
    seen: list[tuple[int, int]] = []
    images = WorkingImages(streets(3), SIZE)
    summarise_target(network, images, soft_labels, CPU, progress=lambda *told: seen.append(told))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_labels_of_the_target_are_never_read(network, soft_labels):
    class Unlabelled(Pictures):
        def label(self, index: int) -> np.ndarray:
            raise AssertionError("the target's labels were read")

    blind = Unlabelled(streets(2)._images, [])
    views = target_views(blind)
    summarise_target(network, views.images, soft_labels, CPU)
    assert views.batch([0, 0], range(2)).weak.shape[0] == 2


def test_views_of_soft_labels_are_cut_where_the_maps_lead(soft_labels):
    """Soft labels that hold their own image coordinates, at stride 8."""
    size = (120, 160)
    x, y = torch.arange(20) * 8 + 3.5, torch.arange(15) * 8 + 3.5
    for index in range(2):
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")).flip(0)
        soft_labels.write(index, torch.cat([grid, torch.full((1, 15, 20), float(index))]))
    pictures = Pictures([coordinates(size)] * 2, [np.zeros(size, np.uint8)] * 2)
    target = target_views(pictures, images=WorkingImages(pictures, size), crop=(64, 80)).batch(
        [0, 0], range(6)
    )
    for out in ((8, 10), (64, 80)):
        to_image = target.weak_to_image @ target.strong_to_weak
        cut = soft_labels.views(target, to_image, out)
        assert cut.shape == (6, 3, *out)
        stride = 64 // out[0]
        rows, columns = np.mgrid[: out[0], : out[1]] * stride + (stride - 1) / 2
        points = torch.from_numpy(np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)]))
        for n in range(6):
            there = (to_image[n] @ points)[:2]
            inside = (there > 4).all(dim=0) & (there[0] < 155) & (there[1] < 115)
            found = cut[n, :2].flatten(1).double()
            assert (found - there)[:, inside].abs().max() < 0.15  # float16 holds 1/8 at 150
            assert torch.allclose(cut[n, 2], target.indices[n].float())


def test_regions_of_soft_labels_give_what_the_whole_gives(soft_labels):
    """Views that leave their image, too; and only where they lie is read."""
    size, generator = (120, 160), torch.Generator().manual_seed(0)
    for index in range(3):
        soft_labels.write(index, torch.rand(4, 15, 20, generator=generator))
    pictures = Pictures([coordinates(size)] * 3, [np.zeros(size, np.uint8)] * 3)
    images = WorkingImages(pictures, size)
    options = {"images": images, "crop": (48, 64), "weak": Geometric(scale=(0.3, 3))}
    whole = target_views(pictures, **options).batch([0, 0], range(30))
    cut = target_views(pictures, **options, soft_labels=soft_labels).batch([0, 0], range(30))
    assert whole.soft == () and len(cut.soft) == 30
    maps = {"weak": whole.weak_to_image, "strong": whole.weak_to_image @ whole.strong_to_weak}
    wanted = {name: soft_labels.views(whole, matrices, (48, 64)) for name, matrices in maps.items()}
    remove_soft_labels(soft_labels.folder)  # from here on what the batch brought is all there is
    for name, matrices in maps.items():
        found = soft_labels.views(cut.to(CPU), matrices, (48, 64))
        torch.testing.assert_close(found, wanted[name], rtol=0, atol=1e-5)
    assert min(region.values.numel() for region in cut.soft) < 0.3 * 4 * 15 * 20
    assert all(region.values.dtype == torch.float16 for region in cut.soft)


def test_source_prototypes_are_means_over_the_labelled_pixels():
    """Labels that are constant over each position of the network's output."""
    network = tiny_network(dropout=0)
    images, labels = [], []
    for seed in range(3):
        coarse = np.random.default_rng(seed).choice([0, 1, IGNORE], (8, 12)).astype(np.uint8)
        images.append(street(seed)[0])
        labels.append(np.kron(coarse, np.ones((8, 8), np.uint8)))
    working = WorkingImages(Pictures(images, labels), SIZE)
    found = source_prototypes(network, working, CPU)
    means = np.zeros((3, 2, 8))
    for i, output in enumerate(outputs(network, working)):
        features, label = output.features[0].flatten(1).numpy(), labels[i][::8, ::8].ravel()
        for k in range(2):
            means[i, k] = features[:, label == k].mean(axis=1)
    np.testing.assert_allclose(found[:2], means.mean(axis=0), atol=1e-5)
    assert torch.equal(found[2], torch.zeros(8))


def test_soft_labels_are_removed_and_nothing_else(soft_labels):
    soft_labels.write(0, torch.zeros(3, 2, 2))
    remove_soft_labels(soft_labels.folder)
    assert not soft_labels.folder.exists()
    soft_labels.write(0, torch.zeros(3, 2, 2))
    (soft_labels.folder / "notes.txt").write_text("mine")
    remove_soft_labels(soft_labels.folder)
    assert [p.name for p in soft_labels.folder.iterdir()] == ["notes.txt"]
    remove_soft_labels(soft_labels.folder.parent / "never made")
