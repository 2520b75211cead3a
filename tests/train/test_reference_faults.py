"""Where the authors' code is faulty: one section per row of the README's table of differences, in its order.

Each test tells the two apart: it asserts what is right of this project's formula (``OURS``) and, of the one
that ``reference_arithmetic`` brings back (``REFERENCE``) or that is written out here, that it is at fault.
The rows that need whole runs or views follow in ``test_reference_faults_in_runs.py``.
"""

# ruff: noqa: E402
from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from tiny_self_labelling import PRIOR, generator, losses_of, random_soft_labels, self_labelling
from tiny_training import SIZE, golden, tiny_batch, tiny_network
from torch import Tensor

from cpsl_deploy.train import recipe
from cpsl_deploy.train.assignment import marginal_error
from cpsl_deploy.train.distillation import Distillation
from cpsl_deploy.train.memory_bank import MemoryBank
from cpsl_deploy.train.models import build
from cpsl_deploy.train.models.deeplabv2 import AtrousHead
from cpsl_deploy.train.prototypes import cosine_scores
from cpsl_deploy.train.reference_arithmetic import OURS, REFERENCE, Arithmetic
from cpsl_deploy.train.samples import Batch
from cpsl_deploy.train.stage import predict

BOTH = pytest.mark.parametrize("arithmetic", [OURS, REFERENCE], ids=["ours", "reference"])


