"""Scores of a network, at the labels' own size."""

# ruff: noqa: E402
import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_training import SIZE, Pictures, street, streets, tiny_network

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.train.evaluation.network_score import Score, evaluate, label_map
from cpsl_deploy.train.stage import normalised

CPU = torch.device("cpu")


def test_the_score_is_that_of_full_size_label_maps():
    """Images twice the working size: shrunk for the network, its logits enlarged to the labels."""
    made = [street(seed, (128, 192)) for seed in range(3)]
    network = tiny_network(dropout=0.5).train()
    score = evaluate(network, Pictures(*map(list, zip(*made, strict=True))), SIZE, CPU)
    confusion = np.zeros((3, 3), int)
    network.eval()
    for image, label in made:
        small = cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA)
        with torch.no_grad():
            logits = network(normalised(torch.from_numpy(small).permute(2, 0, 1)[None], network)).logits
        full = torch.nn.functional.interpolate(logits, size=(128, 192), mode="bilinear")
        found = full.argmax(dim=1)[0].numpy()
        for truth, prediction in zip(label[label != IGNORE], found[label != IGNORE], strict=True):
            confusion[truth, prediction] += 1
    np.testing.assert_array_equal(score.confusion, confusion)
    hits = np.diag(confusion)
    ious = hits / (confusion.sum(axis=0) + confusion.sum(axis=1) - hits)
    assert score.iou == pytest.approx(ious.tolist()) and score.mean_iou == pytest.approx(ious.mean())


@pytest.mark.parametrize("training", [True, False])
def test_the_network_keeps_its_mode_and_its_weights(training: bool):
    network = tiny_network().train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    first, again = (evaluate(network, streets(2), SIZE, CPU).confusion for _ in range(2))
    assert network.training is training
    assert np.array_equal(first, again), "no dropout"
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_some_images_are_chosen_evenly():
    class Asked(Pictures):
        asked: list[int] = []  # noqa: RUF012

        def image(self, index: int) -> np.ndarray:
            self.asked.append(index)
            return super().image(index)

    made = streets(9)
    told: list[tuple[int, int]] = []
    evaluate(
        tiny_network(),
        Asked(made._images, made._labels),
        SIZE,
        CPU,
        most=3,
        progress=lambda *t: told.append(t),
    )
    assert Asked.asked == [0, 4, 8] and told == [(1, 3), (2, 3), (3, 3)]
    Asked.asked.clear()
    evaluate(tiny_network(), Asked(made._images, made._labels), SIZE, CPU, most=50)
    assert Asked.asked == list(range(9)), "each once, though more were asked for"


def test_a_class_that_never_occurs_is_none_and_not_in_the_mean():
    score = Score(np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]]))
    assert score.iou == [0.75, 0.5, None]
    assert score.mean_iou == pytest.approx(0.625)
    written = json.loads(json.dumps(score.to_json()))
    assert written == {"mean_iou": 0.625, "pixel_accuracy": 0.8, "iou": [0.75, 0.5, None]}


def test_a_label_map_has_the_size_asked_for():
    found = label_map(tiny_network().eval(), street(0)[0], (50, 70), CPU)
    assert found.shape == (50, 70) and found.dtype == np.uint8 and found.max() < 3
