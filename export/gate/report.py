"""The gate's findings as Markdown, with pictures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpsl_deploy.contract import LOGITS
from cpsl_deploy.errors import InputError
from cpsl_deploy.train.reporting.markdown import escaped, percent, picture, table

from .blame import Blame
from .judge import NEAR_TIE, Verdict
from .outputs import OutputCheck
from .pictures import margin_names, write_class_bars, write_margins, write_worst_frame
from .reference import Reference
from .rules import MIN_CLASS_PIXELS, ClassVerdict, points

IOU_PICTURE, MARGIN_PICTURE, FRAME_PICTURE = "gate_iou.png", "gate_margins.png", "gate_worst_frame.png"


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A candidate file and what the gate says of it."""

    name: str
    """For tables, for example "int8 onnxruntime"."""
    precision: str
    backend: str
    bytes: int
    verdict: Verdict
    blame: Blame | None = None
    speed: float | None = None
    """How many times as fast as the float32 file in onnxruntime, if it was measured."""
    kept_layers: tuple[str, ...] = ()
    """Layers of a lower precision that were kept in float32."""
    remark: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For export.json."""
        return {
            "name": self.name,
            "precision": self.precision,
            "backend": self.backend,
            "bytes": self.bytes,
            "speed": None if self.speed is None else round(self.speed, 3),
            "kept_layers": list(self.kept_layers),
            "remark": self.remark,
            **self.verdict.as_dict(),
            "blame": self.blame.as_dict() if self.blame else None,
        }


def gate_table(candidates: Sequence[Gated], chosen: str | None = None) -> str:
    """A row per candidate; the one named ``chosen`` is bold. Raises InputError without candidates."""
    if not candidates:
        raise InputError("a table of the gate has one candidate or more; got none")
    with_speed = any(c.speed is not None for c in candidates)
    header = ["file", "precision", "backend", "agreement, %", "mIoU, %", "worst class, points", "size, MB"]
    header += ["speed", "verdict"] if with_speed else ["verdict"]
    rows = []
    for c in candidates:
        name = escaped(c.name)
        row = [f"**{name}**" if c.name == chosen else name, c.precision, escaped(c.backend)]
        row += [f"{100 * c.verdict.agreement.share:.3f}", _mean_words(c.verdict), _worst_words(c.verdict)]
        row.append(f"{c.bytes / 1e6:.1f}")
        if with_speed:
            row.append("n/a" if c.speed is None else f"{c.speed:.2f} x")
        rows.append([*row, "passed" if c.verdict.passed else "**failed**"])
    return table(header, rows)


def class_table(candidates: Sequence[Gated]) -> str:
    """IoU per class: the torch model's, and each candidate's with its change in points."""
    first = candidates[0].verdict
    header = ["class", "pixels", "torch model, %", *(f"{escaped(c.name)}, % (points)" for c in candidates)]
    rows = []
    for k, row in enumerate(first.classes):
        few = "" if row.decides else " (few)"
        cells = [_class_words(c.verdict.classes[k]) for c in candidates]
        rows.append([escaped(row.name), f"{row.pixels:,}{few}", percent(row.before), *cells])
    means = [_mean_words(c.verdict) for c in candidates]
    rows.append(["**mean**", "", _percent(first.mean_before), *means])
    return table(header, rows)


def margin_table(candidates: Sequence[Gated]) -> str:
    """Changed pixels by the torch model's margin, in percent of the changed."""
    header = ["margin", *(f"{escaped(c.name)}, %" for c in candidates)]
    rows = []
    for k, name in enumerate(margin_names()):
        counts = [c.verdict.changed_margins for c in candidates]
        rows.append([name, *(f"{100 * n[k] / max(1, sum(n)):.1f}" for n in counts)])
    return table(header, rows)


