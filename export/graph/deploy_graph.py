"""The graph that is deployed: camera frames in, label maps out, everything between inside.

    uint8 (N, H, W, 3) -> float -> [resize] -> normalise -> network -> upsample -> argmax -> uint8 (N, H, W)

Three rules shape it. A uint8 input is cast by the very first operation and labels leave as int64 -> float ->
uint8, because TensorRT asks for both. Colour order costs nothing: a flip in the graph would become a
GatherND over the whole frame, so the first convolution's input channels are swapped instead. The network
alone is in half precision, where that is asked for: pixels, resizes and the comparison of logits stay
float32.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cpsl_deploy.contract import CONFIDENCE, LABELS, Contract
from cpsl_deploy.errors import InputError, ModelFileError
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models.base import Segmenter

from .limits import check_output_stride
from .upsampling import StripUpsampling, upsample_whole, winners, winners_probability


class GraphValues(NamedTuple):
    """What a deployed graph computes; a file gives those that its contract names, and keeps the last two."""

    labels: Tensor | None
    """uint8 (N, ceil(H/s), ceil(W/s)), s = the contract's output stride; None if not asked for."""
    confidence: Tensor | None
    """uint8, of the same shape; None if not asked for."""
    normalised: Tensor
    """float32 (N, 3, h, w): the image as it enters the network, in the file's colour order."""
    logits: Tensor
    """float32 (N, C, h / stride, w / stride)."""


class DeployGraph(nn.Module):
    """A segmenter with its pre- and postprocessing, ready to be exported.

    ``size`` = (height, width) in pixels of every frame; None takes any. The segmenter is copied, so the
    caller's stays as it was.

    Raises InputError for an output stride above the network's, or a precision other than fp32 and fp16;
    ModelFileError if the spec is not the model's, the network cannot be traced, or a file for BGR is asked
    for and the image does not enter the network through exactly one convolution, because its weights then
    cannot carry the colour order.
    """

    scale: Tensor
    bias: Tensor

    def __init__(
        self,
        model: Segmenter,
        spec: ModelSpec,
        *,
        contract: Contract | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.contract = contract or Contract()
        _check(model, spec, self.contract)
        bgr = self.contract.colour_order == "BGR"
        self.network = bgr_copy(model) if bgr else copy.deepcopy(model).eval()
        self.align_corners = spec.align_corners
        self.size = size
        mean, std = (
            torch.tensor(values[::-1] if bgr else values).reshape(1, 3, 1, 1)
            for values in (spec.mean, spec.std)
        )
        # The mean cannot move into the first convolution as the order does: its zero padding stands for
        # the mean colour, and would no longer.
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("bias", -mean / std)
        self.strips: StripUpsampling | None = None
        if size is not None and self.post_processed:
            source = logits_size(self.network, self.contract.network_size or size)
            target = self.output_size(*size)
            self.strips = StripUpsampling(source, target, align_corners=self.align_corners)
        if self.contract.precision == "fp16":
            self.network.half()
        self.eval()

    @property
    def post_processed(self) -> bool:
        """Whether anything is computed from the logits."""
        return LABELS in self.contract.outputs or CONFIDENCE in self.contract.outputs

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Of labels and confidence for a frame of ``height`` x ``width`` pixels."""
        stride = self.contract.output_stride
        return (height + stride - 1) // stride, (width + stride - 1) // stride

    def forward(self, image: Tensor) -> GraphValues:
        """``image`` uint8 (N, H, W, 3) in the contract's colour order."""
        pixels = image.float().permute(0, 3, 1, 2)
        if self.contract.network_size not in (None, self.size):
            pixels = functional.interpolate(
                pixels, size=self.contract.network_size, mode="bilinear", align_corners=False
            )
        normalised = pixels * self.scale + self.bias
        half = self.contract.precision == "fp16"
        logits = self.network(normalised.half() if half else normalised).logits.float()
        if not self.post_processed:
            return GraphValues(None, None, normalised, logits)
        if self.strips is not None:
            strips = list(self.strips(logits))
        else:
            height, width = self.output_size(image.shape[1], image.shape[2])
            strips = [upsample_whole(logits, height, width, self.align_corners)]
        wanted = self.contract.outputs
        labels = _joined([winners(strip) for strip in strips]) if LABELS in wanted else None
        confidence = (
            _joined([winners_probability(strip) for strip in strips]) if CONFIDENCE in wanted else None
        )
        return GraphValues(labels, confidence, normalised, logits)


def _joined(strips: list[Tensor]) -> Tensor:
    return torch.cat(strips, 1).to(torch.uint8)


def _check(model: Segmenter, spec: ModelSpec, contract: Contract) -> None:
    if model.num_classes != len(spec.class_names):
        raise ModelFileError(
            f"the network gives {model.num_classes} classes and its spec names {len(spec.class_names)}. "
            "Export a file whose spec belongs to its weights."
        )
    check_output_stride(spec, contract)
    if contract.precision == "int8":
        raise InputError(
            "a graph is traced in fp32 or fp16; got int8, which is made of an fp32 file with calibration "
            "frames. Export fp32 and quantise that file."
        )


@torch.no_grad()
def logits_size(model: Segmenter, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the logits for an image of ``size``. Shapes alone are computed.

    Raises ModelFileError for a network in which they depend on pixels: the tracer cannot follow it, either.
    """
    shapes_only = copy.deepcopy(model).to("meta")
    try:
        height, width = shapes_only(torch.empty(1, 3, *size, device="meta")).logits.shape[2:]
    except (RuntimeError, NotImplementedError) as error:
        raise ModelFileError(
            f"{type(model).__name__} cannot be exported: a network's steps may not depend on what it sees "
            f"({str(error).splitlines()[0]}). Compute both ways and choose by arithmetic."
        ) from error
    return height, width


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
            "colour order of a file for BGR frames; it is used elsewhere, too. Export a file for RGB frames, "
            "or pass the image through one convolution."
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
            f"the colour order of a file for BGR frames; this enters {len(entries)}. Export a file for RGB "
            "frames, or use one."
        )
    return entries[0]
