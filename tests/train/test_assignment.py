"""Sinkhorn: the reference's numbers, independent solutions, marginals, and inputs the reference fails on."""

# ruff: noqa: E402
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_training import golden

from cpsl_deploy.train.assignment import assignment_entropy, marginal_error, sinkhorn


def random_scores(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_sum(values: np.ndarray, axis: int) -> np.ndarray:
    top = values.max(axis=axis, keepdims=True)
    return (top + np.log(np.exp(values - top).sum(axis=axis, keepdims=True))).squeeze(axis)


def by_dual_potentials(
    scores: np.ndarray, prior: np.ndarray, epsilon: float, iterations: int = 3000
) -> np.ndarray:
    """Q = exp((S + f + g) / epsilon) by exact ascent of the dual in turn over classes (g) and pixels (f)."""
    f, g = np.zeros(len(scores)), np.zeros(len(prior))
    for _ in range(iterations):
        g = epsilon * (np.log(prior * len(scores)) - log_sum((scores + f[:, None]) / epsilon, 0))
        f = -epsilon * log_sum((scores + g) / epsilon, 1)
    return np.exp((scores + f[:, None] + g) / epsilon)


def test_assignment_is_the_reference_s():
    case = golden("sinkhorn")
    found = sinkhorn(
        torch.from_numpy(case["scores"]),
        torch.from_numpy(case["class_distribution"]),
        float(case["epsilon"]),
        int(case["iterations"]),
    )
    np.testing.assert_allclose(found.numpy(), case["q"], rtol=1e-5, atol=1e-7)


def test_self_labelling_loss_is_the_reference_s():
    case = golden("self_labelling_loss")
    features, prototypes = torch.from_numpy(case["feats"]), torch.from_numpy(case["prototypes"])
    scores = torch.cat([torch.from_numpy(case["bank"]), features]) @ prototypes.T
    prior = torch.from_numpy(case["class_distribution"])
    assignment = sinkhorn(scores, prior, float(case["epsilon"]), int(case["iterations"]))[-len(features) :]
    np.testing.assert_allclose(assignment.numpy(), case["q"], rtol=1e-5, atol=1e-7)
    log_probs = (features @ prototypes.T / float(case["temperature"])).log_softmax(dim=1)
    assert float(-(assignment * log_probs).sum(dim=1).mean()) == pytest.approx(float(case["loss"]), rel=1e-5)


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_iterations_converge_to_the_solution_of_the_dual(epsilon: float):
    scores, prior = random_scores(40, 4).tanh(), torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    found = sinkhorn(scores, prior, epsilon, iterations=3000)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(
        found.numpy(), by_dual_potentials(scores.numpy(), prior.numpy(), epsilon), atol=1e-9
    )


def test_small_epsilon_approaches_the_linear_programme():
    """Without entropy the assignment is a transport problem; six pixels, three classes of two pixels each."""
    optimize = pytest.importorskip("scipy.optimize")
    scores = random_scores(6, 3, seed=4)
    rows = [np.kron(np.eye(6)[i], np.ones(3)) for i in range(6)]
    columns = [np.kron(np.ones(6), np.eye(3)[k]) for k in range(3)]
    best = optimize.linprog(
        -scores.numpy().ravel(), A_eq=np.array(rows + columns), b_eq=[1.0] * 6 + [2.0] * 3
    )
    assert best.status == 0
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    gaps = []
    for epsilon in (0.3, 0.1, 0.01):
        found = sinkhorn(scores, uniform, epsilon, iterations=5000)
        gaps.append(float(-best.fun - (found * scores).sum()))
    assert gaps[0] > gaps[1] > abs(gaps[2])
    np.testing.assert_allclose(found.numpy(), best.x.reshape(6, 3), atol=1e-3)


def test_rows_sum_to_one_whatever_the_iterations():
    prior = torch.tensor([0.5, 0.3, 0.15, 0.05])
    for iterations in (1, 3, 20):
        rows = sinkhorn(random_scores(100, 4).float(), prior, 0.05, iterations).sum(dim=1)
        assert torch.allclose(rows, torch.ones(100), atol=1e-5)


def test_marginal_error_falls_with_iterations():
    prior = torch.tensor([0.05, 0.15, 0.3, 0.5], dtype=torch.float64)
    clustered = random_scores(300, 4) * 0.05 + torch.eye(4).double()[torch.arange(300) % 4]
    errors = [marginal_error(sinkhorn(clustered, prior, 0.05, n), prior) for n in (1, 3, 10, 100, 1000)]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] > 0.01 and errors[-1] < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_scores_stay_finite(dtype: torch.dtype):
    scores = (random_scores(64, 5) * 20).clamp(-50, 50)
    scores[0], scores[1], scores[2, 0] = 50, -50, -50
    prior = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1])
    found = sinkhorn(scores.to(dtype), prior)
    assert found.dtype == torch.float32 and torch.isfinite(found).all()
    assert torch.allclose(found.sum(dim=1), torch.ones(64), atol=1e-5)


