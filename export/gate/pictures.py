"""Pictures of the gate: IoU per class before and after, what margins changed, and the frame hit worst."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from cpsl_deploy.overlay import colourise, contact_sheet, write_image
from cpsl_deploy.train.reporting.figures import FONT, new_figure, open_frame, plain, save

from .frames import resized
from .judge import Verdict
from .reference import MARGIN_EDGES, Reference
from .rules import points

_BEFORE, _AFTER, _BROKEN = "#b5b5b5", "#08519c", "#c1121f"
_CHANGED = (255, 0, 255)
"""Magenta, which no road palette has."""


def write_class_bars(verdict: Verdict, title: str, path: Path) -> None:
    """Draw the IoU of the torch model and of the file for every class that the ground truth has; in red what
    breaks the budget. Raises MissingExtraError without matplotlib."""
    rows = [c for c in verdict.classes if c.before is not None and c.after is not None]
    height = 0.42 * max(1, len(rows)) + 1.2
    figure = new_figure(9.0, height)
    axes = figure.add_axes((0.2, 0.55 / height, 0.66, 1 - 1.1 / height))
    for place, row in enumerate(rows):
        limit = verdict.budget.max_class_iou_drop
        colour = _BROKEN if row.decides and row.drop > limit else _AFTER
        axes.barh(place - 0.2, 100 * (row.before or 0), height=0.38, color=_BEFORE)
        axes.barh(place + 0.2, 100 * (row.after or 0), height=0.38, color=colour)
        note = points(-row.drop) + ("" if row.decides else " (few)")
        axes.text(
            1.02, place, note, transform=axes.get_yaxis_transform(), va="center", fontsize=FONT, color=colour
        )
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.6), xlabel=f"IoU, %, against {_against(verdict)}")
    axes.set_yticks(range(len(rows)), [plain(row.name) for row in rows])
    open_frame(axes, grid="x")
    words = f"{plain(title)}: torch model (grey) and file (blue; red: over budget), points"
    figure.suptitle(words, fontsize=FONT + 1, y=1 - 0.2 / height)
    save(figure, path)


def write_margins(verdict: Verdict, title: str, path: Path) -> None:
    """Draw the changed pixels by the torch model's margin, and what share of all pixels of that margin they
    are. Raises MissingExtraError without matplotlib."""
    changed = np.array(verdict.changed_margins)
    every = np.array(verdict.all_margins)
    figure = new_figure(9.0, 3.4)
    axes = figure.add_axes((0.09, 0.2, 0.88, 0.68))
    places = np.arange(len(changed))
    axes.bar(places, 100 * changed / max(1, changed.sum()), color=_AFTER)
    for place, number, all_of in zip(places, changed, every, strict=True):
        share = f"{100 * number / all_of:.2g} % of\nthese pixels" if all_of else "none"
        axes.annotate(
            share, (place, 100 * number / max(1, changed.sum())), ha="center", va="bottom", fontsize=FONT - 2
        )
    axes.set(ylim=(0, 118), yticks=range(0, 101, 25), ylabel="% of the changed pixels")
    axes.set_xticks(places, margin_names())
    axes.set_xlabel("margin of the torch model's first class over its second, logits")
    open_frame(axes)
    words = f"{plain(title)}: {changed.sum():,} of {every.sum():,} pixels changed"
    figure.suptitle(words, fontsize=FONT + 1)
    save(figure, path)


def margin_names() -> list[str]:
    """The bins of `MARGIN_EDGES` as text."""
    inner = itertools.pairwise(MARGIN_EDGES[:-1])
    return [*(f"{low:g} to {high:g}" for low, high in inner), f"{MARGIN_EDGES[-2]:g} and more"]


def write_worst_frame(verdict: Verdict, reference: Reference, labels: np.ndarray, path: Path) -> None:
    """Draw the frame that agrees least: itself, the torch model's labels, the file's labels uint8 (H, W), and
    in magenta the pixels that changed. Raises DataError if the frame cannot be read."""
    worst = verdict.worst_frame
    said, classes = reference.labels[worst], reference.spec.classes
    frame = resized(reference.frames.read(worst)[0], (said.shape[0], said.shape[1]))
    changed = frame // 2
    changed[said != labels] = _CHANGED
    share = 100 * (1 - verdict.frame_agreement[worst])
    sheet = contact_sheet(
        [frame, changed, colourise(said, classes), colourise(labels, classes)],
        titles=[
            _ascii(reference.frames.names[worst]),
            f"changed: {share:.2f} % of the pixels",
            "torch model",
            "file",
        ],
        columns=2,
        cell_width=560,
    )
    write_image(path, sheet)


def _against(verdict: Verdict) -> str:
    return "ground truth" if verdict.has_truth else "the torch model's own labels"


def _ascii(text: str) -> str:
    """OpenCV's fonts have no other letters."""
    return text.encode("ascii", "replace").decode()[-60:]
