"""Rows upsampled a block at a time are what torch interpolates at once, and so is their gradient."""

# ruff: noqa: E402
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F

from cpsl_deploy.train import upsampled_rows
from cpsl_deploy.train.symmetric_cross_entropy import symmetric_cross_entropy
from cpsl_deploy.train.upsampled_rows import UpsampledRows

SIZES = [((5, 7), (40, 56)), ((5, 7), (37, 50)), ((9, 6), (33, 6)), ((6, 8), (6, 8)), ((1, 3), (16, 20))]


@pytest.fixture(params=[1, 1 << 30], ids=["blocks of 8 rows", "one block"])
def _block(request, monkeypatch):
    monkeypatch.setattr(upsampled_rows, "BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("_block")
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("small, large", SIZES)
def test_rows_and_gradient_are_those_of_interpolation(small, large, align_corners):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, *small, dtype=torch.float64, generator=generator, requires_grad=True)
    pull = torch.randn(3, *large, dtype=torch.float64, generator=generator)
    wanted = F.interpolate(maps[None], size=large, mode="bilinear", align_corners=align_corners)[0]
    (wanted * pull).sum().backward()

    rows = UpsampledRows(maps.detach(), large, align_corners)
    seen = []
    for here, block in rows.blocks(with_gradient=True):
        seen.append(block.transpose(0, 1).clone())
        block.copy_(pull[:, here].transpose(0, 1))
    assert torch.allclose(torch.cat(seen, dim=1), wanted, rtol=1e-12)
    assert torch.allclose(rows.gradient(), maps.grad, rtol=1e-12)


@pytest.mark.usefixtures("_block")
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_gradient_of_a_loss_on_small_logits_is_that_of_its_value(align_corners):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.randint(0, 4, (2, 19, 23), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255

    def loss(logits):
        return symmetric_cross_entropy(logits, labels, 0.3, 0.7, align_corners=align_corners)

    full = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=align_corners)
    assert torch.allclose(loss(logits), symmetric_cross_entropy(full, labels, 0.3, 0.7), rtol=1e-12)
    assert torch.autograd.gradcheck(loss, (logits,))


def test_a_loss_holds_some_rows_and_not_all_of_them(monkeypatch):
    monkeypatch.setattr(upsampled_rows, "BLOCK_BYTES", 1)
    logits = torch.randn(2, 40, 16, 16).requires_grad_()
    labels = torch.zeros(2, 256, 256, dtype=torch.long)
    full_size = 40 * 256 * 256 * 4
    with torch.profiler.profile(profile_memory=True) as profile:
        symmetric_cross_entropy(logits, labels).backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events() if "LabelLoss" not in event.name)
    assert 0 < largest < full_size / 4
