"""Which step of an exported file is responsible where it disagrees with its model.

A file has three steps: frame -> ``normalised`` (pre-processing) -> ``logits`` (network) -> labels (upsampling
and argmax). Each is held against torch **given the same input**, so that a mistake shows where it is made
and not again in every later step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from cpsl_deploy.contract import LABELS, LOGITS, Contract
from cpsl_deploy.spec import ModelSpec
from cpsl_deploy.train.models.base import Segmenter

from .layers import LayerNoise, layer_noise
from .probe import NORMALISED, Probe, inner_values, labels_size, read_proto
from .reference import Reference, decided, network_input, torch_logits

PRE_PROCESSING, NETWORK, UPSAMPLING = STEPS = ("pre-processing", "network", "upsampling and argmax")
TIES = 1e-3
"""Share of labels that a step may change without being called wrong."""
_ROUNDING = 1e-4
"""Share of labels that float32 arithmetic in another order may change."""
_SAME = 1e-2
"""Of a normalised image, largest difference that is rounding (a grey level is some 0.017)."""
_FRAMES = 2


@dataclass(frozen=True, kw_only=True)
class Step:
    """How one step of the file differs from torch on the same input."""

    name: str
    max_abs: float
    """Largest difference of what it gives: normalised units, logits; of labels 0 or 1."""
    mean_abs: float
    share: float
    """Share of the labels that this step alone changes, 0..1."""
    remark: str = ""
    """What kind of mistake it looks like, if that can be told."""

    @property
    def deviates(self) -> bool:
        return self.share > TIES

    @property
    def words(self) -> str:
        remark = f"; {self.remark}" if self.remark else ""
        return (
            f"{self.name} (changes {self.share:.2%} of the labels; what it gives differs by up to "
            f"{self.max_abs:.3g}, {self.mean_abs:.3g} on average{remark})"
        )


@dataclass(frozen=True, kw_only=True)
class Blame:
    """What is responsible, as far as it can be told."""

    steps: tuple[Step, ...]
    """In the file's order; empty if the file keeps no inner values."""
    layers: tuple[LayerNoise, ...] = ()
    """Of a lower precision: those that add most noise, the worst first."""
    remarks: tuple[str, ...] = ()
    """What could not be looked at, and why; sentences without a full stop."""
    other_size: str = ""
    """That the file resizes to another size than the model's own, with which it is compared: no mistake of a
    step, and no step shows what it costs."""

    @property
    def responsible(self) -> Step | None:
        """The first step that deviates; where none does, the one that changes most, beyond rounding."""
        first = next((step for step in self.steps if step.deviates), None)
        most = max(self.steps, key=lambda step: step.share, default=None)
        return first or (most if most is not None and most.share > _ROUNDING else None)

    @property
    def sentence(self) -> str:
        """For an error's message, without a full stop."""
        if self.responsible is None:
            return "; ".join(filter(None, (self.other_size, *self.remarks))) or (
                "no step of the file: run by onnxruntime on the CPU with one frame, each agrees with torch "
                "on the same input"
            )
        words = f"the step {self.responsible.words}"
        if self.layers and self.responsible.name == NETWORK:
            worst = ", ".join(f"{layer.parameter} ({layer.sqnr_db:.0f} dB)" for layer in self.layers[:5])
            words += f"; the layers that add most noise, with their signal-to-noise ratio: {worst}"
        return "; besides, ".join(filter(None, (words, self.other_size)))

    def as_dict(self) -> dict[str, Any]:
        """For export.json."""
        return {
            "responsible": self.responsible.name if self.responsible else None,
            "sentence": self.sentence,
            "steps": [
                {
                    "name": s.name,
                    "max_abs": float(f"{s.max_abs:.6g}"),
                    "mean_abs": float(f"{s.mean_abs:.6g}"),
                    "changed_labels": round(s.share, 6),
                    "remark": s.remark,
                }
                for s in self.steps
            ],
            "layers": [layer.as_dict() for layer in self.layers],
            "remarks": [*filter(None, (self.other_size,)), *self.remarks],
        }


def find_blame(
    file: Path | onnx.ModelProto,
    model: Segmenter,
    reference: Reference,
    *,
    frames: Sequence[int] | None = None,
    float_file: Path | onnx.ModelProto | None = None,
    worst: int = 10,
) -> Blame:
    """Look into a file, on some ``frames`` of the reference (the first two by default; better the worst).

    ``float_file``: the float32 export of the same model, for a ``file`` of lower precision; with it the
    ``worst`` layers are named. A file without the inner values ``normalised`` and ``logits`` is said to have
    none. Raises ModelFileError for a file that cannot be run, DataError for an image that cannot be read.
    """
    proto = read_proto(file) if isinstance(file, Path) else file
    missing = [name for name, there in inner_values(proto).items() if not there]
    if missing:
        remark = f"the step cannot be told, because the file keeps no value {' and '.join(missing)} inside"
        return Blame(steps=(), remarks=(remark,))
    indices = list(frames) if frames is not None else list(range(min(_FRAMES, len(reference.frames))))
    images = [reference.frames.read(i)[0] for i in indices]
    probe = Probe(proto, inner=(NORMALISED, LOGITS))
    found = [_look(probe, model, reference, image) for image in images]
    steps = tuple(_merged([steps[i] for steps in found]) for i in range(len(found[0])))
    remarks = []
    if LABELS not in probe.contract.outputs:
        remarks.append(f"{UPSAMPLING} are not in the file, which gives logits alone")
    layers: list[LayerNoise] = []
    if float_file is not None:
        original = read_proto(float_file) if isinstance(float_file, Path) else float_file
        layers, skipped = layer_noise(original, proto, images)
        if skipped:
            remarks.append(f"{skipped} layers have no value of the same name and shape in both files")
    return Blame(
        steps=steps,
        layers=tuple(layers[:worst]),
        remarks=tuple(remarks),
        other_size=_other_size(probe.contract.network_size, reference.spec.size),
    )