def gate_report(candidates: Sequence[Gated], *, chosen: str | None = None, pictures: bool = False) -> str:
    """The gate as a section of Markdown. ``pictures``: with references to those of `write_gate_pictures`.

    Raises InputError without candidates.
    """
    parts = ["## The gate", gate_table(candidates, chosen)]
    first = candidates[0].verdict
    parts.append(
        f"Compared on {escaped(first.frames)}, {first.agreement.pixels:,} pixels. Agreement: pixels with the "
        f"torch model's label. IoU is against {first.truth_words}; classes with fewer than "
        f"{MIN_CLASS_PIXELS:,} pixels of it (few) are shown, decide nothing and are not in the mean."
    )
    if first.sizes is not None:
        words = first.sizes.words
        parts.append(
            f"{words[0].upper()}{words[1:]}. The file is compared with the model at the file's size."
        )
    parts += [f"- {_verdict_words(c)}" for c in candidates]
    parts += ["### IoU per class", class_table(candidates)]
    if pictures:
        parts.append(picture("IoU per class before and after", IOU_PICTURE))
    parts += [
        "### Which pixels changed",
        "By the margin of the torch model's first class over its second (logits; "
        f"under {NEAR_TIE:g} the model hardly preferred its label), in percent of the changed pixels.",
        margin_table(candidates),
    ]
    if pictures:
        parts.append(picture("changed pixels by margin", MARGIN_PICTURE))
        parts += ["### The frame that agrees least", picture("worst frame", FRAME_PICTURE)]
    return _joined(parts)


def write_gate_pictures(
    folder: Path, candidate: Gated, reference: Reference, worst_labels: np.ndarray
) -> list[Path]:
    """Draw one candidate's pictures into a folder; returns their paths.

    ``worst_labels``: the file's labels uint8 (H, W) of the frame ``candidate.verdict.worst_frame``. Raises
    MissingExtraError without matplotlib, DataError if the frame cannot be read, OutputError if the folder
    cannot be written.
    """
    paths = [folder / name for name in (IOU_PICTURE, MARGIN_PICTURE, FRAME_PICTURE)]
    write_class_bars(candidate.verdict, candidate.name, paths[0])
    write_margins(candidate.verdict, candidate.name, paths[1])
    write_worst_frame(candidate.verdict, reference, worst_labels, paths[2])
    return paths


def _verdict_words(candidate: Gated) -> str:
    verdict, budget = candidate.verdict, candidate.verdict.budget
    name = escaped(candidate.name)
    allowed = (
        f"{100 * budget.min_agreement:g} % agreement, {budget.max_iou_drop:g} points of the mean, "
        f"{budget.max_class_iou_drop:g} of a class"
    )
    near = f"{100 * verdict.near_ties:.0f} % of its changed pixels were nearly ties"
    parts = [f"{name}: passed ({allowed}); {near}"]
    if not verdict.passed:
        parts = [f"{name}: **failed**: {escaped('; '.join(verdict.broken))}; {near}"]
    if candidate.blame is not None and not verdict.passed:
        parts.append(f"responsible: {escaped(candidate.blame.sentence)}")
    parts += [_output_words(check) for check in verdict.outputs if check.passed]
    if candidate.kept_layers:
        parts.append(f"kept in float32: {escaped(', '.join(candidate.kept_layers))}")
    if candidate.remark:
        parts.append(escaped(candidate.remark))
    return f"{'. '.join(parts)}."


def _output_words(check: OutputCheck) -> str:
    if check.name == LOGITS:
        return f"logits: signal-to-noise ratio {check.value:.0f} dB (at least {check.limit:g})"
    if check.precision == "fp32":
        return f"confidence: {check.value:.2%} within a level of 255 (at least {check.limit:.1%})"
    return f"confidence: {check.value:.2f} levels of 255 off on average (at most {check.limit:g})"


def _joined(parts: Sequence[str]) -> str:
    """Blank lines between the parts, none inside a list."""
    text = parts[0]
    for before, part in itertools.pairwise(parts):
        text += ("\n" if before.startswith("- ") and part.startswith("- ") else "\n\n") + part
    return text + "\n"


def _mean_words(verdict: Verdict) -> str:
    if np.isnan(verdict.mean_before):
        return "n/a"
    change = 100 * (verdict.mean_after - verdict.mean_before)
    return f"{_percent(verdict.mean_after)} ({points(change)})"


def _worst_words(verdict: Verdict) -> str:
    worst = verdict.worst_class
    return "n/a" if worst is None else f"{escaped(worst.name)} {points(-worst.drop)}"


def _class_words(row: ClassVerdict) -> str:
    return "n/a" if row.after is None else f"{percent(row.after)} ({points(-row.drop)})"


def _percent(value: float) -> str:
    return percent(None if np.isnan(value) else value)
