"""Accuracy through the whole harness: it gives the golden figures, notices swapped classes, and says all
that a record holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from painted_backend import blotches, painted_segmenter, painted_set, swapped

from cpsl_deploy.bench import evaluate
from cpsl_deploy.bench.accuracy import ClassAccuracy, ImageCounts
from cpsl_deploy.bench.boundary import boundary_counts
from cpsl_deploy.bench.record import record_schema
from cpsl_deploy.classes import CITYSCAPES_19, IGNORE
from cpsl_deploy.errors import InputError
from cpsl_deploy.metrics import confusion_matrix, iou

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"
REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "metrics.npz"
NAMES = ("road", "sidewalk", "car", "tree")


@pytest.mark.parametrize("file", [GOLDEN, REFERENCE], ids=["golden", "reference"])
def test_iou_through_the_harness_is_the_reference_s(file, tmp_path):
    if not file.is_file():
        pytest.skip(f"needs {file}")
    golden = np.load(file)
    labels, predictions = golden["labels"], golden["predictions"]
    names = CITYSCAPES_19.names
    dataset = painted_set(tmp_path, names, predictions, labels, ignore=int(golden["ignore_index"]))
    accuracy = evaluate(painted_segmenter(names, labels.shape[1:]), dataset)
    np.testing.assert_array_equal(accuracy.confusion, golden["confusion"])
    np.testing.assert_allclose(accuracy.iou, golden["iou"], rtol=1e-12)
    assert accuracy.mean_iou == pytest.approx(float(golden["mean_iou"]), rel=1e-12)
    low, high = accuracy.intervals.miou
    assert low <= accuracy.mean_iou <= high


@pytest.fixture
def drive(tmp_path):
    """(labels, predictions, dataset): 6 images of 48x64 with four classes, predicted mostly right."""
    labels = np.stack([blotches(seed, (48, 64), [0, 1, 2, 3, IGNORE]) for seed in range(6)])
    noise = np.stack([blotches(seed + 50, (48, 64), [0, 1, 2, 3]) for seed in range(6)])
    wrong = np.random.default_rng(1).random(labels.shape) < 0.1
    predictions = np.where(wrong | (labels == IGNORE), noise, labels).astype(np.uint8)
    return labels, predictions, painted_set(tmp_path, NAMES, predictions, labels)


def test_a_class_swapped_in_the_output_breaks_its_iou_and_no_other(drive):
    labels, predictions, dataset = drive
    right = evaluate(painted_segmenter(NAMES, (48, 64)), dataset)
    wrong = evaluate(painted_segmenter(NAMES, (48, 64), swapped(1, 2)), dataset)
    assert (right.iou > 0.8).all()
    assert (wrong.iou[[1, 2]] < 0.05).all() and wrong.iou[[0, 3]].tolist() == right.iou[[0, 3]].tolist()
    assert wrong.mean_iou < right.mean_iou - 0.35
    assert (wrong.precision[[1, 2]] < 0.1).all() and (wrong.recall[[1, 2]] < 0.1).all()
    # Every label is still there as often as before: only the join of names and pixels tells.
    np.testing.assert_array_equal(wrong.label_share, right.label_share)
    assert wrong.intervals.classes[1, 1] < right.intervals.classes[1, 0]
    expected = iou(confusion_matrix(labels, swapped(1, 2)[predictions], 4))
    np.testing.assert_allclose(wrong.iou, expected, rtol=1e-12)


def test_counts_are_kept_image_by_image(drive):
    labels, predictions, dataset = drive
    images = evaluate(painted_segmenter(NAMES, (48, 64)), dataset).images
    assert images.names == tuple("012345")
    for index, (label, predicted) in enumerate(zip(labels, predictions, strict=True)):
        known = label != IGNORE
        for k in range(4):
            assert images.hits[index, k] == ((label == k) & (predicted == k)).sum()
            assert images.labelled[index, k] == (label == k).sum()
            assert images.predicted[index, k] == ((predicted == k) & known).sum()


def test_boundaries_are_looked_at_only_when_asked_for(drive):
    labels, predictions, dataset = drive
    segmenter = painted_segmenter(NAMES, (48, 64))
    plain, full = evaluate(segmenter, dataset), evaluate(segmenter, dataset, boundary_pixels=2)
    assert plain.boundary is plain.boundary_iou is plain.boundary_f_score is plain.boundary_pixels is None
    assert all(scores.boundary_iou is scores.boundary_f_score is None for scores in plain.class_scores())
    np.testing.assert_array_equal(plain.confusion, full.confusion)
    expected = sum(
        (boundary_counts(one, other, 4, 2) for one, other in zip(labels[1:], predictions[1:], strict=True)),
        start=boundary_counts(labels[0], predictions[0], 4, 2),
    )
    np.testing.assert_array_equal(full.boundary_iou, expected.iou)
    np.testing.assert_array_equal(full.boundary_f_score, expected.f_score)
    assert (full.boundary_iou < full.iou).all() and full.boundary_pixels == 2
    with pytest.raises(InputError, match="1 pixel or more; got 0"):
        evaluate(segmenter, dataset, boundary_pixels=0)


def by_hand() -> ClassAccuracy:
    """Two images; the data has no tree, and no car is labelled or predicted."""
    first = np.array([[6, 2, 0, 1], [1, 3, 0, 0], [0] * 4, [0] * 4])
    second = np.array([[4, 0, 0, 0], [0, 1, 0, 2], [0] * 4, [0] * 4])
    return ClassAccuracy(
        names=NAMES,
        confusion=first + second,
        unknown_to_data=("tree",),
        images=ImageCounts.of(["a", "b"], [first, second]),
    )


def test_scores_of_a_class_by_hand():
    road, sidewalk, car, tree = by_hand().class_scores()
    assert (road.name, road.iou, road.precision, road.recall) == ("road", 10 / 14, 10 / 11, 10 / 13)
    assert road.iou_interval == {"low": 6 / 10, "high": 1.0}
    assert (sidewalk.iou, sidewalk.precision, sidewalk.recall) == (4 / 9, 4 / 6, 4 / 7)
    assert (road.label_share, road.predicted_share, tree.predicted_share) == (13 / 20, 11 / 20, 3 / 20)
    # A class that is nowhere has no score, one that the data lacks none either, though it was predicted.
    assert car.iou is car.iou_interval is car.precision is car.recall is None and car.label_share == 0
    assert tree.iou is tree.iou_interval is tree.precision is tree.recall is tree.label_share is None


def test_a_class_never_labelled_but_predicted_has_precision_0_and_no_recall():
    confusion = np.array([[3, 1], [0, 0]])
    accuracy = ClassAccuracy(
        names=("road", "car"), confusion=confusion, images=ImageCounts.of(["a"], [confusion])
    )
    car = accuracy.class_scores()[1]
    assert car.iou == car.precision == 0 and car.recall is None and car.iou_interval is None


def test_few_images_are_said():
    assert by_hand().frames == 2 and "over 2 images are too narrow" in by_hand().notes()[0]
    confusion = np.eye(2, dtype=np.int64)
    many = ImageCounts.of([str(n) for n in range(30)], [confusion] * 30)
    assert ClassAccuracy(names=("a", "b"), confusion=30 * confusion, images=many).notes() == []


def test_images_that_score_alike_as_those_before_them_are_drawn_in_runs_and_it_is_said():
    hits = np.rint(600 + 300 * np.sin(np.linspace(0, 9, 90))).astype(int)
    confusions = [np.array([[right, 1000 - right], [0, 1000]]) for right in hits]

    def accuracy_of(order: np.ndarray) -> ClassAccuracy:
        images = ImageCounts.of([str(n) for n in order], [confusions[n] for n in order])
        return ClassAccuracy(names=("a", "b"), confusion=np.sum(confusions, axis=0), images=images)

    drive = accuracy_of(np.arange(90))
    shuffled = accuracy_of(np.random.default_rng(0).permutation(90))
    assert shuffled.notes() == [] and shuffled.intervals.block == 1 < drive.intervals.block
    assert f"runs of {drive.intervals.block}" in drive.notes()[0]
    assert "over 90 images in about" in drive.notes()[1]
    assert np.diff(drive.intervals.miou) > 2 * np.diff(shuffled.intervals.miou)


@pytest.mark.parametrize("boundary_pixels", [None, 3])
def test_the_section_is_what_the_schema_says(drive, boundary_pixels):
    jsonschema = pytest.importorskip("jsonschema", reason="needs the dev extra")
    schema = record_schema()
    accuracy = evaluate(painted_segmenter(NAMES, (48, 64)), drive[2], boundary_pixels=boundary_pixels)
    definitions = {"$schema": schema["$schema"], "$defs": schema["$defs"]}
    for made in (accuracy, by_hand()):
        section = json.loads(json.dumps(made.to_json(), allow_nan=False))
        jsonschema.validate(section, {**schema["properties"]["accuracy"], **definitions})
        fields = schema["properties"]["classes"]["items"]["properties"]
        for scores in made.class_scores():
            document = json.loads(json.dumps(scores.to_json(), allow_nan=False))
            for name, value in document.items():
                jsonschema.validate(value, {**fields[name], **definitions})
    assert section["miou"] == pytest.approx((10 / 14 + 4 / 9) / 2)