def _look(probe: Probe, model: Segmenter, reference: Reference, frame: np.ndarray) -> list[Step]:
    """The steps on one frame, uint8 (H, W, 3) BGR."""
    values = probe.values(frame)
    size = labels_size(frame.shape[:2], probe.contract)

    def labels_of(logits: torch.Tensor) -> np.ndarray:
        return decided(logits, size, align_corners=reference.spec.align_corners)[0]

    expected = network_input(frame, reference.spec, probe.contract)
    entered = in_rgb(values[NORMALISED], probe.contract)
    right = labels_of(torch_logits(model, expected))
    given_entered = torch_logits(model, entered)
    after_entered = labels_of(given_entered)
    steps = [
        _step(PRE_PROCESSING, entered - expected, right != after_entered),
        _network_step(values[LOGITS], given_entered, labels_of, after_entered),
    ]
    if steps[0].deviates:
        remark = mistake_in(entered, frame, reference.spec, probe.contract)
        steps[0] = dataclasses.replace(steps[0], remark=remark)
    if steps[1].deviates:
        steps = _without_swap(steps, values[LOGITS], model, entered, labels_of)
    if LABELS in values:
        own = labels_of(torch.from_numpy(np.array(values[LOGITS], np.float32)))
        different = own != values[LABELS][0]
        steps.append(_step(UPSAMPLING, different.astype(np.float32), different))
    return steps


def _other_size(inside: tuple[int, int] | None, own: tuple[int, int]) -> str:
    if inside in (None, own):
        return ""
    sizes = [f"{height}x{width}" for height, width in (inside, own)]
    return f"the file shows its network {sizes[0]} pixels, and the model's own size is {sizes[1]}"


def in_rgb(normalised: np.ndarray, contract: Contract) -> np.ndarray:
    """A file's normalised image (1, 3, h, w), in its own colour order -> float32 RGB."""
    value = np.asarray(normalised, np.float32)
    return value if contract.colour_order == "RGB" else np.ascontiguousarray(value[:, ::-1])


def mistake_in(entered: np.ndarray, frame: np.ndarray, spec: ModelSpec, contract: Contract) -> str:
    """What kind of mistake a wrong normalised image looks like: ``entered`` float32 (1, 3, h, w) RGB, of a
    frame uint8 (H, W, 3) BGR. Empty if that cannot be told."""
    exchanged = network_input(np.ascontiguousarray(frame[..., ::-1]), spec, contract)
    orders = (exchanged, exchanged[:, ::-1], network_input(frame, spec, contract)[:, ::-1])
    if any(np.abs(entered - other).max() < _SAME for other in orders):
        return f"the channel order: the file states {contract.colour_order} and takes the other"
    return "" if contract.network_size else "mean, standard deviation or scale"


def _network_step(logits: np.ndarray, right: torch.Tensor, labels_of: Any, right_labels: np.ndarray) -> Step:
    got = torch.from_numpy(np.array(logits, np.float32))
    return _step(NETWORK, got.numpy() - right.cpu().numpy(), labels_of(got) != right_labels)


def _without_swap(
    steps: list[Step], logits: np.ndarray, model: Segmenter, entered: np.ndarray, labels_of: Any
) -> list[Step]:
    """A network that is right for exchanged channels is right: its input's order is what is wrong, which a
    mean and deviation that are the same for all channels do not show."""
    exchanged = torch_logits(model, np.ascontiguousarray(entered[:, ::-1]))
    network = _network_step(logits, exchanged, labels_of, labels_of(exchanged))
    if network.deviates:
        return steps
    remark = "the channel order: the network takes red for blue"
    pre = Step(
        name=PRE_PROCESSING,
        max_abs=float(np.abs(entered[:, ::-1] - entered).max()),
        mean_abs=float(np.abs(entered[:, ::-1] - entered).mean()),
        share=max(steps[0].share, steps[1].share),
        remark=remark,
    )
    return [pre, network]


def _step(name: str, difference: np.ndarray, changed: np.ndarray) -> Step:
    size = np.abs(difference)
    return Step(
        name=name, max_abs=float(size.max()), mean_abs=float(size.mean()), share=float(changed.mean())
    )


def _merged(steps: Sequence[Step]) -> Step:
    """One step over several frames."""
    return Step(
        name=steps[0].name,
        max_abs=max(step.max_abs for step in steps),
        mean_abs=float(np.mean([step.mean_abs for step in steps])),
        share=float(np.mean([step.share for step in steps])),
        remark=next((step.remark for step in steps if step.remark), ""),
    )
