"""Cityscapes' own evaluation gives the IoU that this harness gives, for the same predictions."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from painted_backend import blotches, painted_segmenter, write_painted

from cpsl_deploy.bench import evaluate
from cpsl_deploy.classes import CITYSCAPES_19
from cpsl_deploy.data import open_dataset

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cityscapesscripts") is None, reason="needs cityscapesScripts"
)

IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Cityscapes' ids of its 19 classes, in the order of their train ids."""
NOT_EVALUATED = [0, 1, 3, 5, 6, 9, 14, 18, 29, 30]
SIZE = (64, 96)
NEVER_LABELLED, NEVER_PREDICTED, NOWHERE = 4, 5, 16

# In a process of its own: the package keeps its settings in a module's globals, reads the environment as it
# is imported, and ends the process for what it does not like.
OWN_EVALUATION = """
import json, sys
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as own
from cityscapesscripts.helpers.labels import labels
own.args.quiet, own.args.JSONOutput, own.args.evalInstLevelScore = True, False, False
predictions, truths = json.load(sys.stdin)
scores = own.evaluateImgLists(predictions, truths, own.args)
names = [label.name for label in sorted(labels, key=lambda label: label.trainId) if not label.ignoreInEval]
print(json.dumps([[scores["classScores"][name] for name in names], scores["averageScoreClasses"], names]))
"""


@pytest.fixture
def city(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """(masks of predicted ids, masks of true ids) of three frames in the layout of Cityscapes under tmp_path;
    the frames are painted with the predictions."""
    predicted_masks, true_masks = [], []
    ids = np.array(IDS, np.uint8)
    labelled = [k for k in range(19) if k not in (NEVER_LABELLED, NOWHERE)]
    predictable = [k for k in range(19) if k not in (NEVER_PREDICTED, NOWHERE)]
    for index in range(3):
        truth = ids[blotches(index, SIZE, labelled)]
        truth = np.where(
            blotches(index + 10, SIZE, [0, 0, 0, 1]), blotches(index, SIZE, NOT_EVALUATED), truth
        )
        guess = blotches(index + 20, SIZE, predictable)
        keep = np.isin(truth, ids[predictable]) & (blotches(index + 30, SIZE, [0, 0, 1]) == 0)
        predictions = np.where(keep, np.searchsorted(ids, truth), guess).astype(np.uint8)
        name = f"aachen_{index:06}_000019"
        true_masks.append(tmp_path / f"gtFine/val/aachen/{name}_gtFine_labelIds.png")
        predicted_masks.append(tmp_path / f"results/{name}.png")
        for path, mask in ((true_masks[-1], truth), (predicted_masks[-1], ids[predictions])):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), mask)
        write_painted(tmp_path / f"leftImg8bit/val/aachen/{name}_leftImg8bit.png", predictions)
    return predicted_masks, true_masks


def test_their_evaluation_agrees_with_ours(city, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OWN_EVALUATION],
        input=json.dumps([[str(path) for path in paths] for paths in city]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs, their_mean, names = json.loads(done.stdout.splitlines()[-1])
    assert tuple(names) == CITYSCAPES_19.names
    dataset = open_dataset(tmp_path, "val")
    assert dataset.name == "cityscapes" and len(dataset) == 3
    accuracy = evaluate(painted_segmenter(CITYSCAPES_19.names, SIZE), dataset)
    np.testing.assert_allclose(accuracy.iou, np.array(theirs), rtol=0, atol=1e-9)
    assert accuracy.mean_iou == pytest.approx(their_mean, abs=1e-9)
    # The case is a hard one: a class nowhere has no IoU and is in no mean, one on one side alone has 0.
    assert np.isnan(theirs[NOWHERE]) and np.isnan(accuracy.iou).sum() == 1
    assert theirs[NEVER_LABELLED] == theirs[NEVER_PREDICTED] == 0
    assert 0.2 < their_mean < 0.9
    counted = accuracy.confusion.sum()
    assert counted == sum(np.isin(cv2.imread(str(path), -1), IDS).sum() for path in city[1])
    assert counted < 0.9 * 3 * SIZE[0] * SIZE[1]
