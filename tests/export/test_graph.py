"""The deployed graph computes what the network does, from BGR bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from export_networks import RedSees, Small, small_model, spec_for
from torch import nn
from torch.nn import functional

from cpsl_deploy.errors import ModelFileError
from cpsl_deploy.export.graph.deploy_graph import DeployGraph, bgr_copy
from cpsl_deploy.train.models import ARCHITECTURES, build
from cpsl_deploy.train.models.base import SegmenterOutput


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(65, 97), (64, 128)])
def test_labels_are_the_networks(size: tuple[int, int], align_corners: bool) -> None:
    model, frame = small_model(), noise(*size)
    spec = spec_for(model, align_corners=align_corners)
    with torch.no_grad():
        labels = DeployGraph(model, spec)(torch.from_numpy(frame)[None]).labels
        image = (frame[..., ::-1] / 255 - np.array(spec.mean)) / np.array(spec.std)
        logits = model(torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))).logits
        logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    assert labels.dtype == torch.uint8 and labels.shape == (1, *size)
    assert (labels == logits.argmax(1)).float().mean() > 0.9995
    assert len(labels.unique()) > 1


def test_the_mean_is_right_at_the_borders() -> None:
    """Folded into a zero-padded convolution the mean would be wrong along the frame's sides."""
    model = small_model()
    frame = np.full((64, 64, 3), 255 * np.array(model.mean)[::-1]).round().astype(np.uint8)
    with torch.no_grad():
        inside = DeployGraph(model, spec_for(model)).network(torch.zeros(1, 3, 64, 64)).logits
        graph = DeployGraph(model, spec_for(model))
        pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
        logits = graph.network(pixels * graph.scale + graph.bias).logits
    assert torch.allclose(logits, inside, atol=0.05)


def test_frames_are_bgr() -> None:
    frame = np.full((16, 20, 3), 255, np.uint8)
    frame[:, :10, 2] = RedSees.threshold - 1
    frame[:, 10:] = (0, 0, RedSees.threshold + 1)
    model = RedSees().eval()
    labels = DeployGraph(model, spec_for(model))(torch.from_numpy(frame)[None]).labels[0]
    assert (labels[:, :10] == 0).all() and (labels[:, 10:] == 3).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_registered_network_takes_the_colour_order(name: str) -> None:
    model = build(name, 4).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected, got = model(image).logits, bgr_copy(model)(image.flip(1)).logits
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_model_given_stays_as_it_was() -> None:
    model = small_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    DeployGraph(model, spec_for(model))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_network_that_uses_the_image_twice_is_refused() -> None:
    class Twice(Small):
        def forward(self, image: torch.Tensor) -> SegmenterOutput:
            features, logits = super().forward(image)
            return SegmenterOutput(features, logits + image[:, :1, ::4, ::4])

    with pytest.raises(ModelFileError, match="Twice through one convolution alone"):
        DeployGraph(Twice().eval(), spec_for(Twice()))


def test_a_network_without_one_first_convolution_is_refused() -> None:
    class Grouped(Small):
        def __init__(self) -> None:
            super().__init__()
            self.stem[0] = nn.Conv2d(3, 9, 3, stride=2, padding=1, groups=3)
            self.stem[1], self.body = nn.BatchNorm2d(9), nn.Conv2d(9, 8, 3, stride=2, padding=1)

    with pytest.raises(ModelFileError, match="one ungrouped convolution"):
        DeployGraph(Grouped().eval(), spec_for(Grouped()))


def test_a_spec_of_another_model_is_refused() -> None:
    with pytest.raises(ModelFileError, match="gives 3 classes and its spec names 4"):
        DeployGraph(Small(3), spec_for(Small()))
