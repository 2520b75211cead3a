"""The graph that is deployed: a camera frame in, a label map out, everything between inside.

    uint8 (1, H, W, 3) BGR -> float -> normalise -> network -> upsample to H x W -> argmax -> uint8 (1, H, W)

Two rules shape it. A uint8 input is cast by the very first operation and labels leave as int64 -> float ->
uint8, because TensorRT asks for both. Colour order costs nothing: a flip in the graph would become a
GatherND over the whole frame, so the first convolution's input channels are swapped instead.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from cpsl_deploy.errors import ModelFileError
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models.base import Segmenter

COLOUR_ORDER = "BGR"
"""The order of the channels an exported graph expects, as OpenCV gives frames."""


class DeployGraph(nn.Module):
    """A segmenter with its pre- and postprocessing, ready to be exported.

    The segmenter is copied, so the caller's stays as it was. Raises ModelFileError if the image does not
    enter the network through exactly one convolution, because its weights then cannot carry the colour order.
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, model: Segmenter, spec: ModelSpec) -> None:
        super().__init__()
        if model.num_classes != len(spec.class_names):
            raise ModelFileError(
                f"the network gives {model.num_classes} classes and its spec names {len(spec.class_names)}. "
                "Export a file whose spec belongs to its weights."
            )
        self.network = bgr_copy(model)
        self.align_corners = spec.align_corners
        mean, std = (torch.tensor(values[::-1]).reshape(1, 3, 1, 1) for values in (spec.mean, spec.std))
        # The mean cannot move into the first convolution as the order does: its zero padding stands for
        # the mean colour, and would no longer.
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("bias", -mean / std)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """``image`` (N, H, W, 3) uint8 BGR -> labels (N, H, W) uint8."""
        height, width = image.shape[1], image.shape[2]
        pixels = image.float().permute(0, 3, 1, 2)
        logits = self.network(pixels * self.scale + self.bias).logits
        logits = functional.interpolate(
            logits, size=(height, width), mode="bilinear", align_corners=self.align_corners
        )
        return logits.argmax(1).float().to(torch.uint8)


@torch.no_grad()
def bgr_copy(model: Segmenter) -> Segmenter:
    """A copy of ``model``, in eval mode, that takes (N, 3, H, W) BGR where the model takes RGB.

    Raises ModelFileError if that is not possible by swapping channels of one convolution.
    """
    model = copy.deepcopy(model).eval()
    image = _probe(next(model.parameters()))
    expected = model(image).logits
    entry = _entry_convolution(model, image)
    entry.weight.copy_(entry.weight.flip(1))
    got = model(image.flip(1)).logits
    # Only the order of three products per sum has changed.
    if not torch.allclose(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
        raise ModelFileError(
            f"the image must enter {type(model).__name__} through one convolution alone, which carries the "
            "colour order of an exported file; it is used elsewhere, too. Pass it through one convolution."
        )
    return model


def _probe(like: Tensor) -> Tensor:
    """(1, 3, 64, 64) noise of its own generator: the caller's random state is not touched."""
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return noise.to(like.device, like.dtype)


def _entry_convolution(model: Segmenter, image: Tensor) -> nn.Conv2d:
    """The convolution that is given the image itself."""
    entries: list[nn.Conv2d] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0] is image and isinstance(module, nn.Conv2d):
            entries.append(module)

    hooks = [m.register_forward_pre_hook(watch) for m in model.modules() if isinstance(m, nn.Conv2d)]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    if len(entries) != 1 or entries[0].groups != 1:
        raise ModelFileError(
            f"the image must enter {type(model).__name__} through one ungrouped convolution, which carries "
            f"the colour order of an exported file; this enters {len(entries)}. Use one."
        )
    return entries[0]
