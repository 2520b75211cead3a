"""Every golden file, reproduced by public functions of ``cpsl_deploy.train``.

``pytest -s tests/train/test_golden.py`` prints the table of agreement.
"""

# ruff: noqa: E402
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from formula_weights import fill
from tiny_training import golden
from torch import Tensor

from cpsl_deploy import train
from cpsl_deploy.train.adversarial import SOURCE, TARGET

GOLDEN = Path(__file__).parent.parent / "golden"
SHARED = Path(__file__).parent.parent.parent.parent / "shared" / "reference"
Case = dict[str, np.ndarray]
Results = dict[str, "Tensor | np.ndarray | float"]
"""By the name of the array in the file that holds the reference's."""


def tensors(case: Case, *names: str) -> list[Tensor]:
    return [torch.from_numpy(case[name]) for name in names]


def sinkhorn(case: Case) -> Results:
    scores, prior = tensors(case, "scores", "class_distribution")
    return {"q": train.sinkhorn(scores, prior, float(case["epsilon"]), int(case["iterations"]))}


def self_labelling_loss(case: Case) -> Results:
    bank, features, prototypes, prior = tensors(case, "bank", "feats", "prototypes", "class_distribution")
    log_probs = (train.cosine_scores(features, prototypes) / float(case["temperature"])).log_softmax(dim=1)
    assignment = train.sinkhorn(
        train.cosine_scores(torch.cat([bank, features]), prototypes),
        prior,
        float(case["epsilon"]),
        int(case["iterations"]),
        rows=torch.arange(len(bank), len(bank) + len(features)),
        largest=1.0,
    )
    return {"loss": train.self_labelling_loss(log_probs, assignment), "q": assignment}


def prototype_weights(case: Case) -> Results:
    features, prototypes = tensors(case, "feat", "prototypes")
    return {"weights": train.prototype_assignment(features, prototypes, float(case["temperature"]))}


def symmetric_cross_entropy(case: Case) -> Results:
    logits, labels = torch.from_numpy(case["logits"]), torch.from_numpy(case["labels"]).long()
    alpha, beta, ignored = float(case["alpha"]), float(case["beta"]), int(case["ignore_index"])
    return {
        "ce": train.cross_entropy(logits, labels, ignored),
        "rce": train.reverse_cross_entropy(logits, labels, ignored),
        "sce": train.symmetric_cross_entropy(logits, labels, alpha, beta, ignored),
    }


def contrastive(case: Case) -> Results:
    arguments = tensors(case, "feats", "labels", "bank", "bank_labels")
    return {"loss": train.pixel_contrast(*arguments, float(case["temperature"]))}


def prototype_init(case: Case) -> Results:
    estimator = train.PrototypeEstimator(*case["prototypes"].shape)
    estimator.update(*tensors(case, "feat", "logits"))
    return {"prototypes": estimator.prototypes(), "counts": estimator.counts}


def metrics(case: Case) -> Results:
    labels = np.where(case["labels"] == case["ignore_index"], 255, case["labels"])
    confusion = train.confusion_matrix(labels, case["predictions"], len(case["iou"]))
    return {"confusion": confusion, "iou": train.iou(confusion), "mean_iou": train.mean_iou(confusion)}


def discriminator(case: Case) -> Results:
    judgement = fill(train.PatchDiscriminator(case["probs"].shape[1]))(torch.from_numpy(case["probs"]))
    return {
        "out": judgement,
        "generator_loss": train.least_squares(judgement, SOURCE),
        "discriminator_loss_if_target": train.least_squares(judgement, TARGET),
    }


def deeplabv2(case: Case, name: str = "deeplabv2_resnet101") -> Results:
    network = fill(train.build(name, case["logits"].shape[1])).eval()
    features, logits = network(torch.from_numpy(case["image"]).float())
    of_features = {"feat": features[:, ::16], "feat_mean": features.mean(dim=(2, 3))}
    return {"logits": logits} | {key: value for key, value in of_features.items() if key in case}


def deeplabv2_bn_clr(case: Case) -> Results:
    return deeplabv2(case, "deeplabv2_resnet101_bn_clr")


LOSSES, MODELS = 1e-5, 1e-4
"""Agreement that is asked for, relative to the largest number of an array."""
FILES: dict[str, tuple[Callable[[Case], Results], float]] = {
    "contrastive": (contrastive, LOSSES),
    "deeplabv2_bn_clr_forward": (deeplabv2_bn_clr, MODELS),
    "deeplabv2_forward": (deeplabv2, MODELS),
    "discriminator": (discriminator, MODELS),
    "metrics": (metrics, LOSSES),
    "prototype_init": (prototype_init, LOSSES),
    "prototype_weights": (prototype_weights, LOSSES),
    "self_labelling_loss": (self_labelling_loss, LOSSES),
    "sinkhorn": (sinkhorn, LOSSES),
    "symmetric_cross_entropy": (symmetric_cross_entropy, LOSSES),
}


class Seen(Case):
    """A golden file that remembers what was taken from it."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> np.ndarray:
        self.seen.add(key)
        return super().__getitem__(key)


@pytest.mark.parametrize("name", FILES)
def test_a_golden_file_is_reproduced(name: str):
    reproduce, tolerance = FILES[name]
    case = Seen(golden(name))
    with torch.no_grad():
        found = reproduce(case)
    assert case.seen | set(found) == set(case), "something in the file is neither taken nor reproduced"
    for key, value in found.items():
        ours, wanted = np.asarray(value, np.float64), case[key].astype(np.float64)
        assert ours.shape == wanted.shape and np.array_equal(np.isnan(ours), np.isnan(wanted)), key
        error, largest = np.nanmax(np.abs(ours - wanted)), np.nanmax(np.abs(wanted))
        print(f"{name:26} {key:30} max |difference| {error:.1e}, relative {error / largest:.1e}")
        assert error <= tolerance * largest, key


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_all_files_of_the_reference_are_there_and_unchanged():
    files = sorted(SHARED.glob("*.npz"))
    assert {path.stem for path in files} == set(FILES)
    for path in files:
        with np.load(path) as theirs:
            ours = golden(path.stem)
            assert set(ours) <= set(theirs.files), path.stem
            for key, value in ours.items():
                np.testing.assert_array_equal(value, theirs[key], err_msg=f"{path.stem} {key}")


def test_the_terms_are_public():
    """Losing a name is a decision; a function wins over the submodule of its name."""
    import cpsl_deploy.train.self_labelling  # noqa: F401 - it imports most submodules

    assert set(train.__all__) >= {
        *("PatchDiscriminator", "PrototypeEstimator", "Recipe", "RunFolder", "adapt", "build"),
        *("confusion_matrix", "cosine_scores", "cross_entropy", "iou", "kl_divergence", "least_squares"),
        *("load_model", "load_published", "load_recipe", "marginal_error", "mean_iou", "pixel_contrast"),
        *("prototype_assignment", "recipe_names", "rectified_pseudo_label", "reverse_cross_entropy"),
        *("save_model", "self_labelling_loss", "sinkhorn", "symmetric_cross_entropy"),
    }
    for name in train.__all__:
        assert callable(getattr(train, name)) and name in dir(train), name