def test_a_class_without_prior_receives_nothing():
    prior = torch.tensor([0.7, 0.0, 0.3])
    scores = random_scores(50, 3).float()
    scores[:, 1] += 10  # however well its prototype fits
    found = sinkhorn(scores, prior, iterations=200)
    assert torch.equal(found[:, 1], torch.zeros(50))
    others = sinkhorn(scores[:, [0, 2]], prior[[0, 2]], iterations=200)
    assert torch.allclose(found[:, [0, 2]], others, atol=1e-6)


def test_a_class_that_fits_no_pixel_still_receives_its_share():
    scores = torch.zeros(40, 2)
    scores[:, 1] = -50
    prior = torch.tensor([0.75, 0.25])
    assert torch.allclose(sinkhorn(scores, prior).mean(dim=0), prior, atol=1e-5)


def test_shares_follow_the_prior_not_the_uniform_distribution():
    prior = torch.tensor([0.9, 0.1])
    assert torch.allclose(sinkhorn(torch.zeros(10, 2), prior), prior.expand(10, 2))


def test_no_gradient_flows_and_the_scores_are_left_alone():
    scores = random_scores(8, 3).float().requires_grad_()
    kept = scores.detach().clone()
    assert not sinkhorn(scores, torch.full((3,), 1 / 3)).requires_grad
    assert torch.equal(scores.detach(), kept)


def test_diagnostics_are_what_their_names_say():
    prior = torch.tensor([0.5, 0.5])
    one_sided = torch.tensor([[1.0, 0.0]] * 4)
    assert marginal_error(one_sided, prior) == pytest.approx(0.5)
    assert marginal_error(one_sided, torch.tensor([0.0, 1.0])) == pytest.approx(1)
    assert assignment_entropy(one_sided) == 0
    assert assignment_entropy(torch.full((4, 8), 1 / 8)) == pytest.approx(np.log(8))


def cosines(rows: int, columns: int) -> torch.Tensor:
    """Of pixels that crowd around a few classes, as features do."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(columns, 16, generator=generator)
    pixels = centres[torch.randint(4, (rows,), generator=generator)] + torch.randn(
        rows, 16, generator=generator
    )
    pixels, centres = (torch.nn.functional.normalize(part, dim=1) for part in (pixels, centres))
    return pixels @ centres.T


@pytest.mark.parametrize("iterations", [1, 3, 50])
def test_scaling_the_exponentials_is_the_log_domain(iterations: int):
    scores, prior = cosines(5000, 19), torch.linspace(0, 2, 19) / 19  # the first class has no share
    wanted = sinkhorn(scores.double(), prior.double(), 0.05, iterations)
    found = sinkhorn(scores, prior, 0.05, iterations, largest=1.0)
    assert found.dtype == torch.float32 and float((found - wanted).abs().max()) < 1e-5
    assert (found[:, 0] == 0).all() and float(wanted.max()) > 0.5


def test_scores_too_large_for_exponentials_stay_in_the_log_domain():
    scores, prior = 60 * cosines(100, 4), torch.tensor([0.5, 0.3, 0.1, 0.1])
    assert not sinkhorn(scores, prior, 0.05, 3, largest=1.0).isfinite().all(), (
        "the bound is not 1: it overflows"
    )
    found = sinkhorn(scores, prior, 0.05, 3, largest=60.0)
    assert torch.allclose(found.double(), sinkhorn(scores.double(), prior.double(), 0.05, 3), atol=1e-4)


@pytest.mark.parametrize("largest", [None, 1.0])
def test_rows_that_are_wanted_are_those_of_the_whole(largest: float | None):
    scores, prior, rows = cosines(200, 5), torch.full((5,), 0.2), torch.tensor([7, 199, 0])
    whole = sinkhorn(scores, prior, largest=largest)
    assert torch.equal(sinkhorn(scores, prior, largest=largest, rows=rows), whole[rows])


def test_autocast_changes_no_assignment():
    scores, prior = cosines(200, 5), torch.full((5,), 0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sinkhorn(scores, prior, largest=1.0)
    assert torch.equal(found, sinkhorn(scores, prior, largest=1.0))
