"""Whether an exported file may be put in place: its labels against a budget of accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpsl_deploy.contract import Contract
from cpsl_deploy.errors import AccuracyError, InputError
from cpsl_deploy.metrics import confusion_matrix

from .agreement import Agreement, confusion_of
from .blame import Blame
from .budget import Budget
from .outputs import OutputCheck
from .own_size import OwnSize
from .reference import MARGIN_EDGES, Reference, count_margins
from .rules import ClassVerdict, broken_rules, change, class_verdicts, mean_of

NEAR_TIE = 0.1
"""Margin, in logits, under which a changed pixel was nearly a tie: the model itself hardly preferred its
label."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of holding a file's labels against the torch model's."""

    budget: Budget
    agreement: Agreement
    frames: str
    """Which frames were compared, in words."""
    has_truth: bool
    """Whether IoU is against ground truth; else against the torch model's own labels."""
    classes: tuple[ClassVerdict, ...]
    frame_agreement: tuple[float, ...]
    """Share of equal pixels per frame."""
    changed_margins: tuple[int, ...]
    """Changed pixels per bin of `MARGIN_EDGES`, by the torch model's margin."""
    all_margins: tuple[int, ...]
    """All pixels per bin."""
    broken: tuple[str, ...]
    """The rules of the budget that the file breaks, as sentences without a full stop."""
    outputs: tuple[OutputCheck, ...] = ()
    """Of confidence and logits, if the file gives them."""
    contract: Contract | None = None
    """Of the file, for what helps if it fails."""
    sizes: OwnSize | None = None
    """What the file's size costs, where that is another than the model's own and there is ground truth. It
    breaks no rule: the size was asked for."""

    @property
    def passed(self) -> bool:
        return not self.broken

    @property
    def mean_before(self) -> float:
        """Mean IoU of the torch model over the classes that decide, 0..1; NaN if none does."""
        return mean_of([c.before for c in self.classes if c.decides])

    @property
    def mean_after(self) -> float:
        """Mean IoU of the file over the same classes."""
        return mean_of([c.after for c in self.classes if c.decides])

    @property
    def worst_class(self) -> ClassVerdict | None:
        """The deciding class that loses most; None if none decides."""
        return max((c for c in self.classes if c.decides), key=lambda c: c.drop, default=None)

    @property
    def worst_frame(self) -> int:
        """Index of the frame that agrees least."""
        return int(np.argmin(self.frame_agreement))

    @property
    def near_ties(self) -> float:
        """Share of the changed pixels whose margin was under `NEAR_TIE`; 1 if none changed."""
        ties = sum(self.changed_margins[: MARGIN_EDGES.index(NEAR_TIE)])
        return ties / max(1, sum(self.changed_margins)) if any(self.changed_margins) else 1.0

    @property
    def truth_words(self) -> str:
        return (
            "ground truth" if self.has_truth else "the torch model's own labels, as there is no ground truth"
        )

    def of_file(
        self,
        contract: Contract,
        rules: Sequence[str] = (),
        outputs: Sequence[OutputCheck] = (),
        sizes: OwnSize | None = None,
    ) -> Verdict:
        """The verdict with what the labels alone do not tell: the file's contract, further broken rules, the
        other outputs, which break it if they fail, and what the file's size costs."""
        failed = [check.words for check in outputs if not check.passed]
        broken = (*self.broken, *rules, *failed)
        return dataclasses.replace(
            self, contract=contract, broken=broken, outputs=tuple(outputs), sizes=sizes
        )

    def require(self, blame: Blame | None = None) -> None:
        """Raises AccuracyError (exit code 3) if the file did not pass; ``blame`` adds what is responsible."""
        if self.passed:
            return
        more = f" and {len(self.broken) - 4} more" if len(self.broken) > 4 else ""
        responsible = f" Responsible: {blame.sentence}." if blame is not None else ""
        raise AccuracyError(
            f"the exported file breaks its budget of accuracy: {'; '.join(self.broken[:4])}{more} (compared "
            f"on {self.frames}). {self._worst_words()}{responsible} The file was not put in place. "
            f"{self._remedy()}."
        )

    def _remedy(self) -> str:
        """Options of the command that go with this file, without a full stop."""
        contract = self.contract or Contract()
        failed = [check.name for check in self.outputs if not check.passed]
        found = []
        if contract.network_size is not None:
            found.append("give a larger --resize")
        if contract.output_stride > 1:
            found.append("give a smaller --output-stride")
        if contract.precision != "fp32":
            found.append(f"take another --precision than {contract.precision}")
        if failed:
            found.append(f"leave {' and '.join(failed)} out with --outputs")
        if len(self.broken) > len(failed):
            found.append("allow more with --min-agreement, --max-iou-drop and --max-class-iou-drop")
        words = ", or ".join(found)
        return words[0].upper() + words[1:]

    def _worst_words(self) -> str:
        near = f"{self.near_ties:.0%} of the changed pixels were nearly ties."
        worst = self.worst_class
        if worst is None or worst.drop <= 0:
            name, share = self.agreement.worst_class
            return f"Worst class: {name}, which agrees on {share:.2%} of its pixels. {near}"
        return f"Worst class: {worst.name}, {change(worst.before, worst.after)}. {near}"

    def as_dict(self) -> dict[str, Any]:
        """For export.json, shares rounded to six digits and points to three."""
        worst = self.worst_class
        bins = [edge if np.isfinite(edge) else None for edge in MARGIN_EDGES]
        return {
            "passed": self.passed,
            "broken": list(self.broken),
            "budget": {
                "min_agreement": self.budget.min_agreement,
                "max_iou_drop": self.budget.max_iou_drop,
                "max_class_iou_drop": self.budget.max_class_iou_drop,
            },
            **self.agreement.as_dict(),
            "outputs": {check.name: check.as_dict() for check in self.outputs},
            "model_at_own_size": self.sizes.as_dict() if self.sizes else None,
            "compared_on": self.frames,
            "iou_against": "ground truth" if self.has_truth else "torch model",
            "mean_iou": {"torch": _rounded(self.mean_before), "file": _rounded(self.mean_after)},
            "iou": {
                c.name: {
                    "torch": _rounded(c.before),
                    "file": _rounded(c.after),
                    "pixels": c.pixels,
                    "decides": c.decides,
                }
                for c in self.classes
            },
            "worst_drop": {"name": worst.name, "points": round(worst.drop, 3)} if worst else None,
            "margins": {
                "edges": bins,
                "changed": list(self.changed_margins),
                "all": list(self.all_margins),
                "near_ties": round(self.near_ties, 6),
            },
        }


