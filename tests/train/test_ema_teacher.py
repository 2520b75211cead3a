"""The EMA teacher: its arithmetic, its own copy of everything, and eval mode for good."""

# ruff: noqa: E402
import pytest

torch = pytest.importorskip("torch")

from tiny_training import tiny_network

from cpsl_deploy.train.ema_teacher import EmaTeacher


@pytest.fixture
def student() -> torch.nn.Module:
    return tiny_network()


@pytest.fixture
def prototypes() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))


def test_it_starts_equal_and_shares_no_memory(student, prototypes):
    teacher = EmaTeacher(student, prototypes)
    mine = [*teacher.network.state_dict().values(), teacher.prototypes]
    theirs = [*student.state_dict().values(), prototypes.detach()]
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()


def test_changing_the_online_prototypes_leaves_the_teacher_s(student, prototypes):
    teacher = EmaTeacher(student, prototypes)
    kept = teacher.prototypes.clone()
    with torch.no_grad():
        prototypes.add_(1)
        student.encoder.weight.mul_(2)
    assert torch.equal(teacher.prototypes, kept)
    assert not torch.equal(teacher.network.encoder.weight, student.encoder.weight)


def test_parameters_and_prototypes_follow_slowly_and_buffers_at_once(student, prototypes):
    teacher = EmaTeacher(student, prototypes, momentum=0.9)
    before = {key: value.clone() for key, value in teacher.network.state_dict().items()}
    prototypes_before = teacher.prototypes.clone()
    student(torch.randn(2, 3, 16, 16))  # moves the running statistics
    with torch.no_grad():
        for parameter in [*student.parameters(), prototypes]:
            parameter.add_(torch.randn_like(parameter))
    teacher.update(student, prototypes)
    online = student.state_dict()
    for key, parameter in teacher.network.named_parameters():
        assert torch.allclose(parameter, 0.9 * before[key] + 0.1 * online[key], atol=1e-6), key
    for key, buffer in teacher.network.named_buffers():
        assert torch.equal(buffer, online[key]) and not torch.equal(buffer, before[key]), key
    assert torch.allclose(teacher.prototypes, 0.9 * prototypes_before + 0.1 * prototypes, atol=1e-6)


def test_it_stays_in_eval_mode_whatever_is_asked(student, prototypes):
    owner = torch.nn.Module()
    owner.teacher = EmaTeacher(student.train(), prototypes)
    owner.train()
    owner.teacher.train(True)
    assert not any(module.training for module in owner.teacher.modules())
    image = torch.randn(2, 3, 32, 32)
    statistics = owner.teacher.network.norm.running_mean.clone()
    first, second = owner.teacher.network(image), owner.teacher.network(image)
    assert torch.equal(first.features, second.features) and torch.equal(first.logits, second.logits)
    assert torch.equal(owner.teacher.network.norm.running_mean, statistics)
    assert student.training, "the student's mode is its own"


def test_it_asks_for_no_gradient(student, prototypes):
    teacher = EmaTeacher(student, prototypes)
    assert not any(p.requires_grad for p in teacher.parameters()) and not teacher.prototypes.requires_grad
    assert all(p.requires_grad for p in student.parameters())


def test_its_prototypes_are_part_of_its_state(student, prototypes):
    teacher, copy = EmaTeacher(student, prototypes), EmaTeacher(tiny_network(1), torch.zeros(3, 8))
    copy.load_state_dict(teacher.state_dict())
    assert torch.equal(copy.prototypes, teacher.prototypes)