def two_predictions(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of a student, a teacher's probabilities near them, and where both are valid."""
    logits = 2 * torch.randn(2, 5, 6, 7, generator=generator(seed))
    teacher = logits + 0.3 * torch.randn(2, 5, 6, 7, generator=generator(seed + 1))
    valid = torch.rand(2, 6, 7, generator=generator(seed + 2)) > 0.3
    return logits.log_softmax(dim=1), teacher.softmax(dim=1), valid


# ---- the distillation term is given probabilities where logarithms belong


def test_distillation_is_zero_at_agreement_and_never_negative():
    for seed in range(30):
        student, teacher, valid = two_predictions(seed)
        assert float(OURS.distillation(student, student.exp(), valid)) == pytest.approx(0, abs=1e-6)
        assert OURS.distillation(student, teacher, valid) > 0
        assert REFERENCE.distillation(student, student.exp(), valid) < 0
        assert REFERENCE.distillation(student, teacher, valid) < 0


@BOTH
def test_the_stage_distils_with_the_arithmetic_it_is_given(tmp_path: Path, arithmetic: Arithmetic):
    frozen = tiny_network(dropout=0)
    made = Distillation(
        "distillation_1",
        recipe.Distillation(iterations=1, batch=2),
        copy.deepcopy(frozen).eval(),
        frozen,
        random_soft_labels(tmp_path),
        target_statistics=False,
        arithmetic=arithmetic,
    )
    loss = float(losses_of(made)["distillation"].detach())
    assert loss == pytest.approx(0, abs=1e-6) if arithmetic is OURS else loss < -0.01


# ---- means are over all pixels and classes, padding included


@pytest.mark.parametrize("term", ["consistency", "distillation"])
def test_padding_enters_no_mean(term: str):
    student, teacher, valid = two_predictions(0)
    elsewhere = torch.where(valid[:, None], teacher, teacher.flip(1))
    ours, reference = getattr(OURS, term), getattr(REFERENCE, term)
    assert torch.equal(ours(student, teacher, valid), ours(student, elsewhere, valid))
    changed = reference(student, elsewhere, valid)
    assert not torch.allclose(reference(student, teacher, valid), changed, rtol=0.01)


def test_the_weight_is_restated_for_a_mean_over_pixels():
    student, teacher, valid = two_predictions(0)
    everywhere = torch.ones_like(valid)
    # Theirs is over N * C * h * w, with a weight of 5; here it is N * h * w, with either arithmetic.
    theirs = 5 * F.kl_div(student, teacher, reduction="sum") / student.numel()
    for arithmetic in (REFERENCE, OURS):
        ours = 5 / student.shape[1] * arithmetic.consistency(student, teacher, everywhere)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    default = recipe.SelfLabelling().consistency_weight
    assert default == pytest.approx(5 / 19, rel=0.02)


def test_consistency_of_a_step_leaves_padding_out(tmp_path: Path):
    batch = tiny_batch()
    nowhere = dataclasses.replace(batch.target, valid=torch.zeros_like(batch.target.valid))
    padded = Batch(batch.source, nowhere)
    assert float(losses_of(self_labelling(tmp_path), padded)["consistency"].detach()) == 0
    assert losses_of(self_labelling(tmp_path, REFERENCE), padded)["consistency"] > 0


# ---- features of the bank are shuffled, their labels are not


@BOTH
def test_a_bank_row_is_one_pixel_s_feature_score_and_label(tmp_path: Path, arithmetic: Arithmetic):
    made, batch = self_labelling(tmp_path, arithmetic, dropout=0.0), tiny_batch()
    seen = made.teach(batch.target)
    with torch.no_grad():
        losses_of(made, batch)
    features, _, labels = made.bank.rows()
    every = F.normalize(seen.output.features, dim=1).permute(0, 2, 3, 1).reshape(-1, 8)
    distance, pixel = torch.cdist(features, every).min(dim=1)
    assert distance.max() < 1e-3
    all_labels = seen.rectified.argmax(dim=1)
    belonging = torch.equal(labels, all_labels.flatten()[pixel])
    first_of_each_image = torch.equal(labels, all_labels.flatten(1)[:, :16].flatten())
    assert (belonging, first_of_each_image) == ((True, False) if arithmetic is OURS else (False, True))


def test_rows_stay_together_across_wrap_around():
    bank = MemoryBank(10, 2, 3)
    for start in range(0, 63, 7):
        numbers = torch.arange(start, start + 7)
        bank.push(numbers[:, None].repeat(1, 2) / 2, numbers[:, None].repeat(1, 3) * 3, numbers)
        features, scores, labels = bank.rows()
        assert torch.equal(features[:, 0] * 2, labels.float()) and torch.equal(scores[:, 0], 3.0 * labels)
        assert set(labels.tolist()) == set(range(max(0, start - 3), start + 7))


# ---- the bank is copied at every push


def test_a_push_moves_no_other_row():
    bank, row = MemoryBank(50, 4, 3), torch.arange(50.0)
    bank.push(row[:, None].repeat(1, 4), row[:, None].repeat(1, 3), row.long())
    address, before = bank.features.data_ptr(), bank.features.clone()
    shifted = before.clone()
    shifted[5:] = shifted[:-5].clone()  # as the reference makes room
    bank.push(torch.full((5, 4), -1.0), torch.zeros(5, 3), torch.zeros(5, dtype=torch.long))
    assert bank.features.data_ptr() == address
    moved = [int((after != before).any(dim=1).sum()) for after in (bank.features, shifted)]
    assert moved == [5, 45]


# ---- prototypes are normalised for the batch's scores and not for the bank's


def test_scores_of_the_bank_do_not_depend_on_the_length_of_prototypes():
    bank = F.normalize(torch.randn(12, 6, generator=generator()), dim=1)
    prototypes = F.normalize(torch.randn(3, 6, generator=generator(1)), dim=1)
    newest, oldest = torch.tensor([10, 11, 0, 1]), torch.arange(2, 10)
    for length in (1.0, 3.0):
        ours = OURS.bank_scores(bank, length * prototypes, newest)
        theirs = REFERENCE.bank_scores(bank, length * prototypes, newest)
        assert torch.allclose(ours, bank @ prototypes.T, atol=1e-6)
        assert torch.allclose(theirs[newest], ours[newest], atol=1e-6)
        assert torch.allclose(theirs[oldest], length * ours[oldest], atol=1e-5)


def test_stages_of_both_arithmetics_score_alike_while_prototypes_have_length_one(tmp_path: Path):
    ours, theirs = self_labelling(tmp_path, dropout=0.0), self_labelling(tmp_path, REFERENCE, dropout=0.0)
    assert torch.allclose(theirs.prototypes.norm(dim=1), torch.ones(3))
    assert not torch.allclose(ours.prototypes.norm(dim=1), torch.ones(3)), "as long as they were estimated"
    assert torch.allclose(F.normalize(ours.prototypes, dim=1), theirs.prototypes, atol=1e-6)


# ---- Sinkhorn on exponentials overflows, and gives NaN for a class without mass


def random_scores(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=generator(seed))


def test_where_exponentials_are_finite_both_are_the_golden_assignment():
    case = golden("sinkhorn")
    arguments = torch.from_numpy(case["scores"]), torch.from_numpy(case["class_distribution"])
    for arithmetic in (OURS, REFERENCE):
        found = arithmetic.assign(*arguments, float(case["epsilon"]), int(case["iterations"]))
        np.testing.assert_allclose(found.numpy(), case["q"], rtol=1e-5, atol=1e-7)


def zero_prior() -> tuple[Tensor, Tensor]:
    return random_scores(50, 3), torch.tensor([0.7, 0.0, 0.3])


def no_pixel_fits() -> tuple[Tensor, Tensor]:
    return torch.tensor([0.0, -10.0]).expand(40, 2).contiguous(), torch.tensor([0.75, 0.25])


def fifty(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    scores = (20 * random_scores(64, 3)).clamp(-50, 50)
    scores[0], scores[1] = 50, -50
    return scores.to(dtype), PRIOR


@pytest.mark.parametrize(
    ("scores", "prior"),
    [zero_prior(), no_pixel_fits(), *(fifty(d) for d in (torch.float16, torch.bfloat16, torch.float32))],
    ids=["zero prior", "no pixel fits", "float16 50", "bfloat16 50", "float32 50"],
)
def test_any_scores_and_any_prior_give_an_assignment(scores: Tensor, prior: Tensor):
    found = OURS.assign(scores, prior, 0.05, 3)
    assert torch.isfinite(found).all() and torch.allclose(
        found.sum(dim=1), torch.ones(len(scores)), atol=1e-5
    )
    assert (found[:, prior == 0] == 0).all()
    assert not torch.isfinite(REFERENCE.assign(scores, prior, 0.05, 3)).all()


def test_float16_features_of_any_length_give_an_assignment():
    features = (3000 * random_scores(64, 256)).half()
    prototypes = random_scores(3, 256, seed=1)
    found = OURS.assign(cosine_scores(features, prototypes), PRIOR, 0.05, 3)
    assert torch.isfinite(found).all() and float(marginal_error(found, PRIOR)) < 0.3
    squares = features.square().sum(dim=1)  # as a norm in float16 would add them up
    assert torch.isinf(squares).all()


def test_the_marginal_error_falls_with_iterations_and_is_reported(tmp_path: Path):
    """Three iterations leave it far off on clustered features, and a run says so."""
    clustered = random_scores(300, 3) * 0.05 + torch.eye(3)[torch.arange(300) % 3]
    errors = [
        marginal_error(OURS.assign(clustered.double(), PRIOR, 0.05, k), PRIOR) for k in (1, 3, 10, 100, 1000)
    ]
    assert errors == sorted(errors, reverse=True) and errors[1] > 0.01 and errors[-1] < 1e-3
    made = self_labelling(tmp_path)
    losses_of(made)
    reported = {
        name: value for name, value in made.diagnostics().items() if name.startswith("marginal_error")
    }
    assert reported and all(0 <= value <= 1 for value in reported.values())


def test_in_the_limit_the_assignment_is_the_independent_solution():
    """The dual, ascended in NumPy; and for small epsilon the linear programme."""
    optimize = pytest.importorskip("scipy.optimize")
    scores, prior = random_scores(12, 3).double(), torch.tensor([0.5, 0.25, 0.25]).double()
    potentials = np.zeros(3)
    for _ in range(4000):
        rows = np.exp((scores.numpy() + potentials) / 0.5)
        shares = (rows / rows.sum(axis=1, keepdims=True)).mean(axis=0)
        potentials += 0.2 * (prior.numpy() - shares)
    rows = np.exp((scores.numpy() + potentials) / 0.5)
    found = OURS.assign(scores, prior, 0.5, 2000)
    np.testing.assert_allclose(found.numpy(), rows / rows.sum(axis=1, keepdims=True), atol=1e-6)

    to_pixels, to_classes = np.kron(np.eye(12), np.ones(3)), np.kron(np.ones(12), np.eye(3))
    best = optimize.linprog(
        -scores.numpy().ravel(),
        A_eq=np.concatenate([to_pixels, to_classes]),
        b_eq=np.concatenate([np.ones(12), 12 * prior.numpy()]),
    )
    sharp = OURS.assign(scores, prior, 0.01, 5000)
    assert float((sharp * scores).sum()) == pytest.approx(-best.fun, abs=1e-3)


# ---- the teacher's prototypes are the student's own at the start


@BOTH
def test_the_teacher_s_prototypes_are_a_copy(arithmetic: Arithmetic):
    student, prototypes = tiny_network(), torch.nn.Parameter(torch.zeros(3, 8))
    teacher = arithmetic.teacher(student, prototypes, 0.9)
    followed = []
    for _ in range(2):
        with torch.no_grad():
            prototypes.add_(1)  # the optimiser's step
        teacher.update(student, prototypes)
        followed.append(float(teacher.prototypes.mean()))
    # The reference's first average is of one tensor with itself; then both are apart.
    assert followed == pytest.approx([0.1, 0.29] if arithmetic is OURS else [1.0, 1.1])


# ---- the teacher is in training mode, and features are taken after dropout


def test_the_teacher_says_the_same_twice(tmp_path: Path):
    batch = tiny_batch()
    for arithmetic in (OURS, REFERENCE):
        made = self_labelling(tmp_path, arithmetic)
        made.train().eval().train()
        first, second = (made.teach(batch.target).output for _ in range(2))
        assert torch.equal(first.features, second.features) == (arithmetic is OURS)
        assert made.teacher.network.training == (arithmetic is REFERENCE)
        student = predict(made.network, batch.target.weak).features
        assert ((student == 0).float().mean() > 0.3) == (arithmetic is REFERENCE)


@pytest.mark.parametrize("after", [False, True])
def test_features_are_those_before_dropout(after: bool):
    torch.manual_seed(0)
    image = torch.randn(2, 3, 64, 64)
    tiny, squeezenet = tiny_network(dropout=0.5), build("squeezenet_fpn", 3)
    squeezenet.dropout.p = 0.5
    for network in (tiny, squeezenet):
        network.train().features_after_dropout = after
        features = network(image).features
        assert ((features == 0).float().mean() > 0.3) == after
        assert not (network.eval()(image).features == 0).float().mean() > 0.3
    head = AtrousHead(16, 32, 3).train()
    head.head[0].p = 0.5
    features, _ = head(torch.randn(2, 16, 9, 9), features_after_dropout=after)
    assert ((features == 0).float().mean() > 0.3) == after


def test_scoring_pseudo_labels_leaves_a_teacher_in_training_mode_as_it_was(tmp_path: Path):
    made = self_labelling(tmp_path, REFERENCE)
    before = copy.deepcopy(made.state_dict())
    image = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
    first, second = (made.label_image(image, SIZE, None) for _ in range(2))
    assert torch.equal(first, second) and made.teacher.network.training
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


# ---- the self-labelling loss reaches the prototypes alone


def test_which_parameters_self_labelling_reaches_is_a_choice(tmp_path: Path):
    for made, wanted in (
        (self_labelling(tmp_path), {"prototypes"}),
        (self_labelling(tmp_path, REFERENCE), {"prototypes"}),
        (self_labelling(tmp_path, student_features=True), {"prototypes", "network.encoder.weight"}),
    ):
        losses_of(made)["self_labelling"].backward()
        reached = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached & {"prototypes", "network.encoder.weight", "network.classifier.weight"} == wanted