def judge(labels: Iterable[np.ndarray], reference: Reference, budget: Budget) -> Verdict:
    """Hold a file's labels, uint8 (H, W) per frame of ``reference`` and in its order, against a budget.

    The labels are taken one by one, so they may be computed meanwhile. Classes with fewer than
    `MIN_CLASS_PIXELS` of ground truth are reported and do not decide, and the mean is over the others.
    Raises ModelFileError for labels of another shape or with values that are no class, InputError for another
    number of them.
    """
    count = len(reference.spec.class_names)
    has_truth = reference.has_truth
    between, before, after = (np.zeros((count, count), np.int64) for _ in range(3))
    changed = np.zeros(len(MARGIN_EDGES) - 1, np.int64)
    shares: list[float] = []
    for got in labels:
        if len(shares) == len(reference.labels):
            raise _wrong_number(f"more than {len(shares)}", reference)
        frame = len(shares)
        said, truth = reference.labels[frame], reference.truth[frame]
        pairs = confusion_of(said, got, count)
        between += pairs
        shares.append(float(np.trace(pairs) / pairs.sum()))
        truth = truth if has_truth else said
        before += confusion_matrix(truth, said, count)
        after += confusion_matrix(truth, got, count)
        changed += count_margins(reference.margins[frame][said != got])
    if len(shares) != len(reference.labels):
        raise _wrong_number(str(len(shares)), reference)
    agreement = Agreement.from_confusion(reference.spec.class_names, between, len(shares))
    classes = class_verdicts(reference.spec.class_names, before, after)
    return Verdict(
        budget=budget,
        agreement=agreement,
        frames=reference.described,
        has_truth=has_truth,
        classes=classes,
        frame_agreement=tuple(shares),
        changed_margins=tuple(changed.tolist()),
        all_margins=tuple(reference.margin_counts().tolist()),
        broken=tuple(broken_rules(budget, agreement, classes)),
    )


def _wrong_number(got: str, reference: Reference) -> InputError:
    return InputError(f"a file gives labels for each of {len(reference.labels)} frames; got {got}")


def _rounded(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(value, 6)
